"""Rules, their inverses and the account of keys."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmgraph.diagnostics import Collector, DiagnosticError
from vlmgraph.weights.layouts import layout_names, read_layout
from vlmgraph.weights.operations import ByHead, Grid, Reshape, Rope, Transpose, read_operation
from vlmgraph.weights.rules import Dialect, Layout, Rule
from vlmgraph.weights.templates import Template, TemplateError, substitute


@dataclass(frozen=True)
class Held:
    """A tensor of a pretended checkpoint."""

    value: torch.Tensor
    file: str = "model.safetensors"

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.value.shape)

    def load(self) -> torch.Tensor:
        return self.value

    def read(self) -> torch.Tensor:
        return self.value.clone()


def rule(sources: str | list[str], targets: str | list[str], *operations: object, dim: int = 0) -> Rule:
    def sides(x: str | list[str]) -> tuple[Template, ...]:
        return tuple(map(Template, [x] if isinstance(x, str) else x))

    return Rule(sides(sources), sides(targets), operations, dim)  # type: ignore[arg-type]


def load(layout: Layout, tensors: dict[str, torch.Tensor], shapes: dict[str, tuple[int, ...]], ties: list[list[str]] | None = None):
    found = Collector()
    state, account = layout.load({k: Held(v) for k, v in tensors.items()}, shapes, found, ties or [])
    return state, account, [d.code for d in found.found], [d.message for d in found.found]


@given(i=st.integers(0, 40), j=st.integers(0, 40), p=st.sampled_from(["weight", "bias"]))
def test_templates_invert(i: int, j: int, p: str) -> None:
    ours, theirs = Template("llm.inserts.x.{i*3+1}.{j}.{p}"), Template("model.layers.{i}.part.{j+2}.{p}")
    key = f"llm.inserts.x.{3 * i + 1}.{j}.{p}"
    captures = ours.match(key)
    assert captures is not None and theirs.fill(captures) == f"model.layers.{i}.part.{j + 2}.{p}"
    assert ours.fill(theirs.match(theirs.fill(captures)) or ()) == key


@pytest.mark.parametrize("key", ["a.2.w", "a.x.w", "a.1.w.more", "xa.1.w", "a.01"])
def test_templates_do_not_match(key: str) -> None:
    assert Template("a.{i*3+1}.w").match(key) is None


def test_template_values() -> None:
    assert substitute("x.{i*$text.every}", {"text.every": 4}) == "x.{i*4}"
    with pytest.raises(TemplateError, match="every"):
        substitute("x.{i*$every}", {})
    with pytest.raises(TemplateError):
        Template("x.{i").match("x.1")


@settings(deadline=None)
@given(heads=st.integers(1, 4), half=st.integers(1, 4), width=st.integers(1, 4), seed=st.integers(0, 99))
def test_operations_invert(heads: int, half: int, width: int, seed: int) -> None:
    torch.manual_seed(seed)
    x = torch.randn(heads * half * 2, width)
    for operation, given_, shape in [
        (Rope(heads), x, x.shape),
        (Transpose(0, 1), x, (width, len(x))),
        (Grid(), torch.randn(1, half, half, width), (half**2, width)),
        (Reshape((heads, half, 2, -1)), x.reshape(heads, half, 2, width), (heads * half, 2 * width)),
    ]:
        y = operation.load(given_, shape)
        assert tuple(y.shape) == tuple(shape)
        assert torch.equal(operation.save(y), given_)


def test_rope_puts_pairs_half_a_head_apart() -> None:
    assert Rope(2).load(torch.arange(8.0)[:, None], (8, 1))[:, 0].tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


def test_operations_are_read() -> None:
    assert read_operation({"reshape": [-1, "$vision.patch"]}, {"vision.patch": 14}) == Reshape((-1, 14))
    for bad in ({"reshape": ["$x"]}, {"flip": 1}, {"rope": 2, "dim": 1}):
        with pytest.raises(TemplateError):
            read_operation(bad, {})


@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_layouts_invert(data: st.DataObject) -> None:
    """Any model state goes out and comes back bit by bit, through every kind of rule."""
    q, kv, width, layers = (data.draw(st.integers(1, 4)) for _ in range(4))
    layout = Layout(
        "toy",
        (
            rule("blocks.{i}.qkv.{p}", ["m.{i}.q.{p}", "m.{i}.k.{p}", "m.{i}.v.{p}"]),
            rule(["gate.{i}.weight", "up.{i}.weight"], "m.{i}.both.weight"),
            rule("emb", "m.emb", Reshape((1, -1, width))),
            rule("proj", "m.proj", Transpose(0, 1)),
            rule("list.{i}.w", "m.inserts.{i*2+1}.w"),
        ),
    )
    torch.manual_seed(data.draw(st.integers(0, 99)))
    state = {"m.emb": torch.randn(3, width), "m.proj": torch.randn(width, 2)}
    for i in range(layers):
        for name, rows in (("q", q), ("k", q), ("v", q)):
            state[f"m.{i}.{name}.weight"] = torch.randn(rows, width)
            state[f"m.{i}.{name}.bias"] = torch.randn(rows)
        state[f"m.{i}.both.weight"] = torch.randn(2 * kv, width)
        state[f"m.inserts.{2 * i + 1}.w"] = torch.randn(width)
    out = layout.save(state)
    assert out["blocks.0.qkv.weight"].shape == (3 * q, width) and out["emb"].shape == (1, 3, width)
    assert len(out) == 2 + 5 * layers
    back, account, codes, messages = load(layout, out, {k: tuple(v.shape) for k, v in state.items()})
    assert not codes, messages
    assert set(back) == set(state) and all(torch.equal(back[k], state[k]) for k in state)
    assert account.keys == set(out)
    again = layout.save(back, account.dialect, account.keys)
    assert set(again) == set(out) and all(torch.equal(again[k], out[k]) for k in out)


def test_a_fused_projection_by_head() -> None:
    """Rows q0 k0 v0 q1 k1 v1 of the file, two heads of two: q0 q1, k0 k1, v0 v1; vectors as matrices, and back."""
    layout = Layout("toy", (rule("qkv.{p}", ["q.{p}", "k.{p}", "v.{p}"], ByHead(2, 3)),))
    stored = {"qkv.weight": torch.arange(12.0)[:, None], "qkv.bias": torch.arange(12.0)}
    shapes = {f"{n}.{p}": (4, 1) if p == "weight" else (4,) for n in "qkv" for p in ("weight", "bias")}
    state, _, codes, _ = load(layout, stored, shapes)
    assert not codes
    assert [state[f"{n}.bias"].tolist() for n in "qkv"] == [[0, 1, 6, 7], [2, 3, 8, 9], [4, 5, 10, 11]]
    assert torch.equal(state["k.weight"][:, 0], state["k.bias"])
    back = layout.save(state)
    assert all(torch.equal(back[k], stored[k]) for k in stored)
    assert load(layout, {"qkv.bias": torch.arange(11.0)}, {f"{n}.bias": (4,) for n in "qkv"})[2] == ["VG0611"] * 3


def test_unequal_chunks_follow_the_model() -> None:
    layout = Layout("toy", (rule("qkv", ["q", "k", "v"]),))
    state, _, codes, _ = load(layout, {"qkv": torch.arange(8.0)[:, None]}, {"q": (4, 1), "k": (2, 1), "v": (2, 1)})
    assert not codes and [len(state[n]) for n in "qkv"] == [4, 2, 2]
    assert torch.equal(layout.save(state)["qkv"], torch.arange(8.0)[:, None])


def test_every_key_is_accounted_for() -> None:
    layout = Layout("toy", (rule("a.{i}", "m.{i}"), rule(["x.{i}", "y.{i}"], "xy.{i}")), ((Template("old.{rest}"), "not used"),))
    tensors = {"a.0": torch.zeros(2), "a.7": torch.zeros(2), "b": torch.zeros(1), "old.thing.0": torch.zeros(1), "x.0": torch.zeros(1)}
    _, account, codes, messages = load(layout, tensors, {"m.0": (2,), "m.1": (2,), "xy.0": (2,), "z": (1,)})
    text = "\n".join(messages)
    assert "'a.7': it belongs to m.7" in text  # a layer too many
    assert "holds 'b': no rule" in text
    assert "holds 'x.0' but not 'y.0'" in text
    assert "lacks 'a.1', from which m.1 is made" in text
    assert "no rule of the layout 'toy' gives z" in text
    assert all("model.safetensors" in m for m in messages)
    assert set(codes) == {"VG0609", "VG0610"}
    assert account.ignored == {"old.thing.0": "not used"}


@pytest.mark.parametrize("shape", [(3, 4), (2, 5), (2, 4, 1), (8,), ()])
def test_wrong_shape(shape: tuple[int, ...]) -> None:
    layout = Layout("toy", (rule("a", "m", Reshape((1, -1, 4))), rule("qkv", ["q", "k", "v"]), rule("t", "tt", Transpose(0, 1))))
    good = {"a": torch.zeros(1, 2, 4), "qkv": torch.zeros(6, 4), "t": torch.zeros(4, 2)}
    wanted = {"m": (2, 4), "q": (2, 4), "k": (2, 4), "v": (2, 4), "tt": (2, 4)}
    assert not load(layout, good, wanted)[2]
    for key in good:
        _, _, codes, messages = load(layout, {**good, key: torch.zeros(shape)}, wanted)
        assert set(codes) == {"VG0611"} and repr(key) in messages[0] and str(list(shape)) in messages[0]


def test_tied_names() -> None:
    layout = Layout("toy", (rule("embed", "e"), rule("head", "h")))
    shapes, ties = {"e": (2,), "h": (2,)}, [["e", "h"]]
    one = torch.tensor([1.0, 2.0])
    state, account, codes, _ = load(layout, {"embed": one}, shapes, ties)
    assert not codes and state["h"] is state["e"]
    assert set(layout.save(state)) == {"embed"} == account.keys
    state, account, codes, _ = load(layout, {"embed": one, "head": one.clone()}, shapes, ties)
    assert not codes and set(layout.save(state, "", account.keys)) == {"embed", "head"}
    state, account, codes, _ = load(layout, {"head": one}, shapes, ties)
    assert not codes and set(layout.save(state, "", account.keys)) == {"head"}
    _, _, codes, messages = load(layout, {"embed": one, "head": one + 1}, shapes, ties)
    assert codes == ["VG0613"] and "'embed' and 'head'" in messages[0]


def test_two_keys_for_one_tensor() -> None:
    layout = Layout("toy", (rule("bias", "b"), rule("decoder.bias", "b")))
    one = torch.tensor([1.0, 2.0])
    state, account, codes, _ = load(layout, {"bias": one, "decoder.bias": one.clone()}, {"b": (2,)})
    assert not codes and account.keys == {"bias", "decoder.bias"}
    assert set(layout.save(state, "", account.keys)) == {"bias", "decoder.bias"} and set(layout.save(state)) == {"bias"}
    _, account, codes, _ = load(layout, {"decoder.bias": one}, {"b": (2,)})
    assert not codes and set(layout.save({"b": one}, "", account.keys)) == {"decoder.bias"}
    assert load(layout, {"bias": one, "decoder.bias": -one}, {"b": (2,)})[2] == ["VG0613"]


def test_dialects() -> None:
    layout = Layout(
        "toy", (rule("tower.{i}.w", "v.{i}"), rule("head", "h")), (), (Dialect("plain"), Dialect("nested", (("model.tower.", "tower."),)))
    )
    shapes = {"v.0": (1,), "v.1": (1,), "h": (1,)}
    for name, prefix in (("plain", ""), ("nested", "model.")):
        tensors = {f"{prefix}tower.{i}.w": torch.full((1,), float(i)) for i in range(2)} | {"head": torch.zeros(1)}
        state, account, codes, _ = load(layout, tensors, shapes)
        assert not codes and account.dialect == name
        assert set(layout.save(state, name)) == set(tensors)
    _, _, codes, messages = load(layout, {"model.tower.0.w": torch.zeros(1), "tower.1.w": torch.zeros(1), "head": torch.zeros(1)}, shapes)
    assert set(codes) == {"VG0609", "VG0610"}, messages  # two forms in one folder are not mixed


def test_saving_what_no_rule_explains() -> None:
    layout = Layout("toy", (rule("a", "m"),))
    with pytest.raises(KeyError, match="other"):
        layout.save({"m": torch.zeros(1), "other": torch.zeros(1)})
    shared = torch.zeros(1)
    assert set(layout.save({"m": shared, "twin": shared})) == {"a"}


def test_rules_must_be_reversible() -> None:
    with pytest.raises(ValueError, match="holes"):
        rule("a.{i}", "m")
    with pytest.raises(ValueError, match="several"):
        rule(["a", "b"], ["c", "d"])


VALUES = {
    "cross_layer_interval": 2, "vision_config.hidden_size": 4, "qformer_config.hidden_size": 4, "vision_config.in_channels": 3,
    "vision_config.num_channels": 3, "vision_config.width": 4,
    "vision_config.temporal_patch_size": 2, "vision_config.patch_size": 7, "heads": 4, "text_config.num_attention_heads": 4,
    "text_config.cross_attention_layers": [1, 4, 6, 9], "config.vision.enc_dim": 4, "text_config.layout": "llama",
}  # fmt: skip


@pytest.mark.parametrize("name", layout_names())
def test_bundled_layouts_are_unambiguous(name: str) -> None:
    """What a rule writes is read by the same rule: no key is claimed by an earlier one, on either side."""
    layout = read_layout(name, VALUES)
    assert layout.rules
    for one in layout.rules:
        fill = {n: (3 if n in "ijk" else "weight" if n == "p" else "part") for t in one.sources for n in t.names}
        captures = tuple(sorted(fill.items()))
        for side, find in ((one.sources, layout._source), (one.targets, layout._target)):
            for slot, template in enumerate(side):
                hit = find(template.fill(captures))
                assert hit is not None and hit[:2] == (one, slot), f"{template.text} is also {hit and hit[0]}"
    for dialect in layout.dialects:
        for one in layout.rules:
            for template in one.sources:
                key = template.text
                assert dialect.read(dialect.write(key)) == key, f"{dialect.name}: {key}"


@pytest.mark.parametrize("name", ["../clip", "nothing", "", "clip.toml", "/etc/passwd", "CLIP"])
def test_layout_names_are_not_paths(name: str) -> None:
    with pytest.raises(DiagnosticError, match="VG0614"):
        read_layout(name)


def test_bad_layout_file(tmp_path: Path) -> None:
    for text in (
        '[rename]\n"a.{i}" = "b"',
        '[[rules]]\nfrom = "a"',
        "[other]\nx = 1",
        '[rename]\n"a.{i*$x}" = "b.{i}"',
        "not toml",
        '[[rules]]\nfrom = "a"\nto = "b"\nops = [{ flip = 1 }]',
    ):
        path = tmp_path / "x.toml"
        path.write_text(text)
        with pytest.raises(DiagnosticError, match="VG0614"):
            read_layout(path)
