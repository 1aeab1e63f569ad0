"""Programs cut into the graphs that are written: a program by itself, or the parts that decoding runs again and again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from ...ir.graph import CALL, Graph, Node
from ...ir.types import Type
from ...lower.program import identifier
from ...passes.slice import ProgramGraph

WRITTEN = ("decoder_input_ids", "input_ids")
"""Ids that decoding appends to."""
CONTRACT = {
    "x": "inputs_embeds",
    "mask": "attention_mask",
    "positions": "position_ids",
    "media": "encoder_hidden_states",
    "media_mask": "encoder_attention_mask",
}
"""Names that other tools use for what enters a decoder, by the port of the cached component."""


@dataclass(frozen=True)
class Piece:
    """One graph to be written: nodes, the values that enter and leave, and the names of both in the file."""

    name: str
    program: ProgramGraph
    inputs: Mapping[str, str] = field(default_factory=dict)
    """Value → the name of the input."""
    outputs: Mapping[str, str] = field(default_factory=dict)
    """Value → the name of the output."""
    last: bool = False
    """Whether logits are of the last position alone."""
    past: bool = False
    """Whether caches enter; without, they only leave."""

    @property
    def key(self) -> object:
        """What two pieces share that compute the same."""
        return repr((self.program.nodes, list(self.program.inputs), list(self.outputs), self.cache, self.last, self.past))

    @property
    def cache(self) -> tuple[str, ...]:
        return self.program.cache


@dataclass(frozen=True)
class Decoding:
    """The graphs of a program with a cache: those of the prompt and those of every further token, in the order they run."""

    prompt: tuple[Piece, ...]
    step: tuple[Piece, ...]
    text: Decoding | None = None
    """Of a text without media, where a step does not serve for its prompt."""

    @property
    def pieces(self) -> tuple[Piece, ...]:
        return (*self.prompt, *(p for p in self.step if p.name not in {q.name for q in self.prompt}))

    def serves(self, given: Sequence[str]) -> bool:
        """Whether a step can begin, with these values and no past."""
        there = set(given)
        for piece in self.step:
            if not set(piece.inputs) <= there:
                return False
            there |= set(piece.outputs)
        return True

    def sharing(self, others: Sequence[Piece]) -> Decoding:
        """With pieces of `others` in the place of those that compute the same."""
        known = {p.key: p for p in others}
        prompt, step = (tuple(taking(p, known.get(p.key, p)) for p in part) for part in (self.prompt, self.step))
        return Decoding(prompt, step)


def taking(piece: Piece, other: Piece) -> Piece:
    """The piece by the file of another, and by the names in it."""
    names = [dict(zip(mine, theirs.values())) for mine, theirs in ((piece.inputs, other.inputs), (piece.outputs, other.outputs))]
    return replace(piece, name=other.name, inputs=names[0], outputs=names[1])


def whole(program: ProgramGraph) -> Piece:
    """A program as one graph, its outputs under their own names."""
    wanted = {**{v: k for k, v in program.carry.items()}, **{v: k for k, v in program.outputs.items()}}
    return Piece(program.name, replace(program, carry={}), {k: identifier(k) for k in program.inputs}, wanted)


def written(program: ProgramGraph) -> str:
    """The input that decoding appends to."""
    return next((name for name in WRITTEN if name in program.inputs), "input_ids")


def cut(graph: Graph, prompt: ProgramGraph, step: ProgramGraph, prefix: str = "", merged: bool = True) -> Decoding:
    """The pieces of a cached program: what sees media alone, what embeds ids, what joins both, and the decoder.

    The decoder is the cached component and all behind it. It is one graph for prompt and step (`decoder_model_merged`) where both feed
    the same ports and `merged` allows it; else the prompt has its own.
    """
    ids = written(step)
    tails = [downstream(p) for p in (prompt, step)]
    embed = [n for n in prompt.nodes if n.id not in tails[0] and reads(prompt)[n.id] == {ids}]
    there = {n.id: n for n in step.nodes}
    embed = [n for n in embed if there.get(n.id) == n and reads(step)[n.id] == {ids}]
    shared = {n.id for n in embed}
    text = {ids, "attention_mask"} | {k for k, t in prompt.inputs.items() if t.kind == "ids" or t.dims[:2] == prompt.inputs[ids].dims}
    sees = {n.id for n in prompt.nodes if n.id not in tails[0] and not reads(prompt)[n.id] & text}
    sees -= {n.id for n in prompt.nodes if not reads(prompt)[n.id] and not feeds(prompt, n) <= sees}
    same = ports(prompt, tails[0]) == ports(step, tails[1])
    made: list[list[Piece]] = []
    for program, tail, front, decoder, past in (
        (prompt, tails[0], "merge", "decoder_model_merged" if same and merged else "decoder_model", same and merged),
        (step, tails[1], "merge_step", "decoder_model_merged" if same and merged else "decoder_with_past_model", True),
    ):
        groups = [
            ("vision_encoder", {n.id for n in program.nodes if n.id in sees} if program is prompt else set()),
            ("embed_tokens", shared),
            (front, {n.id for n in program.nodes} - tail - shared - (sees if program is prompt else set())),
            (decoder, tail),
        ]
        parts = [part(graph, program, prefix + name, nodes, past and name == decoder, name == decoder) for name, nodes in groups if nodes]
        made.append([named(p, name.removeprefix(prefix), ids) for p in parts for name in (p.name,)])
    if same and merged:  # the values have the names of the step; what enters goes by its port
        made[0][-1] = replace(made[1][-1], inputs=rekeyed(prompt, step, tails, made[1][-1].inputs))
    return Decoding(tuple(made[0]), tuple(made[1]))


def rekeyed(prompt: ProgramGraph, step: ProgramGraph, tails: Sequence[set[str]], names: Mapping[str, str]) -> dict[str, str]:
    """Inputs of the merged decoder by the values that the prompt feeds it, in the same order."""
    feeds = {step_value: value for (_, value), (_, step_value) in zip(entering(prompt, tails[0]), entering(step, tails[1]))}
    return {feeds.get(value, value): name for value, name in names.items()}


def entering(program: ProgramGraph, nodes: set[str]) -> list[tuple[str, str]]:
    """Pairs of `node.port` and the value from outside that feeds it, in the order of both's names."""
    made = {v for n in program.nodes if n.id in nodes for v, _ in n.values()}
    found = []
    for node in program.nodes:
        if node.id in nodes:
            for port, source in node.inputs.items():
                for i, value in enumerate((source,) if isinstance(source, str) else source):
                    if value not in made:
                        found.append((f"{node.id}.{port}.{i}", value))
    return sorted(found)


def ports(program: ProgramGraph, nodes: set[str]) -> list[object]:
    """What tells two decoders apart: their nodes, their options and the ports fed from outside."""
    return [
        [(n.id, n.facet, tuple(n.options.items()), tuple(n.outputs)) for n in program.nodes if n.id in nodes],
        [port for port, _ in entering(program, nodes)],
        sorted(program.outputs),
    ]


def reads(program: ProgramGraph) -> dict[str, set[str]]:
    """The program's inputs that every node depends on."""
    of_value: dict[str, set[str]] = {name: {name} for name in program.inputs}
    found: dict[str, set[str]] = {}
    for node in program.nodes:
        found[node.id] = set().union(*(of_value.get(s, set()) for s in node.sources()))
        of_value |= dict.fromkeys((v for v, _ in node.values()), found[node.id])
    return found


def feeds(program: ProgramGraph, node: Node) -> set[str]:
    """The nodes that read a node's values."""
    values = {v for v, _ in node.values()}
    return {n.id for n in program.nodes if values & set(n.sources())}


def downstream(program: ProgramGraph) -> set[str]:
    """The cached nodes and all that read them."""
    found: set[str] = set()
    values: set[str] = set()
    for node in program.nodes:
        if node.component in program.cache or values & set(node.sources()):
            found.add(node.id)
            values |= {v for v, _ in node.values()}
    return found


def part(graph: Graph, program: ProgramGraph, name: str, nodes: set[str], past: bool, last: bool) -> Piece:
    """The piece of a program that holds these nodes: it reads what others make and gives what others read."""
    inside = [n for n in program.nodes if n.id in nodes]
    made = {v: t for n in inside for v, t in n.values()}
    types: dict[str, Type] = {**program.inputs, **{v: t for n in program.nodes for v, t in n.values()}}
    needed = dict.fromkeys(s for n in inside for s in n.sources() if s not in made or s in program.inputs)  # of the step before
    outside = {s for n in program.nodes if n.id not in nodes for s in n.sources()}
    wanted = {*program.outputs.values(), *program.carry.values()}
    gives = {v: v for v in made if v in outside or v in wanted}
    cache = tuple(c for c in program.cache if any(n.component == c for n in inside))
    cutout = ProgramGraph(name, {v: types[v] for v in needed}, tuple(inside), gives, cache)
    shown = {v: k for k, v in program.outputs.items()}
    enters = {v: identifier(v) for v in needed}
    leaves = {v: shown.get(v, identifier(v)) for v in gives}
    leaves = {v: name if name not in enters.values() else f"{name}_next" for v, name in leaves.items()}  # what is carried enters and leaves
    return Piece(name, cutout, enters, leaves, last, past)


def named(piece: Piece, kind: str, ids: str) -> Piece:
    """With the names of the contract: what enters a decoder by its ports, what leaves an encoder or an embedding."""
    if kind == "embed_tokens" and len(piece.outputs) == 1:
        return replace(piece, outputs=dict.fromkeys(piece.outputs, "inputs_embeds"))
    if kind == "vision_encoder" and len(piece.outputs) == 1:
        return replace(piece, outputs=dict.fromkeys(piece.outputs, "image_features"))
    if not piece.cache:
        return piece
    inputs = dict(piece.inputs)
    for node in reversed(piece.program.nodes):
        if node.op == CALL and node.component in piece.cache:
            for port, source in node.inputs.items():
                if isinstance(source, str) and source in inputs:
                    inputs[source] = CONTRACT.get(port, port)
    return replace(piece, inputs=unique(inputs))


def unique(names: Mapping[str, str]) -> dict[str, str]:
    """Two values never share a name."""
    taken: set[str] = set()
    found = {}
    for value, name in names.items():
        found[value] = name if name not in taken else identifier(value)
        taken.add(found[value])
    return found
