"""What vision, text and decoder transformers share: fields, ports, counts, and how a stack is put together."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import BeforeValidator, Field, WithJsonSchema, field_validator, model_validator

from ..ir import types as T
from ..ir.dims import Dim
from ..ir.types import Type
from .base import Component, Config, Ports, load_symbol
from .layer.attention import Cross, bias_letters
from .layer.mlp import Act, MLPSlot
from .layer.norm import LayerNorm, RMSNorm
from .layer.position import Position, Rotary
from .layer.slot import AttentionSlot, BlockSlot, CrossSlot, NormSlot, PositionSlot, counted, filled

Rule = Literal["full", "causal", "prefix", "window", "window_2d", "segments", "prefix_or_full", "causal_or_full", "either_real"]
Rules = Annotated[
    tuple[Rule, ...],
    BeforeValidator(lambda value: (value,) if isinstance(value, str) else value),
    WithJsonSchema({"anyOf": [{"enum": list(get_args(Rule))}, {"type": "array", "items": {"enum": list(get_args(Rule))}}]}),
]
Order = Literal["pre", "post", "sub_post", "sandwich", "parallel", "normed"]
POINTS = ("attention.qk", "attention.inner", "attention.out", "cross.qk", "cross.out", "mlp.inner", "mlp.out")


class Inserted(Config):
    """Blocks put before or after some layers."""

    name: str = Field(description="name of the group: an address (`llm.NAME`)")
    block: BlockSlot = Field(description="what is inserted")
    every: int | None = Field(None, ge=1, description="at every so many layers")
    start: int = Field(0, ge=0, description="from this layer on")
    layers: tuple[int, ...] | None = Field(None, description="or: at these layers")
    at: Literal["before", "after"] = Field("before", description="side of the layer")
    port: str = Field("media", description="port of the stack that feeds it; it also has PORT_mask")

    @model_validator(mode="after")
    def _places(self) -> Inserted:
        if (self.every is None) == (self.layers is None):
            raise ValueError("give either `every` or `layers`")
        taken = ("x", "mask", "positions", "modality", "prefix", "grid", "merges", "cache", "taps", "until", "router", "self")
        for word, what in ((self.name, "an insertion"), (self.port, "a port")):
            if not word.isidentifier() or (word == self.port and word in taken):
                raise ValueError(f"{word!r} cannot name {what}")
        return self

    def places(self, layers: int) -> tuple[int, ...]:
        return self.layers if self.layers is not None else tuple(range(self.start, layers, self.every or 1))


class StackConfig(Component):
    """Fields of every transformer stack. What a slot's layer leaves open it takes from the field of the same name here."""

    causal: ClassVar[bool] = False
    """Default of `mask`."""
    rms: ClassVar[bool] = False
    """Whether defaults are those of LLaMA: RMS norms, gated SiLU MLPs, no biases."""

    layers: int = Field(ge=1, le=10_000, description="number of layers")
    width: int = Field(ge=1, description="width of the tokens")
    heads: int = Field(ge=1, description="attention heads")
    kv_heads: int | None = Field(None, ge=1, description="key and value heads; as many as `heads`")
    head_dim: int | None = Field(None, ge=1, description="width of a head; width / heads")
    mlp: MLPSlot = Field(description="MLP: its hidden width, or a layer")
    act: Act | None = Field(None, description="activation of the MLP")
    attention: AttentionSlot = Field("attention.mha", description='self-attention, or "none"')
    cross: CrossSlot | None = Field(None, description="cross-attention to `media` in every layer; skipped where nothing is fed")
    norm: NormSlot | None = Field(None, description="the norm of the branches")
    norm_eps: float | None = Field(None, gt=0, description="epsilon of all norms")
    bias: bool | str | None = Field(None, description="biases: all, none, or letters out of q, k, v, o for the attention alone")
    position: PositionSlot | None = Field(None, description="position code")
    order: Order = Field(
        "pre",
        description="where norms stand: before a branch, behind the sum, behind the branch, both; or both branches side by side; or the "
        "normed stream goes on beside the branch",
    )
    factors: dict[Literal["attention", "cross", "mlp"], tuple[float, float]] = Field(
        default_factory=dict, description='factors a and b of branches in a * norm(x) + b * f(norm(x)), the order "normed"'
    )
    residual: Literal["plain", "layer_scale", "gate"] = Field(
        "plain", description="how branches join the stream; `gate` is tanh of a scalar, zero at first"
    )
    scale_init: float = Field(1e-5, description="first value of layer_scale")
    mask: Rules | None = Field(None, description="who attends to whom; several rules hold together")
    window: int | None = Field(None, ge=1, description='reach of the rule "window", or side of the squares of "window_2d"')
    final_norm: bool | None = Field(None, description="a norm behind the last layer; so unless `order` puts norms behind")
    norms: dict[str, NormSlot] = Field(default_factory=dict, description=f"norms at named points: {', '.join(POINTS)}")
    insert: tuple[Inserted, ...] = Field((), description="blocks between the layers")
    pattern: tuple[str, ...] | None = Field(
        None, description='kinds of the layers in order, repeated: ["linear*7", "full"]; "full" is the stack\'s own'
    )
    kinds: dict[str, dict[str, Any]] = Field(default_factory=dict, description="fields that differ in layers of a kind")
    kind_at: dict[str, tuple[int, ...]] = Field(
        default_factory=dict, description="layers that are of a kind whatever `pattern` says; indices behind the last layer stand for none"
    )
    d_media: int | None = Field(None, ge=1, description="width of the media; inferred")
    max_positions: int | None = Field(None, ge=1, description="longest sequence")
    init: Literal["normal", "trunc_normal", "xavier", "clip", "clip_image", "t5", "sub_ln"] | None = Field(
        None, description="rule of the first weights"
    )
    std: float = Field(0.02, gt=0, description="standard deviation of the first weights")
    module = "vlmgraph.nn.stack:Stack"
    requested = ("router",)

    @field_validator("bias")
    @classmethod
    def _letters(cls, bias: bool | str | None) -> bool | str | None:
        return bias_letters(bias)

    @field_validator("norms")
    @classmethod
    def _points(cls, norms: dict[str, Any]) -> dict[str, Any]:
        for point in norms:
            if point not in POINTS:
                raise ValueError(f"there is no point {point!r} for a norm; points: {', '.join(POINTS)}")
        return norms

    @model_validator(mode="after")
    def _fits(self) -> StackConfig:
        if self.head_dim is None and self.width % self.heads:
            raise ValueError(f"heads: {self.heads} heads do not divide the width {self.width}")
        if self.kv_heads is not None and self.heads % self.kv_heads:
            raise ValueError(f"kv_heads: {self.kv_heads} do not divide {self.heads} heads")
        if bool({"window", "window_2d"} & set(self.rules)) != (self.window is not None):
            raise ValueError('the mask rules "window" and "window_2d" and the field `window` go together')
        if "window_2d" in self.rules and not getattr(self, "packed", False):
            raise ValueError('the mask rule "window_2d" reads a grid: it needs patch = { type = "patch.linear" }')
        if self.factors and self.order != "normed":
            raise ValueError('factors: they belong to order = "normed"')
        if self.kind_at and self.pattern is None:
            raise ValueError("kind_at: it needs `pattern`, the kinds of the other layers")
        taken = [place for places in self.kind_at.values() for place in places]
        if min(taken, default=0) < 0 or len(set(taken)) != len(taken):
            raise ValueError("kind_at: layers are counted from 0, and each is of one kind")
        names = [group.name for group in self.insert]
        for group in self.insert:
            for place in group.places(self.layers):
                if not 0 <= place < self.layers:
                    raise ValueError(f"insert {group.name!r}: there is no layer {place}; layers go from 0 to {self.layers - 1}")
            if names.count(group.name) > 1:
                raise ValueError(f"two insertions are named {group.name!r}")
        for name in self.sequence:
            if name != "full" and name not in self.kinds:
                raise ValueError(f"pattern: there is no kind {name!r}; kinds: {', '.join(['full', *self.kinds])}")
        self.check_slots()
        return self

    def check_slots(self) -> None:
        """Fill every slot once, so that one that does not fit is found with the config and not when the module is built."""
        for kind in self.variants.values():
            _ = kind.code, kind.one
            if getattr(kind.one.get("attention"), "square", False) and not kind.square:
                raise ValueError(
                    "attention: attention.grid attends over a whole square grid, as in a vision.vit over images that has cls = false, no "
                    "registers, no mask, and no position but a learned one"
                )
        self.groups()

    # ---- what the fields mean

    @cached_property
    def rules(self) -> tuple[str, ...]:
        return self.mask if self.mask is not None else ("causal",) if self.causal else ("full",)

    @cached_property
    def head(self) -> int:
        return self.head_dim or self.width // self.heads

    @cached_property
    def sequence(self) -> tuple[str, ...]:
        """The kind of every layer."""
        if self.pattern is None:
            return ("full",) * self.layers
        spelt: list[str] = []
        for part in self.pattern:
            match = re.fullmatch(r"(\w+?)(?:\*(\d{1,4}))?", part)
            if match is None:
                raise ValueError(f"pattern: {part!r} is not a kind or kind*count")
            spelt += [match[1]] * int(match[2] or 1)
        if not spelt:
            raise ValueError("pattern: there are no kinds in it")
        single = {place: kind for kind, places in self.kind_at.items() for place in places}
        return tuple(single.get(i, spelt[i % len(spelt)]) for i in range(self.layers))

    @cached_property
    def variants(self) -> dict[str, StackConfig]:
        """This config with the fields of every kind that occurs."""
        if self.pattern is None:
            return {"full": self}
        fields = {name: getattr(self, name) for name in self.model_fields_set if name not in ("pattern", "kinds", "kind_at", "insert")}
        return {name: type(self)(**{**fields, **self.kinds.get(name, {})}) for name in dict.fromkeys(self.sequence)}

    @cached_property
    def around(self) -> dict[str, Any]:
        """What slots take over."""
        return {
            "width": self.width, "heads": self.heads, "kv_heads": self.kv_heads, "head_dim": self.head_dim, "d_media": self.d_media,
            "act": self.activation, "eps": self.norm_eps, "norm_eps": self.norm_eps, "max_positions": self.max_positions,
        }  # fmt: skip

    @property
    def square(self) -> bool:
        """Whether its tokens are a whole square grid that attends to itself without more."""
        return False

    def sense(self) -> dict[str, Any]:
        meant = {"kv_heads": self.kv_heads or self.heads, "head_dim": self.head, "position": self.code, "norm": self.norm_of()}
        return {**super().sense(), **meant, "bias": self.biased, "act": self.activation, "mask": self.rules}

    @property
    def activation(self) -> str:
        return self.act or ("silu" if self.rms else "gelu")

    @property
    def biased(self) -> bool | str:
        return not self.rms if self.bias is None else self.bias

    @property
    def plain_bias(self) -> bool | None:
        """What `bias` says of layers other than the attention; nothing where it names projections."""
        return self.biased if isinstance(self.biased, bool) else None

    def norm_of(self, given: Any = None) -> Any:
        """A norm of the branches, or `given`, at this width."""
        return filled(given or self.norm or (RMSNorm() if self.rms else LayerNorm()), width=self.width, eps=self.norm_eps)

    @cached_property
    def code(self) -> Position | None:
        """The position code with its dims."""
        code = self.default_position() if self.position is None else self.position
        if code is None or code.kind == "position.none":
            return None
        return filled(
            code,
            width=self.width,
            heads=self.heads,
            head_dim=self.head,
            max_positions=self.max_positions,
            bidirectional="causal" not in self.rules,
        )

    def default_position(self) -> Position | None:
        return Rotary() if self.causal and self.rms else None

    @cached_property
    def one(self) -> dict[str, Any]:
        """Configs of the parts of one layer, by the names of their modules."""
        parts: dict[str, Any] = {}
        out = self.order == "sandwich"
        if self.attention is not None:
            qk = self.norms.get("attention.qk")
            turned = getattr(self.code, "interleaved", None)
            parts["attention"] = filled(
                self.attention, **self.around, bias=self.biased, interleaved=turned,
                qk_norm=None if qk is None else filled(qk, eps=self.norm_eps), inner_norm=self.inner("attention", self.attention),
            )  # fmt: skip
        if self.cross is not None:
            if not isinstance(self.cross, Cross):
                raise ValueError(f"cross: {self.cross.kind} does not read media; use attention.cross")
            qk = self.norms.get("cross.qk")
            parts["cross"] = filled(
                self.cross, **self.around, bias=self.biased, qk_norm=None if qk is None else filled(qk, eps=self.norm_eps)
            )
        parts["mlp"] = filled(self.mlp, **self.around, bias=self.plain_bias, inner_norm=self.inner("mlp", self.mlp))
        for branch in list(parts):
            if not (self.order == "parallel" and branch == "mlp" and "mlp.out" not in self.norms):
                parts[f"norms.{branch}"] = self.norm_of()
            if out or f"{branch}.out" in self.norms:
                parts[f"norms.{branch}_out"] = self.norm_of(self.norms.get(f"{branch}.out"))
        return parts

    def inner(self, branch: str, layer: Any) -> Any:
        """The norm inside a branch, before its last map."""
        norm = self.norms.get(f"{branch}.inner")
        if norm is None:
            return None
        if "inner_norm" not in type(layer).model_fields:
            raise ValueError(f"norms: {layer.kind} has no point {branch}.inner")
        return filled(norm, eps=self.norm_eps)

    @property
    def routed(self) -> bool:
        """Whether a layer chooses by modality."""
        return any(getattr(part, "routed", False) for kind in self.variants.values() for part in kind.one.values())

    @cached_property
    def mixtures(self) -> int:
        """Layers that are mixtures of experts; 0 where they have different numbers of experts, whose scores cannot be put together."""
        return 0 if self.experts is None else sum(hasattr(self.variants[kind].mlp, "top_k") for kind in self.sequence)

    @cached_property
    def experts(self) -> int | None:
        """Experts of every mixture."""
        found = {kind.mlp.experts for kind in self.variants.values() if hasattr(kind.mlp, "top_k")}
        return found.pop() if len(found) == 1 else None

    @property
    def media(self) -> tuple[str, ...]:
        """Ports of cross-attention and insertions."""
        own = ["media"] if self.cross is not None else []
        return tuple(dict.fromkeys(own + [group.port for group in self.insert]))

    @property
    def merges(self) -> bool:
        """Whether each image says how large its blocks of patches are."""
        return getattr(self.code, "merge", 1) == "given"

    @property
    def closed(self) -> bool:
        """Whether a norm stands behind the last layer."""
        return self.order not in ("post", "sub_post") if self.final_norm is None else self.final_norm

    def groups(self) -> list[tuple[Inserted, Any]]:
        """Insertions with the configs of their blocks."""
        around = {**self.around, "norm": self.norm or (RMSNorm() if self.rms else LayerNorm()), "mlp": self.mlp, "bias": self.plain_bias}
        return [(group, filled(group.block, **around)) for group in self.insert]

    # ---- the component's contract

    def further_ports(self) -> dict[str, Type]:
        """Optional ports beside the tokens."""
        ports: dict[str, Type] = {"mask": T.mask["B", "N"].optional_}
        rank = self.code.rank if self.code is not None else 2
        ports["positions"] = (T.positions[3, "B", "N"] if rank == 3 else T.positions["B", "N"]).optional_
        if self.routed:
            ports["modality"] = T.index["B", "N"].optional_
        if {"prefix", "prefix_or_full"} & set(self.rules):
            ports["prefix"] = T.mask["B", "N"].optional_
        return ports | self.media_ports()

    def media_ports(self) -> dict[str, Type]:
        ports: dict[str, Type] = {}
        for name in self.media:
            ports[name] = T.tokens["B", f"M_{name}", "d_media"].optional_
            ports[f"{name}_mask"] = T.mask["...", f"M_{name}"].optional_
        return ports

    def signature(self, facet: str = "") -> Ports:
        outputs = {"out": T.tokens["B", "N", "width"]}
        if self.mixtures:
            outputs["router"] = T.Type("logits", (Dim.of(self.mixtures), Dim.of("B"), Dim.of("N"), Dim.of(self.experts or 0)))
        return Ports(outputs, x=T.tokens["B", "N", "width"], **self.further_ports())

    def addresses(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(segment for part in self.parameters() for segment in part.split(".")))

    def hidden_states(self) -> int | None:
        return self.layers + 1

    def parameters(self) -> dict[str, int]:
        counts: dict[str, int] = {}

        def add(part: str, count: int) -> None:
            counts[part] = counts.get(part, 0) + count

        for kind, config in self.variants.items():
            times = self.sequence.count(kind)
            for slot, layer in config.one.items():
                for part, count in ({slot: layer.total()} if slot.startswith("norms.") else counted(slot, layer)).items():
                    add(part, times * count)
                if config.residual != "plain" and not slot.startswith("norms."):
                    add(f"scales.{slot}", times * (self.width if config.residual == "layer_scale" else 1))
        for group, block in self.groups():
            for part, count in counted(f"inserts.{group.name}", block).items():
                add(part, len(group.places(self.layers)) * count)
        if self.code is not None and self.code.total():
            add(self.code.fills, self.code.total())
        if self.closed:
            add("final_norm", self.norm_of().total())
        return counts

    def active(self) -> dict[str, int]:
        counts = self.parameters()
        for kind, config in self.variants.items():
            counts["mlp.experts"] = counts.get("mlp.experts", 0) - self.sequence.count(kind) * getattr(config.one["mlp"], "idle", 0)
        return {part: count for part, count in counts.items() if count}

    def flops(self, dims: Mapping[str, Dim]) -> Dim:
        """Blocks only, every query over every key; cross-attention where media are fed."""
        return dims["B"] * self.stack_flops(dims["N"], dims) if "B" in dims and "N" in dims else Dim()

    def stack_flops(self, tokens: Dim, dims: Mapping[str, Dim]) -> Dim:
        """Of one sample, through the first `dims["layers"]` layers: a stack of which only a tap is read stops there."""
        cost, depth = Dim(), dims.get("layers", Dim.of(self.layers)).constant
        sequence = self.sequence[:depth]
        for kind, config in self.variants.items():
            times = sequence.count(kind)
            for slot, layer in config.one.items():
                keys = dims.get("M_media") if slot == "cross" else tokens
                if not slot.startswith("norms.") and keys is not None:
                    cost = cost + layer.flops({"N": tokens, "K": keys}) * times
        for group, block in self.groups():
            keys = dims.get(f"M_{group.port}")
            times = sum(place < len(sequence) for place in group.places(self.layers))
            cost = cost + block.flops({"N": tokens} if keys is None else {"N": tokens, "K": keys}) * times
        return cost

    def cache_bytes_per_token(self) -> int:
        return sum(c.one["attention"].cached * self.sequence.count(k) for k, c in self.variants.items() if "attention" in c.one)

    # ---- the module

    def layer_modules(self) -> list[Any]:
        block, scale, gate = (load_symbol(f"vlmgraph.nn.block:{name}") for name in ("Block", "Scale", "Gate"))
        made = []
        for i, kind in enumerate(self.sequence):
            config = self.variants[kind]
            placed = {slot: layer.at(i, self.layers) if hasattr(layer, "at") else layer for slot, layer in config.one.items()}
            parts = {slot: layer.build() for slot, layer in placed.items()}
            norms = {slot.removeprefix("norms."): module for slot, module in parts.items() if slot.startswith("norms.")}
            branches = [slot for slot in parts if not slot.startswith("norms.")]
            scales = {b: scale(self.width, config.scale_init) for b in branches} if config.residual == "layer_scale" else None
            if config.residual == "gate":
                scales = {b: gate() for b in branches}
            order = "pre" if config.order == "sandwich" else config.order
            made.append(block(parts.get("attention"), parts["mlp"], norms, parts.get("cross"), order, scales, config.factors))
        return made

    def stack_options(self) -> dict[str, Any]:
        """Arguments of `Stack` beside its layers."""
        insert = load_symbol("vlmgraph.nn.stack:Insert")
        inserts = {}
        for group, block in self.groups():
            inserts[group.name] = insert({i: block.build() for i in group.places(self.layers)}, group.port, group.at)
        rules: Any = self.rules if self.pattern is None else [self.variants[kind].rules for kind in self.sequence]
        windows = [c.window for c in self.variants.values() if c.window is not None]
        if len(set(windows)) > 1:
            raise ValueError("all windows of a stack have one reach")
        options = {
            "rules": rules, "final_norm": self.norm_of().build() if self.closed else None, "inserts": inserts,
            "window": windows[0] if windows else 0, "init": self.initialiser(),
            "merge": 1 if self.merges else getattr(self.code, "merge", 1),
        }  # fmt: skip
        if self.code is not None and self.code.fills:
            options[self.code.fills] = self.position_module()
        return options

    def position_module(self) -> Any:
        return self.code.build() if self.code is not None else None

    def initialiser(self) -> Any:
        name = self.init or ("normal" if self.causal or self.rms else "trunc_normal")
        return load_symbol("vlmgraph.nn.init:initialiser")(name, self.width, self.layers, self.std)

    def build(self) -> Any:
        return load_symbol(self.module)(self.layer_modules(), **self.stack_options())
