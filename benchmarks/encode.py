"""Image encoders, one process, in turn: CLIP and SigLIP ViT-B/16 with the same random weights in vlmgraph, transformers and onnxruntime,
CLIP also of torch's own modules as open_clip has it.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .common import PYTHON, Table, process
from .device import seconds as timed

ROUNDS, BATCH = 5, 8
BASE = "transformers eager, float32"
FAST = "vlmgraph compiled, bfloat16"
OPEN = "torch.nn.MultiheadAttention, float32"


def peer_of(kind: str) -> Any:
    import torch
    import transformers as tf

    tall = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12, "image_size": 224}
    if kind == "test":
        tall |= {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
    small = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    if kind == "siglip":
        return tf.SiglipModel(
            tf.SiglipConfig(text_config={**small, "projection_size": 768}, vision_config={**tall, "patch_size": 16})
        ).eval()
    return tf.CLIPModel(tf.CLIPConfig(text_config=small, vision_config={**tall, "patch_size": 16}, projection_dim=512)).eval()


def run(kind: str, rounds: int, device: str = "cpu") -> dict[str, Any]:
    """Images a second of each variant."""
    import copy

    import torch

    import vlmgraph

    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        peer = peer_of(kind)
        peer.save_pretrained(folder)
        peer = peer.to(device)
        narrow = copy.deepcopy(peer).bfloat16()
        x = torch.randn(BATCH, 3, 224, 224, device=device)
        graphs = {"mode": "reduce-overhead"} if device == "cuda" else {}  # CUDA graphs
        calls: dict[str, Callable[[], Any]] = {
            BASE: lambda: peer.get_image_features(pixel_values=x),
            "transformers eager, bfloat16": lambda: narrow.get_image_features(pixel_values=x.bfloat16()),
        }
        if kind != "siglip":
            plain = open_clip(peer).to(device)
            calls[OPEN] = lambda: plain(x)
        fast = torch.compile(copy.deepcopy(peer).get_image_features, **graphs)
        calls["transformers compiled, float32"] = lambda: fast(pixel_values=x)
        fast_narrow = torch.compile(copy.deepcopy(narrow).get_image_features, **graphs)
        calls["transformers compiled, bfloat16"] = lambda: fast_narrow(pixel_values=x.bfloat16())
        models = {}
        for mode, dtype in (("eager", "float32"), ("compile", "float32"), ("compile", "bfloat16")):
            label = f"vlmgraph {'eager' if mode == 'eager' else 'compiled'}, {dtype}"
            models[label] = vlmgraph.load(folder, device=device, dtype=getattr(torch, dtype), mode=mode)
            calls[label] = lambda model=models[label]: model.programs["encode_image"](pixel_values=x)  # type: ignore[misc]
        session = runtime(peer, x, folder) if device == "cpu" else None
        if session is not None:
            calls["onnxruntime, float32"] = lambda: session.run(None, {session.get_inputs()[0].name: x.numpy()})
        first = {}
        for name, call in calls.items():
            cold = timed(call, device)
            first[name] = cold - timed(call, device)
        wanted, got = tensor(calls[BASE]()), tensor(calls["vlmgraph compiled, float32"]())
        parity = apart(got, wanted)
        if OPEN in calls:
            assert apart(calls[OPEN](), wanted) < 1e-4, "open_clip's form is another model"
        seconds: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(rounds):
            for name, call in calls.items():
                seconds[name].append(timed(call, device))
    rows = {
        n: {"images_per_second": BATCH / statistics.median(s), "compile_seconds": max(first[n], 0.0), "all": s} for n, s in seconds.items()
    }
    return {"rows": rows, "parity": parity, "roof": roof(device)}


def apart(a: Any, b: Any) -> float:
    """How far the directions of two batches of features are apart, root of the mean square."""
    from torch.nn.functional import normalize

    return float((normalize(a, dim=-1) - normalize(b, dim=-1)).norm() / len(a) ** 0.5)


def roof(device: str, size: int = 1536, rounds: int = 7) -> float:
    """How many times as fast as in float32 the device multiplies square matrices in bfloat16."""
    import torch

    found = []
    for dtype in (torch.float32, torch.bfloat16):
        a, b = torch.randn(2, size, size, device=device).to(dtype)
        found.append(statistics.median(timed(lambda a=a, b=b: a @ b, device) for _ in range(rounds)))  # type: ignore[misc]
    return found[0] / found[1]


def open_clip(peer: Any) -> Any:
    """CLIP's image encoder out of torch's own modules, pre-norm blocks around nn.MultiheadAttention, with the weights of `peer`."""
    import torch
    from torch import nn

    config, held = peer.config.vision_config, peer.vision_model
    width, heads = config.hidden_size, config.num_attention_heads

    class Block(nn.Module):
        def __init__(self, of: Any) -> None:
            super().__init__()
            self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
            self.ln_1, self.ln_2 = of.layer_norm1, of.layer_norm2
            self.fc1, self.fc2, self.act = of.mlp.fc1, of.mlp.fc2, of.mlp.activation_fn
            parts = [of.self_attn.q_proj, of.self_attn.k_proj, of.self_attn.v_proj]
            self.attn.in_proj_weight.copy_(torch.cat([p.weight for p in parts]))
            self.attn.in_proj_bias.copy_(torch.cat([p.bias for p in parts]))
            self.attn.out_proj.load_state_dict(of.self_attn.out_proj.state_dict())

        def forward(self, x: Any) -> Any:
            y = self.ln_1(x)
            x = x + self.attn(y, y, y, need_weights=False)[0]
            return x + self.fc2(self.act(self.fc1(self.ln_2(x))))

    class Tower(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embeddings, self.ln_pre, self.ln_post = held.embeddings, held.pre_layrnorm, held.post_layernorm
            self.blocks = nn.Sequential(*(Block(layer) for layer in held.encoder.layers))
            self.proj = peer.visual_projection

        def forward(self, pixels: Any) -> Any:
            return self.proj(self.ln_post(self.blocks(self.ln_pre(self.embeddings(pixels)))[:, 0]))

    return Tower().eval()


def tensor(out: Any) -> Any:
    """The features, however a library wraps them."""
    import torch

    if isinstance(out, torch.Tensor):
        return out
    return next(iter(out.values())) if isinstance(out, dict) and "pooler_output" not in out else out["pooler_output"]


def runtime(peer: Any, x: Any, folder: str) -> Any:
    """transformers' vision tower as torch exports it, in onnxruntime; None where that does not install."""
    import torch

    try:
        import onnxruntime
    except ImportError:
        return None

    class Tower(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.peer = peer

        def forward(self, pixel_values: Any) -> Any:
            return self.peer.vision_model(pixel_values=pixel_values).pooler_output

    path = Path(folder) / "tower.onnx"
    torch.onnx.export(Tower(), (x,), path, dynamo=True, verbose=False)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def measure(rounds: int = ROUNDS, device: str = "cpu") -> Table:
    found = {kind: process([PYTHON, "-m", "benchmarks.encode", kind, str(rounds), device]) for kind in ("clip", "siglip")}
    rows = []
    for kind, result in found.items():
        base = result["rows"][BASE]["images_per_second"]
        for name, r in result["rows"].items():
            speed = r["images_per_second"]
            rows.append([f"{kind}: {name}", f"{speed:.1f}", f"{speed / base:.2f}", f"{r['compile_seconds']:.1f}"])
    goals = {
        f"{kind}: bfloat16 compiled at least 4 times transformers float32": r["rows"][FAST]["images_per_second"]
        >= 4 * r["rows"][BASE]["images_per_second"]
        for kind, r in found.items()
    }
    goals |= {f"{kind}: the same directions as transformers to 1e-4": r["parity"] < 1e-4 for kind, r in found.items()}
    thread = ", one thread" if device == "cpu" else ""
    roofs = statistics.median(r["roof"] for r in found.values())
    note = (
        f"Batches of {BATCH} images of 224 x 224{thread}. Compile seconds: the first call less the second."
        f" Square matrices alone are multiplied {roofs:.1f} times as fast in bfloat16 as in float32 here, which bounds what it can gain"
        " (with AMX or tensor cores it is far more)."
    )
    header = ["variant", "images/s", "times transformers", "compile s"]
    name, title = ("encode", "Image encoders, ViT-B/16") if device == "cpu" else ("encode_cuda", "Image encoders, ViT-B/16, CUDA")
    return Table(name, title, header, rows, found, goals, note, rounds)


if __name__ == "__main__":
    print(json.dumps(run(sys.argv[1], int(sys.argv[2]), sys.argv[3])))
