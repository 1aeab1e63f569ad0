"""position.*: what tells the tokens of a stack apart."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from ..base import Layer
from .rope_scaling import Scaling


class Position(Layer):
    """A position code. `fills` is the part of the stack it becomes: a rotation, a bias on scores, or a table added to the tokens."""

    fills: ClassVar[Literal["rope", "bias", "position", ""]] = ""
    rank: ClassVar[int] = 2
    """Rank of the positions it reads: [B, N], or [3, B, N]."""


class NoPosition(Position, name="position.none"):
    """No position code."""

    def build(self) -> Any:
        return None


class Learned(Position, name="position.learned"):
    """A learned vector a position, added to the tokens."""

    width: int | None = Field(None, ge=1, description="width of the tokens; the stack's")
    max_positions: int | None = Field(None, ge=1, description="number of positions; the stack's")
    offset: int = Field(0, ge=0, description="rows in front that position 0 skips (OPT: 2)")
    fills = "position"
    module = "vlmgraph.nn.position:LearnedPositions"

    def arguments(self) -> dict[str, Any]:
        if self.max_positions is None:
            raise ValueError("position.learned needs `max_positions`")
        return {"count": self.max_positions, "width": self.width, "offset": self.offset}

    def parameters(self) -> dict[str, int]:
        return {"": ((self.max_positions or 0) + self.offset) * (self.width or 0)}


class Fractional(Position, name="position.fractional"):
    """Learned vectors of a square grid, looked up by the fraction of the image's height and width at which a patch stands.

    So an image of any aspect ratio is spread over the whole grid (NaViT, arXiv 2307.06304, section 2.1; Idefics2).
    """

    width: int | None = Field(None, ge=1, description="width of the tokens; the stack's")
    side: int | None = Field(None, ge=1, description="rows and columns of the grid; the patches along a side of the tower's `image_size`")
    fills = "position"
    module = "vlmgraph.nn.position:FractionalPositions"

    def parameters(self) -> dict[str, int]:
        return {"": (self.side or 0) ** 2 * (self.width or 0)}


class Rotary(Position, name="position.rope"):
    """Rotary position embedding (arXiv 2104.09864)."""

    theta: float = Field(10000.0, gt=0, description="base of the wavelengths")
    fraction: float = Field(1.0, gt=0, le=1, description="share of every head that is turned")
    dims: int | None = Field(None, ge=2, description="values of every head that are turned, whatever `fraction` says")
    interleaved: bool = Field(False, description="pairs are neighbours instead of halves")
    scaling: Scaling | None = Field(None, description="longer contexts than trained")
    head_dim: int | None = Field(None, ge=1, description="width of a head; the stack's")
    fills = "rope"
    module = "vlmgraph.nn.rope:RoPE"

    @model_validator(mode="after")
    def _even(self) -> Rotary:
        if self.head_dim is not None and self.dim > self.head_dim:
            raise ValueError(f"dims: a head has {self.head_dim} values, not {self.dim}")
        if self.head_dim is not None and self.dim % 2:
            raise ValueError(f"{self.dim} of {self.head_dim} values of a head are turned: rotary pairs need an even number")
        if self.head_dim is not None and self.scaling is not None:
            self.scaling.check(self.dim, self.theta)
        return self

    @property
    def dim(self) -> int:
        return self.dims if self.dims is not None else int((self.head_dim or 0) * self.fraction)

    def arguments(self) -> dict[str, Any]:
        scaling = {} if self.scaling is None else self.scaling.resolved(self.dim, self.theta)
        return {"dim": self.dim, "theta": self.theta, "interleaved": self.interleaved, **scaling}


class MultimodalRotary(Position, name="position.mrope"):
    """Rotary frequencies dealt out to time, height and width (Qwen2-VL, arXiv 2409.12191); reads positions [3, B, N]."""

    theta: float = Field(10000.0, gt=0, description="base of the wavelengths")
    sections: tuple[int, ...] = Field(min_length=3, max_length=3, description="pairs of a head for time, height and width")
    scaling: Scaling | None = Field(None, description="longer contexts than trained")
    head_dim: int | None = Field(None, ge=1, description="width of a head; the stack's")
    fills = "rope"
    rank = 3
    module = "vlmgraph.nn.rope:MRoPE"

    @model_validator(mode="after")
    def _whole(self) -> MultimodalRotary:
        if self.head_dim is not None and 2 * sum(self.sections) != self.head_dim:
            found = f"sections {list(self.sections)} add up to {sum(self.sections)} pairs"
            raise ValueError(f"{found}, but a head of {self.head_dim} has {self.head_dim // 2}")
        if self.head_dim is not None and self.scaling is not None:
            self.scaling.check(self.head_dim, self.theta)
        return self

    def arguments(self) -> dict[str, Any]:
        scaling = {} if self.scaling is None else self.scaling.resolved(self.head_dim or 0, self.theta)
        return {"dim": self.head_dim, "sections": self.sections, "theta": self.theta, **scaling}


class Rotary2D(Position, name="position.rope_2d"):
    """Half of a head's pairs turn with the row of a patch, half with its column (Qwen2-VL); read off the grid."""

    theta: float = Field(10000.0, gt=0, description="base of the wavelengths")
    split: Literal["shared", "alternate"] = Field(
        "shared", description="rows and columns have the same frequencies, or the even and the odd ones of a whole head (Pixtral)"
    )
    merge: Annotated[int, Field(ge=1)] | Literal["given"] = Field(
        1, description="patches come in blocks of merge x merge; `given`: of a side for each image, the port `merges`"
    )
    head_dim: int | None = Field(None, ge=1, description="width of a head; the stack's")
    fills = "rope"
    module = "vlmgraph.nn.rope:RoPE2D"

    @model_validator(mode="after")
    def _quarters(self) -> Rotary2D:
        if self.head_dim is not None and self.head_dim % 4:
            raise ValueError(f"a head of {self.head_dim} cannot be split into pairs for rows and columns: it must divide by 4")
        return self

    def arguments(self) -> dict[str, Any]:
        return {"dim": self.head_dim, "theta": self.theta, "split": self.split}


class RelativeBias(Position, name="position.relative_bias"):
    """T5's learned bias a bucket of distances and head (arXiv 1910.10683), one table for all layers."""

    buckets: int = Field(32, ge=4, description="rows of the table")
    distance: int = Field(128, ge=2, description="where the last bucket begins")
    heads: int | None = Field(None, ge=1, description="the stack's")
    bidirectional: bool | None = Field(None, description="own buckets for both directions; so unless the stack is causal")
    fills = "bias"
    module = "vlmgraph.nn.position:RelativeBias"

    def arguments(self) -> dict[str, Any]:
        return {"heads": self.heads, "buckets": self.buckets, "distance": self.distance, "bidirectional": self.bidirectional is not False}

    def parameters(self) -> dict[str, int]:
        return {"": self.buckets * (self.heads or 0)}


class ALiBi(Position, name="position.alibi"):
    """A penalty that grows with distance, steeper in some heads (arXiv 2108.12409)."""

    heads: int | None = Field(None, ge=1, description="the stack's")
    fills = "bias"
    module = "vlmgraph.nn.position:ALiBi"
