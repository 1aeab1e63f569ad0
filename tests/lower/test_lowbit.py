"""Low-bit weights and products of a few rows: against the same numbers in double precision, and in every spec."""

from __future__ import annotations

import copy
import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import vlmgraph
from tests.levels.models import SPECS, far, inputs, tiny
from vlmgraph.cli import main
from vlmgraph.diagnostics import DiagnosticError
from vlmgraph.lower.fast import fuse, settle
from vlmgraph.lower.fast.fuse import fused
from vlmgraph.lower.fast.lowbit import chosen, native, ops
from vlmgraph.lower.fast.lowbit.errors import errors
from vlmgraph.lower.fast.lowbit.modules import LowBitEmbedding, LowBitExperts, LowBitLinear, RowLinear
from vlmgraph.lower.fast.lowbit.pack import packed, unpacked
from vlmgraph.lower.model import CompiledModel
from vlmgraph.train.stage import begin

COMPILER = any(shutil.which(name) for name in ("c++", "g++", "clang++"))
needs_compiler = pytest.mark.skipif(not COMPILER, reason="needs a C++ compiler")
QUICK = ("llava-1.5", "aria", "paligemma", "cogvlm", "blip-2")  # experts in one tensor, a tied table, visual experts, heads of all kinds
ROUNDING = {torch.float32: 2.0**-24, torch.bfloat16: 2.0**-9, torch.float16: 2.0**-12}
"""Half a unit in the last place, relative."""


# ---- products


def departure(y: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, step: int = 1) -> float:
    """The largest error beyond the rounding of the result, as a share of what the sum adds up, were all of `step` neighbours in x as large
    as the largest."""
    x, weight = x.double(), weight.double()
    wanted = F.linear(x, weight, None if bias is None else bias.double())
    steps = F.pad(x.abs(), (0, -x.shape[-1] % step)).unflatten(-1, (-1, step))
    largest = steps.amax(-1, keepdim=True).expand_as(steps).flatten(-2)[..., : x.shape[-1]]
    most = largest @ weight.abs().t() + (0 if bias is None else bias.double().abs())
    beyond = (y.double() - wanted).abs() - 2 * ROUNDING[y.dtype] * wanted.abs() - 2.0**-24 * (y.dtype == torch.float16)
    return float((beyond / most.clamp_min(1e-30)).max())


SIZES = [(1, 1), (7, 3), (32, 5), (65, 64), (130, 33), (224, 257), (1000, 40)]


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("k", "n"), SIZES)
def test_few_rows(k: int, n: int, dtype: torch.dtype) -> None:
    """Sums are in float32 (2^-24 for each of the k terms, at worst); x meets codes in 16 bits (half a step of the 32,512 that the largest
    of 128 neighbours has)."""
    assert native.load()
    torch.manual_seed(k)
    sums = k * 2.0**-24
    for rows in ((1,), (1, 1), (2,), (3, 1), (2, 2), (5,), (8,)):
        for bias in (None, torch.randn(n).to(dtype)):
            x, weight = torch.randn(*rows, k).to(dtype), torch.randn(n, k)
            if dtype != torch.float16:
                y = torch.ops.vlmgraph.linear(x, weight.to(dtype), bias)
                assert y.shape == (*rows, n) and y.dtype == dtype
                assert departure(y, x, weight.to(dtype), bias) < sums
            for bits in (8, 4):
                codes, scale = packed(weight, bits)
                y = ops.product(x, codes, scale, bias)
                assert y.shape == (*rows, n) and y.dtype == dtype
                assert departure(y, x, unpacked(codes, scale, k, torch.float32), bias, 128) < sums + 0.5 / 32512


@needs_compiler
@pytest.mark.parametrize("bits", [8, 4])
def test_extremes(bits: int) -> None:
    """What is no number makes no number, of its own row alone; the largest and the smallest numbers come through, and so do zeros."""
    assert native.load()
    codes, scale = packed(torch.randn(6, 200), bits)
    x = torch.randn(5, 200)
    x[0, 3], x[1, 150], x[2], x[3], x[4] = torch.nan, torch.inf, 0.0, 1e30 * x[3], 1e-30 * x[4]
    y = ops.product(x, codes, scale)
    assert not y[:2].isfinite().any() and torch.equal(y[2], torch.zeros(6))
    assert departure(y[3:], x[3:], unpacked(codes, scale, 200, torch.float32), None, 128) < 2.0**-15


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_many_rows(bits: int, dtype: torch.dtype) -> None:
    """Weights become numbers of the type of x, and torch multiplies; blocks of rows end where they may."""
    native.load()
    x, weight, bias = torch.randn(3, 5, 96).to(dtype), torch.randn(50_000, 96), torch.randn(50_000).to(dtype)
    codes, scale = packed(weight, bits)
    assert departure(ops.product(x, codes, scale, bias), x, unpacked(codes, scale, 96, dtype), bias) < 2.0**-20 + ROUNDING[dtype]
    assert ops.product(x[:0], codes, scale, bias).shape == (0, 5, 50_000)


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_by_torch_the_same(rows: int, dtype: torch.dtype) -> None:
    x, weight, bias = torch.randn(rows, 64).to(dtype), torch.randn(20, 64), torch.randn(20).to(dtype)
    for bits, run in ((8, ops.int8_by_torch), (4, ops.int4_by_torch)):
        codes, scale = packed(weight, bits)
        assert far(run(x, codes, scale, bias), F.linear(x.float(), unpacked(codes, scale, 64, torch.float32), bias.float())) < 2.0**-7


@needs_compiler
@pytest.mark.slow
def test_without_vector_instructions(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What other processors run, in a process of its own: torch takes operators once."""
    import subprocess
    import sys

    program = (
        "from vlmgraph.lower.fast.lowbit import native\nnative.FLAGS += ('-DVLMGRAPH_PORTABLE',)\nassert native.load()\n"
        "import torch\nfrom tests.lower import test_lowbit as t\n"
        "for k, n in t.SIZES:\n    for d in (torch.float32, torch.bfloat16, torch.float16):\n        t.test_few_rows(k, n, d)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parents[2], timeout=600)


def test_without_a_compiler(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def none() -> str:
        raise native.Unbuilt("there is no C++ compiler")

    native.load()
    monkeypatch.setattr(native, "ready", False)
    monkeypatch.setattr(native, "found_compiler", none)
    native.load.cache_clear()
    try:
        with caplog.at_level(logging.WARNING):
            assert not native.load() and not native.load() and not native.ready
        assert [record.getMessage() for record in caplog.records].count(
            "products of a few rows run by torch, at half the speed: there is no C++ compiler"
        ) == 1
        with torch.no_grad():
            assert "vlmgraph::linear" not in called(lambda: RowLinear(8, 4)(torch.randn(1, 8)))
    finally:
        native.load.cache_clear()
        monkeypatch.undo()
        native.load()


def test_through_compile_and_export() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.low = LowBitLinear(*packed(torch.randn(6, 32), 4), 32, torch.float32)
            self.plain = RowLinear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.plain(self.low(x).relu())

    model, x = Model().requires_grad_(False), torch.randn(2, 32)
    native.load()
    with torch.no_grad():
        wanted = model(x)
        assert torch.equal(torch.compile(model, backend="aot_eager", fullgraph=True, dynamic=True)(x), wanted)
        exported = torch.export.export(model, (x,))
    assert "vlmgraph.linear_int4.default" in {str(node.target) for node in exported.graph.nodes}
    assert torch.equal(exported.module()(x), wanted)


# ---- codes


def test_int8_codes() -> None:
    codes, scale = packed(torch.tensor([[127.5, -63.6, 0.4], [0.0, 0.0, 0.0], [-255.0, 3.4, 5.2]]), 8)
    assert codes.tolist() == [[127, -64, 0], [0, 0, 0], [-128, 2, 3]]
    assert torch.equal(scale[[0, 2]], torch.tensor([1.0, 2.0]))


def test_int4_codes() -> None:
    weight = torch.arange(-8.0, 8.0).repeat(2)[None]  # a group that fits without error
    codes, scale = packed(weight, 4)
    assert codes.shape == (1, 16) and scale.tolist() == [[1.0]] and codes[0, 0] == 0x10
    assert torch.equal(unpacked(codes, scale, 32, torch.float32), weight)
    assert torch.equal(unpacked(*packed(torch.zeros(2, 40), 4), 40, torch.float32), torch.zeros(2, 40))


def test_int4_scales_are_searched() -> None:
    """A scale for the largest alone leaves a tenth more of squares."""
    weight = torch.randn(200, 320, generator=torch.Generator().manual_seed(0))
    groups = weight.unflatten(1, (-1, 32))
    extreme = groups.gather(2, groups.abs().argmax(2, keepdim=True))
    plain = (groups / (extreme / -8)).round().clamp(-8, 7) * (extreme / -8)
    searched = unpacked(*packed(weight, 4), 320, torch.float32)
    assert (searched - weight).square().sum() < 0.95 * (plain - groups).square().sum()


def test_int8_is_what_torchao_makes() -> None:
    torchao = pytest.importorskip("torchao.quantization")
    layer = nn.Linear(64, 48, bias=False)
    codes, scale = packed(layer.weight, 8)
    torchao.quantize_(layer, torchao.Int8WeightOnlyConfig())
    torch.testing.assert_close(scale, layer.weight.scale.flatten(), rtol=1e-6, atol=0)
    apart = (codes.int() - layer.weight.qdata.int()).abs()
    assert apart.max() <= 1 and (apart.sum(1) <= 1).all()  # the largest of a row lies half way between two codes


# ---- models


def quantised(name: str, choice: str, dtype: str = "float32") -> CompiledModel:
    eager, _ = tiny(name)
    model = vlmgraph.compile(eager.spec, dtype=dtype)
    model.load_state_dict(eager.state_dict())
    model.quantize(choice)
    return model


def dequantised(name: str, low: CompiledModel) -> CompiledModel:
    """The spec's own modules with the numbers that codes stand for."""
    model = copy.deepcopy(tiny(name)[0])
    for path, part in low.named_modules():
        if isinstance(part, LowBitExperts):
            own = model.get_submodule(path)
            own.gate_up.data, own.down.data = part.gate_up.weight.transpose(1, 2), part.down.weight.transpose(1, 2)
        elif isinstance(part, (LowBitLinear, LowBitEmbedding)):
            model.get_submodule(path).weight.data = part.weight
    return model


def same(name: str, choice: str) -> None:
    """The outputs are those of the numbers that the codes stand for, joined or not. x enters in 16 bits, and departs down a stack."""
    low = quantised(name, choice)
    given = inputs(name, low.main)

    def run(model: CompiledModel) -> dict[str, Tensor]:
        torch.manual_seed(0)
        with torch.no_grad():
            return model(**given)

    wanted, original = run(dequantised(name, low)), run(tiny(name)[0])
    ours = run(low)
    assert any(not torch.equal(ours[key], original[key]) for key in wanted)
    assert all(far(ours[key], wanted[key]) < 5e-4 for key in wanted)
    fuse(low)
    settle(low)
    assert all(far(value, wanted[key]) < 5e-4 for key, value in run(low).items())


@pytest.mark.parametrize("choice", ["int8", "int4"])
@pytest.mark.parametrize("name", QUICK)
def test_as_dequantised(name: str, choice: str) -> None:
    same(name, choice)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in SPECS if name not in QUICK])
def test_as_dequantised_of_all(name: str) -> None:
    same(name, ",".join(f"{role}=int8" for role in ("encoder", "connector", "embedding", "decoder", "head")))


@pytest.fixture(scope="module")
def llava() -> CompiledModel:
    return quantised("llava-1.5", "int8")


def test_products_are_joined(llava: CompiledModel) -> None:
    model = copy.deepcopy(llava)
    fuse(model)
    settle(model)
    whole = {part.whole.dtype for part in fused(model) if part.whole is not None and ".llm" in f".{path_of(model, part)}"}
    assert whole == {torch.int8}
    with torch.no_grad():
        steps = called(lambda: model.generate(**inputs("llava-1.5", "generate"), max_new_tokens=2))
    layers = len(model.llm.layers)  # type: ignore[arg-type]
    assert steps.count("vlmgraph::linear_int8") == 2 * (4 * layers + 1)  # qkv, out, gate and up, down; the head


def path_of(model: nn.Module, part: nn.Module) -> str:
    return next(path for path, module in model.named_modules() if module is part)


def called(run: object) -> list[str]:
    """Names of the operators that run."""
    names: list[str] = []

    class Watching(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            names.append(func._schema.name)
            return func(*args, **(kwargs or {}))

    with Watching():
        run()  # type: ignore[operator]
    return names


@needs_compiler
def test_bfloat16_steps_take_the_fast_product() -> None:
    """`mode="compile"` reads every weight of a step by it."""
    eager, _ = tiny("llava-1.5")
    model = vlmgraph.compile(eager.spec, dtype="bfloat16")
    fuse(model)
    settle(model)
    native.load()
    with torch.no_grad():
        names = called(lambda: model.generate(**inputs("llava-1.5", "generate"), max_new_tokens=2))
    names = names[names.index("aten::argmax") :]  # of the step behind the prompt, whose many rows are torch's
    assert "vlmgraph::linear" in names and not {"aten::addmm", "aten::mm", "aten::linear"} & set(names)


def test_generation_cached_and_not(llava: CompiledModel) -> None:
    given = inputs("llava-1.5", "generate")
    assert torch.equal(llava.generate(**given, max_new_tokens=6), llava.generate(**given, max_new_tokens=6, use_cache=False))


def test_a_tied_table_is_kept_once() -> None:
    model = quantised("paligemma", "int4")
    table, head = model.embed.tokens, model.head.proj  # type: ignore[union-attr]
    assert isinstance(table, LowBitEmbedding) and table.codes is head.codes
    assert torch.equal(table(torch.tensor([[3]]))[0, 0], head.weight[3])


def low_roles(model: CompiledModel) -> set[str]:
    roles = {name: config.role for name, config in model.graph.components.items()}
    return {
        roles[max((c for c in roles if path == c or path.startswith(f"{c}.")), key=len)]
        for path, part in model.named_modules()
        if isinstance(part, LowBitLinear)
    }


def test_roles(llava: CompiledModel) -> None:
    assert low_roles(llava) == {"decoder", "head"}
    assert low_roles(quantised("llava-1.5", "int8,encoder=int4,head=none")) == {"decoder", "encoder"}
    assert chosen(["int4", "head=int8"]) == {"decoder": "int4", "head": "int8"} == chosen({"decoder": "int4", "head": "int8"})


@pytest.mark.parametrize(("choice", "said"), [("int3", "no type 'int3'"), ("vision=int8", "no role 'vision'"), ("=int8", "no role ''")])
def test_senseless_choices(choice: str, said: str) -> None:
    with pytest.raises(DiagnosticError, match=said) as raised:
        chosen(choice)
    assert raised.value.diagnostics[0].fix


def test_nothing_to_quantise(llava: CompiledModel) -> None:
    with pytest.raises(DiagnosticError, match="no linear maps in the roles") as raised:
        vlmgraph.compile(tiny("clip")[0].spec, quantize="int8")
    assert "encoder" in str(raised.value.diagnostics[0].fix)
    with pytest.raises(DiagnosticError, match="quantised already"):
        llava.quantize("int4")


def test_what_is_read_otherwise_stays() -> None:
    left = quantised("deepseek-vl2", "int8").quantization.left  # type: ignore[union-attr]
    assert {path.rpartition(".")[2] for path in left} == {"kv_b", "router"}


def test_trains_no_more(llava: CompiledModel) -> None:
    """VG0514."""
    stage = next(iter(llava.graph.stages))
    for run in (llava.train, lambda: begin(llava, stage)):
        with pytest.raises(DiagnosticError, match="VG0514"):
            run()
    assert not any(p.requires_grad for p in llava.parameters())
    assert not llava(**inputs("llava-1.5", "forward"))["logits"].requires_grad


def test_is_not_exported(llava: CompiledModel, tmp_path: Path) -> None:
    for target in ("onnx", "transformers", "tensorrt"):
        with pytest.raises(DiagnosticError, match=r"VG0803.*is quantised for torch"):
            vlmgraph.export(llava, target, tmp_path)
    assert not any(tmp_path.iterdir())


def test_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    def run(*options: str) -> tuple[int, str, str]:
        code = main(["run", "llava-1.5", "--size", "tiny", "--prompt", "a", "--max-new-tokens", "2", *options])
        said = capsys.readouterr()
        return code, said.out, said.err

    code, out, err = run("--quantize", "int4", "--quantize", "head=int8", "--json")
    assert code == 0 and json.loads(out)["quantization"]["types"] == {"decoder": "int4", "head": "int8"}
    assert "decoder: int4, 14 maps" in err
    code, _, err = run("--quantize", "int3")
    assert code == 1 and "VG0727" in err


def test_types_of_codes_and_scales_stay() -> None:
    model = copy.deepcopy(quantised("llava-1.5", "int4,head=int8")).to(torch.bfloat16)
    kinds = {(part.codes.dtype, part.scale.dtype) for part in model.modules() if isinstance(part, LowBitLinear)}
    assert kinds == {(torch.uint8, torch.bfloat16), (torch.int8, torch.float32)}
    assert model.head.proj.weight.dtype == torch.bfloat16  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["llava-1.5", "paligemma"])
def test_saved_and_loaded(name: str, tmp_path: Path) -> None:
    model = quantised(name, "int4,head=int8", "bfloat16")
    model.save(tmp_path)
    again = vlmgraph.load(tmp_path)
    assert again.dtype == torch.bfloat16 and again.quantization.json() == model.quantization.json()  # type: ignore[union-attr]
    state = model.state_dict()
    assert all(torch.equal(value, state[key]) and value.dtype == state[key].dtype for key, value in again.state_dict().items())
    assert not (tmp_path / "model.py").exists()
    with pytest.raises(DiagnosticError, match="is quantised"):
        model.save(tmp_path / "other", format="transformers")
    (tmp_path / "quantization.json").write_text("{}")
    with pytest.raises(DiagnosticError, match=r"quantization\.json does not say"):
        vlmgraph.load(tmp_path)
    tiny(name)[0].save(tmp_path)  # over it
    assert vlmgraph.load(tmp_path).quantization is None


def test_errors_by_role() -> None:
    def make() -> CompiledModel:
        return copy.deepcopy(tiny("llava-1.5")[0])

    rows = {row.role: row for row in errors(make, "int8,encoder=int8")}
    assert set(rows) == {"decoder", "head", "encoder", "all"}
    assert all(0 < row.relative < 0.1 and 0.995 < row.cosine < 1 for row in rows.values())
    worse = {row.role: row for row in errors(make, "int4")}
    assert worse["all"].relative > 3 * rows["all"].relative


@pytest.fixture(autouse=True)
def seed() -> Iterator[None]:
    torch.manual_seed(0)
    yield


@needs_compiler
def test_compiled_blocks_take_the_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """`mode="compile"` with `quantize`, down to what Inductor would be given: its graphs hold the products, and tokens are the same."""
    from torch._dynamo.backends.registry import lookup_backend

    from vlmgraph.lower.fast import regional

    eager = quantised("llava-1.5", "int8")
    seen: list[str] = []

    def watching(module, given):  # type: ignore[no-untyped-def]
        seen.extend(str(node.target) for node in module.graph.nodes)
        return lookup_backend("aot_eager")(module, given)

    monkeypatch.setattr(regional, "lookup_backend", lambda _: watching)
    model = vlmgraph.compile(eager.spec, mode="compile")
    model.load_state_dict(tiny("llava-1.5")[0].state_dict())
    model.quantize("int8")
    given = inputs("llava-1.5", "generate")
    assert torch.equal(model.generate(**given, max_new_tokens=4), eager.generate(**given, max_new_tokens=4))
    assert model.compiled_regions is not None and model.compiled_regions.recompilations == 0
    assert not any("eager" in row for row in model.compiled_regions.report())
    assert any("linear_int8" in target for target in seen)
