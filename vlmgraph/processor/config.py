"""The tables `[processor.INPUT]` of a spec. Declarations only: numpy and PIL are imported when a processor is built."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ..components.base import Config, Token
from .expand import Expand
from .template import fields

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
STATS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "clip": (CLIP_MEAN, CLIP_STD),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "siglip": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}

Positive = Annotated[int, Field(gt=0)]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Byte = Annotated[int, Field(ge=0, le=255)]
Side = Annotated[int, Field(gt=0, le=65_536)]
Unit = Annotated[float, Field(allow_inf_nan=False)]


class Stats(BaseModel):
    """Mean and standard deviation by channel, in units of the rescaled pixel."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)
    mean: tuple[Unit, Unit, Unit]
    std: tuple[Rate, Rate, Rate]


class Pixels(Config):
    """What all pictures share. `x = (pixel * rescale - mean) / std`, channels first, float32."""

    gives: ClassVar[tuple[str, ...]] = ()
    """What `also` may name."""
    # `module` names a function (name, config, items, groups) -> arrays by input; `groups`: pictures of each sample

    stats: Literal["clip", "imagenet", "siglip"] | Unit | Stats = "clip"
    """A number m is mean m and deviation m: 0.5 maps to [-1, 1]."""
    rescale: Rate = 1 / 255
    resample: Literal["bicubic", "bilinear", "lanczos", "nearest"] = "bicubic"
    alpha: Literal["drop"] | tuple[Byte, Byte, Byte] = (255, 255, 255)
    """A picture with transparency is put on this colour; `drop` shows the colour below the transparency."""
    also: dict[str, str] = {}
    """Further inputs that this entry fills, each with what goes there."""

    def mean_std(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        if isinstance(self.stats, str):
            return STATS[self.stats]
        if isinstance(self.stats, Stats):
            return self.stats.mean, self.stats.std
        return (self.stats,) * 3, (self.stats,) * 3

    def pad_colour(self, pad: int | str | tuple[int, int, int]) -> tuple[int, int, int]:
        """`mean` is the mean colour truncated to a byte: (122, 116, 104) for CLIP."""
        if pad == "mean":
            red, green, blue = (int(255 * m) for m in self.mean_std()[0])
            return red, green, blue
        return (pad, pad, pad) if isinstance(pad, int) else tuple(pad)  # type: ignore[return-value]

    @model_validator(mode="after")
    def _known(self) -> Pixels:
        if isinstance(self.stats, float) and self.stats <= 0:
            raise ValueError("stats must be above 0: it is the deviation too")
        _check_also(self.also, type(self).gives)
        return self


def _check_also(also: dict[str, str], gives: tuple[str, ...]) -> None:
    for name, what in also.items():
        if what not in gives:
            raise ValueError(f"also.{name}: `{what}` is not one of {', '.join(gives) or 'nothing'}")


class Image(Pixels, name="processor.image"):
    """Pictures of one size. `gives`: `sizes`, the original (height, width) `[N, 2]`; `mask`, which media are real `[B, M]`.

    fit = crop: the shortest edge to `size`, then the centre (CLIP). pad: a square of the long side in the pad colour,
    then resized (LLaVA-1.5). longest: the long side to `size`, then padded to a square (Janus). squash: both sides.
    """

    module: ClassVar[str] = "vlmgraph.processor.media:images"
    gives: ClassVar[tuple[str, ...]] = ("sizes", "mask")

    size: Side | tuple[Side, Side] | None = None
    """A square's side, or (height, width). None: what the input of the model says."""
    fit: Literal["crop", "pad", "longest", "squash"] = "crop"
    short: Side | None = None
    """`crop` resizes the shortest edge to this first; None: the longer side of `size`."""
    pad: Byte | Literal["mean"] | tuple[Byte, Byte, Byte] = 0
    rounding: Literal["floor", "nearest"] = "floor"
    """The resized length of the other side."""
    min_side: Positive = 1
    """`longest` keeps the short side at least this long."""
    batch: Literal["images", "samples", "clips"] = "images"
    """`[N, 3, H, W]`, or by sample `[B, M, 3, H, W]`, or with frames `[B, M, F, 3, H, W]` (absent media are zeros)."""
    frames: Positive = 8
    fps: Rate = 1.0
    """How `clips` samples a video; a picture is a clip of one frame."""
    inverse: bool = False
    """An output of the model that becomes pictures."""
    source: str | None = None
    """Another entry: its pictures, as it fitted them, are what this one starts from; no pictures are given for this one by itself."""

    @model_validator(mode="after")
    def _square(self) -> Image:
        if self.fit in ("pad", "longest") and isinstance(self.size, tuple) and self.size[0] != self.size[1]:
            raise ValueError(f'fit = "{self.fit}" makes a square, so size must be one number')
        if self.short is not None and isinstance(self.size, int) and self.short < self.size:
            raise ValueError(f"short is {self.short}, which holds no crop of {self.size}")
        if "mask" in self.also.values() and self.batch == "images":
            raise ValueError('a mask over media needs batch = "samples" or "clips"')
        if self.source is not None and (self.batch == "clips" or self.inverse):
            raise ValueError("source: neither clips nor pictures of an output start from those of another entry")
        return self

    def hw(self) -> tuple[int, int]:
        """(height, width), once the size is known."""
        assert self.size is not None
        return (self.size, self.size) if isinstance(self.size, int) else self.size


class Packed(Pixels):
    """Pictures cut into patches. `gives`: `grid`, (t, h, w) in patches `[N, 3]`."""

    module: ClassVar[str] = "vlmgraph.processor.media:packed"
    gives: ClassVar[tuple[str, ...]] = ("grid",)

    @property
    def width(self) -> int:
        """Values of one patch."""
        raise NotImplementedError


class Patches(Packed, name="processor.patches"):
    """Pictures at their own resolution as raw patches `[1, P, 3 * patch^2]`, row by row, each by row, column, channel (Fuyu).

    A picture is made smaller where it exceeds `max_size`, never larger, and filled up to whole patches at the right and at the bottom.
    """

    patch: Positive = 30
    max_size: tuple[Side, Side] = (1080, 1920)
    """(height, width)."""
    size: Side | tuple[Side, Side] | None = None
    """Every picture is squashed to this (height, width) or square instead."""
    draw: tuple[Side, ...] = ()
    """Sides of squares: one is drawn for all pictures of a call that trains (OtterHD, arXiv 2311.04219, section 3)."""
    pad: Byte = 1
    """The value of filled-up pixels."""

    def drawn(self, index: float) -> Patches:
        """With the size of a batch that trains; `index` from 0 to 1 says which."""
        return self.model_copy(update={"size": self.draw[int(index * len(self.draw))]}) if self.draw else self

    @property
    def width(self) -> int:
        return 3 * self.patch**2


class Native(Packed, name="processor.native"):
    """Pictures at their own resolution as packed patches `[P, 3 * temporal * patch^2]` (Qwen2-VL, section 2.1).

    Patches of one merged token are neighbours (block-major). `gives` also `merges`, the patches along a side of a token, `[N]`.
    """

    gives: ClassVar[tuple[str, ...]] = ("grid", "merges")

    patch: Positive = 14
    merge: Positive = 2
    temporal: Positive = 2
    min_pixels: Positive = 3136
    max_pixels: Positive = 12_845_056
    max_aspect: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 200

    @model_validator(mode="after")
    def _budget(self) -> Native:
        if self.min_pixels > self.max_pixels:
            raise ValueError(f"min_pixels {self.min_pixels} is above max_pixels {self.max_pixels}")
        if self.max_pixels < self.multiple**2:
            raise ValueError(f"max_pixels {self.max_pixels} holds not one token of {self.multiple} x {self.multiple} pixels")
        return self

    @property
    def width(self) -> int:
        return 3 * self.temporal * self.patch**2

    @property
    def multiple(self) -> int:
        return self.patch * self.merge


class Padded(Pixels, name="processor.padded"):
    """Pictures at their own resolution, padded at the right and at the bottom to the largest: `[N, 3, H, W]` (Pixtral, arXiv 2410.07073).

    A picture longer than `max_side` is made smaller, none larger; then its sides are stretched to whole patches. `gives`: `sizes`, the
    (height, width) without padding `[N, 2]`.
    """

    module: ClassVar[str] = "vlmgraph.processor.padded:padded"
    gives: ClassVar[tuple[str, ...]] = ("sizes",)

    patch: Positive = 16
    max_side: Side = 1024


class Tiles(Pixels, name="processor.tiles"):
    """Pictures cut into tiles of one size, row by row, all `[N, 3, H, W]`.

    The grid of tiles is the one of `min` to `max` whose aspect ratio is closest; of equally close ones the largest that has no more than
    twice the area of the picture, which is then squashed to it (InternVL, arXiv 2404.16821, section 3.3).
    """

    module: ClassVar[str] = "vlmgraph.processor.tiles:tiles"

    size: Side | tuple[Side, Side] | None = None
    """Of a tile: a square's side, or (height, width). None: what the input of the model says."""
    min: Positive = 1
    max: Positive = 12
    thumbnail: Literal["last", "none"] = "last"
    """The whole picture squashed to one more tile, where there are several."""

    @model_validator(mode="after")
    def _some(self) -> Tiles:
        if self.min > self.max:
            raise ValueError(f"min {self.min} is above max {self.max}")
        return self

    def hw(self) -> tuple[int, int]:
        """(height, width), once the size is known."""
        assert self.size is not None
        return (self.size, self.size) if isinstance(self.size, int) else self.size


class AnyResolution(Pixels, name="processor.any_resolution"):
    """Pictures as a base view and tiles: `[I, M, 3, H, W]` (LLaVA-NeXT). `gives`: `sizes`, the original (height, width) `[I, 2]`.

    A picture goes into the middle of the canvas that shows most of its pixels, filled up with black, which is cut into tiles.
    """

    module: ClassVar[str] = "vlmgraph.processor.any_resolution:any_resolution"
    gives: ClassVar[tuple[str, ...]] = ("sizes",)

    size: Side | tuple[Side, Side] | None = None
    """Of a view: a square's side, or (height, width). None: what the input of the model says."""
    canvases: tuple[tuple[Side, Side], ...] = Field(min_length=1)
    """(height, width), whole tiles."""

    def hw(self) -> tuple[int, int]:
        """(height, width), once the size is known."""
        assert self.size is not None
        return (self.size, self.size) if isinstance(self.size, int) else self.size


class Place(BaseModel):
    """What a placeholder expands to: as many copies as `node` has tokens for that picture, or a fixed number."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)
    node: str | Positive
    of: str | None = None
    """The input whose pictures the placeholder stands for; needed where there are several."""
    row_end: Token | None = None
    """A token behind every row of a picture's grid; needs pictures that have one."""
    end: Token | None = None
    """A token in the place of the last row's end."""
    fill: Token | None = None
    """What stands in the places of a picture instead of copies of the placeholder: this id and those that follow it (KOSMOS-2)."""
    expand: Expand | None = None
    """How a picture is written that became several entries; needs pictures that are cut."""
    tag: str | None = None
    """What the placeholder is written as before the text is encoded: `{image}` is the placeholder, `{number}` counts the pictures of a text
    from 1 (MANTIS)."""
    complete: tuple[str, ...] | None = None
    """Pictures without a placeholder get one behind the first of these that a text has, else at its start; placeholders that have no
    picture are left out, the last ones first."""

    @model_validator(mode="after")
    def _tag(self) -> Place:
        names = [] if self.tag is None else [name for name, _ in fields(self.tag)]
        if self.tag is not None and (names.count("image") != 1 or set(names) - {"image", "number"}):
            raise ValueError("tag must hold {image} once, and may hold {number}")
        return self

    media: Literal["image", "video"] | None = None
    """Which it stands for, where one input takes both."""


class Text(Config, name="processor.text"):
    """Texts to ids `[B, T]`, placeholders expanded.

    `also`: `mask`, `labels`, `places`, where the tokens of pictures stand `[B, T]`, `types`, 1 where a token is to be learned and 0
    elsewhere (a prefix-LM's prefix), and `media [B, T, M]`, which pictures a token may attend to: the last one at or before it, none from
    the end token on until the next (Flamingo, arXiv 2204.14198, section 2.3); `tiles [B, T, M, K]`, which tiles of which pictures, those
    of the last one or of several in a row (Llama 3.2-Vision), where the pictures are cut into them.
    """

    gives: ClassVar[tuple[str, ...]] = ("mask", "labels", "places", "types", "media", "tiles")

    tokenizer: str = Field("", pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$|^$")
    """A name; the files are looked for in the folder of that name beside the weights, then in the folder itself."""
    place: dict[str, str | Positive | Place] = {}
    wrap: tuple[Token, Token] | None = None
    """Tokens around each expanded placeholder, where the text does not have them already."""
    once: tuple[Token, ...] = ()
    """Tokens of which one stays where two stand side by side, since what ends a picture begins the next one (Idefics2)."""
    gap: bool = False
    """A space goes between a placeholder and a word right behind it (Idefics2)."""
    at: Literal["inline", "start", "after_bos"] = "inline"
    """Where pictures go for which the text has no placeholder."""
    bos: Token | None = None
    eos: Token | None = None
    stop: tuple[Token, ...] = ()
    """Tokens that end an answer. Empty: `eos`."""
    pad: Token = 0
    pad_side: Literal["left", "right"] = "right"
    padding: Literal["longest", "max"] = "longest"
    max_length: Positive | None = None
    truncate: Literal["error", "right", "left"] = "error"
    """`right` and `left` cut that side of the text; the start and end tokens stay."""
    lower: bool = False
    punctuation: bool = True
    """False leaves ASCII punctuation out and makes every run of white space one space (SigLIP, arXiv 2303.15343)."""
    template: str = "{text}"
    """What a bare prompt is put into."""
    prompts: dict[str, str] = {}
    media: dict[str, str] = {}
    """What a picture of a message writes: by input name, or `image` and `video`. Else its placeholder."""
    also: dict[str, str] = {}
    train_on: Literal["text", "assistant"] = "text"
    """Labels: all but placeholders, start and padding; or the answers alone."""
    silent: tuple[Token, ...] = ()
    """Tokens behind which nothing is learned, as behind the places of pictures. What stands around pictures is then learned like text."""

    @model_validator(mode="after")
    def _consistent(self) -> Text:
        _check_also(self.also, type(self).gives)
        if self.padding == "max" and self.max_length is None:
            raise ValueError('padding = "max" needs max_length')
        if "media" in self.also.values() and not self.place:
            raise ValueError("media need a placeholder in `place`")
        if self.at == "after_bos" and self.bos is None:
            raise ValueError('at = "after_bos" needs bos')
        if self.at != "inline" and not self.place:
            raise ValueError(f'at = "{self.at}" needs a placeholder in `place`')
        return self

    def places(self) -> dict[str, Place]:
        return {name: p if isinstance(p, Place) else Place(node=p) for name, p in self.place.items()}


class Chat(Text, name="processor.chat"):
    """Conversations to ids. Each role is a template with `{text}`; `generate` opens the answer to be written.

    `{space}` is a space in front of a message that begins with text, and nothing in front of a picture.
    """

    roles: dict[Literal["system", "user", "assistant", "generate"], str] = {
        "system": "{text}\n", "user": "User: {text}\n", "assistant": "Assistant: {text}\n", "generate": "Assistant:",
    }  # fmt: skip
    system: str | None = None
    """Said first, unless the conversation starts with a system message."""
    train_on: Literal["text", "assistant"] = "assistant"

    @model_validator(mode="after")
    def _roles(self) -> Chat:
        for role in ("user", "assistant"):
            if "{text}" not in self.roles.get(role, ""):
                raise ValueError(f"roles.{role} must hold {{text}}")
        return self


class Boxes(Config, name="processor.boxes"):
    """Boxes as text, both ways. Pixels become `floor(x / side * scale)`, at most `scale - 1`."""

    codec: ClassVar[str] = "vlmgraph.processor.boxes:BoxCodec"

    format: str = "[[{boxes}]]"
    box: str = "{x0:03},{y0:03},{x1:03},{y1:03}"
    join: str = ";"
    phrase: str = ""
    """Before the boxes, where the model names what is boxed: holds `{phrase}`."""
    scale: Positive = 1000

    def tokens(self) -> dict[str, int]:
        """Tokens that the entry writes, with their ids, beside those of the spec."""
        return {}

    @model_validator(mode="after")
    def _fields(self) -> Boxes:
        if self.format.count("{boxes}") != 1:
            raise ValueError("format must hold {boxes} once")
        if self.phrase and self.phrase.count("{phrase}") != 1:
            raise ValueError("phrase must hold {phrase} once")
        names = sorted(name for name, _ in fields(self.box))
        if names != ["x0", "x1", "y0", "y1"]:
            raise ValueError("box must hold each of {x0}, {y0}, {x1}, {y1} once")
        return self
