"""A sharded checkpoint of 2 GB opened with vlmgraph and with transformers' from_pretrained, each in a process of its own."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .common import IMPORTS, PYTHON, Table, interleaved, process

MAKE = """
import sys, torch, transformers as tf
kind, folder = sys.argv[1:]
wide = dict(hidden_size=2048, intermediate_size=5632, num_attention_heads=16, num_hidden_layers=16)
if kind == "llava":
    clip = dict(hidden_size=1024, intermediate_size=4096, num_hidden_layers=16, num_attention_heads=16, image_size=336, patch_size=14)
    text = tf.LlamaConfig(vocab_size=32064, **wide)
    config = tf.LlavaConfig(vision_config=tf.CLIPVisionConfig(**clip), text_config=text, image_token_index=32000)
    cls = tf.LlavaForConditionalGeneration
else:  # queries, keys and values are one matrix here, head by head: opening it moves rows
    text = dict(model_type="persimmon", vocab_size=32000, **(wide | {"num_hidden_layers": 20}))
    config = tf.FuyuConfig(vocab_size=32000, image_token_id=31999, text_config=text)
    cls = tf.FuyuForCausalLM
config.dtype = torch.bfloat16
with torch.device("meta"):
    model = cls(config)
torch.manual_seed(0)
model = model.to_empty(device="cpu").to(torch.bfloat16)
for p in model.parameters():
    p.data.normal_(0, 0.02)
model.save_pretrained(folder, max_shard_size="400MB")
print("{}")
"""

# what is opened lazily is read at last when it is used: every byte is added up, as a first run would read it
AFTER = """
opened = time.perf_counter() - start
total = 0
for p in model.parameters():
    total += int(p.detach().flatten().view(torch.int64).sum())
read = time.perf_counter() - start
print(json.dumps({"open_seconds": opened, "read_seconds": read, "sum": total}))
"""
OURS = """
start = time.perf_counter()
model = vlmgraph.load(sys.argv[1])
"""
PEER = """
import json, sys, time
import torch, transformers
cls = getattr(transformers, sys.argv[2])
start = time.perf_counter()
model = cls.from_pretrained(sys.argv[1], dtype=torch.bfloat16, local_files_only=True)
"""
CLASSES = {"llava": "LlavaForConditionalGeneration", "fuyu": "FuyuForCausalLM"}


def measure(runs: int = 5) -> Table:
    result: dict[str, Mapping[str, Any]] = {}
    rows, goals = [], {}
    for kind, cls in CLASSES.items():
        with tempfile.TemporaryDirectory(prefix="vlmgraph-load-") as folder:
            process([PYTHON, "-c", MAKE, kind, folder])
            shards = list(Path(folder).glob("*.safetensors"))
            size = sum(path.stat().st_size for path in shards) / 2**20
            ours, peer = f"vlmgraph, {kind}", f"transformers, {kind}"
            commands = {ours: [PYTHON, "-c", IMPORTS + OURS + AFTER, folder], peer: [PYTHON, "-c", PEER + AFTER, folder, cls]}
            result |= interleaved(commands, runs)
        for name in (ours, peer):
            r = result[name]
            rows.append(
                [name, f"{size:.0f} in {len(shards)}", f"{r['open_seconds']:.2f}", f"{r['read_seconds']:.2f}", f"{r['peak_mb']:.0f}",
                 f"{r['peak_mb'] / size:.2f}", f"{r['seconds']:.2f}"]
            )  # fmt: skip
        goals[f"{kind}: peak below 1.3 times the checkpoint"] = result[ours]["peak_mb"] < 1.3 * size
        goals[f"{kind}: opened at least as fast as from_pretrained"] = result[ours]["open_seconds"] <= result[peer]["open_seconds"]
        goals[f"{kind}: opened and read at least as fast"] = result[ours]["read_seconds"] <= result[peer]["read_seconds"]
    note = (
        "Both keep bfloat16. Seconds are after imports: until the model is there, and until each of its bytes was read once (as the first"
        " run does). Fuyu's queries, keys and values are one matrix head by head, whose rows are moved on opening."
        " Peaks hold the libraries too, and the pages of the files that are mapped."
    )
    header = ["model", "MB in files", "open", "open and read", "peak MB", "of the size", "whole process"]
    return Table("load", "A sharded checkpoint of 2 GB", header, rows, result, goals, note, runs)
