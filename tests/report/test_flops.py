"""Operations that the declarations count, against those that torch sees the tiny models do: equal, to the last one."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import numpy as np
import PIL.Image
import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tests.architectures.common import fresh, noise, processor
from vlmgraph.lower.model import CompiledModel
from vlmgraph.report import report
from vlmgraph.report.cost import Cost, program_cost

SPECS = ("clip", "llava-1.5", "cogvlm", "blip-2", "flamingo", "idefics", "qwen2-vl", "janus", "deepseek-vl", "llama-3.2-vision")


@cache
def built(name: str) -> CompiledModel:
    return fresh(name).requires_grad_(False)


@cache
def inputs(name: str) -> dict[str, Tensor]:
    """What the spec's processor makes of a picture and a question."""
    picture = PIL.Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8))
    ready = processor(name)
    arrays = ready(text=["what is this?"], images=[picture]) if name == "clip" else ready.ask("what is this?", images=[picture])
    found = {key: torch.as_tensor(value) for key, value in arrays.items()}
    if name == "blip-2":
        found |= {"qformer_ids": torch.full((1, 7), 5), "qformer_mask": torch.ones(1, 7, dtype=torch.long)}
    return found


def sizes(model: CompiledModel, given: Mapping[str, Tensor]) -> dict[str, int]:
    """The numbers behind the symbols of the input types."""
    found = {}
    for name, value in given.items():
        for dim, size in zip(model.graph.inputs[name].dims, value.shape):
            if len(dim.symbols()) == 1:
                (symbol,) = dim.symbols()
                if str(dim).split(" ")[0] == symbol.name:
                    found[symbol.name] = size
    return found


def both(name: str, program: str, given: Mapping[str, Tensor]) -> tuple[Cost, int]:
    """What is declared and what is done when these inputs are given. Attention in its plain form, which torch counts."""
    model = built(name)
    cost = program_cost(model.graph, program, sizes(model, given), "float32", given)
    assert cost is not None
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model.programs[program](**{key: given[key] for key in cost.inputs})
    return cost, counter.get_total_flops()


EXACT = [
    ("clip", "encode_image"), ("clip", "encode_text"), ("clip", "forward"),
    ("llava-1.5", "encode_image"), ("llava-1.5", "forward"), ("llava-1.5", "generate"),
    ("cogvlm", "encode_image"), ("cogvlm", "forward"),
    ("blip-2", "encode_image"), ("blip-2", "match"), ("blip-2", "caption"), ("blip-2", "forward"),
    ("flamingo", "encode_image"), ("flamingo", "forward"), ("idefics", "encode_image"), ("idefics", "forward"),
    ("qwen2-vl", "encode_image"), ("qwen2-vl", "forward"),
    ("janus", "encode_image"), ("janus", "forward"), ("janus", "draw"),
    ("deepseek-vl", "encode_image"), ("deepseek-vl", "forward"), ("maya", "forward"), ("moondream", "forward"),
    ("llama-3.2-vision", "encode_image"), ("llama-3.2-vision", "forward"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "program"), EXACT)
def test_declared_operations_are_those_done(name: str, program: str) -> None:
    cost, done = both(name, program, inputs(name))
    assert cost.uncounted == ()
    assert cost.flops == done > 0
    assert sum(cost.by_node.values()) == cost.flops


@pytest.mark.parametrize("name", ["llava-1.5", "cogvlm", "flamingo", "qwen2-vl"])
def test_a_call_without_an_image_costs_less(name: str) -> None:
    text = {key: value for key, value in inputs(name).items() if key in ("input_ids", "attention_mask")}
    text["input_ids"] = torch.full_like(text["input_ids"], 11)
    cost, done = both(name, "forward", text)
    assert cost.flops == done
    assert cost.flops is not None and cost.flops < (both(name, "forward", inputs(name))[0].flops or 0)


def test_codes_of_an_image() -> None:
    side = built("janus").graph.inputs["gen_values"].dims[-1].constant
    cost, done = both("janus", "encode_codes", {"gen_values": noise(2, 3, side, side)})
    assert cost.flops == done


@pytest.mark.parametrize("program", ["embed_image", "embed_text", "contrast"])
def test_two_paths_that_do_not_see_each_other(program: str) -> None:
    """BLIP-2's contrastive mask runs queries and text apart; they are declared as one sequence, which is more by their mutual attention."""
    cost, done = both("blip-2", program, inputs("blip-2"))
    reader = built("blip-2").graph.components["qformer"]
    text = inputs("blip-2")["qformer_ids"].shape[1]
    mutual = 2 * reader.queries * text * (2 * reader.width) * 2 * reader.layers
    assert cost.flops == done + mutual
    assert done > 0.97 * cost.flops


@pytest.mark.parametrize("name", SPECS)
def test_every_part_of_a_published_model_is_counted(name: str) -> None:
    from tests.architectures.common import graph, spec

    made = report(graph(name), processor=spec(name).data.get("processor"))
    left = {(cost.name, node) for cost in made.programs for node in cost.uncounted}
    assert not left


def test_a_stack_of_which_a_tap_is_read_stops_there() -> None:
    """LLaVA reads hidden state -2: the last layer of the tower never runs, with its parameters it still counts."""
    from tests.architectures.common import graph

    published = graph("llava-1.5")
    cost = program_cost(published, "encode_image", {"N": 1}, "float16")
    tower = published.components["vision"]
    tokens, width = 577, 1024
    layer = 2 * tokens * (4 * width * width + 2 * width * 4096) + 4 * tokens * tokens * width
    assert cost is not None and tower.layers == 24
    assert cost.by_node["vision"] == 23 * layer + 2 * 576 * 3 * 14 * 14 * width
