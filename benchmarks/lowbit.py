"""Low-bit weights and products of one row, one process, in turn: a 0.5B decoder beside transformers eager in bfloat16.

`python -m benchmarks lowbit`. Tokens/s leave the prompt out; seconds are those of the process, one thread, so that what else the machine
does costs less of them.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

from .common import PYTHON, Table, process
from .device import bandwidth
from .generate import HF, checkpoint

ROUNDS, TOKENS = 5, 12
CHOICES = {"bfloat16": None, "int8": "int8", "int4": "int4"}
LEAST = {"bfloat16": (1.2, 2.0), "int8": (1.9, 3.0), "int4": (3.4, 4.5)}
ROWS, WIDTH = 151936, 896


def rate(bytes_read: float, run: Callable[[], Any], rounds: int = 7) -> float:
    """GB/s, the median."""
    run()
    seconds = []
    for _ in range(rounds):
        start = time.process_time()
        run()
        seconds.append(time.process_time() - start)
    return bytes_read / statistics.median(seconds) / 1e9


def kernels(rows: int = ROWS, width: int = WIDTH) -> dict[str, float]:
    """GB/s of weights in a product of one bfloat16 row (float32 where it says so), of torch's operators and of ours."""
    import torch
    import torch.nn.functional as F

    from vlmgraph.lower.fast.lowbit import native, ops
    from vlmgraph.lower.fast.lowbit.pack import packed

    native.load()
    weight, x = torch.randn(rows, width), torch.randn(1, width)
    found, ours = {}, torch.ops.vlmgraph.linear
    count = weight.numel()
    found["float32, F.linear"] = rate(4 * count, lambda: F.linear(x, weight))
    found["float32, ours"] = rate(4 * count, lambda: ours(x, weight, None))
    packs = {bits: packed(weight, bits) for bits in (8, 4)}
    weight, x = weight.bfloat16(), x.bfloat16()
    found["bfloat16, F.linear"] = rate(2 * count, lambda: F.linear(x, weight))
    found["bfloat16, torch.mv"] = rate(2 * count, lambda: torch.mv(weight, x[0]))
    found["bfloat16, ours"] = rate(2 * count, lambda: ours(x, weight, None))
    codes, scale = packs[8]
    low = scale.bfloat16()
    found["int8, torch._weight_int8pack_mm"] = rate(count, lambda: torch._weight_int8pack_mm(x, codes, low))
    try:
        import torchao.quantization as torchao

        layer = torch.nn.Linear(width, rows, bias=False, dtype=torch.bfloat16)
        torchao.quantize_(layer, torchao.Int8WeightOnlyConfig())
        compiled = torch.compile(layer)
        found["int8, torchao, compiled"] = rate(count, lambda: compiled(x))
    except ImportError:
        pass
    found["int8, ours"] = rate(count, lambda: ops.product(x, codes, scale))
    size = count / 2 + count / 32 * 2
    theirs = torch._convert_weight_to_int4pack_for_cpu(torch.randint(0, 15, (rows, width), dtype=torch.int32), 2)
    pairs = torch.ones(width // 32, rows, 2, dtype=torch.bfloat16)
    found["int4, torch._weight_int4pack_mm_for_cpu"] = rate(
        count / 2 + count / 32 * 4, lambda: torch._weight_int4pack_mm_for_cpu(x, theirs, 32, pairs)
    )
    codes4, scale4 = packs[4]
    found["int4, ours"] = rate(size, lambda: ops.product(x, codes4, scale4))
    return found


def stored(model: Any) -> int:
    """Bytes that a step reads: the decoder's and the head's."""
    parts = {id(t): t for name in ("llm", "head") for part in model.get_submodule(name).modules() for t in tensors(part)}
    return sum(t.numel() * t.element_size() for t in parts.values())


def tensors(part: Any) -> list[Any]:
    return [*part.parameters(recurse=False), *part.buffers(recurse=False)]


def run(size: str, rounds: int) -> dict[str, Any]:
    import torch

    import vlmgraph

    torch.set_num_threads(1)
    count = TOKENS if size == "big" else 4
    found = {"kernels": kernels() if size == "big" else kernels(512, 64)}
    calls: dict[str, Callable[[int], Any]] = {}
    rows: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        peer, prompt = checkpoint(size, folder)
        peer = peer.bfloat16()
        prompt["pixel_values"] = prompt["pixel_values"].bfloat16()
        calls[HF] = lambda n: peer.generate(**prompt, max_new_tokens=n, min_new_tokens=n, do_sample=False)
        rows[HF] = {"bytes": sum(p.numel() * 2 for name, p in peer.named_parameters() if "language_model" in name)}
        wanted = None
        for name, choice in CHOICES.items():
            start = time.process_time()
            model = vlmgraph.load(folder, dtype=torch.bfloat16, mode="compile", quantize=choice)
            seconds = time.process_time() - start
            logits = model.programs["generate"].run(prompt, last=True)["logits"].float().flatten()
            wanted = peer(**prompt, logits_to_keep=1).logits.float().flatten() if wanted is None else wanted
            calls[name] = lambda n, model=model: model.generate(**prompt, max_new_tokens=n, cache_implementation="static")
            error = float((logits - wanted).norm() / wanted.norm())
            cosine = float(torch.cosine_similarity(logits, wanted, 0))
            rows[name] = {"bytes": stored(model), "load": seconds, "cosine": cosine, "error": error}
            if choice is None:
                wanted = logits  # the same model unquantised is what is quantised
        for call in calls.values():
            call(3)
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
        for _ in range(rounds):
            for name, call in calls.items():
                spent = []
                for n in (1, count):
                    start = time.process_time()
                    call(n)
                    spent.append(time.process_time() - start)
                times[name].append((spent[0], (count - 1) / max(spent[1] - spent[0], 1e-9)))
    found["bandwidth"] = max(bandwidth(), *found["kernels"].values()) if size == "big" else bandwidth()
    for name, row in rows.items():
        row["prefill_ms"] = statistics.median(t[0] for t in times[name]) * 1e3
        row["tokens_per_second"] = statistics.median(t[1] for t in times[name])
        row["all"] = [t[1] for t in times[name]]
        row["share"] = row["tokens_per_second"] * row["bytes"] / 1e9 / found["bandwidth"]
    return {"rows": rows, **found}


def measure(size: str = "big", rounds: int = ROUNDS) -> Table:
    result = process([PYTHON, "-m", "benchmarks.lowbit", size, str(rounds)])
    rows, shown = result["rows"], []
    base = rows[HF]["tokens_per_second"]
    for name, row in rows.items():
        times, cosine = row["tokens_per_second"] / base, f"{row['cosine']:.4f}" if "cosine" in row else ""
        shown.append(
            [name, f"{row['bytes'] / 1e6:.0f}", f"{row['prefill_ms']:.0f}", f"{row['tokens_per_second']:.1f}", f"{times:.2f}",
             f"{row['share']:.0%}", cosine]
        )  # fmt: skip
    shown += [[name, "", "", "", "", f"{value / result['bandwidth']:.0%}", ""] for name, value in result["kernels"].items()]
    goals = {}
    for name, (least, reach) in LEAST.items():
        times = rows[name]["tokens_per_second"] / base
        goals[f"decode {name} at least {least} times transformers eager bfloat16 (reach for {reach})"] = times >= least
    goals["int8: cosine of the logits at least 0.998"] = rows["int8"]["cosine"] >= 0.998
    rates = ", ".join(f"{name} {value:.1f}" for name, value in result["kernels"].items())
    note = (
        f"Prompt of one image and 32 tokens, one thread, seconds of the process. Memory gives {result['bandwidth']:.1f} GB/s. The rows"
        f" below the decoders are a product of one row with {ROWS} x {WIDTH} weights, GB/s of weights: {rates}. Cosines are to the"
        " bfloat16 model (its own to transformers), with random weights, on which low bits do worse than on trained ones."
    )
    header = ["variant", "MB a step", "prefill ms", "tokens/s", "times transformers", "of the bandwidth", "cosine"]
    return Table("lowbit", "Low-bit weights, 0.5B decoder", header, shown, result, goals, note, rounds)


if __name__ == "__main__":
    print(json.dumps(run(sys.argv[1], int(sys.argv[2]))))
