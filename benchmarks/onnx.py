"""Decoders in onnxruntime, one process, in turn, with the same random weights: what `export --to onnx` writes, plain and optimized,
with float and integer weights; torch's own export of transformers' model; onnxruntime-genai's graph in its own loop; transformers eager.

`python -m benchmarks onnx` is a decoder of 60M parameters, `python -m benchmarks onnx_big` one of 0.5B.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .common import PYTHON, Table, process

ROUNDS, PROMPT = 5, 228
TOKENS = {"small": 48, "big": 16}
WIDE = {"small": (512, 8, 2, 1408, 32000, 8), "big": (896, 14, 2, 4864, 151936, 24), "test": (64, 4, 2, 96, 128, 2)}
"""Width, heads, heads of keys, hidden width, vocabulary, layers."""
HF, TORCH, PLAIN = "transformers eager", "torch.onnx dynamo export", "vlmgraph, plain"
DTYPES = ("float32", "int8", "int4")
Run = Callable[[int], list[float]]
"""Writes n tokens and gives when each of them, and the start, was; wall and processor seconds in turn."""


def ours(kind: str) -> str:
    return f"vlmgraph --optimize, {kind}"


def genai(kind: str) -> str:
    return f"onnxruntime-genai, {kind}"


def peer(size: str, folder: Path) -> Any:
    """transformers' Qwen2 with random weights, biases too, written to a folder with a tokenizer that the builder can read."""
    import tokenizers
    import torch
    import transformers as tf

    width, heads, keys, hidden, vocab, layers = WIDE[size]
    config = tf.Qwen2Config(
        hidden_size=width, num_attention_heads=heads, num_key_value_heads=keys, intermediate_size=hidden, vocab_size=vocab,
        num_hidden_layers=layers, tie_word_embeddings=True, max_position_embeddings=2048,
    )  # fmt: skip
    torch.manual_seed(0)
    model = tf.Qwen2ForCausalLM(config).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.02)
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = None, 0
    model.save_pretrained(folder)
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "b": 1}, unk_token="b"))
    tf.PreTrainedTokenizerFast(tokenizer_object=words, unk_token="b", eos_token="a", pad_token="a").save_pretrained(folder)
    return model


def twin(size: str, model: Any) -> Any:
    """The same decoder as a spec, with the same weights."""
    import torch

    import vlmgraph

    width, heads, keys, hidden, vocab, layers = WIDE[size]
    theta = model.config.rope_parameters["rope_theta"]
    made = vlmgraph.compile(
        {
            "vlmgraph": 1,
            "model": {"name": f"decoder-{size}"},
            "inputs": {"input_ids": "ids[B, T]", "attention_mask": "mask[B, T]?"},
            "outputs": {"logits": "logits[B, T, vocab]"},
            "tokens": {"<pad>": 0},
            "components": {
                "embed": {"type": "text.embedding", "of": "llm"},
                "llm": {
                    "type": "decoder.transformer", "preset": "qwen2-1.5b", "layers": layers, "width": width, "heads": heads,
                    "kv_heads": keys, "mlp": hidden, "vocab": vocab, "tie": True, "position": {"theta": theta},
                },
                "head": {"type": "head.lm", "of": "llm"},
            },
            "graph": {"edges": ["input_ids -> embed -> llm -> head -> logits", "attention_mask -> llm.mask"]},
            "processor": {"input_ids": {"type": "processor.text", "pad": "<pad>", "pad_side": "left", "also": {"attention_mask": "mask"}}},
            "programs": {"forward": {"outputs": ["logits"]}, "generate": {"from": "forward", "cache": ["llm"]}},
        }
    )  # fmt: skip
    names = {"self_attn.o_proj": "attention.out", "input_layernorm": "norms.attention", "post_attention_layernorm": "norms.mlp"}
    names |= {f"self_attn.{p}_proj": f"attention.{p}" for p in "qkv"} | {f"mlp.{p}_proj": f"mlp.{p}" for p in ("gate", "up", "down")}
    state = {"embed.tokens.weight": model.model.embed_tokens.weight, "llm.final_norm.weight": model.model.norm.weight}
    for name, value in model.model.layers.state_dict().items():
        layer, _, rest = name.partition(".")
        part, _, kind = rest.rpartition(".")
        state[f"llm.layers.{layer}.{names[part]}.{kind}"] = value
    there = dict(made.named_parameters())
    assert set(there) == set(state), set(there) ^ set(state)
    with torch.no_grad():
        for name, value in state.items():
            there[name].copy_(value)
    return made


def exported(made: Any, folder: Path, threads: int, **options: Any) -> tuple[Run, float]:
    """The loop over a folder, and the error of its logits."""
    import numpy as np

    from vlmgraph.export.onnx import export
    from vlmgraph.export.onnx.run import Exported

    report = export(made, folder, programs=["generate"], **options)
    folder_of = Exported(folder, threads)

    def run(count: int) -> list[float]:
        stamps = now()
        mask = np.ones_like(ids())
        folder_of.generate(ids(), attention_mask=mask, max_new_tokens=count, streamer=lambda _: stamps.extend(now()))
        return stamps

    return run, max(r.error for r in report.rows if r.output == "logits")


def ids() -> Any:
    import numpy as np

    return np.random.default_rng(0).integers(2, 120, (1, PROMPT))


def now() -> list[float]:
    return [time.perf_counter(), time.process_time()]


def torch_export(model: Any, folder: Path, threads: int) -> Run:
    """transformers' decoder as torch exports it, keys and values fed back as they lie in onnxruntime's memory."""
    import numpy as np
    import onnxruntime
    import torch
    import transformers as tf

    layers = model.config.num_hidden_layers

    class Decoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: Any, attention_mask: Any, *past: Any) -> Any:
            cache = tf.DynamicCache()
            for i in range(layers):
                cache.update(past[2 * i], past[2 * i + 1], i)
            out = self.model(input_ids=input_ids, attention_mask=attention_mask, past_key_values=cache, use_cache=True)
            return out.logits, *(x for layer in cache.layers for x in (layer.keys, layer.values))

    keys, width = model.config.num_key_value_heads, model.config.hidden_size // model.config.num_attention_heads
    past = [torch.randn(2, keys, 5, width) for _ in range(2 * layers)]
    auto = torch.export.Dim.AUTO
    given = (torch.ones(2, 3, dtype=torch.int64), torch.ones(2, 8, dtype=torch.int64), *past)
    names = [f"past.{i}" for i in range(2 * layers)]
    shapes = ({0: auto, 1: auto}, {0: auto, 1: auto}, tuple({0: auto, 2: auto} for _ in past))
    path = folder / "torch.onnx"
    torch.onnx.export(
        Decoder().eval(), given, path, dynamo=True, dynamic_shapes=shapes, input_names=["input_ids", "attention_mask", *names],
        output_names=["logits", *(n.replace("past", "present") for n in names)], verbose=False,
    )  # fmt: skip
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(count: int) -> list[float]:
        stamps, new, total = now(), ids(), PROMPT
        held = [onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros((1, keys, 0, width), dtype=np.float32)) for _ in names]
        for _ in range(count):
            call = session.io_binding()
            call.bind_cpu_input("input_ids", new)
            call.bind_cpu_input("attention_mask", np.ones((1, total), dtype=np.int64))
            for name, value in zip(names, held):
                call.bind_ortvalue_input(name, value)
            for output in session.get_outputs():
                call.bind_output(output.name)
            session.run_with_iobinding(call)
            logits, *held = call.get_outputs()
            new, total = logits.numpy()[:, -1].argmax(-1)[:, None], total + 1
            stamps += now()
        return stamps

    return run


def genai_loop(source: Path, folder: Path, kind: str, threads: int) -> Run | None:
    """onnxruntime-genai's graph and loop with its thread count set; None where it is not installed."""
    try:
        import onnxruntime_genai as og
    except ImportError:
        return None
    import numpy as np

    precision = {"float32": "fp32"}.get(kind, kind)
    command = [PYTHON, "-m", "onnxruntime_genai.models.builder", "-i", source, "-m", source, "-o", folder, "-p", precision, "-e", "cpu"]
    subprocess.run([str(c) for c in command], check=True, capture_output=True)
    config = json.loads((folder / "genai_config.json").read_text())
    config["model"]["decoder"]["session_options"]["intra_op_num_threads"] = threads
    (folder / "genai_config.json").write_text(json.dumps(config))
    model = og.Model(str(folder))

    def run(count: int) -> list[float]:
        stamps = now()
        settings = og.GeneratorParams(model)
        settings.set_search_options(max_length=PROMPT + count, min_length=PROMPT + count, do_sample=False)
        generator = og.Generator(model, settings)
        generator.append_tokens(ids().astype(np.int32))
        for _ in range(count):
            generator.generate_next_token()
            stamps.extend(now())
        return stamps

    return run


def eager(model: Any) -> Run:
    import torch

    def run(count: int) -> list[float]:
        stamps, new, held = now(), torch.from_numpy(ids()), None
        with torch.no_grad():
            for _ in range(count):
                out = model(input_ids=new, past_key_values=held, use_cache=True, logits_to_keep=1)
                held, new = out.past_key_values, out.logits[:, -1].argmax(-1)[:, None]
                stamps += now()
        return stamps

    return run


def run(size: str, threads: int, rounds: int) -> dict[str, Any]:
    """All numbers of one thread count, in this process."""
    import torch

    torch.set_num_threads(threads)
    calls: dict[str, Run] = {}
    errors: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = peer(size, folder / "peer")
        made = twin(size, model)
        with torch.no_grad():
            given = torch.from_numpy(ids())
            wanted = model(input_ids=given, logits_to_keep=1).logits
            parity = float((made(input_ids=given)["logits"][:, -1:] - wanted).norm() / wanted.norm())
        calls[HF] = eager(model)
        calls[TORCH] = torch_export(model, folder, threads)
        calls[PLAIN], errors[PLAIN] = exported(made, folder / "plain", threads)
        for kind in DTYPES:
            options = {"quantize": [kind]} if kind != "float32" else {}
            calls[ours(kind)], errors[ours(kind)] = exported(made, folder / kind, threads, optimize=True, **options)
            if (loop := genai_loop(folder / "peer", folder / f"genai-{kind}", kind, threads)) is not None:
                calls[genai(kind)] = loop
        for call in calls.values():
            call(3)
        seen: dict[str, list[list[float]]] = {n: [] for n in calls}
        for _ in range(rounds):
            for variant, call in calls.items():
                seen[variant].append(call(TOKENS.get(size, 4)))
    rows = {n: figures(stamps) | {"error": errors.get(n)} for n, stamps in seen.items()}
    return {"rows": rows, "parity": parity, "threads": threads}


def figures(runs: list[list[float]]) -> dict[str, Any]:
    """Medians: milliseconds to the first token and tokens a second behind it, of the wall clock and of the processor."""
    found: dict[str, Any] = {}
    for clock, start in (("", 0), ("cpu_", 1)):
        stamps = [r[start::2] for r in runs]
        found[f"{clock}prefill_ms"] = statistics.median((s[1] - s[0]) * 1e3 for s in stamps)
        found[f"{clock}all"] = [(len(s) - 2) / (s[-1] - s[1]) for s in stamps]
        found[f"{clock}tokens_per_second"] = statistics.median(found[f"{clock}all"])
    return found


def measure(size: str = "small", rounds: int = ROUNDS) -> Table:
    found = {threads: process([PYTHON, "-m", "benchmarks.onnx", size, str(threads), str(rounds)]) for threads in (1, 2)}
    table = []
    for name in found[1]["rows"]:
        one, two = (found[n]["rows"][name] for n in (1, 2))
        base, rival = (found[1]["rows"].get(n) for n in (HF, genai(name.rpartition(", ")[2])))
        beside = f"{one['tokens_per_second'] / rival['tokens_per_second']:.2f}" if rival else ""
        table.append(
            [name, f"{one['prefill_ms']:.0f}", f"{one['tokens_per_second']:.1f}", f"{one['cpu_tokens_per_second']:.1f}",
             f"{one['tokens_per_second'] / base['tokens_per_second']:.2f}", beside, f"{two['prefill_ms']:.0f}",
             f"{two['tokens_per_second']:.1f}", "" if one["error"] is None else f"{one['error']:.1e}"]
        )  # fmt: skip
    rows = found[1]["rows"]
    least = {"small": 1.25, "big": 1.08}.get(size, 1.0)
    speed = {name: r["tokens_per_second"] for name, r in rows.items()}
    goals = {
        f"decode float32 at least {least} times torch's export": speed[ours("float32")] >= least * speed[TORCH],
        "prompt in float32 in at most the time of transformers": rows[ours("float32")]["prefill_ms"] <= rows[HF]["prefill_ms"],
        "the same logits as transformers to 1e-4": max(r["parity"] for r in found.values()) < 1e-4,
    }
    for kind in DTYPES:
        if genai(kind) in speed:
            goals[f"decode {kind} at least 0.9 times onnxruntime-genai"] = speed[ours(kind)] >= 0.9 * speed[genai(kind)]
    note = (
        f"A prompt of {PROMPT} tokens; tokens/s leave it out. One thread, and two in the last columns. Of the processor: by the seconds"
        " that the process had, which a busy machine changes less. Error: the worst of logits beside eager, over all sizes of the proof."
    )
    header = [
        "variant",
        "prefill ms",
        "tokens/s",
        "of the processor",
        "times transformers",
        "times genai",
        "prefill ms, 2",
        "tokens/s, 2",
        "error",
    ]
    title = {"small": "ONNX, a 60M decoder", "big": "ONNX, a 0.5B decoder"}.get(size, size)
    return Table("onnx" if size == "small" else f"onnx_{size}", title, header, table, found, goals, note, rounds)


if __name__ == "__main__":
    print(json.dumps(run(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))
