"""Writing text, one process, in turn: vlmgraph eager and compiled beside transformers eager and with static cache and torch.compile.

`python -m benchmarks generate` is a decoder of 60M parameters, `generate_big` one of 0.5B, `generate --device cuda` one of 7B; weights are
random and the same on all sides. What compiling and memory cost is measured of each variant in a process of its own, without caches.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from typing import Any

from .common import PYTHON, Table, process
from .device import bandwidth, described, seconds

ROUNDS = 5
TOKENS = {"small": 32, "big": 12, "7b": 128}
HF, HF_COMPILED, OURS, OURS_COMPILED = "transformers eager", "transformers static cache, compiled", "vlmgraph eager", "vlmgraph compiled"
NAMES = (HF, HF_COMPILED, OURS, OURS_COMPILED)


def checkpoint(size: str, folder: str, dtype: str = "float32") -> tuple[Any, dict[str, Any]]:
    """transformers' LLaVA with random weights, written to a folder, and a prompt of an image and 32 tokens."""
    import torch
    import transformers as tf

    tall, rows = (
        {"small": (384, 12), "big": (768, 12), "7b": (1024, 24), "test": (32, 2)}[size],
        {"small": 8, "big": 24, "7b": 32, "test": 2}[size],
    )
    vision = tf.CLIPVisionConfig(
        hidden_size=tall[0], intermediate_size=4 * tall[0], num_hidden_layers=tall[1], num_attention_heads=max(tall[0] // 64, 1),
        image_size=224, patch_size=16, projection_dim=tall[0],
    )  # fmt: skip
    wide = {
        "small": (512, 8, 2, 1408, 32000),
        "big": (896, 14, 2, 4864, 151936),
        "7b": (4096, 32, 32, 11008, 32000),
        "test": (64, 4, 2, 128, 512),
    }[size]
    text = tf.Qwen2Config(
        hidden_size=wide[0], num_attention_heads=wide[1], num_key_value_heads=wide[2], intermediate_size=wide[3], vocab_size=wide[4],
        num_hidden_layers=rows, tie_word_embeddings=True, max_position_embeddings=2048,
    )  # fmt: skip
    config = tf.LlavaConfig(vision_config=vision, text_config=text, image_token_index=wide[4] - 1, tie_word_embeddings=True)
    torch.manual_seed(0)
    torch.set_default_dtype(getattr(torch, dtype))
    model = tf.LlavaForConditionalGeneration(config).eval()
    torch.set_default_dtype(torch.float32)
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    model.save_pretrained(folder)
    ids = torch.randint(1, wide[4] - 2, (1, 196 + 32))
    ids[:, 1:197] = wide[4] - 1
    return model, {"input_ids": ids, "pixel_values": torch.randn(1, 3, 224, 224), "attention_mask": torch.ones_like(ids)}


def writer(name: str, folder: str, dtype: str, device: str, loaded: dict[Any, Any]) -> Callable[[int], Any]:
    """What writes so many tokens behind the prompt. Models that are `loaded` are taken from there."""
    import torch
    import transformers as tf

    import vlmgraph

    kind = getattr(torch, dtype)
    prompt = {k: v.to(device) for k, v in torch.load(f"{folder}/prompt.pt").items()}
    prompt["pixel_values"] = prompt["pixel_values"].to(kind)
    if name in (HF, HF_COMPILED):
        if "peer" not in loaded:
            loaded["peer"] = tf.LlavaForConditionalGeneration.from_pretrained(folder, dtype=kind).to(device).eval()
        how: dict[str, Any] = {}
        if name == HF_COMPILED:
            compiling = tf.CompileConfig()  # with CUDA graphs, on a device that has them
            compiling._compile_all_devices = True
            how = {"cache_implementation": "static", "compile_config": compiling}
        peer = loaded["peer"]
        return lambda n: peer.generate(**prompt, max_new_tokens=n, min_new_tokens=n, do_sample=False, **how)
    mode = "compile" if name == OURS_COMPILED else "eager"
    model = loaded[mode] = vlmgraph.load(folder, device=device, dtype=kind, mode=mode)
    return lambda n: model.generate(**prompt, max_new_tokens=n, **({"cache_implementation": "static"} if mode == "compile" else {}))


def alone(name: str, folder: str, dtype: str, device: str, count: int) -> dict[str, Any]:
    """Of one variant in this process: seconds of its first answer beyond those of its second."""
    import torch

    call = writer(name, folder, dtype, device, {})
    first = seconds(lambda: call(count), device)
    found = {"compile_seconds": first - seconds(lambda: call(count), device)}
    return found | ({"device_mb": torch.cuda.max_memory_allocated() / 2**20} if device == "cuda" else {})


def run(size: str, folder: str, dtype: str, device: str, rounds: int) -> dict[str, Any]:
    """Speeds of all variants of one dtype, in this process."""
    import torch

    count, loaded = TOKENS.get(size, 4), {}
    calls = {name: writer(name, folder, dtype, device, loaded) for name in NAMES}
    prompt = {k: v.to(device) for k, v in torch.load(f"{folder}/prompt.pt").items()}
    prompt["pixel_values"] = prompt["pixel_values"].to(getattr(torch, dtype))
    with torch.no_grad():
        wanted = loaded["peer"](**prompt, logits_to_keep=1).logits.float()
        parity = [
            float((loaded[mode].programs["generate"].run(prompt, last=True)["logits"].float() - wanted).norm() / wanted.norm())
            for mode in ("eager", "compile")
        ]
    result: dict[str, Any] = {name: {"prefill": [], "decode": []} for name in calls}
    for call in calls.values():
        call(1), call(count)
    for _ in range(rounds):
        for name, call in calls.items():
            one, whole = seconds(partial(call, 1), device), seconds(partial(call, count), device)
            result[name]["prefill"].append(one * 1e3)
            result[name]["decode"].append((count - 1) / max(whole - one, 1e-9))
    fast, speed = loaded["compile"], bandwidth(device)
    read = {id(p): p.numel() * p.element_size() for n in ("llm", "head") for p in fast.get_submodule(n).parameters()}
    rows = {
        name: {
            "prefill_ms": statistics.median(r["prefill"]),
            "tokens_per_second": statistics.median(r["decode"]),
            "share_of_bandwidth": statistics.median(r["decode"]) * sum(read.values()) / speed / 1e9,
            "all": r["decode"],
        }
        for name, r in result.items()
    }
    return {"rows": rows, "bandwidth": speed, "limit": speed * 1e9 / sum(read.values()), "parity": parity,
            "regions": fast.compiled_regions.report(), "recorded": fast.recorded_steps.report(), "device": described(device)}  # fmt: skip


def measured(size: str, dtype: str, device: str, rounds: int) -> dict[str, Any]:
    """All numbers of one dtype: speeds of one process, and of each variant what a process of its own says."""
    own = [PYTHON, "-m", "benchmarks.generate"]
    with tempfile.TemporaryDirectory() as folder:
        process([*own, "write", size, folder, dtype if device == "cuda" else "float32"])
        found = process([*own, "run", size, folder, dtype, device, str(rounds)])
        for i, (name, row) in enumerate(found["rows"].items()):
            cold = {"TORCHINDUCTOR_CACHE_DIR": f"{folder}/inductor{i}", "XDG_CACHE_HOME": f"{folder}/cache{i}"}
            row |= process([*own, "alone", name, folder, dtype, device, str(TOKENS.get(size, 4))], **cold)
    return found


def measure(size: str = "small", rounds: int = ROUNDS, device: str = "cpu") -> Table:
    size = "7b" if device == "cuda" and size == "small" else size
    found = {d: measured(size, d, device, rounds) for d in (("bfloat16",) if device == "cuda" else ("float32", "bfloat16"))}
    rows = []
    for dtype, result in found.items():
        base = result["rows"][HF]
        for name, r in result["rows"].items():
            speed, memory = r["tokens_per_second"], r.get("device_mb", r["peak_mb"])
            shown = f"{speed:.1f}", f"{speed / base['tokens_per_second']:.2f}", f"{r['share_of_bandwidth']:.0%}"
            rows.append([f"{name}, {dtype}", f"{r['prefill_ms']:.0f}", *shown, f"{r['compile_seconds']:.1f}", f"{memory:.0f}"])

    def ratio(dtype: str, peer: str) -> float:
        its = found[dtype]["rows"]
        return float(its[OURS_COMPILED]["tokens_per_second"] / its[peer]["tokens_per_second"])

    least = {"small": 1.35, "big": 1.12}.get(size, 1.0)
    goals = {
        f"decode {d} at least {times} times {peer}": ratio(d, peer) >= times
        for d, peer, times in (("float32", HF, least), ("float32", HF_COMPILED, 1.05), ("bfloat16", HF, 1.2))
        if d in found
    }
    goals["no compilation for a form that was compiled before"] = not any(k["recompilations"] for r in found.values() for k in r["regions"])
    if device == "cuda":
        goals["every step of vlmgraph compiled is the replay of one CUDA graph"] = all(
            r["recorded"] and not any("step by step" in row for row in r["recorded"]) for r in found.values()
        )
    if "float32" in found:
        goals["the same logits as transformers to 1e-4 (float32)"] = max(found["float32"]["parity"]) < 1e-4
    limits = ", ".join(f"{d} {r['limit']:.0f}" for d, r in found.items())
    thread, of_device = (", one thread", "") if device == "cpu" else (f", on {next(iter(found.values()))['device']}", " of the device")
    note = (
        f"Prompt of one image and 32 tokens{thread}. Tokens/s leave the prompt out. Memory is read at"
        f" {next(iter(found.values()))['bandwidth']:.1f} GB/s, which bounds tokens/s: {limits}. Compile s: of a first answer beyond a"
        f" second, in a process of its own without caches; so is the peak of memory{of_device}."
        " onnxruntime-genai does not take LLaVA as a whole and is not among them."
    )
    header = ["variant", "prefill ms", "tokens/s", "times transformers", "of the bandwidth", "compile s", "peak MB"]
    decoder = {"small": "a 60M decoder", "big": "a 0.5B decoder", "7b": "a 7B decoder, CUDA"}.get(size, size)
    table = {"small": "generate", "7b": "generate_cuda"}.get(size, f"generate_{size}")
    return Table(table, f"Writing with {decoder}", header, rows, found, goals, note, rounds)


def main(part: str, *given: str) -> dict[str, Any]:
    if part == "write":
        import torch

        torch.save(checkpoint(*given)[1], f"{given[1]}/prompt.pt")
        return {}
    if part == "run":
        return run(*given[:4], int(given[4]))
    return alone(*given[:4], int(given[4]))


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
