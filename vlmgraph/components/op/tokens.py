"""Ops that take tokens apart and put them together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from ...ir import types as T
from ...ir.dims import Dim, DimError
from ...ir.types import Type
from ..base import Op, Ports, Token


class Select(Op, name="op.select"):
    """The token at one place, such as a class token: tokens[..., N, d] → embedding[..., d]."""

    at: int = Field(0, description="place of the token; negative from the end")
    ports = Ports(x=T.tokens["...", "N", "d"], returns=T.embedding["...", "d"])
    module = "vlmgraph.nn.ops:Select"


class Pool(Op, name="op.pool"):
    """One vector out of the tokens, padding left out: tokens[..., N, d] → embedding[..., d]; scores stay scores."""

    mode: Literal["mean", "max"] = Field("mean", description="average, or largest value of each channel")
    keep: bool = Field(False, description="give tokens[..., 1, d]")
    ports = Ports(x=T.tokens["...", "N", "d"], mask=T.mask["...", "N"].optional_, returns=T.embedding["...", "d"])
    module = "vlmgraph.nn.ops:Pool"

    def signature(self, facet: str = "") -> Ports:
        return Ports(T.tokens["...", 1, "d"], **type(self).ports.inputs) if self.keep else type(self).ports

    def result(self, inputs: Mapping[str, Type | tuple[Type, ...]]) -> Mapping[str, Type] | None:
        x = inputs["x"]
        if isinstance(x, Type) and x.kind in ("logits", "scores") and not self.keep:
            return {"out": Type(x.kind, (*x.dims[:-2], x.dims[-1]))}
        return None


class Normalize(Op, name="op.normalize"):
    """Every vector at length one: tokens[..., d] → tokens[..., d]."""

    ports = Ports(x=T.tokens["...", "d"], returns=T.tokens["...", "d"])
    module = "vlmgraph.nn.ops:Normalize"


class GatherStates(Op, name="op.gather_states"):
    """States at a token: tokens[B, T, d] → embedding[B, d], or tokens[S, d], S in all, for `at = "all"`.

    With `count` states an item the latter are tokens[G, count, d].
    """

    token: Token | list[Token] | None = Field(None, description='token whose states are taken; none with `at = "largest"`')
    offset: int = Field(0, description="places from the token; -1 is the state that predicts it")
    at: Literal["first", "last", "largest", "all"] = Field(
        "first", description="which occurrence; `largest` is the place of a row's largest id"
    )
    count: int | None = Field(None, ge=1, description='states of one item (an image, say), with `at = "all"`')
    module = "vlmgraph.nn.ops:GatherStates"

    @model_validator(mode="after")
    def _token_given(self) -> GatherStates:
        if self.token is None and self.at != "largest":
            raise ValueError("give the token whose states are wanted")
        if self.count is not None and self.at != "all":
            raise ValueError(f'count: at = "{self.at}" takes one state a row')
        return self

    def signature(self, facet: str = "") -> Ports:
        out = T.embedding["B", "d"] if self.at != "all" else T.tokens["S", "d"] if self.count is None else T.tokens["G", "count", "d"]
        return Ports(out, x=T.tokens["B", "T", "d"], ids=T.ids["B", "T"])

    def arguments(self) -> dict[str, Any]:
        tokens = self.token if isinstance(self.token, list) else [] if self.token is None else [self.token]
        return {"token": tuple(tokens), "offset": self.offset, "at": self.at, "count": self.count}


class Transpose(Op, name="op.transpose"):
    """Rows and columns change places: scores[B, C] → scores[C, B]."""

    ports = Ports(x=T.scores["B", "C"], returns=T.scores["C", "B"])
    module = "vlmgraph.nn.ops:Transpose"


class ReplaceToken(Op, name="op.replace_token"):
    """One place of the ids overwritten: ids[B, T] → ids[B, T]."""

    at: int = Field(0, description="place that is overwritten")
    token: Token = Field(description="what is written there")
    ports = Ports(ids=T.ids["B", "T"], returns=T.ids["B", "T"])
    module = "vlmgraph.nn.ops:ReplaceToken"


class ShiftRight(Op, name="op.shift_right"):
    """What a decoder reads to write these labels: a start token, then all of them but the last: ids[B, T] → ids[B, T]."""

    start: Token = Field(description="what stands first")
    pad: Token = Field(0, description="what a label of -100 is read as")
    ports = Ports(ids=T.ids["B", "T"], returns=T.ids["B", "T"])
    module = "vlmgraph.nn.ops:ShiftRight"


class Concat(Op, name="op.concat"):
    """Values joined along the tokens, tokens[..., N, d] each with its own N, or along the channels, each with its own d.

    `interleaved` channels: the first of every value, then the second of every value, and so on (Llama 3.2-Vision).
    """

    axis: Literal["tokens", "channels"] = Field("tokens", description="which dim grows")
    interleaved: bool = Field(False, description="channels of the values take turns; all have as many")
    module = "vlmgraph.nn.ops:Concat"

    @model_validator(mode="after")
    def _turns(self) -> Concat:
        if self.interleaved and self.axis == "tokens":
            raise ValueError('interleaved: it is channels that take turns, axis = "channels"')
        return self

    def signature(self, facet: str = "") -> Ports:
        if self.axis == "tokens":
            return Ports(T.tokens["...", "N", "d"], x=T.tokens["...", "d"].many)
        return Ports(T.tokens["...", "d"], x=T.tokens["..."].many)

    @property
    def joins(self) -> bool:
        return self.axis == "tokens"

    @property
    def whole(self) -> bool:
        """Without one of them the others would stand on channels that are not theirs."""
        return self.axis == "channels"

    def result(self, inputs: Mapping[str, Type | tuple[Type, ...]]) -> Mapping[str, Type] | None:
        """The first value's type with the grown dim. Raises DimError when the other dims disagree."""
        given = inputs["x"]
        listed = (given,) if isinstance(given, Type) else given
        first, at = listed[0], -2 if self.axis == "tokens" else -1
        total = Dim()
        for type_ in listed:
            if len(type_.dims) != len(first.dims) or _without(type_.dims, at) != _without(first.dims, at):
                raise DimError(f"{type_} cannot be joined to {first} along the {self.axis}")
            if self.interleaved and type_.dims[-1] != first.dims[-1]:
                raise DimError(f"channels of {type_} cannot take turns with those of {first}")
            total = total + type_.dims[at]
        dims = list(first.dims)
        dims[at] = total
        return {"out": Type(first.kind, tuple(dims))}


def _without(dims: tuple[Dim, ...], at: int) -> tuple[Dim, ...]:
    return tuple(d for i, d in enumerate(dims) if i != len(dims) + at)


class Add(Op, name="op.add"):
    """The sum of values of one shape."""

    ports = Ports(x=T.tokens["...", "N", "d"].many, returns=T.tokens["...", "N", "d"])
    module = "vlmgraph.nn.ops:Add"


class Interpolate(Op, name="op.interpolate"):
    """A square grid of tokens resampled: tokens[B, N, d] → tokens[B, size * size, d]."""

    size: int = Field(ge=1, description="side of the new grid")
    mode: Literal["bilinear", "bicubic", "nearest"] = Field("bilinear", description="kernel")
    ports = Ports(x=T.tokens["B", "N", "d"], returns=T.tokens["B", "size*size", "d"])
    module = "vlmgraph.nn.ops:Interpolate"
