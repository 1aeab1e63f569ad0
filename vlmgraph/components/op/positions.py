"""op.positions and op.mrope_positions."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from ...ir import types as T
from ..base import Op, Ports, Token


class Positions(Op, name="op.positions"):
    """Position ids, with one position shared by the inner tokens of an image under `share_inner`: ids[B, T] → positions[B, T].

    With `pad` tokens of that id have no position, -1, whatever a mask says, and decoding goes on from the length of the sequence, padding
    included (fairseq). A program that carries `positions.next` decodes from the next free position.
    """

    rule: Literal["sequential", "share_inner"] = Field("sequential", description="one position a token, or three an image (CogVLM)")
    pad: Token | None = Field(None, description="token without a position; none where left out")
    ports = Ports(
        {"positions": T.positions["B", "T"], "next": T.index["B"]},
        ids=T.ids["B", "T"], spans=T.index["B", "T"].optional_, mask=T.mask["B", "T"].optional_, next=T.index["B"].optional_,
    )  # fmt: skip
    module = "vlmgraph.nn.positions:Positions"


class MropePositions(Op, name="op.mrope_positions"):
    """Time, height and width of every token (Qwen2-VL, arXiv 2409.12191): ids[B, T] → positions[3, B, T].

    A program that carries `positions.next` decodes from the next free position.
    """

    image: Token | None = Field(None, description="placeholder of image tokens")
    video: Token | None = Field(None, description="placeholder of video tokens")
    merge: int = Field(2, ge=1, description="patches a side that make one token")
    next: Literal["max", "max_hw"] = Field(
        "max", description="an image takes as many positions as its longest side, frames included or not"
    )
    per_second: float | None = Field(
        None, gt=0, description="positions a second of video takes, `seconds` being the time between frames (Qwen2.5-VL); else one a frame"
    )
    module = "vlmgraph.nn.positions:MropePositions"

    def signature(self, facet: str = "") -> Ports:
        ports = Ports(
            {"positions": T.positions[3, "B", "T"], "delta": T.index["B"], "next": T.index["B"]},
            ids=T.ids["B", "T"], image_grid=T.grid["N", 3].optional_, video_grid=T.grid["M", 3].optional_,
            mask=T.mask["B", "T"].optional_, next=T.index["B"].optional_,
        )  # fmt: skip
        return ports if self.per_second is None else ports | {"seconds": T.scores["M"].optional_}

    @model_validator(mode="after")
    def _some_token(self) -> MropePositions:
        if self.image is None and self.video is None:
            raise ValueError("give the placeholder of `image`, of `video`, or both")
        return self


class CrossMask(Op, name="op.cross_mask"):
    """Which media tokens every text token may attend: media tokens[B, M, L, d] and ids[B, T] → mask[B, T, M * L]. With `given_tiles` media
    are tokens[B, M, K, L, d] of M images in K tiles, and `media_mask` mask[B, T, M, K] says which tiles (Llama 3.2-Vision).

    A program that carries the op's `seen` decodes with the last image (`last_image`) or all of them.
    """

    rule: Literal["last_image", "all_previous", "given", "given_tiles"] = Field(
        "last_image", description="the image before (Flamingo), all before, or as `media_mask` says, of images (IDEFICS) or tiles"
    )
    token: Token | None = Field(None, description="token that stands for one medium")
    module = "vlmgraph.nn.cross_mask:CrossMask"

    @model_validator(mode="after")
    def _token_given(self) -> CrossMask:
        if (self.token is None) != self.rule.startswith("given"):
            raise ValueError(f"rule {self.rule!r} takes {'no token' if self.rule == 'given' else 'the token that stands for one medium'}")
        return self

    def signature(self, facet: str = "") -> Ports:
        out = T.mask["B", "T", "M*L"]
        media = T.tokens["B", "M", "L", "d"]
        if self.rule == "given_tiles":
            tiles = T.tokens["B", "M", "K", "L", "d"]
            return Ports(T.mask["B", "T", "M*K*L"], media_mask=T.mask["B", "T", "M", "K"], media=tiles)
        if self.rule == "given":
            return Ports(out, media_mask=T.mask["B", "T", "M"], media=media)
        return Ports({"out": out, "seen": T.index["B"]}, ids=T.ids["B", "T"], media=media, seen=T.index["B"].optional_)

    def arguments(self) -> dict[str, Any]:
        return {"token": self.token, "rule": self.rule}
