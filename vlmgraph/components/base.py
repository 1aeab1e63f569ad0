"""What a component is: a config class, a signature of typed ports, a module named by text.

Nothing here imports torch: `check`, `show` and `report` work from declarations alone.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict

from ..ir.dims import Dim
from ..ir.types import Type

if TYPE_CHECKING:
    from torch import nn

API_VERSION = 1


class TokenMark:
    """Marks config fields that hold token names: the compiler replaces them by ids from `[tokens]`."""


Token = Annotated[int | str, TokenMark()]


class Ports:
    """Typed inputs by name and typed outputs.

    `returns` is one type, whose output is called `out`, or a dict whose first entry is the default output.
    The first input is the default port. A list port (`tokens[...].many`) takes an ordered fan-in.
    """

    def __init__(self, returns: Type | Mapping[str, Type], **inputs: Type) -> None:
        self.inputs: dict[str, Type] = inputs
        self.outputs: dict[str, Type] = {"out": returns} if isinstance(returns, Type) else dict(returns)

    def __or__(self, inputs: Mapping[str, Type]) -> Ports:
        """The same ports and some further inputs."""
        return Ports(self.outputs, **self.inputs, **inputs)


class Named(type(BaseModel)):  # type: ignore[misc]
    """Takes the kind from the class statement: `class MLP(Connector, name="mlp")`.

    In a metaclass and not in `__init_subclass__`, because the one behind abstract classes in Python 3.10 has a parameter `name` itself.
    """

    def __new__(mcs, class_name: str, bases: tuple[type, ...], namespace: dict[str, Any], /, name: str = "", **options: Any) -> Any:
        return super().__new__(mcs, class_name, bases, {**namespace, "kind": name} if name else namespace, **options)

    def __init__(cls, class_name: str, bases: tuple[type, ...], namespace: dict[str, Any], /, name: str = "", **options: Any) -> None:
        super().__init__(class_name, bases, namespace, **options)


class Config(BaseModel, metaclass=Named):
    """The fields of a component or layer. Unknown keys are errors; instances are immutable."""

    # a spec uses a few of the kinds that a module declares: validators are made at the first instance
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, protected_namespaces=(), defer_build=True)

    kind: ClassVar[str] = ""
    api: ClassVar[int] = API_VERSION
    module: ClassVar[str] = ""

    def __eq__(self, other: object) -> bool:
        """Same kind, same fields: what is cached on an instance, possibly a reference to itself, does not count."""
        if not isinstance(other, Config):
            return NotImplemented
        return type(self) is type(other) and all(getattr(self, n) == getattr(other, n) for n in type(self).model_fields)

    def build(self) -> nn.Module:
        """The torch module at this config's (resolved) dimensions. The default passes every field by name."""
        return load_symbol(self.module)(**self.arguments())

    def arguments(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in type(self).model_fields}

    def sense(self) -> dict[str, Any]:
        """What the fields come to, with what some of them leave to others: equal for configs that mean the same module."""
        return {name: getattr(self, name) for name in type(self).model_fields}

    def parameters(self) -> dict[str, int]:
        """Parameter counts by part, without torch; the values add up to the module's total."""
        return {}

    def total(self) -> int:
        return sum(self.parameters().values())

    def active(self) -> dict[str, int]:
        """Of the parameters those that take part for a token: all but the experts that a router leaves out."""
        return self.parameters()

    @classmethod
    def foreign(cls) -> bool:
        """Whether another package provides this: what its code raises is a finding for its user, and no fault of this one."""
        return cls.__module__.partition(".")[0] != "vlmgraph"


class Component(Config):
    """A part that stands in the graph."""

    role: ClassVar[str] = ""
    ports: ClassVar[Ports]
    facets: ClassVar[tuple[str, ...]] = ()
    options: ClassVar[tuple[str, ...]] = ()
    """Call options that `[nodes.Y]` may set; passed to forward by name."""
    shares: ClassVar[tuple[str, ...]] = ()
    """Fields that `of = "other"` takes from the other component."""
    requested: ClassVar[tuple[str, ...]] = ()
    """Outputs that are computed only where something reads them: forward then gets `NAME=True` and returns a dict."""
    parts: ClassVar[tuple[str, ...]] = ()
    multiplies: ClassVar[bool] = True
    """Whether `flops` has anything to count where there are parameters: not for tables that are read and norms."""

    draws: ClassVar[bool] = False
    """Whether it draws numbers anew in every call, so that the same inputs may give something else."""

    def signature(self, facet: str = "") -> Ports:
        """Ports of this configuration. Symbols named like a field (or a property) mean its value; a field that is
        None is inferred from the edges; all other symbols are private to the node."""
        return type(self).ports

    def addresses(self) -> tuple[str, ...]:
        """Names of addressable parts (`llm.vision`): a parameter belongs to the part whose name is a segment of its path."""
        return type(self).parts

    def result(self, inputs: Mapping[str, Type | tuple[Type, ...]]) -> Mapping[str, Type] | None:
        """Output types where the signature cannot say them (concatenation); None leaves them to the signature."""
        return None

    def bypass(self, fed: frozenset[str]) -> str | None:
        """The input port whose value passes through unchanged when only the ports `fed` are fed; then the node is left out of
        the program, outputs named like an input port pass that input through, all others are absent."""
        return None

    def absent(self, fed: frozenset[str]) -> frozenset[str]:
        """Outputs that do not exist when only the ports `fed` are fed; what needs them is left out of the program."""
        return frozenset()

    @property
    def joins(self) -> bool:
        """Whether the values of the default port, a list, stand one behind the other in the output: what they carry is joined likewise."""
        return False

    @property
    def whole(self) -> bool:
        """Whether it needs every value of a list: it is left out of a program that lacks one of them."""
        return False

    @property
    def placeholders(self) -> Mapping[str, tuple[Any, ...]]:
        """Token ids that stand for the features of a port: a call that has such tokens but no features is refused."""
        return {}

    @property
    def marks(self) -> Mapping[str, str]:
        """Ports whose mask marks places for the features of another port: a call that marks places but has no features is refused."""
        return {}

    def lengths(self, inputs: Mapping[str, Any]) -> Sequence[int] | None:
        """Tokens of each item in a packed output, whose dim no input has, from the values of the input ports (numpy arrays) that are
        known before the graph runs; None where they do not decide it."""
        return None

    def hidden_states(self) -> int | None:
        """How many `hidden[i]` taps there are (layers + 1), or None where there are none."""
        return None

    def flops(self, dims: Mapping[str, Dim]) -> Dim:
        """Multiply-accumulates x 2 of one forward: matrix products, convolutions and attention over every key, masked or not;
        what acts element by element is not counted. `dims` gives every signature symbol and field by name."""
        return Dim()

    def cache_bytes_per_token(self) -> int:
        """Elements (not bytes of a dtype) kept per token and sample while decoding."""
        return 0


class Connector(Component):
    role: ClassVar[str] = "connector"


class Encoder(Component):
    role: ClassVar[str] = "encoder"


class Decoder(Component):
    role: ClassVar[str] = "decoder"


class Head(Component):
    role: ClassVar[str] = "head"


class Loss(Component):
    role: ClassVar[str] = "loss"
    batches: ClassVar[tuple[str, ...]] = ()
    """Named batches that it compares, where the objective names no others: what enters a list port is the value of each, in order."""


class Op(Component):
    """A step without parameters."""

    role: ClassVar[str] = "op"


class Layer(Config):
    """What fills a slot inside a block."""


def load_symbol(path: str) -> Callable[..., Any]:
    """Import `package.module:Name`."""
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


def linear(d_in: int, d_out: int, bias: bool = True) -> int:
    """Parameters of a linear layer."""
    return d_in * d_out + (d_out if bias else 0)
