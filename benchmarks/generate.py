"""Writing text, one process, in turn: vlmgraph eager and compiled beside transformers eager and with static cache and torch.compile.

`python -m benchmarks generate` is a decoder of 60M parameters, `python -m benchmarks generate_big` one of 0.5B; both have the same random
weights on all sides.
"""

from __future__ import annotations

import json
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

from .common import PYTHON, Table, process

ROUNDS = 5
TOKENS = {"small": 32, "big": 12}
HF, HF_COMPILED, OURS, OURS_COMPILED = "transformers eager", "transformers static cache, compiled", "vlmgraph eager", "vlmgraph compiled"


def checkpoint(size: str, folder: str) -> tuple[Any, dict[str, Any]]:
    """transformers' LLaVA with random weights, written to a folder, and a prompt of an image and 32 tokens."""
    import torch
    import transformers as tf

    tall, rows = {"small": (384, 12), "big": (768, 12), "test": (32, 2)}[size], {"small": 8, "big": 24, "test": 2}[size]
    vision = tf.CLIPVisionConfig(
        hidden_size=tall[0], intermediate_size=4 * tall[0], num_hidden_layers=tall[1], num_attention_heads=max(tall[0] // 64, 1),
        image_size=224, patch_size=16, projection_dim=tall[0],
    )  # fmt: skip
    wide = {"small": (512, 8, 2, 1408, 32000), "big": (896, 14, 2, 4864, 151936), "test": (64, 4, 2, 128, 512)}[size]
    text = tf.Qwen2Config(
        hidden_size=wide[0], num_attention_heads=wide[1], num_key_value_heads=wide[2], intermediate_size=wide[3], vocab_size=wide[4],
        num_hidden_layers=rows, tie_word_embeddings=True, max_position_embeddings=2048,
    )  # fmt: skip
    config = tf.LlavaConfig(vision_config=vision, text_config=text, image_token_index=wide[4] - 1, tie_word_embeddings=True)
    torch.manual_seed(0)
    model = tf.LlavaForConditionalGeneration(config).eval()
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    model.save_pretrained(folder)
    ids = torch.randint(1, wide[4] - 2, (1, 196 + 32))
    ids[:, 1:197] = wide[4] - 1
    return model, {"input_ids": ids, "pixel_values": torch.randn(1, 3, 224, 224), "attention_mask": torch.ones_like(ids)}


def bandwidth() -> float:
    """GB/s of reading much more than the caches hold, in a product of one row, which is what a step of decoding is."""
    import torch

    weights, x = torch.ones(16384, 8192), torch.ones(8192)
    seconds = []
    for _ in range(7):
        start = time.perf_counter()
        torch.mv(weights, x)
        seconds.append(time.perf_counter() - start)
    return weights.numel() * 4 / min(seconds) / 1e9


def run(size: str, dtype: str, rounds: int) -> dict[str, Any]:
    """All numbers of one dtype, in this process."""
    import torch
    import transformers as tf

    import vlmgraph

    kind, count = getattr(torch, dtype), TOKENS.get(size, 4)
    with tempfile.TemporaryDirectory() as folder:
        peer, prompt = checkpoint(size, folder)
        peer = peer.to(kind)
        prompt["pixel_values"] = prompt["pixel_values"].to(kind)
        eager, fast = (vlmgraph.load(folder, dtype=kind, mode=mode) for mode in ("eager", "compile"))
        with torch.no_grad():
            wanted = peer(**prompt, logits_to_keep=1).logits.float()
            parity = [
                float((m.programs["generate"].run(prompt, last=True)["logits"].float() - wanted).norm() / wanted.norm())
                for m in (eager, fast)
            ]
        how = tf.CompileConfig()
        how._compile_all_devices = True
        calls: dict[str, Callable[[int], Any]] = {
            HF: lambda n: peer.generate(**prompt, max_new_tokens=n, min_new_tokens=n, do_sample=False),
            HF_COMPILED: lambda n: peer.generate(
                **prompt, max_new_tokens=n, min_new_tokens=n, do_sample=False, cache_implementation="static", compile_config=how
            ),
            OURS: lambda n: eager.generate(**prompt, max_new_tokens=n),
            OURS_COMPILED: lambda n: fast.generate(**prompt, max_new_tokens=n, cache_implementation="static"),
        }
        result: dict[str, Any] = {}
        for name, call in calls.items():
            start = time.perf_counter()
            call(1)
            call(count)
            first = time.perf_counter() - start
            start = time.perf_counter()
            call(1)
            call(count)
            result[name] = {"first": first - (time.perf_counter() - start), "prefill": [], "decode": []}
        for _ in range(rounds):
            for name, call in calls.items():
                times = []
                for n in (1, count):
                    start = time.perf_counter()
                    out = call(n)
                    times.append(time.perf_counter() - start)
                    assert out.shape[1] == prompt["input_ids"].shape[1] + n
                result[name]["prefill"].append(times[0] * 1e3)
                result[name]["decode"].append((count - 1) / max(times[1] - times[0], 1e-9))
    speed, regions = bandwidth(), fast.compiled_regions
    size_of_step = sum(
        p.numel() * p.element_size() for p in {id(p): p for n in ("llm", "head") for p in fast.get_submodule(n).parameters()}.values()
    )
    limit = speed * 1e9 / size_of_step
    rows = {
        name: {
            "prefill_ms": statistics.median(r["prefill"]),
            "tokens_per_second": statistics.median(r["decode"]),
            "share_of_bandwidth": statistics.median(r["decode"]) / limit,
            "compile_seconds": max(r["first"], 0.0),
            "all": r["decode"],
        }
        for name, r in result.items()
    }
    return {
        "rows": rows, "bandwidth": speed, "limit": limit, "parity": parity, "regions": regions.report() if regions else [],
        "peak_process_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }  # fmt: skip


def measure(size: str = "small", rounds: int = ROUNDS) -> Table:
    found = {d: process([PYTHON, "-m", "benchmarks.generate", size, d, str(rounds)]) for d in ("float32", "bfloat16")}
    rows = []
    for dtype, result in found.items():
        base = result["rows"][HF]
        for name, r in result["rows"].items():
            speed = r["tokens_per_second"]
            shown = f"{speed:.1f}", f"{speed / base['tokens_per_second']:.2f}", f"{r['share_of_bandwidth']:.0%}"
            rows.append([f"{name}, {dtype}", f"{r['prefill_ms']:.0f}", *shown, f"{r['compile_seconds']:.1f}"])

    def ratio(dtype: str, peer: str) -> float:
        its = found[dtype]["rows"]
        return float(its[OURS_COMPILED]["tokens_per_second"] / its[peer]["tokens_per_second"])

    least = {"small": 1.35, "big": 1.12}.get(size, 1.0)
    goals = {
        f"decode float32 at least {least} times transformers eager": ratio("float32", HF) >= least,
        "decode float32 at least 1.05 times transformers compiled": ratio("float32", HF_COMPILED) >= 1.05,
        "decode bfloat16 at least 1.2 times transformers eager": ratio("bfloat16", HF) >= 1.2,
        "no compilation for a form that was compiled before": not any(k["recompilations"] for r in found.values() for k in r["regions"]),
        "the same logits as transformers to 1e-4 (float32)": max(found["float32"]["parity"]) < 1e-4,
    }
    peaks = ", ".join(f"{r['peak_process_mb']:.0f} MB" for r in found.values())
    limits = ", ".join(f"{d} {r['limit']:.0f}" for d, r in found.items())
    note = (
        f"Prompt of one image and 32 tokens, one thread. Tokens/s leave the prompt out. Memory gives"
        f" {found['float32']['bandwidth']:.1f} GB/s to a product of one row, which bounds tokens/s: {limits}."
        " Compile seconds: the first calls less the same again."
        f" Peaks of the whole processes, all variants together: {peaks}."
        " onnxruntime-genai does not take LLaVA as a whole and is not among them."
    )
    header = ["variant", "prefill ms", "tokens/s", "times transformers", "of the bandwidth", "compile s"]
    title = {"small": "Writing with a 60M decoder", "big": "Writing with a 0.5B decoder"}.get(size, size)
    return Table("generate" if size == "small" else f"generate_{size}", title, header, rows, found, goals, note, rounds)


if __name__ == "__main__":
    print(json.dumps(run(sys.argv[1], sys.argv[2], int(sys.argv[3]))))
