"""moondream: SigLIP at 378 px and Phi-1.5; any resolution in as many tokens; points and boxes as numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from torch import Tensor

import vlmgraph
from tests.architectures.by_hand import gelu, linear, state
from tests.architectures.common import (
    changed,
    close,
    fresh,
    graph,
    lively,
    measured,
    meta,
    next_token_loss,
    noise,
    placed,
    processor,
    published,
    random_ids,
    trains,
)  # fmt: skip
from vlmgraph.api import elaborate
from vlmgraph.diagnostics import DiagnosticError
from vlmgraph.lower.model import CompiledModel
from vlmgraph.lower.value_loop import locate, value_loop
from vlmgraph.report.measure import report
from vlmgraph.weights.import_config import import_config

IMAGE, COORD, SIZE = 301, 302, 303
TOTALS = {None: 1_857_482_608, "moondream1": 1_857_482_608, "2024-05": 1_866_919_792, "2025": 1_927_237_104}


@pytest.fixture(scope="module")
def model() -> CompiledModel:
    return lively("moondream")


@pytest.fixture(scope="module")
def located() -> CompiledModel:
    return lively("moondream", "tiny", "2025")


def pictures(*grids: tuple[int, int]) -> dict[str, Tensor]:
    """Whole views, and tiles as the grids say."""
    tiles = sum(rows * columns for rows, columns in grids)
    return {"pixel_values": noise(len(grids), 3, 42, 42), "tiles": noise(tiles, 3, 42, 42, seed=3), "tile_grid": torch.tensor(grids)}


def prompt(*tail: int) -> Tensor:
    """The first token, a picture, words, and what follows."""
    ids = placed(random_ids(1, 14 + len(tail)), IMAGE, (0, 1, 9))
    ids[0, 0] = 300
    ids[0, 14:] = torch.tensor(tail)
    return ids


@pytest.mark.parametrize("variant", list(TOTALS))
def test_parameters(variant: str | None) -> None:
    counts = published("moondream", None, variant)
    assert counts["total"] == TOTALS[variant] and counts["vision"] == 412_987_248
    assert counts["embed"] + counts["llm"] + counts["head"] == 1_418_270_720
    assert counts["projection"] == (26_224_640 if variant in (None, "moondream1") else 35_661_824)
    if variant == "2025":
        assert sum(counts[name] for name in ("points", "sizes", "coord", "size")) == 60_317_312


def test_parameters_are_those_of_the_reference() -> None:
    tf = pytest.importorskip("transformers", minversion="5.0", reason="the reference is that of transformers 5")
    with torch.device("meta"):
        phi = tf.PhiForCausalLM(tf.PhiConfig())
    assert sum(p.numel() for p in phi.parameters()) == 1_418_270_720


CONFIGS: dict[str | None, dict[str, Any]] = {
    None: {"architectures": ["Moondream"], "phi_config": {"model_type": "phi-msft"}},
    "2024-05": {"architectures": ["Moondream"], "text_config": {"model_type": "phi"}},
    "2025": {"architectures": ["HfMoondream"], "config": {}},
}


@pytest.mark.parametrize("variant", list(CONFIGS))
def test_published_configurations(variant: str | None, tmp_path: Path) -> None:
    """They say next to nothing: which revision it is shows in the class and in what the decoder's part is called."""
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "moondream1", **CONFIGS[variant]}))
    read = elaborate(vlmgraph.read_spec(import_config(tmp_path / "config.json").spec))
    ours = graph("moondream", None, variant)
    assert report(read).total == TOTALS[variant]
    if variant == "2025":
        assert read.tokens == ours.tokens
    for name in ours.components.keys() - {"splice", "prefix", "at_coords", "at_sizes"}:  # these hold ids
        assert read.components[name].sense() == ours.components[name].sense(), name


@pytest.mark.parametrize(("key", "value"), [("qk_layernorm", True), ("tie_word_embeddings", True), ("hidden_act", "mish"), ("n_inner", 3)])
def test_what_is_not_computed_is_refused(key: str, value: Any, tmp_path: Path) -> None:
    config = {"model_type": "moondream1", **CONFIGS[None], "phi_config": {"model_type": "phi", key: value}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(DiagnosticError, match=rf"phi_config\.{key}"):
        import_config(tmp_path / "config.json")


@pytest.mark.parametrize("key", ["text", "region"])
def test_quantised_weights_are_refused(key: str, tmp_path: Path) -> None:
    config = {"model_type": "moondream1", "architectures": ["HfMoondream"], "config": {key: {"group_size": 128}}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(DiagnosticError, match=rf"config\.{key}\.group_size = 128 is not supported"):
        import_config(tmp_path / "config.json")


@pytest.mark.parametrize(("variant", "side"), [(None, 378), ("moondream1", 384), ("2024-05", 378), ("2025", 378)])
def test_tokens_of_the_published_size(variant: str | None, side: int) -> None:
    inputs = {"pixel_values": torch.empty(1, 3, side, side, device="meta")}
    if variant in ("2024-05", "2025"):
        inputs |= {"tiles": torch.empty(4, 3, 378, 378, device="meta"), "tile_grid": torch.empty(1, 2, dtype=torch.long, device="meta")}
    made = meta("moondream", None, variant).programs["encode_image"](**inputs)["projection"]
    assert tuple(made.shape) == (1, 729, 2048)
    (row,) = report(graph("moondream", None, variant), images=[(4000, 300)]).by_image
    assert row["tokens"]["splice.vision"] == 729


@torch.no_grad()
def test_the_last_rows_of_moondream1_are_cut_off() -> None:
    own = lively("moondream", "tiny", "moondream1")
    pixels = noise(1, 3, 48, 48)
    base = own.programs["encode_image"](pixel_values=pixels)["projection"]
    for changed_to, same in (
        ((slice(None), slice(42, None)), True),
        ((slice(42, None), slice(None)), True),
        ((slice(41, 42), slice(None)), False),
    ):
        other = pixels.clone()
        other[0, :, changed_to[0], changed_to[1]] += 1
        assert torch.equal(own.programs["encode_image"](pixel_values=other)["projection"], base) == same


@torch.no_grad()
def test_features_leave_the_tower_through_its_norm(model: CompiledModel) -> None:
    pixels = noise(1, 3, 42, 42)
    s = state(model.projection)
    wanted = linear(s, "fc2", gelu(linear(s, "fc1", model.vision(pixels).double())))
    close(model.programs["encode_image"](pixel_values=pixels)["projection"], wanted)
    with changed(model, "vision.final_norm"):
        assert not torch.equal(model.programs["encode_image"](pixel_values=pixels)["projection"].double(), wanted)


@torch.no_grad()
def test_a_block_of_phi(model: CompiledModel) -> None:
    """One norm feeds both branches; half of every head is turned, the other half keeps its values whatever the position."""
    x, layer = noise(1, 5, 48), model.llm.layers[0]
    y = layer.norms["attention"](x)
    close(layer(x) - x, layer.attention(y) + layer.mlp(y), 1e-5)
    assert list(layer.norms) == ["attention"]
    turned = model.llm.rope(torch.arange(5)[None])
    assert turned[0].shape[-1] == 4 and model.llm.layers[0].attention.head_dim == 8
    ids = random_ids(2, 7)
    close(model(input_ids=ids)["logits"], model.head(model.llm(model.embed(ids))), 1e-6)
    assert model.head.proj.bias is not None


@torch.no_grad()
def test_one_tile_that_is_the_picture_doubles_its_features() -> None:
    """Without tiles the second half of the channels equals the first."""
    own = lively("moondream", "tiny", "2024-05")
    pixels = noise(1, 3, 42, 42)
    features = own.vision(pixels)
    got = own.programs["encode_image"](pixel_values=pixels, tiles=pixels, tile_grid=torch.tensor([[1, 1]]))["projection"]
    close(got, own.projection(torch.cat([features, features], -1)), 1e-6)
    with pytest.raises(DiagnosticError, match="VG0724"):
        own(input_ids=prompt(), pixel_values=pixels)


@torch.no_grad()
@pytest.mark.parametrize("variant", ["2024-05", "2025"])
def test_pictures_of_several_grids_in_one_call(variant: str) -> None:
    own = lively("moondream", "tiny", variant)
    inputs = pictures((1, 2), (2, 2), (1, 1))
    got = own.programs["encode_image"](**inputs)["projection"]
    start = 0
    for i, (rows, columns) in enumerate([(1, 2), (2, 2), (1, 1)]):
        tiles = inputs["tiles"][start : start + rows * columns]
        start += rows * columns
        one = {"pixel_values": inputs["pixel_values"][i : i + 1], "tiles": tiles, "tile_grid": torch.tensor([[rows, columns]])}
        close(got[i : i + 1], own.programs["encode_image"](**one)["projection"], 1e-5)


@torch.no_grad()
def test_a_picture_sees_all_of_itself(located: CompiledModel, model: CompiledModel) -> None:
    """Of 2025: the last token of a picture reaches the first one, words do not reach back; the code of 2024 is causal."""
    inputs = {**pictures((1, 2)), "input_ids": prompt()}
    for own, prefix in ((located, located.prefix(inputs["input_ids"])), (model, None)):
        extra = {} if prefix is None else {"prefix": prefix}
        x = noise(1, 14, 48)
        last_of_picture, last_word = x.clone(), x.clone()
        last_of_picture[0, 9] += 1
        last_word[0, 13] += 1
        states = [own.llm(value, **extra) for value in (x, last_of_picture, last_word)]
        assert torch.equal(states[0][0, :9], states[1][0, :9]) == (prefix is None)
        assert torch.equal(states[0][0, :13], states[2][0, :13])
    assert located.prefix(inputs["input_ids"]).tolist() == [[True] * 10 + [False] * 4]


@torch.no_grad()
def test_scores_of_numbers_are_read_before_the_final_norm(located: CompiledModel) -> None:
    inputs = {**pictures((1, 1)), "input_ids": prompt()}
    out = located.programs["locate"](**inputs)
    with changed(located, "llm.final_norm"):
        again = located.programs["locate"](**inputs)
    assert torch.equal(out["coord_scores"], again["coord_scores"]) and torch.equal(out["size_scores"], again["size_scores"])
    assert not torch.equal(out["logits"], again["logits"])


@torch.no_grad()
def test_objects_are_written_number_by_number(located: CompiledModel) -> None:
    """The loop with its cache against whole sequences; two prompts at once, one padded; objects end where `stop` is the likeliest word."""
    procedure = located.graph.procedures["detect"]
    two = {**pictures((1, 2), (1, 1)), "input_ids": torch.cat([prompt(17, 23), torch.cat([torch.tensor([[300, 300]]), prompt()], 1)])}
    two["attention_mask"] = torch.ones(2, 16, dtype=torch.long)
    two["attention_mask"][1, :2] = 0
    both = locate(located, "detect", max_objects=2, **two)
    single = {**pictures((1, 2), (1, 1)), "input_ids": two["input_ids"][:1]}
    single |= {"pixel_values": single["pixel_values"][:1], "tiles": single["tiles"][:2], "tile_grid": single["tile_grid"][:1]}
    (found,) = locate(located, "detect", max_objects=2, **single)
    close(both[0], found, 1e-6)
    assert found.shape == (2, 4)
    ids, coords, sizes = single["input_ids"], [], []
    for left, top, right, bottom in found.tolist():
        for kind, value in ((COORD, (left + right) / 2), (COORD, (top + bottom) / 2), (SIZE, (right - left, bottom - top))):
            given = {"coords": torch.tensor(coords)[:, None]} if coords else {}
            given |= {"box_sizes": torch.tensor(sizes)} if sizes else {}
            out = located.programs["locate"](**{**single, "input_ids": ids}, **given)
            if kind == COORD:
                assert abs(float(out["coord_scores"][0].argmax()) / 37 - value) < 1e-6
                coords.append(value)
            else:
                bins = out["size_scores"][0].view(2, 23).argmax(-1)
                close(2.0 ** (bins / 1023 * 10 - 10), torch.tensor(value), 1e-3)
                sizes.append(value)
            ids = torch.cat([ids, torch.tensor([[kind]])], 1)
    likeliest = int(out["logits"][0, -1].argmax())  # in front of the last object's end
    word = located.programs["locate"](**{**single, "input_ids": single["input_ids"]})["logits"][0, -1].argmax()
    assert value_loop(located, procedure.model_copy(update={"stop": int(word)}), **single)[0].shape == (0, 4)
    assert likeliest != procedure.stop
    with pytest.raises(DiagnosticError, match="there are: detect, point"):
        locate(located, "caption", **single)


def test_size_bins() -> None:
    """The last bin is the whole picture, the first a thousandth; neighbours are 0.7 % apart."""
    from vlmgraph.lower.value_loop import values

    number = graph("moondream", None, "2025").procedures["detect"].numbers[2]
    scores = torch.eye(1024)[[1023, 0, 512, 511]].view(2, -1)
    made = values(scores, number)
    close(made[0], torch.tensor([1.0, 1 / 1024]))
    assert 1.006 < made[1, 0] / made[1, 1] < 1.0069


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"placeholders": ["<|coord|>"]}, "1 for 3 tokens"),
        ({"program": "nothing"}, "runs the program 'nothing'"),
        ({"stop": "<|nothing|>"}, "has no id in"),
        ({"numbers": [{"read": "coord_scores", "feed": "nothing"}], "placeholders": ["<|coord|>"], "boxes": False}, "feeds 'nothing'"),
        ({"numbers": [{"read": "coord_scores", "feed": "coords"}], "placeholders": ["<|coord|>"]}, "are four numbers"),
    ],
)
def test_procedures_that_do_not_fit(change: dict[str, Any], found: str) -> None:
    spec = vlmgraph.read_spec("moondream", variant="2025", size="tiny", overrides={f"inference.detect.{k}": v for k, v in change.items()})
    assert any(found in d.message for d in vlmgraph.check(spec)), [d.message for d in vlmgraph.check(spec)]


def test_prompts() -> None:
    """The first token, the picture, the question; in moondream1 the picture stands between two words."""
    photo = PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 90, 3), dtype=np.uint8))
    got = processor("moondream").ask("What?", images=[photo])
    assert got["input_ids"][0, :11].tolist() == [300, *[IMAGE] * 9, got["input_ids"][0, 10]]
    assert processor("moondream").decode(got["input_ids"][0]) == "\n\nQuestion: What?\n\nAnswer:"
    old = processor("moondream", "tiny", "moondream1").ask("What?", images=[photo])
    assert old["pixel_values"].shape == (1, 3, 48, 48)
    assert processor("moondream", "tiny", "moondream1").decode(old["input_ids"][0]).endswith("<image></image>What?\n\nAnswer:")
    new = processor("moondream", "tiny", "2025")
    made = new(text=new.prompt("detect", object="a cat"), images=[photo])
    assert new.decode(made["input_ids"][0]) == "\n\nDetect: a cat\n\n" and made["input_ids"][0, :2].tolist() == [300, IMAGE]
    assert len(made["tiles"]) == int(made["tile_grid"].prod())


def region_inputs() -> dict[str, Tensor]:
    return {
        **pictures((1, 2)), "input_ids": prompt(COORD, COORD, SIZE, COORD, COORD, SIZE, 300),
        "coords": torch.rand(4, 1), "box_sizes": torch.rand(2, 2), "coord_labels": torch.tensor([3, 30, 11, 0]),
        "size_labels": torch.tensor([[22, 0], [7, 9]]),
    }  # fmt: skip


def test_objectives(located: CompiledModel) -> None:
    """The state one place in front of a number is what is scored."""
    inputs = region_inputs()
    with torch.no_grad():
        whole = {k: inputs[k] for k in ("pixel_values", "tiles", "tile_grid", "coords", "box_sizes")}
        for at, labels, name, count in ((COORD, "coord_labels", "coords", 1), (SIZE, "size_labels", "box_sizes", 2)):
            rows = []
            for place in (inputs["input_ids"][0] == at).nonzero()[:, 0].tolist():
                ids = inputs["input_ids"][:, :place]
                given = {k: v for k, v in whole.items() if k not in ("coords", "box_sizes")}
                for kind, values in ((COORD, "coords"), (SIZE, "box_sizes")):
                    if number := int((ids == kind).sum()):
                        given[values] = inputs[values][:number]
                out = located.programs["locate"](input_ids=ids, **given)
                rows.append(out["coord_scores" if count == 1 else "size_scores"].view(count, -1))
            wanted = torch.nn.functional.cross_entropy(torch.cat(rows), inputs[labels].flatten())
            close(located.programs[f"objective.{name}"](**inputs)["loss"], wanted)
        words = {**whole, "input_ids": inputs["input_ids"]}
        loss = located.programs["objective.lm"](**words, labels=words["input_ids"])["loss"]
        close(loss, next_token_loss(located(**words)["logits"], words["input_ids"], (IMAGE, COORD, SIZE)))


@pytest.mark.parametrize(
    ("variant", "stage", "parts"),
    [
        (None, "train", ("embed.", "llm.", "head.")),
        ("moondream1", "train", ("projection.", "embed.", "llm.", "head.")),
        ("2025", "regions", ("points.", "sizes.", "coord.", "size.")),
    ],
)
def test_stages(variant: str | None, stage: str, parts: tuple[str, ...]) -> None:
    side = 48 if variant == "moondream1" else 42
    inputs: dict[str, Any] = region_inputs() if variant == "2025" else {"pixel_values": noise(1, 3, side, side), "input_ids": prompt()}
    own = fresh("moondream", "tiny", variant)
    inputs["labels"] = inputs["input_ids"]
    assert trains(own, stage, inputs) == {n for n, _ in own.named_parameters() if n.startswith(parts)}
    trainable = {row.stage: row.trainable for row in measured("moondream", None, variant).stages}
    assert trainable[stage] == {None: 1_418_270_720, "moondream1": 1_444_495_360, "2025": 60_317_312}[variant]
