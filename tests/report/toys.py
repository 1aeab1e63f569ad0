"""A small graph of toy components with formulas that can be counted by hand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from vlmgraph.components.base import Connector, Decoder, Encoder, Head, Loss, Op, Ports
from vlmgraph.ir.dims import Dim
from vlmgraph.ir.graph import Graph, Node, Objective, Program, Stage
from vlmgraph.ir.types import ids, image, logits, loss, parse_type, tokens


class Vision(Encoder, name="vision.toy"):
    ports = Ports(tokens["B", 16, "width"], x=image["B", 3, 32, 32])
    width: int = 8

    def parameters(self) -> dict[str, int]:
        return {"patch": 3 * 64 * self.width, "layers": 100}

    def flops(self, dims: Mapping[str, Dim]) -> Dim:
        return dims["B"] * 16 * 2 * 3 * 64 * self.width


class Projector(Connector, name="connector.toy"):
    ports = Ports(tokens["B", "N", "d_out"], x=tokens["B", "N", "d_in"])
    d_in: int = 8
    d_out: int = 4

    def parameters(self) -> dict[str, int]:
        return {"proj": self.d_in * self.d_out}

    def flops(self, dims: Mapping[str, Dim]) -> Dim:
        return dims["B"] * dims["N"] * 2 * dims["d_in"] * dims["d_out"]


class Embed(Op, name="text.toy"):
    ports = Ports(tokens["B", "T", 4], x=ids["B", "T"])

    def parameters(self) -> dict[str, int]:
        return {"tokens": 40}


class Splice(Op, name="op.splice"):
    ports = Ports(tokens["B", "T", 4], text=tokens["B", "T", 4], vision=tokens["B", "N", 4].optional_, ids=ids["B", "T"])


class Stack(Decoder, name="decoder.toy"):
    ports = Ports(tokens["B", "T", 4], x=tokens["B", "T", 4])
    parts: ClassVar[tuple[str, ...]] = ("text", "vision")

    def parameters(self) -> dict[str, int]:
        return {"text": 1000, "vision": 500, "shared": 7}

    def flops(self, dims: Mapping[str, Dim]) -> Dim:
        return dims["T"] * dims["T"] * 3 + dims["T"] * 2000

    def cache_bytes_per_token(self) -> int:
        return 12


class Tail(Head, name="head.toy"):
    ports = Ports(logits["B", "T", 10], x=tokens["B", "T", 4])

    def parameters(self) -> dict[str, int]:
        return {"proj": 40}


class Next(Loss, name="loss.toy"):
    ports = Ports(loss[()], logits=logits["B", "T", 10], labels=ids["B", "T"])


def toy(layers: str = "text", extra: bool = False, width: int = 8) -> Graph:
    """pixel_values -> vision -> adapter -> splice <- embed <- input_ids; splice -> llm -> head -> logits."""
    t = parse_type
    nodes = [
        Node("vision", component="vision", inputs={"x": "pixel_values"}, outputs={"out": t(f"tokens[B, 16, {width}]")}),
        Node("adapter", component="adapter", inputs={"x": "vision"}, outputs={"out": t("tokens[B, 16, 4]")}),
        Node("embed", component="embed", inputs={"x": "input_ids"}, outputs={"out": t("tokens[B, T, 4]")}),
        Node(
            "splice",
            component="splice",
            inputs={"text": "embed", "vision": "adapter", "ids": "input_ids"},
            outputs={"out": t("tokens[B, T, 4]")},
        ),
        Node("llm", component="llm", inputs={"x": "splice"}, outputs={"out": t("tokens[B, T, 4]")}),
        Node("head", component="head", inputs={"x": "llm"}, outputs={"out": t("logits[B, T, 10]")}),
    ]
    components = {
        "vision": Vision(width=width),
        "adapter": Projector(d_in=width),
        "embed": Embed(),
        "splice": Splice(),
        "llm": Stack(),
        "head": Tail(),
        "lm": Next(),
    }
    if extra:
        components["spare"] = Projector()
    return Graph(
        name="toy",
        inputs={"pixel_values": t("image[B, 3, 32, 32]?"), "input_ids": t("ids[B, T]"), "labels": t("ids[B, T]?")},
        components=components,
        nodes=tuple(nodes),
        aliases={"logits": "head"},
        outputs={"logits": t("logits[B, T, 10]")},
        programs={"forward": Program(("logits",), cache=("llm",)), "encode_image": Program(("adapter",))},
        objectives={
            "lm": Objective(
                "lm", (Node("lm", component="lm", inputs={"logits": "head", "labels": "labels"}, outputs={"out": t("loss[]")}),)
            )
        },
        stages={
            "align": Stage(("adapter",)),
            "tune": Stage(("adapter", "llm.vision"), after="align"),
            "all": Stage(("llm", "head"), freeze=("llm.text",)),
        },
        expect={"params": {"total": 1536 + 100 + 32 + 40 + 1507 + 40, "llm.vision": 501}, "visual_tokens": 16},
    )
