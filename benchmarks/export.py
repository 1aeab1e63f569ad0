"""ONNX export of a 24-layer decoder of 0.5B parameters beside torch.onnx.export(dynamo=True) of transformers' same decoder.

Each runs in a process of its own. onnxruntime-genai's builder, which writes its graph without tracing, is beside them for information where
it is installed. `python -m benchmarks.export test` runs both on a decoder of two layers and writes nothing.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import tempfile
from typing import Any

from .common import PYTHON, Table, interleaved, process

MAKE = """
import sys
from benchmarks.generate import checkpoint
checkpoint(sys.argv[1], sys.argv[2])
print("{}")
"""

OURS = """
import importlib, json, pathlib, sys, tempfile, time
import torch, vlmgraph, onnx_ir, onnxscript, onnxruntime
import torch.onnx._internal.exporter._core
package = importlib.import_module("vlmgraph.export.onnx")
parts = {name: 0.0 for name in ("capture", "write", "verify")}
modules = {name: importlib.import_module(f"vlmgraph.export.onnx.{name}") for name in ("capture", "store", "verify")}

def timed(owner, name):
    run = getattr(owner, name)
    def inner(*args, **kwargs):
        start = time.perf_counter()
        try:
            return run(*args, **kwargs)
        finally:
            decoder = any("decoder" in str(getattr(getattr(a, "piece", None), "name", getattr(a, "name", a))) for a in args)
            parts[name] += (time.perf_counter() - start) * decoder
    setattr(owner, name, inner)

timed(modules["capture"], "capture"); timed(modules["store"].Store, "write"); timed(modules["verify"], "verify")
model = vlmgraph.load(sys.argv[1])
start = time.perf_counter()
with tempfile.TemporaryDirectory() as folder:
    report = package.export(model, pathlib.Path(folder) / "onnx", programs=["generate"])
seconds = {"export_seconds": parts["capture"] + parts["write"], "capture_seconds": parts["capture"], "proof_seconds": parts["verify"]}
print(json.dumps({**seconds, "whole_seconds": time.perf_counter() - start, "error": max(r.error for r in report.rows)}))
"""

PEER = """
import json, pathlib, sys, tempfile, time
import torch, transformers as tf, onnx_ir, onnxscript
import torch.onnx._internal.exporter._core
from transformers import DynamicCache
model = tf.LlavaForConditionalGeneration.from_pretrained(sys.argv[1], dtype=torch.float32, local_files_only=True).eval()
text, head = model.model.language_model, model.lm_head
layers, kv = text.config.num_hidden_layers, text.config.num_key_value_heads
size = text.config.hidden_size // text.config.num_attention_heads

class Decoder(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.text, self.head = text, head

    def forward(self, inputs_embeds, attention_mask, *pasts):
        cache = DynamicCache()
        for i in range(layers):
            cache.update(pasts[2 * i], pasts[2 * i + 1], i)
        out = self.text(inputs_embeds=inputs_embeds, attention_mask=attention_mask, past_key_values=cache, use_cache=True)
        kept = [t for layer in out.past_key_values.layers for t in (layer.keys, layer.values)]
        return (self.head(out.last_hidden_state[:, -1:]), *kept)

given = (torch.randn(2, 3, text.config.hidden_size), torch.ones(2, 8, dtype=torch.int64), *torch.randn(2 * layers, 2, kv, 5, size))
auto = torch.export.Dim.AUTO
dims = ({0: auto, 1: auto}, {0: auto, 1: auto}, tuple({0: auto, 2: auto} for _ in range(2 * layers)))
start = time.perf_counter()
with tempfile.TemporaryDirectory() as folder, torch.no_grad():
    made = torch.onnx.export(Decoder().eval(), given, dynamo=True, dynamic_shapes=dims, opset_version=20, verbose=False)
    captured = time.perf_counter() - start
    made.save(pathlib.Path(folder) / "decoder.onnx", external_data=True)
print(json.dumps({"export_seconds": time.perf_counter() - start, "capture_seconds": captured}))
"""

BUILDER = """
import json, pathlib, subprocess, sys, tempfile, time
import torch, transformers as tf
model = tf.LlavaForConditionalGeneration.from_pretrained(sys.argv[1], dtype=torch.float32, local_files_only=True)
with tempfile.TemporaryDirectory() as folder:
    whole = tf.Qwen2ForCausalLM(model.config.text_config)
    whole.model, whole.lm_head = model.model.language_model, model.lm_head
    whole.save_pretrained(folder)
    from tokenizers import Tokenizer, models
    tf.PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, unk_token="a")), eos_token="a").save_pretrained(folder)
    start = time.perf_counter()
    command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", folder, "-m", folder, "-o", f"{folder}/out", "-p", "fp32"]
    command += ["-e", "cpu", "--extra_options", "exclude_embeds=true"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    print(json.dumps({"export_seconds": time.perf_counter() - start}))
"""
NAMES = ("vlmgraph", "torch.onnx.export", "onnxruntime-genai builder")


def measure(runs: int = 3, size: str = "big") -> Table:
    commands = {NAMES[0]: OURS, NAMES[1]: PEER}
    if importlib.util.find_spec("onnxruntime_genai") is not None:
        commands[NAMES[2]] = BUILDER
    with tempfile.TemporaryDirectory(prefix="vlmgraph-export-") as folder:
        process([PYTHON, "-c", MAKE, size, folder])
        result = interleaved({name: [PYTHON, "-c", code, folder] for name, code in commands.items()}, runs, warm=False)
    rows: list[list[Any]] = []
    for name, r in result.items():
        shown = [f"{r[key]:.1f}" if key in r else "" for key in ("export_seconds", "capture_seconds", "proof_seconds", "whole_seconds")]
        rows.append([name, *shown, f"{r['peak_mb']:.0f}"])
    ratio = result[NAMES[1]]["export_seconds"] / result[NAMES[0]]["export_seconds"]
    captured = result[NAMES[1]]["capture_seconds"] / result[NAMES[0]]["capture_seconds"]
    goals = {f"decoder captured and written at least 2.5 times as fast as by torch.onnx.export ({ratio:.2f})": ratio >= 2.5}
    note = (
        "The decoder has 24 layers of width 896 and takes and gives keys and values; logits are of the last position. Seconds are without"
        f" imports: the decoder's capture and writing, of which the capture (ratio {captured:.2f}), its proof with onnxruntime, and the"
        " whole folder with vision tower, embedding, merge, samples and proofs; the builder's are of a process, imports and all. Peak"
        " memory is of the whole process, loading included."
    )
    header = ["exporter", "decoder, s", "of which capture", "proof", "whole folder", "peak MB"]
    return Table("export", "ONNX export of a 24-layer decoder", header, rows, result, goals, note, runs)


if __name__ == "__main__":
    table = measure(1, sys.argv[1] if len(sys.argv) > 1 else "test")
    print(table.markdown())
    print(json.dumps(table.result, indent=1))
