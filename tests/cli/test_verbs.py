"""Every verb through the entry point: what it prints where, and its exit code."""

from __future__ import annotations

import json
import sys
from importlib.metadata import entry_points
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.cli.conftest import Command
from vlmgraph.cli import CLEAN, FINDINGS, HELP, USAGE, VERBS, main

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def test_the_installed_command_is_this_function() -> None:
    (point,) = {p.value for p in entry_points(group="console_scripts") if p.name == "vlmgraph"}
    assert point == "vlmgraph.cli:main"


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_every_verb(vlmgraph: Command, verb: str) -> None:
    said = vlmgraph(verb, "--help")
    assert said.code == CLEAN and not said.err
    assert said.out.startswith(f"usage: vlmgraph {verb}") and "example" in said.out
    assert f"\n  {verb:9} {VERBS[verb]}\n" in HELP


def test_no_arguments_is_usage_but_help_is_not(vlmgraph: Command) -> None:
    assert (vlmgraph().code, vlmgraph("--help").code, vlmgraph("help").code) == (USAGE, CLEAN, CLEAN)
    assert vlmgraph("--version").out == "vlmgraph 0.1.0\n"


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (("chekc",), "did you mean 'check'?"),
        (("frobnicate",), "verbs: check, show"),
        (("check",), "SPEC"),
        (("check", "clip", "--size"), "--size"),
        (("check", "clip", "--fromat", "json"), "--fromat"),
        (("check", "clip", "--set", "llm"), "KEY=VALUE"),
        (("report", "clip", "--image-size", "big"), "WIDTHxHEIGHT"),
        (("report", "clip", "--dims", "B=many"), "NAME=NUMBER"),
        (("show", "clip", "--print-after", "infre"), "passes: "),
        (("show", "clip", "--pipeline", "carry,infre"), "infre"),
        (("show", "clip", "--pipeline", "expect"), "requires"),
        (("explain", "VG9999"), "`vlmgraph explain` lists them"),
        (("import", "somewhere", "--weights"), "needs -o"),
        (("export", "clip", "-o", "x"), "--target"),
    ],
)
def test_usage(vlmgraph: Command, arguments: tuple[str, ...], wanted: str) -> None:
    said = vlmgraph(*arguments)
    assert said.code == USAGE and wanted in said.err and not said.out
    assert "Traceback" not in said.err


@pytest.mark.parametrize("arguments", [("check", "cogvml"), ("show", "cogvml"), ("report", "cogvml"), ("compile", "cogvml")])
def test_a_misspelt_spec_has_a_suggestion(vlmgraph: Command, arguments: tuple[str, ...]) -> None:
    said = vlmgraph(*arguments)
    assert said.code == FINDINGS and "did you mean 'cogvlm'?" in said.err and not said.out


class TestCheck:
    def test_clean(self, vlmgraph: Command) -> None:
        said = vlmgraph("check", "clip", "cogvlm", "--size", "tiny")
        assert (said.code, said.out, said.err) == (CLEAN, "", "clip: no problems\ncogvlm: no problems\n")
        assert vlmgraph("check", "clip", "--quiet").err == ""

    def test_findings_of_all_specs(self, vlmgraph: Command, broken: Path) -> None:
        said = vlmgraph("check", broken, "cogvml", "clip")
        assert said.code == FINDINGS and not said.out
        assert all(text in said.err for text in ("VG0204", "VG0003" if "VG0003" in said.err else "VG0002", "2 errors", "clip: no problems"))

    @pytest.mark.parametrize("flag", [("--format", "json"), ("--json",)])
    def test_json_goes_to_stdout_alone(self, vlmgraph: Command, broken: Path, flag: tuple[str, ...]) -> None:
        said = vlmgraph("check", broken, *flag)
        assert said.code == FINDINGS and not said.err
        (finding,) = said.json
        assert finding["code"] == "VG0204"
        assert vlmgraph("check", "clip", *flag).json == []

    def test_other_forms(self, vlmgraph: Command, broken: Path) -> None:
        assert vlmgraph("check", broken, "--format", "github").out.startswith("::error file=")
        assert vlmgraph("check", broken, "--format", "sarif").json["version"] == "2.1.0"
        assert vlmgraph("check", broken, "--format", "concise").err.count("\n") == 1

    def test_overrides(self, vlmgraph: Command) -> None:
        assert vlmgraph("check", "llava-1.5", "--size", "tiny", "--set", "llm.layers=3", "--quiet").code == CLEAN
        said = vlmgraph("check", "llava-1.5", "--size", "tiny", "--set", "llm.layers=none")
        assert said.code == FINDINGS and "VG0205" in said.err and "layers" in said.err


class TestShow:
    def test_text_reads_back(self, vlmgraph: Command) -> None:
        from vlmgraph.ir.text import parse_graph, print_graph

        said = vlmgraph("show", "cogvlm")
        assert said.code == CLEAN and print_graph(parse_graph(said.out)).rstrip() == said.out.rstrip()

    def test_drawings(self, vlmgraph: Command, tmp_path: Path) -> None:
        assert vlmgraph("show", "janus", "--format", "mermaid").out.startswith("flowchart TD\n")
        said = vlmgraph("show", "janus", "--format", "svg", "-o", tmp_path / "new/janus.svg")
        assert (said.code, said.out) == (CLEAN, "")
        assert ElementTree.parse(tmp_path / "new/janus.svg").getroot().tag.endswith("svg")
        assert [p.name for p in (tmp_path / "new").iterdir()] == ["janus.svg"], "no temporary file stays"

    def test_resolved_says_where_values_come_from(self, vlmgraph: Command) -> None:
        lines = vlmgraph("show", "cogvlm", "--size", "tiny", "--set", "llm.heads=2", "--resolved").out.splitlines()
        (layers,) = [line for line in lines if line.startswith("components.llm.layers")]
        (heads,) = [line for line in lines if line.startswith("components.llm.heads")]
        assert "size tiny" in layers and "cogvlm.toml:" in layers
        assert "= 2 " in heads and "override" in heads

    def test_passes_one_by_one(self, vlmgraph: Command) -> None:
        said = vlmgraph("show", "clip", "--pipeline", "carry,infer", "--print-after", "carry", "--time")
        assert said.code == CLEAN
        assert "# after carry\n" in said.err and "# after infer" not in said.err
        assert [line.split()[0] for line in said.err.splitlines() if line.endswith(" ms")] == ["carry", "infer"]
        assert "tokens[B, 50, 768]" in said.out and "tokens[B, 50, 768]" not in said.err, "types are inferred by the later pass"


class TestReport:
    def test_table(self, vlmgraph: Command) -> None:
        said = vlmgraph("report", "cogvlm")
        assert said.code == CLEAN and not said.err and "\x1b" not in said.out
        assert "17,639,685,376 parameters, 35.28 GB in bfloat16" in said.out

    def test_json(self, vlmgraph: Command) -> None:
        data = vlmgraph("report", "llava-1.5", "--dims", "B=2,T=600", "--dtype", "float16", "--json").json
        assert (data["dtype"], data["dims"]["B"], data["dims"]["T"]) == ("float16", 2, 600)

    def test_a_picture_of_each_size(self, vlmgraph: Command) -> None:
        data = vlmgraph("report", "qwen2-vl", "--image-size", "1280x720", "--image-size", "336x336", "--json").json
        wide, square = data["visual_tokens"]["by_image"]
        # 28 x 28 pixels a token: 1280 x 720 is made 1288 x 728
        assert set(wide["tokens"].values()) >= {46 * 26} and set(square["tokens"].values()) >= {12 * 12}

    def test_files(self, vlmgraph: Command, tmp_path: Path) -> None:
        assert vlmgraph("report", "clip", "--format", "html", "-o", tmp_path / "clip.html").code == CLEAN
        assert (tmp_path / "clip.html").read_text().startswith("<!doctype html>")
        assert vlmgraph("report", "clip", "-o", tmp_path / "clip.txt").out == ""
        assert "parameters" in (tmp_path / "clip.txt").read_text()

    def test_a_number_that_differs(self, vlmgraph: Command) -> None:
        said = vlmgraph("report", "cogvlm", "--set", "expect.params.total=1")
        assert said.code == FINDINGS and "VG0412" in said.err


class TestDiff:
    def test_the_same(self, vlmgraph: Command) -> None:
        said = vlmgraph("diff", "clip", "clip")
        assert (said.code, said.out) == (CLEAN, "clip and clip have the same graph\n")

    def test_different(self, vlmgraph: Command) -> None:
        said = vlmgraph("diff", "llava-1.5", "llava-1.5", "--size", "tiny", "--set", "llm.layers=5")
        assert said.code == FINDINGS and "-> 5" in said.out and "+ llava-1.5 --size tiny --set llm.layers=5" in said.out
        sized = vlmgraph("diff", "llava-1.5", "llava-1.5", "--left-size", "tiny", "--json")
        assert sized.code == FINDINGS
        assert {"section": "visual tokens", "what": "splice.vision"}.items() <= next(
            c for c in sized.json["changes"] if c["section"] == "visual tokens"
        ).items()


class TestExplain:
    def test_a_page(self, vlmgraph: Command) -> None:
        said = vlmgraph("explain", "vg0301")
        assert said.code == CLEAN and said.out.startswith("# VG0301")

    def test_a_component_type(self, vlmgraph: Command) -> None:
        said = vlmgraph("explain", "connector.mlp")
        assert (
            said.code == CLEAN
            and "x: tokens[..., d_in]" in said.out
            and "| `depth` | integer | `2` | number of linear layers |" in said.out
        )
        assert "did you mean connector.mlp?" in vlmgraph("explain", "connector.mpl").err

    def test_all(self, vlmgraph: Command) -> None:
        from vlmgraph.diagnostics.codes import TITLES

        assert [line.split()[0] for line in vlmgraph("explain").out.splitlines()] == sorted(TITLES)


class TestLists:
    def test_specs(self, vlmgraph: Command) -> None:
        names = {row["name"]: row for row in vlmgraph("list", "--json").json}
        assert {"clip", "llava-1.5", "cogvlm", "blip-2", "flamingo", "qwen2-vl", "janus"} <= set(names)
        assert Path(names["clip"]["path"]).is_file()

    def test_components_and_presets(self, vlmgraph: Command) -> None:
        assert "vision.vit" in vlmgraph("list", "components").out
        assert "vicuna-7b-v1.5" in vlmgraph("list", "presets").out

    def test_plugins_load(self, vlmgraph: Command) -> None:
        said = vlmgraph("plugins", "--all", "--json")
        rows = {row["name"]: row for row in said.json}
        assert said.code == CLEAN and rows["vision.vit"]["state"] == "loads" and rows["infer"]["group"] == "vlmgraph.passes"

    def test_a_plugin_that_fails(self, vlmgraph: Command, monkeypatch: pytest.MonkeyPatch) -> None:
        from importlib.metadata import EntryPoint

        from vlmgraph.plugins import Registry, registry

        points = {"bad.part": (EntryPoint("bad.part", "no_such_module:Part", "vlmgraph.components"),)}
        real = registry
        monkeypatch.setattr(
            "vlmgraph.plugins.registry", lambda group="vlmgraph.components": Registry(group, points) if "comp" in group else real(group)
        )
        said = vlmgraph("plugins")
        assert said.code == FINDINGS and "bad.part" in said.out and "No module named 'no_such_module'" in said.out


class TestImport:
    LLAVA = {
        "model_type": "llava", "image_token_index": 32000, "projector_hidden_act": "gelu", "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default", "text_config": {"model_type": "llama", "vocab_size": 32064},
        "vision_config": {"model_type": "clip_vision_model", "hidden_size": 1024, "image_size": 336, "intermediate_size": 4096,
            "num_attention_heads": 16, "num_hidden_layers": 24, "patch_size": 14, "projection_dim": 768},
    }  # fmt: skip

    def test_a_configuration_becomes_a_spec_that_checks(self, vlmgraph: Command, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text(json.dumps(self.LLAVA))
        said = vlmgraph("import", tmp_path)
        assert said.code == CLEAN and tomllib.loads(said.out)["extends"] == "llava-1.5"
        assert vlmgraph("import", tmp_path, "-o", tmp_path / "own.toml").out == ""
        assert (tmp_path / "own.toml").read_text() == said.out
        assert vlmgraph("check", tmp_path / "own.toml").code == CLEAN
        changes = vlmgraph("diff", "llava-1.5", tmp_path / "own.toml", "--json").json["changes"]
        assert {c["section"] for c in changes} <= {"fields"}, "these are the published dimensions"

    def test_what_no_rule_explains(self, vlmgraph: Command, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text(json.dumps(self.LLAVA | {"secret_option": 1}))
        said = vlmgraph("import", tmp_path)
        assert said.code == FINDINGS and "VG0605" in said.err and "secret_option" in said.err and not said.out

    @pytest.mark.parametrize("flags", [(), ("--weights", "-o", "out")])
    def test_no_checkpoint(self, vlmgraph: Command, tmp_path: Path, flags: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        said = vlmgraph("import", tmp_path / "nothing", *flags)
        assert said.code == FINDINGS and "error[VG0" in said.err and "nothing" in said.err
        assert not list(tmp_path.iterdir()), "nothing is left of what could not be written"


def test_export_names_the_targets(vlmgraph: Command) -> None:
    said = vlmgraph("export", "clip", "--size", "tiny", "--target", "abacus", "-o", "nowhere")
    assert said.code == FINDINGS and "VG0801" in said.err and "targets: " in said.err and not Path("nowhere").exists()


def test_schema(vlmgraph: Command) -> None:
    said = vlmgraph("schema")
    assert said.code == CLEAN and said.json["$schema"].startswith("http://json-schema.org/")


def test_a_fault_of_the_program_is_not_blamed_on_the_spec(vlmgraph: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vlmgraph.api.check", lambda spec: 1 / 0)
    said = vlmgraph("check", "clip")
    assert said.code == 3 and "ZeroDivisionError" in said.err and "fault of vlmgraph itself" in said.err


def test_main_reads_the_command_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["vlmgraph", "--version"])
    assert main() == CLEAN and capsys.readouterr().out
