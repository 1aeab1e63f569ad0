"""What holds for every folder of graphs that is saved, read from its files alone."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import onnx

ENOUGH, SMALL = 3, 1024


def assert_saved(folder: Path) -> None:
    """No dim is frozen, padding masks are int64, logits are of the last position, equal weights stand once, every dim was proved at three
    sizes beside 0 and 1."""
    manifest = json.loads((folder / "manifest.json").read_text())
    files = {p.name for p in folder.glob("*.onnx")}
    assert files == {g["file"] for g in manifest["graphs"].values()}
    places: dict[tuple[str, str], set[int]] = {}
    data = (folder / "weights.onnx_data").read_bytes() if (folder / "weights.onnx_data").exists() else b""
    for graph in manifest["graphs"].values():
        model = onnx.load(folder / graph["file"], load_external_data=False)
        assert_dims(graph, model)
        for tensor in model.graph.initializer:
            if tensor.data_location != onnx.TensorProto.EXTERNAL:
                assert len(tensor.SerializeToString()) <= SMALL + 400, f"{graph['file']}: {tensor.name} is inside the graph"
                continue
            where = {e.key: e.value for e in tensor.external_data}
            offset, length = int(where["offset"]), int(where["length"])
            content = hashlib.sha256(data[offset : offset + length]).hexdigest()
            places.setdefault((str(tensor.data_type), content), set()).add(offset)
    twice = {key: at for key, at in places.items() if len(at) > 1}
    assert not twice, f"equal weights stand at {list(twice.values())[:3]}"


def assert_dims(graph: dict[str, Any], model: Any) -> None:
    for listed, values in ((graph["inputs"], model.graph.input), (graph["outputs"], model.graph.output)):
        dims = {v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in values}
        assert dims == {one["name"]: one["dims"] for one in listed}, graph["file"]
    for dim in {d for i in graph["inputs"] for d in i["dims"] if not isinstance(d, int)}:
        sizes = set(graph["sizes"][dim]) - {0, 1}
        assert len(sizes) >= ENOUGH or graph["fewer"].get(dim), f"{graph['file']}: {dim} was proved at {sizes} alone"
    bools = [v["name"] for v in (*graph["inputs"], *graph["outputs"]) if v["dtype"] == "bool" and len(v["dims"]) == 2]
    assert not bools, f"{graph['file']}: masks {bools} are not what other tools feed"
    for output in graph["outputs"]:
        if graph.get("cache") and output["name"].endswith("logits"):
            assert output["dims"][1] == 1, f"{graph['file']}: {output}"
        shapes = [r["shape"] for r in graph["errors"] if r["output"] == output["name"]]
        assert shapes, f"{graph['file']}: {output['name']} is not proved"
        for axis, dim in enumerate(output["dims"]):
            sizes = {shape[axis] for shape in shapes}
            assert not isinstance(dim, int) or sizes == {dim}, f"{graph['file']}: {output} has {sizes} in dim {axis}"
