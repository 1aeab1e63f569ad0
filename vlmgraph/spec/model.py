"""The structure of a spec. Fields of components and losses stay open here: their own classes validate them later."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StrictFloat, StrictInt, StrictStr, WithJsonSchema
from pydantic_core import PydanticCustomError

from . import names

Text = StrictStr
Number = StrictInt | StrictFloat
Count = Annotated[StrictInt, Field(ge=0)]
Open = dict[str, Any]


class Strict(BaseModel):
    """A table in which an unknown key is an error."""

    # the whole is built at its first use, and its tables with it: not each by itself before
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), populate_by_name=True, defer_build=True)


class Extensible(BaseModel):
    """A table whose other keys are checked by whoever knows its type."""

    model_config = ConfigDict(extra="allow", frozen=True, protected_namespaces=(), populate_by_name=True, defer_build=True)


def _wrong(text: str) -> PydanticCustomError:
    return PydanticCustomError("wrong_kind", text)


def _one_or_list(value: Any) -> Any:
    """`train = "all"` is short for a list of one."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return value
    raise _wrong("this is a list of strings")


def _edges(value: Any) -> Any:
    lists = list(value.values()) if isinstance(value, dict) else [value]
    if not all(isinstance(edges, list) and all(isinstance(edge, str) for edge in edges) for edges in lists):
        raise _wrong('edges are a list of strings like "a -> b", or a table of such lists')
    return value


def _weights(value: Any) -> Any:
    """`objectives = ["lm"]` is short for a weight of 1 each."""
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return dict.fromkeys(value, 1.0)
    if isinstance(value, dict) and all(isinstance(w, (int, float)) and not isinstance(w, bool) for w in value.values()):
        return value
    raise _wrong("objectives are a list of names, or a table of name = weight")


def _overlays(value: Any) -> Any:
    """`set` is one overlay, or a list of them: a curriculum."""
    listed = value if isinstance(value, list) else [value]
    if not all(isinstance(overlay, dict) for overlay in listed):
        raise _wrong("`set` is a table of path = value, or a list of such tables")
    return listed


def _block_outputs(value: Any) -> Any:
    """A list of names, or a table of name = the value behind it."""
    named = value.values() if isinstance(value, dict) else value
    if not isinstance(value, (dict, list)) or not all(isinstance(item, str) for item in named):
        raise _wrong("the outputs of a block are a list of names, or a table of name = value")
    return value


def _update(value: Any) -> Any:
    rate = value.get("ema") if isinstance(value, dict) and set(value) <= {"ema", "when"} else None
    when = value.get("when", "after") if isinstance(value, dict) else "after"
    if value != "never" and not (
        isinstance(rate, (int, float)) and not isinstance(rate, bool) and 0 <= rate <= 1 and when in ("before", "after")
    ):
        raise _wrong('`update` is "never" or { ema = RATE, when = "before" or "after" } with a rate from 0 to 1')
    return value


def _init(value: Any) -> Any:
    """Where the weights of a stage come from: by address, or all from a named stage or checkpoint."""
    if not isinstance(value, (str, dict)):
        raise _wrong("`init` is a table of address = source, or one name")
    return value if isinstance(value, dict) else {"*": value}


def _cache(value: Any) -> Any:
    """Components whose keys and values are kept; a table says how."""
    return list(value) if isinstance(value, dict) else _one_or_list(value)


def _counts(value: Any) -> Any:
    """A number, or numbers by part."""
    for part in value.values() if isinstance(value, dict) else [value]:
        if isinstance(part, bool) or not isinstance(part, (int, float)):
            raise _wrong("this is a number, or a table of part = number")
    return value if isinstance(value, dict) else {"total": value}


def _tokens_expected(value: Any) -> Any:
    listed = list(value.values()) if isinstance(value, dict) else [value]
    if any(isinstance(v, bool) or not isinstance(v, (int, str)) for v in listed):
        raise _wrong("a token count is a number, a formula, or a table of either")
    return value


def _version(value: Any) -> Any:
    if isinstance(value, bool) or value != 1:
        raise PydanticCustomError("version", "this is language version 1, not {found}", {"found": repr(value)})
    return value


def _name(value: str) -> str:
    if (reason := names.problem(value)) is not None:
        raise PydanticCustomError("bad_name", "{reason}", {"reason": reason})
    return value


def _module_name(value: str) -> str:
    if (reason := names.problem(value, attribute=True)) is not None:
        raise PydanticCustomError("bad_name", "{reason}", {"reason": reason})
    return value


def _dashed(value: str) -> str:
    if (reason := names.dashed_problem(value)) is not None:
        raise PydanticCustomError("bad_name", "{reason}", {"reason": reason})
    return value


Name = Annotated[StrictStr, AfterValidator(_name)]
ModuleName = Annotated[StrictStr, AfterValidator(_module_name)]
DashedName = Annotated[StrictStr, AfterValidator(_dashed)]


def _or(short: str, long: dict[str, Any]) -> WithJsonSchema:
    """What editors are told of a key that may be written short."""
    return WithJsonSchema({"anyOf": [{"type": short}, long]})


_TEXTS = {"type": "array", "items": {"type": "string"}}
_TABLE = {"type": "object"}
_REMOVAL = {"type": "object", "properties": {"remove": {"const": True}}, "required": ["remove"]}
_NUMBERS = {"type": "object", "additionalProperties": {"anyOf": [{"type": "number"}, _REMOVAL]}}
Names = Annotated[list[Text], BeforeValidator(_one_or_list), _or("string", _TEXTS)]
_EDGE = {"anyOf": [{"type": "string"}, {"type": "object", "properties": {"remove": {"type": "string"}}, "required": ["remove"]}]}
_LIST = {"type": "array", "items": _EDGE}
# in a spec that extends another `{ remove = "a -> b" }` stands among the edges; what is validated here is merged already
Edges = Annotated[
    list[Text] | dict[str, list[Text]],
    BeforeValidator(_edges),
    WithJsonSchema({"anyOf": [_LIST, {"type": "object", "additionalProperties": _LIST}]}),
]
Overlay = dict[str, Any]


class ModelTable(Strict):
    """What the model is, for people and lists."""

    name: Text = ""
    survey: Count | None = None
    paper: Text = ""
    family: Text = ""
    summary: Text = ""


class ComponentTable(Extensible):
    """One part that owns parameters. Everything else in the table is a field of its type."""

    type: Text | None = None
    preset: Text | None = None
    of: Text | None = None
    like: Text | None = None
    copy_of: Names = Field([], alias="copy")
    update: Annotated[Any, BeforeValidator(_update)] = None


class NodeTable(Extensible):
    """Another use of a component; the other keys are call options."""

    uses: Text


class GraphTable(Strict):
    """Edges and shared parameters."""

    edges: Edges = []
    ties: list[Text] = []


class BlockTable(Extensible):
    """An inner graph; the other keys are fields with defaults, `$field` inside."""

    inputs: dict[Name, Text] = {}
    outputs: Annotated[list[Text] | dict[Name, Text], BeforeValidator(_block_outputs)] = []
    components: dict[ModuleName, ComponentTable] = {}
    nodes: dict[ModuleName, NodeTable] = {}
    edges: Edges = []
    graph: GraphTable | None = None
    fields: Open = {}
    repeat: Annotated[StrictInt, Field(ge=1)] | Text = 1


class ProgramTable(Strict):
    """An entry point: a slice of the graph."""

    outputs: Names = []
    inputs: Names | None = None
    without: Names = []
    cache: Annotated[list[Text], BeforeValidator(_cache), WithJsonSchema({"anyOf": [{"type": "string"}, _TEXTS, _TABLE]})] = []
    carry: Names = []
    from_: Text | None = Field(None, alias="from")
    loop: Any = None
    until: Any = None
    on: Any = None
    prefill_chunk: Count | None = None


class ObjectiveTable(Extensible):
    """A loss and its edges; the other keys are fields of the loss."""

    type: Text | None = None
    edges: list[Text] = []
    when: Any = None
    batches: Names = []
    shared: Names = []


class StageTable(Strict):
    """One step of training."""

    after: Text | None = None
    train: Names | None = None
    freeze: Names = []
    objectives: Annotated[dict[str, Number], BeforeValidator(_weights), WithJsonSchema({"anyOf": [_TEXTS, _NUMBERS]})] | None = None
    set_: Annotated[list[Overlay], BeforeValidator(_overlays), _or("object", {"type": "array", "items": _TABLE})] = Field([], alias="set")
    init: Annotated[Open, BeforeValidator(_init), _or("string", _TABLE)] = {}
    data: Open = {}
    optimizer: Open = {}
    schedule: Any = None
    recipe: Any = None
    precision: Open = {}
    adapters: Open = {}
    merge: Names = []
    select: Open = {}
    variant: Text | None = None
    eval: Any = None


class ProcedureTable(Extensible):
    """A registered procedure over programs (`inference.*`) or data (`recipe.*`)."""

    type: Text


class WeightsTable(Strict):
    """Where published weights are and how they are laid out."""

    hub: Text | None = None
    layout: Text | None = None
    checkpoint: Any = None
    revision: Text | None = None
    unused: Names = []


class ExpectTable(Strict):
    """Published numbers, verified by `check` and `report`."""

    params: Annotated[dict[str, Any], BeforeValidator(_counts), _or("number", _NUMBERS)] = {}
    visual_tokens: Annotated[Any, BeforeValidator(_tokens_expected)] = None
    media_tokens: Annotated[Any, BeforeValidator(_tokens_expected)] = None
    audio_tokens: Annotated[Any, BeforeValidator(_tokens_expected)] = None
    prompt_tokens: Annotated[Any, BeforeValidator(_tokens_expected)] = None
    active_params: Annotated[dict[str, Any], BeforeValidator(_counts), _or("number", _NUMBERS)] = {}
    unused: Names = []


class SpecModel(Strict):
    """A whole spec."""

    vlmgraph: Annotated[Literal[1], BeforeValidator(_version)]
    extends: Text | None = None
    model: ModelTable = ModelTable()
    inputs: dict[Name, Text] = {}
    outputs: dict[Name, Text] = {}
    tokens: dict[Text, Count] = {}
    components: dict[ModuleName, ComponentTable] = {}
    nodes: dict[ModuleName, NodeTable] = {}
    blocks: dict[Name, BlockTable] = {}
    graph: GraphTable = GraphTable()
    programs: dict[Name, ProgramTable] = {}
    objectives: dict[Name, ObjectiveTable] = {}
    stages: dict[DashedName, StageTable] = {}
    processor: Open = {}
    inference: dict[DashedName, ProcedureTable] = {}
    recipe: dict[DashedName, ProcedureTable] = {}
    weights: WeightsTable = WeightsTable()
    expect: ExpectTable = ExpectTable()
    sizes: dict[DashedName, Overlay] = {}
    variants: dict[DashedName, Overlay] = {}


TABLES = tuple(SpecModel.model_fields)
"""Names of the top level."""
NAMED = ("components", "nodes", "blocks", "programs", "objectives", "stages", "inputs", "outputs")
"""Tables whose entries are declared by name: changing one means that it is there."""
