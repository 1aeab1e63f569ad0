"""Presets: every file serves components that exist, names cannot escape the folder, errors say the way out."""

from __future__ import annotations

from pathlib import Path

import pytest

from vlmgraph import presets
from vlmgraph.plugins import registry
from vlmgraph.presets import PresetError, load_preset, names, preset_names

PAIRS = [(name, kind) for name, kinds in names().items() for kind in kinds.split(", ")]


def test_there_are_presets_of_every_kind():
    kinds = {kind for _, kind in PAIRS}
    assert {
        "vision.vit",
        "vision.vq",
        "text.embedding",
        "text.transformer",
        "decoder.transformer",
        "encdec.transformer",
        "connector.qformer",
    } <= kinds


@pytest.mark.parametrize(("name", "kind"), PAIRS)
def test_every_preset_fits_its_component(name, kind):
    """Its fields are fields of the component, valid together, and the file says where they are from."""
    preset = load_preset(name, kind)
    config = registry().load(kind)(**preset.fields)
    assert preset.source and preset.file.stem == name
    for field in preset.fields:
        assert field in type(config).model_fields
        span = preset.origins[field]
        assert Path(span.file).read_text().splitlines()[span.line - 1].startswith(field)


def total(name, kind, **fields):
    return registry().load(kind)(**{**load_preset(name, kind).fields, **fields}).total()


def text(name):
    return total(name, "text.embedding") + total(name, "text.transformer")


def test_published_counts_of_vision_towers():
    assert total("clip-vit-b-32", "vision.vit") + 768 * 512 == 87_849_216  # with the projection
    assert total("clip-vit-l-14-336", "vision.vit") == 303_507_456
    assert total("siglip-l-16-384", "vision.vit") == 303_688_704
    assert total("eva2-clip-e-490", "vision.vit") == 4_282_641_664
    assert total("eva-clip-vit-g-14", "vision.vit", layers=39, final_norm=False) + 2 * 1408 == 985_952_256  # with ln_vision


@pytest.mark.parametrize(
    ("name", "width", "out", "whole"),
    [
        ("clip-vit-b-32", 768, 512, 151_277_313),
        ("clip-vit-b-16", 768, 512, 149_620_737),
        ("clip-vit-l-14", 1024, 768, 427_616_513),
        ("clip-vit-l-14-336", 1024, 768, 427_944_193),
    ],
)
def test_published_counts_of_clip(name, width, out, whole):
    """Both towers, both projections, the scale."""
    assert total(name, "vision.vit") + width * out + text(f"clip-text-{out}") + out * out + 1 == whole


@pytest.mark.parametrize(
    ("name", "tables", "count"),
    [
        ("llama-7b", 2, 6_738_415_616),
        ("vicuna-7b-v1.5", 2, 6_738_415_616),
        ("vicuna-13b-v1.5", 2, 13_015_864_320),
        ("qwen2-1.5b", 1, 1_543_714_304),
        ("qwen2-7b", 1, 7_070_619_136),
        ("qwen2-72b", 2, 72_706_203_648),
        ("deepseek-llm-1.3b", 1, 1_442_940_928),
        ("opt-2.7b", 1, 2_651_596_800),
        ("opt-6.7b", 1, 6_658_473_984),
        ("mpt-1b", 1, 1_311_442_944),
    ],
)
def test_published_counts_of_decoders(name, tables, count):
    """The body, and one table of the vocabulary or, with an own head, two."""
    fields = load_preset(name, "decoder.transformer").fields
    assert total(name, "decoder.transformer") + tables * fields["vocab"] * fields["width"] == count


def test_published_counts_of_text_models():
    assert total("flan-t5-xl", "encdec.transformer") + 2 * 32128 * 2048 == 2_849_757_184
    assert text("bert-base") + 768 * 768 + 768 == 109_482_240  # with the pooler


def test_fields_are_inherited():
    small, large = (load_preset(n, "decoder.transformer") for n in ("vicuna-7b-v1.5", "vicuna-13b-v1.5"))
    assert small.fields["layers"] == 32 and large.fields["layers"] == 40
    assert small.fields["vocab"] == large.fields["vocab"] == 32000
    assert Path(large.origins["vocab"].file).stem == "llama-7b" and Path(large.origins["layers"].file).stem == "vicuna-13b-v1.5"


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../presets/bert-base", "/etc/passwd", "bert-base.toml", "bert\0base", "bert-base\n", "a" * 5000, "Bert-Base"]
)
def test_hostile_names_are_only_unknown(name):
    with pytest.raises(PresetError) as caught:
        load_preset(name, "vision.vit")
    assert caught.value.reason == "unknown"


@pytest.mark.parametrize("name", [3, None, ["bert-base"], {"a": 1}])
def test_a_name_that_is_no_string(name):
    with pytest.raises(PresetError) as caught:
        load_preset(name, "vision.vit")
    assert caught.value.reason == "unknown"


def test_near_names():
    with pytest.raises(PresetError) as caught:
        load_preset("clip-vit-l-14-335", "vision.vit")
    assert caught.value.near[0] == "clip-vit-l-14-336"


def test_wrong_type_names_the_right_ones():
    for kind in ("vision.vit", ["text.embedding"], None):
        with pytest.raises(PresetError) as caught:
            load_preset("bert-base", kind)
        assert caught.value.reason == "wrong_type"
        assert caught.value.types == ("text.embedding", "text.transformer") and "text.embedding" in str(caught.value)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A plugin's package with a presets folder beside its specs."""
    package = tmp_path / "some_vlmgraph_plugin"
    (package / "presets").mkdir(parents=True)
    (package / "specs").mkdir()
    (package / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    from importlib.metadata import EntryPoint

    points = [EntryPoint("x", "some_vlmgraph_plugin:specs_dir", "vlmgraph.specs"), EntryPoint("y", "not_there.at_all", "vlmgraph.specs")]
    monkeypatch.setattr(presets, "entry_points", lambda group: points)
    presets._files.cache_clear()
    presets._read.cache_clear()
    yield package / "presets"
    presets._files.cache_clear()
    presets._read.cache_clear()


def test_presets_of_plugins(folder):
    (folder / "my-vit.toml").write_text('source = "here"\nextends = "clip-vit-l-14"\n["vision.vit"]\nlayers = 3\n')
    presets._files.cache_clear()
    assert "my-vit" in preset_names() and "bert-base" in preset_names()
    found = load_preset("my-vit", "vision.vit")
    assert found.fields["layers"] == 3 and found.fields["width"] == 1024


@pytest.mark.parametrize(
    "files",
    [
        {"a": "not toml ["},
        {"a": 'extends = "b"', "b": 'extends = "a"'},
        {"a": 'extends = "a"'},
        {"a": 'extends = "nowhere"'},
        {"a": "extends = [1]"},
    ],
)
def test_broken_files(folder, files):
    for name, text in files.items():
        (folder / f"{name}.toml").write_text(text)
    presets._files.cache_clear()
    with pytest.raises(PresetError) as caught:
        load_preset("a", "vision.vit")
    assert caught.value.reason == "broken" and caught.value.name in files
    assert names()  # listing survives a broken file


def test_no_torch_is_imported():
    import subprocess
    import sys

    code = "import sys; from vlmgraph.presets import names; names(); assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(presets.__file__).parents[2]).returncode == 0
