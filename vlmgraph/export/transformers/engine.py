"""What engines that run models of transformers ask beyond a model that loads, and whether a model can give it.

Such an engine (vLLM's transformers backend is one) embeds tokens and pictures itself, runs the stack on embeddings at given positions,
keeps keys and values itself, brings no mask, and makes the logits with a head of its own. So the stack has to be all there is between both:
plainly causal, fed with tokens, a mask and positions alone. `engine` holds a model to that by running its parts, and gives the graph with
the programs `states` (what writes, up to the head), `embedded` (the same from embeddings) and `features` (what pictures become).
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch.overrides import TorchFunctionMode

from ...ir.graph import CALL, Graph, Node, Program
from ...ir.types import Type
from ...nn.cache import KVCache

if TYPE_CHECKING:
    from ...codegen.generate import Generator
    from ...lower.model import CompiledModel

STATES, EMBEDDED, FEATURES = "states", "embedded", "features"
EMBEDS, POSITIONS, MASK = "inputs_embeds", "position_ids", "attention_mask"
CHECKED = 5
"""Tokens that parts are tried with."""
COLUMNS, ROWS = {"q", "k", "v", "gate", "up", "fc1"}, {"out", "down", "fc2"}
"""Linear maps of a block by how they are cut over devices: by what they give, by what they take."""


class Unmet(Exception):
    """Why a model cannot be run so."""


@dataclass(frozen=True)
class Engine:
    """`table` and `head` are paths of modules, `out` is the value of the stack's states, `picture` the input of pictures and `features` the
    value that they become (none: no pictures)."""

    graph: Graph
    stack: str
    table: str
    head: str
    shape: tuple[int, int]
    bias: bool
    out: str
    picture: str
    features: str
    split: Mapping[str, str]
    stages: Mapping[str, tuple[list[str], list[str]]]


def engine(model: CompiledModel, program: str | None) -> Engine:
    """Raises Unmet."""
    if program is None:
        raise Unmet("no program writes text")
    graph = model.graph
    declared = graph.programs[program]
    if "decoder_input_ids" in graph.inputs:
        raise Unmet("an encoder reads the text, a decoder writes")
    if len(declared.cache) != 1:
        raise Unmet(f"{len(declared.cache) or 'no'} stacks keep keys and values")
    stack = declared.cache[0]
    nodes = [n for n in graph.nodes if n.op == CALL and n.component == stack]
    if len(nodes) != 1:
        raise Unmet(f"the stack {stack} runs {len(nodes)} times")
    node = nodes[0]
    if beside := [port for port in node.inputs if port not in ("x", "mask", "positions")]:
        raise Unmet(f"the stack reads {' and '.join(beside)} beside tokens")
    parts = dict(model.named_modules())
    head = headed(graph, parts, node, declared)
    embed, media = embedded(graph, node)
    table = tabled(parts, embed)
    causal(parts[stack], int(getattr(graph.components[stack], "width", 0)), node, graph)
    inputs, programs, more = programmed(graph, node, declared, media)
    whole = replace(graph, inputs=inputs, nodes=(*graph.nodes, more), programs=programs)
    weight = parts[head].weight
    assert isinstance(weight, torch.Tensor)
    picture = "" if media is None else pictured(whole)
    return Engine(
        whole, stack, table, head, (weight.shape[1], weight.shape[0]), parts[head].bias is not None, node.value(), picture,
        media or "",
        split(parts[stack], stack), stages(parts[stack], stack, table),
    )  # fmt: skip


def headed(graph: Graph, parts: Mapping[str, Any], node: Node, program: Program) -> str:
    """The linear map that makes logits of the stack's states, and is all of its component: run on random states it gives the same."""
    if [o.partition(".")[0] for o in program.outputs] != ["logits"]:
        raise Unmet(f"the program gives {', '.join(program.outputs)}")
    last = graph.producers()[graph.resolve("logits")]
    if last.op != CALL or list(last.inputs.values()) != [node.value()]:
        raise Unmet("the head reads more than the stack's states")
    part = parts[last.component]
    found = [p for p, m in part.named_modules() if isinstance(m, torch.nn.Linear)]
    if len(found) != 1:
        raise Unmet(f"the head {last.component} is more than a linear map")
    linear = part.get_submodule(found[0])
    x = drawn(2, linear.in_features, linear.weight)
    if not torch.equal(part(x), linear(x)):
        raise Unmet(f"the head {last.component} is more than a linear map")
    return ".".join(filter(None, (last.component, found[0])))


def embedded(graph: Graph, node: Node) -> tuple[Node, str | None]:
    """The node that embeds text, and the value that pictures become where it is spliced into that."""
    producers = graph.producers()
    before = producers.get(str(node.inputs["x"]))
    value: str | None = None
    if before is not None and before.op == CALL and graph.config(before).placeholders:
        places = [port for port in graph.config(before).placeholders if port in before.inputs]
        sources = [before.inputs[port] for port in places]
        if len(places) != 1 or not isinstance(sources[0], str):
            raise Unmet(f"pictures enter the text at {len(places)} ports")
        if len(graph.config(before).placeholders[places[0]]) != 1:
            raise Unmet("several tokens stand for pictures")
        value = sources[0]
        before = producers.get(str(before.inputs["text"]))
    if before is None or before.op != CALL or list(before.inputs.values()) != ["input_ids"]:
        raise Unmet("what enters the stack is more than embedded tokens and pictures")
    return before, value


def drawn(count: int, width: int, like: torch.Tensor) -> torch.Tensor:
    """[1, count, width], always the same; the generator of the caller is left alone."""
    return torch.randn(1, count, width, generator=torch.Generator().manual_seed(0)).to(like.device, like.dtype)


def tabled(parts: Mapping[str, Any], node: Node) -> str:
    """The table of token embeddings, which has to be all of its component."""
    part = parts[node.component]
    found = [p for p, m in part.named_modules() if isinstance(m, torch.nn.Embedding)]
    if len(found) == 1:
        table = part.get_submodule(found[0])
        ids = torch.arange(table.num_embeddings, device=table.weight.device)[-CHECKED:][None]
        if torch.equal(part(ids), table.weight[-CHECKED:][None]):
            return ".".join(filter(None, (node.component, found[0])))
    raise Unmet(f"{node.component} is more than a table")


class Masks(TorchFunctionMode):
    """Takes down the masks with which tokens attend to each other."""

    def __init__(self) -> None:
        self.seen: list[torch.Tensor | None] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.nn.functional.scaled_dot_product_attention:
            self.seen.append((kwargs or {}).get("attn_mask"))
        return func(*args, **(kwargs or {}))


def causal(part: torch.nn.Module, width: int, node: Node, graph: Graph) -> None:
    """Every layer attends once, and by nothing but what stands before: engines bring no mask and no bias."""
    weight = next(part.parameters())
    x = drawn(CHECKED, width, weight)
    given = {"positions": places(graph.types()[str(node.inputs["positions"])], weight.device)} if "positions" in node.inputs else {}
    try:
        with Masks() as masks, torch.no_grad():
            part(x=x, cache=KVCache(), **given)
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        raise Unmet(f"the stack does not run by itself: {str(error).splitlines()[0][:120]}") from error
    plain = torch.ones(CHECKED, CHECKED, dtype=torch.bool, device=weight.device).tril()
    layers = getattr(part, "layers", ())
    if len(masks.seen) != len(layers):
        raise Unmet(f"{len(masks.seen)} of {len(layers)} layers attend by softmax(q k^T) v")
    for mask in masks.seen:
        if mask is None or mask.dtype != torch.bool or not torch.equal(mask.expand(1, 1, CHECKED, CHECKED)[0, 0], plain):
            raise Unmet("tokens attend by more than their order")


def places(type_: Type, device: torch.device) -> torch.Tensor:
    row = torch.arange(CHECKED, device=device)[None]
    return row.expand(3, 1, CHECKED) if len(type_.dims) == 3 else row


def programmed(graph: Graph, node: Node, declared: Program, media: str | None) -> tuple[dict[str, Type], dict[str, Program], Node]:
    """Inputs, programs and the second use of the stack."""
    types = graph.types()
    tokens = types[str(node.inputs["x"])]
    rows = replace(types["input_ids"], kind="positions", optional=True)
    known = types.get(str(node.inputs.get("positions")))
    inputs = {**graph.inputs, EMBEDS: replace(tokens, optional=False), POSITIONS: rows if known is None else replace(known, optional=True)}
    mask = {"mask": MASK} if MASK in graph.inputs else {}
    more = replace(node, id=EMBEDDED, inputs={"x": EMBEDS, **mask, "positions": POSITIONS})
    programs = {
        STATES: replace(declared, outputs=(node.value(),)),
        EMBEDDED: Program((more.value(),), cache=declared.cache),
    }
    if media is not None:
        programs[FEATURES] = Program((media,), without=("input_ids", MASK))
    return inputs, programs, more


def pictured(graph: Graph) -> str:
    """The input that pictures come in by."""
    from ...passes.slice import slice_program

    kinds = ("image", "patches", "video")
    inputs = slice_program(graph, FEATURES).inputs
    found = [k for k, t in inputs.items() if t.kind in kinds]
    if not found:
        raise Unmet("what is spliced into the text comes of no picture")
    if texts := [k for k, t in inputs.items() if t.kind == "ids"]:
        raise Unmet(f"what pictures become depends on the text {texts[0]}")
    return "pixel_values" if "pixel_values" in found else found[0]


def linears(part: torch.nn.Module) -> dict[str, torch.nn.Linear]:
    return {p: m for p, m in part.named_modules() if isinstance(m, torch.nn.Linear)}


def split(part: torch.nn.Module, stack: str) -> dict[str, str]:
    """How linear maps are cut over devices, by the names of one block with a star for its number. None where one is of no known kind, or
    where a norm looks at all heads together."""
    found: dict[str, str] = {}
    for path in linears(part):
        first, _, rest = path.partition(".")
        number, _, name = rest.partition(".")
        leaf = name.rpartition(".")[2]
        if first != "layers" or not number.isdigit() or leaf not in COLUMNS | ROWS:
            return {}
        found[f"{stack}.layers.*.{name}"] = "colwise" if leaf in COLUMNS else "rowwise"
    wide = {m.out_features for p, m in linears(part).items() if p.rpartition(".")[2] in ("q", "k")}
    for path, parameter in part.named_parameters():
        if "_norm" in path and ".attention." in path and parameter.shape[0] in wide:
            return {}
        if ".attention.inner_norm" in path or ".mlp.norm" in path:
            return {}
    return found


def stages(part: torch.nn.Module, stack: str, table: str) -> dict[str, tuple[list[str], list[str]]]:
    """The parts in the order in which a chain of devices runs them. None where tokens change in front of the first layer."""
    own = [n for n, m in part.named_children() if next(m.parameters(), None) is not None]
    own += [n for n, _ in part.named_parameters(recurse=False)]
    if own not in (["layers", "final_norm"], ["layers"]):
        return {}
    states = ["hidden_states"]
    return {table: (["input_ids"], [EMBEDS]), **{f"{stack}.{n}": (states, states) for n in own}}


def generator(model: CompiledModel, found: Engine) -> Generator:
    """Writes the modules with these programs alone: the head is the caller's."""
    from ...codegen.generate import Generator as Base
    from ...codegen.programs import ProgramMethod, Writer

    class Generator(Base):
        def programs(self) -> tuple[list[ProgramMethod], list[str]]:
            self.graph = found.graph
            made, told = super().programs()
            again = self.methods[EMBEDDED] = Writer(self.graph, EMBEDDED, self.defaults, self.returns).method(self.method_name(EMBEDDED))
            return [*made, again], [line for line in told if EMBEDDED not in line]

    return Generator(model, STATES)


def attends_by_interface(source: str, turned: list[str]) -> bool:
    """Whether every class that keeps keys and values asks the interface to attend."""
    tree = ast.parse(source)
    keeping = [c.name for c in tree.body if isinstance(c, ast.ClassDef) and "cache.append(" in ast.unparse(c) and c.name != "LayerCache"]
    return bool(keeping) and set(keeping) <= set(turned)
