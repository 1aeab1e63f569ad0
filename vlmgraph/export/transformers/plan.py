"""What of a model is to be said to transformers: names, inputs by what becomes of them while text is written, caches, ties."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ...ir.graph import CALL, Graph
from ...ir.types import INTEGER_KINDS, Type
from ...lower.program import identifier
from .engine import FEATURES

if TYPE_CHECKING:
    from ...codegen.generate import Generator
    from ...codegen.programs import ProgramMethod
    from ...lower.model import CompiledModel
    from .engine import Engine

HEAD = "lm_head"
"""Where the head stands when it is beside the model."""
GENERATES = "logits"
"""The output that a program which writes text gives."""


@dataclass(frozen=True)
class Cache:
    """A component that remembers: the parameter of its cache, and the number of its first layer among those of all."""

    component: str
    parameter: str
    first: int
    layers: int


@dataclass
class Plan:
    """Everything that the templates fill in."""

    title: str
    name: str
    prefix: str
    model_class: str
    config_class: str
    model_type: str
    program: str
    method: str
    step: str
    generates: bool
    caches: list[Cache]
    inputs: list[str]
    floating: list[str]
    outputs: list[str]
    output_keys: dict[str, str]
    written: str
    main_input: str
    others: list[str]
    along: list[str]
    sliced: list[str]
    seen: list[str]
    typed: list[str]
    marked: list[str]
    call: list[str]
    step_call: list[str]
    start: int
    ties: dict[str, str]
    blocks: list[str]
    embeddings: str
    head: str
    facts: dict[str, Any] = field(default_factory=dict)

    decoder_ids: bool = False
    stateful: bool = False
    attends: list[str] = field(default_factory=list)
    """Classes that attend by transformers' interface."""
    engine: Engine | None = None
    """What engines ask, where the model gives it."""
    features: ProgramMethod | None = None

    @property
    def grows(self) -> bool:
        """Whether anything stands beside a token that is written."""
        return not self.decoder_ids or bool(self.seen or self.typed or self.marked)

    def source_of(self, name: str) -> str:
        """The argument of `prepare_inputs_for_generation` that an input of the model comes from."""
        if not self.decoder_ids:
            return name
        prompt = {"input_ids": "prompt_input_ids", "attention_mask": "prompt_attention_mask", self.written: "input_ids"}
        return prompt.get(name, name)

    @property
    def inner_ties(self) -> dict[str, str]:
        """Those within the model up to its head."""
        both = {k: v for k, v in self.ties.items() if k.startswith("model.") and v.startswith("model.")}
        return {k.removeprefix("model."): v.removeprefix("model.") for k, v in both.items()}

    @property
    def pictured(self) -> list[str]:
        """Inputs of what becomes of pictures."""
        return [] if self.features is None else [*self.features.required, *self.features.optional]

    @property
    def base_class(self) -> str:
        """Of an engine: the model up to its head."""
        return f"{self.prefix}Model"

    @property
    def model_module(self) -> str:
        return f"model_{self.name}"

    @property
    def configuration_module(self) -> str:
        return f"configuration_{self.name}"

    @property
    def modeling_module(self) -> str:
        return f"modeling_{self.name}"

    @property
    def source(self) -> str:
        return f"{self.model_module}.py"


def writing_program(graph: Graph) -> str | None:
    """The program that writes text, if one does."""
    name = "generate"
    return name if name in graph.programs and GENERATES in [o.partition(".")[0] for o in graph.outputs] else None


def plan(
    model: CompiledModel, generator: Generator, text: str, program: str, writes: bool, attends: list[str], engine: Engine | None = None
) -> Plan:
    """`generator` has made the module, `text` is its source; `attends` are classes of it that attend by transformers' interface."""
    graph = model.graph if engine is None else engine.graph
    name = identifier(graph.name).lower()
    prefix = "".join(part.capitalize() for part in re.split(r"[^A-Za-z0-9]+", graph.name) if part)
    prefix = prefix if not prefix[0].isdigit() else f"Model{prefix}"
    method = generator.methods[program]
    written = "decoder_input_ids" if "decoder_input_ids" in graph.inputs else "input_ids"
    types: Mapping[str, Type] = {**method.required, **method.optional}
    step = generator.steps.get(program)
    inputs = list(dict.fromkeys([*(n for n in (written, "input_ids", "attention_mask") if n in types), *types]))
    caches = stacks(graph, program) if method.caches else []
    keys = [k for k in method.outputs if not k.startswith("carry.")]
    decoder_ids = written == "decoder_input_ids" and writes
    beside = {k: t for k, t in types.items() if k not in (written, "input_ids", "attention_mask", "decoder_attention_mask")}
    like = graph.inputs[written].dims if written in graph.inputs else ()
    seen = [k for k, t in beside.items() if writes and t.kind == "mask" and len(t.dims) > 2 and t.dims[1] == like[1]]
    step_types = {**step.required, **step.optional} if step else {}
    own = [k for k in step_types if k in graph.inputs]
    handed = [f'{identifier(k)}=kept.carried.get("{identifier(k)}")' for k in step_types if k not in graph.inputs]
    rest = [f'{c.parameter}=kept.stacks["{c.parameter}"]' for c in caches]
    along = [name for name in (written, "attention_mask", *seen) if name in inputs]
    return Plan(
        title=graph.name,
        name=name,
        prefix=prefix,
        model_class=f"{prefix}ForConditionalGeneration" if writes else f"{prefix}Model",
        config_class=f"{prefix}Config",
        model_type=f"vlmgraph_{name}",
        program=program,
        method=method.name,
        step=step.name if step else "",
        generates=writes,
        caches=caches,
        inputs=inputs,
        floating=[k for k, t in types.items() if t.kind not in INTEGER_KINDS and t.kind != "mask"],
        outputs=[GENERATES] if engine is not None else list(dict.fromkeys(identifier(k) for k in keys)),
        output_keys={identifier(k): k for k in keys},
        written=written,
        main_input="input_ids" if writes else next(iter(types)),
        others=[k for k in inputs if k not in (written, "input_ids", "attention_mask")],
        along=along,
        sliced=[written, *seen],
        seen=seen,
        typed=[k for k, t in beside.items() if writes and t.kind == "index" and t.dims == like],
        marked=[k for k, t in beside.items() if writes and t.kind == "mask" and t.dims == like],
        call=[*(f"{identifier(k)}={k}" for k in types), *rest],
        step_call=[*(f"{identifier(k)}={k}" for k in own), *handed, *rest],
        start=int(graph.tokens.get("<decoder_start>", 0)),
        ties=ties(model, engine),
        blocks=blocks(text),
        embeddings=embeddings(model, written),
        head=head(model) if engine is None else HEAD,
        facts=facts(graph, caches) | ({} if engine is None else {"vocab_size": engine.shape[1]}),
        decoder_ids=decoder_ids,
        attends=attends,
        engine=engine,
        features=generator.methods.get(FEATURES),
    )


def stacks(graph: Graph, program: str) -> list[Cache]:
    made, first = [], 0
    for component in graph.programs[program].cache:
        count = int(getattr(graph.components[component], "layers", 0) or 0)
        made.append(Cache(component, f"cache_{identifier(component)}", first, count))
        first += count
    return made


def outside(path: str, engine: Engine | None) -> str:
    """The name of a parameter or module in the folder: below `model`, or of the head that stands beside it."""
    component = "" if engine is None else engine.head
    if component and (path == component or path.startswith(f"{component}.")):
        return HEAD + path.removeprefix(component)
    return f"model.{path}"


def ties(model: CompiledModel, engine: Engine | None) -> dict[str, str]:
    """Names of parameters that are another one, as transformers ties them: name → the name that is saved."""
    first: dict[int, str] = {}
    found: dict[str, str] = {}
    for path, parameter in model.named_parameters(remove_duplicate=False):
        if id(parameter) in first:
            found[outside(path, engine)] = outside(first[id(parameter)], engine)
        first.setdefault(id(parameter), path)
    return found


def blocks(text: str) -> list[str]:
    """Classes whose instances stand in lists, one behind the other: what is spread over devices stays whole in them."""
    return sorted(set(re.findall(r"nn\.ModuleList\(\[?(\w+)\(", text)))


def embeddings(model: CompiledModel, written: str) -> str:
    """Where the table of token embeddings stands."""
    from torch import nn

    modules = dict(model.named_modules())
    for node in model.graph.nodes:
        if node.op == CALL and written in node.sources():
            part = modules.get(node.component, nn.Identity())
            found = next((p for p, m in part.named_modules() if isinstance(m, nn.Embedding)), None)
            if found is not None:
                return ".".join(filter(None, ("model", node.component, found)))
    return ""


def head(model: CompiledModel) -> str:
    """Where the linear map to logits stands."""
    from torch import nn

    value = model.graph.resolve(GENERATES) if GENERATES in model.graph.outputs else ""
    node = next((n for n in model.graph.nodes if n.op == CALL and value in [v for v, _ in n.values()]), None)
    if node is None:
        return ""
    part = dict(model.named_modules()).get(node.component, nn.Identity())
    found = [p for p, m in part.named_modules() if isinstance(m, nn.Linear)]
    return ".".join(filter(None, ("model", node.component, found[0]))) if len(found) == 1 else ""


def facts(graph: Graph, caches: list[Cache]) -> dict[str, Any]:
    """Fields of the configuration that other software reads, of the stack that writes."""
    known: dict[str, Any] = {"num_hidden_layers": 0, "hidden_size": 0, "num_attention_heads": 1}  # transformers reads them of every model
    if caches:
        config: Any = graph.components[caches[0].component]
        heads = getattr(config, "heads", None)
        found = {
            "vocab_size": getattr(config, "vocab", None), "hidden_size": getattr(config, "width", None), "num_attention_heads": heads,
            "num_key_value_heads": getattr(config, "kv_heads", None) or heads, "head_dim": getattr(config, "head", None),
            "num_hidden_layers": sum(c.layers for c in caches), "max_position_embeddings": getattr(config, "max_positions", None),
        }  # fmt: skip
        known |= {k: v for k, v in found.items() if isinstance(v, int)}
    return known


def roles(graph: Graph, engine: Engine | None) -> dict[str, list[str]]:
    """Names of modules by the role of their component: what adapters, freezing and quantisation ask for."""
    found: dict[str, list[str]] = {}
    for name, config in graph.components.items():
        role = type(config).role
        if role and role not in ("op", "loss") and config.total():
            found.setdefault(role, []).append(HEAD if engine is not None and engine.head.startswith(f"{name}.") else f"model.{name}")
    return found


def to_json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
