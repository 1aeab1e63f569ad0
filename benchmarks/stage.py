"""A step of LLaVA's first stage, where the projector alone trains: with the vision features kept, without, and transformers' own.

One process, in turn; the same random weights on all sides.
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

ROUNDS, BATCH = 7, 4
HF, OURS, KEPT = "transformers", "vlmgraph", "vlmgraph, features kept"


def run(size: str, rounds: int) -> dict[str, Any]:
    import torch

    import vlmgraph
    from vlmgraph.train.features import FrozenFirst
    from vlmgraph.train.stage import begin

    from .generate import checkpoint

    with tempfile.TemporaryDirectory() as folder:
        peer, prompt = checkpoint(size, folder)
        model = vlmgraph.load(folder)
    for name, parameter in peer.named_parameters():
        parameter.requires_grad_("multi_modal_projector" in name)
    begin(model, "align")
    batch = {name: torch.cat([x] * BATCH) for name, x in prompt.items()}
    batch["pixel_values"] = torch.randn_like(batch["pixel_values"])
    image = peer.config.image_token_id
    batch["labels"] = batch["input_ids"].masked_fill(batch["input_ids"] == image, -100)
    first = FrozenFirst(model, "objective.lm")
    losses: dict[str, Callable[[], Any]] = {
        HF: lambda: peer(**batch).loss,
        OURS: lambda: model.programs["objective.lm"](**batch)["loss"],
        KEPT: lambda: first(**batch)["loss"],
    }
    seconds: dict[str, list[float]] = {name: [] for name in losses}
    value: dict[str, float] = {}
    for turn in range(rounds + 1):  # the first warms up, and fills the cache
        for name, loss in losses.items():
            for module in (peer, model):
                module.zero_grad(set_to_none=True)
            start = time.perf_counter()
            made = loss()
            made.backward()
            if turn:
                seconds[name].append(time.perf_counter() - start)
            value[name] = float(made.detach())
    return {"rows": {n: {"ms": statistics.median(s) * 1e3, "all": s} for n, s in seconds.items()}, "loss": value}


def measure(size: str = "small", rounds: int = ROUNDS) -> Table:
    found = process([PYTHON, "-m", "benchmarks.stage", size, str(rounds)])
    base = found["rows"][HF]["ms"]
    rows = [[name, f"{r['ms']:.0f}", f"{base / r['ms']:.2f}"] for name, r in found["rows"].items()]
    loss = found["loss"]
    goals = {
        "a step with features kept takes less time than transformers'": found["rows"][KEPT]["ms"] < base,
        "the same loss to 1e-5": all(abs(loss[n] - loss[HF]) <= 1e-5 * abs(loss[HF]) for n in loss),
    }
    note = f"{BATCH} samples of one image and 32 tokens, one thread: forward and backward, a 60M decoder and a ViT of 12 x 384."
    return Table("stage", "A step of LLaVA's first stage", ["variant", "ms", "times transformers"], rows, found, goals, note, rounds)


if __name__ == "__main__":
    print(json.dumps(run(sys.argv[1], int(sys.argv[2]))))
