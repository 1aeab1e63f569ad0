"""Run with `python -I`: runs folders as an engine does that keeps text, pictures, keys and logits itself (vLLM's transformers backend).

The engine here lays several requests side by side in one row, gives the positions of each, brings no mask, and keeps keys and values by
`layer_idx` in a function of its own that it registers with the attention interface. Prints one line of JSON a folder: what differs.
"""

from __future__ import annotations

import ast
import copy
import inspect
import json
import re
import sys
import textwrap
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import loaded
import torch
from PIL import Image
from safetensors import safe_open
from torch.overrides import TorchFunctionMode
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoProcessor
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

NAME = "recorded"
WITHIN = 1e-5
"""Relative, float32: attention over the same keys, added up in another order."""


class Engine:
    """Keys and values of every request by layer."""

    def __init__(self) -> None:
        self.lengths: list[int] = []
        self.kept: dict[tuple[int, int], tuple[torch.Tensor, torch.Tensor]] = {}
        self.called: list[int] = []
        self.shapes: set[tuple[int, int, int]] = set()

    def attend(self, module, query, key, value, attention_mask, scaling=None, **options):
        """[1, heads, tokens of all requests, head_dim] → [tokens, heads * head_dim]. The mask is not looked at."""
        assert query.shape[0] == 1 and module.is_causal is True
        self.called.append(module.layer_idx)
        self.shapes.add((query.shape[1], key.shape[1], query.shape[3]))
        parts = [x.split(self.lengths, dim=2) for x in (query, key, value)]
        out = []
        for request, (q, k, v) in enumerate(zip(*parts)):
            place = (request, module.layer_idx)
            if place in self.kept:
                k, v = (torch.cat([old, new], dim=2) for old, new in zip(self.kept[place], (k, v)))
            self.kept[place] = (k, v)
            groups = q.shape[1] // k.shape[1]
            k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
            seen = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool).tril(k.shape[2] - q.shape[2])
            y = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=seen, scale=scaling)
            out.append(y[0].transpose(0, 1).flatten(1))
        return torch.cat(out), None

    def run(self, base, embeds: list[torch.Tensor]) -> list[torch.Tensor]:
        """States of the new tokens of every request."""
        past = [self.kept[r, 0][0].shape[2] if (r, 0) in self.kept else 0 for r in range(len(embeds))]
        self.lengths = [len(x) for x in embeds]
        places = torch.cat([torch.arange(p, p + n) for p, n in zip(past, self.lengths)])[None]
        out = base(input_ids=None, inputs_embeds=torch.cat(embeds)[None], position_ids=places, use_cache=False, return_dict=False)
        return list(out[0][0].split(self.lengths))


ENGINE = Engine()
ALL_ATTENTION_FUNCTIONS.register(NAME, lambda *args, **options: ENGINE.attend(*args, **options))


def requests(processor) -> list[tuple[torch.Tensor, dict[str, torch.Tensor]]]:
    """Two prompts, each by itself with its picture: ids, and the inputs of pictures."""
    found = []
    for text, size, colour in (("{}What is this?", (64, 48), "red"), ("a{}bc", (30, 90), "blue")):
        made = processor(text=[text.format(processor.image_token)], images=[[Image.new("RGB", size, colour)]])
        found.append((made["input_ids"][0], {k: v for k, v in made.items() if k not in ("input_ids", "attention_mask")}))
    return found


@torch.no_grad()
def served(folder: Path) -> list[str]:
    global ENGINE
    found = []
    config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
    text = config.get_text_config()
    text._attn_implementation = NAME
    base = AutoModel.from_pretrained(folder, config=config, trust_remote_code=True).eval()
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True).eval()
    if not base.is_backend_compatible() or text is config:
        found.append("it does not say that it attends by the interface, or has no configuration of the text")
    with safe_open(folder / "model.safetensors", "pt") as file:
        names = set(file.keys())
        tied = config.tie_word_embeddings
        head = base.get_input_embeddings().weight if tied else file.get_tensor("lm_head.weight")
        bias = file.get_tensor("lm_head.bias") if "lm_head.bias" in names else None
    if left := [n for n in names if not n.startswith(("model.", "lm_head."))]:
        found.append(f"weights of other names: {left}")
    ties = {n for n in base.state_dict() if n in base.all_tied_weights_keys}
    if {n.removeprefix("model.") for n in names if n.startswith("model.")} != set(base.state_dict()) - ties:
        found.append("weights are not those of the model without its head")
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    token = processor._slot().id
    special = set(processor.whole.encoders[processor.whole._text_entry()].tokenizer.tokens.values())
    later = [i for i in range(5, 60) if i not in special][:2]
    ENGINE = Engine()
    prompts = requests(processor)
    embeds, wanted = [], []
    for ids, media in prompts:
        rows = base.get_input_embeddings()(ids)
        features = base.get_image_features(return_dict=True, **media).pooler_output
        features = features.reshape(-1, features.shape[-1])
        if int((ids == token).sum()) != len(features):
            found.append(f"{len(features)} features for {int((ids == token).sum())} placeholders")
        rows = rows.masked_scatter((ids == token)[:, None], features)
        embeds.append(rows)
        more = torch.cat([ids, torch.tensor(later)])
        wanted.append(model(input_ids=more[None], **media).logits[0])
    table = base.get_input_embeddings()
    runs = [ENGINE.run(base, e) for e in (embeds, *([table(torch.tensor([t]))] * len(prompts) for t in later))]
    for made, right in zip(zip(*runs), wanted):
        logits = torch.nn.functional.linear(torch.cat(list(made)), head, bias)
        if (apart := loaded.far(logits, right)) > WITHIN:
            found.append(f"logits differ by {apart:.1e}")
    layers = text.num_hidden_layers
    if layers * 3 != len(ENGINE.called) or ENGINE.called != [*range(layers)] * 3:
        found.append(f"layers {ENGINE.called}, not each of {layers} once a run")
    if ENGINE.shapes != {(text.num_attention_heads, text.num_key_value_heads, text.head_dim)}:
        found.append(f"heads {ENGINE.shapes} are not those of the configuration")
    if (text.vocab_size, text.hidden_size) != tuple(head.shape):
        found.append("vocabulary and width are not those of the head")
    found += one_call(base)
    plain = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
    rows = embeds[0][None]
    found += cut(plain, rows) if plain.tp_plan else []
    found += chained(plain, rows) if plain._pp_plan else []
    found += processed(processor, token)
    implementations(folder, model, prompts[0], found)
    return found


def one_call(base) -> list[str]:
    """Engines read off the source where a module attends: its forward gets one function of the interface, and calls it once."""
    found = []
    for module in base.modules():
        if getattr(module, "layer_idx", None) is None:
            continue
        tree = ast.parse(textwrap.dedent(inspect.getsource(type(module).forward)))
        got = [n.targets[0].id for n in ast.walk(tree) if isinstance(n, ast.Assign) and "ALL_ATTENTION_FUNCTIONS" in ast.unparse(n.value)]
        calls = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name) and n.func.id in got]
        if len(calls) != 1 or module.config._attn_implementation != NAME:
            found.append(f"{type(module).__name__} does not attend by one call")
    return found


class Kept:
    """A cache of one call."""

    def append(self, k, v):
        return k, v


def cut(base, rows) -> list[str]:
    """Every block cut over two devices as the plan says: the shares of attention and of the MLP add up to the whole."""
    calls = []
    blocks = dict(base.named_modules())
    parts = sorted({re.sub(r"[.][^.]+$", "", p) for p in blocks for plan in base.tp_plan if re.fullmatch(plan.replace("*", r"\d+"), p)})
    hooks = [
        blocks[p].register_forward_hook(lambda m, args, options, out, p=p: calls.append((p, args, options, out)), with_kwargs=True)
        for p in parts
    ]
    base(inputs_embeds=rows)
    for hook in hooks:
        hook.remove()
    styles = {p: style for p in blocks for plan, style in base.tp_plan.items() if re.fullmatch(plan.replace("*", r"\d+"), p)}
    stacks = {p.partition(".layers.")[0] for p in styles}
    linear = {p for p, m in blocks.items() if isinstance(m, torch.nn.Linear) and p.partition(".layers.")[0] in stacks}
    found = [] if set(styles) == linear else [f"the plan leaves out {sorted(linear - set(styles))[:3]}"]
    for path, args, options, out in calls:
        total = 0
        for share in range(2):
            part = copy.deepcopy(blocks[path])
            for name, inner in part.named_children():
                if f"{path}.{name}" in styles:
                    axis = 0 if styles[f"{path}.{name}"] == "colwise" else 1
                    inner.weight = torch.nn.Parameter(inner.weight.chunk(2, axis)[share])
                    if inner.bias is not None:
                        inner.bias = torch.nn.Parameter(inner.bias.chunk(2)[share] if axis == 0 else inner.bias * (share == 0))
            fresh = [Kept() if hasattr(a, "append") else a for a in args]
            total = total + part(*fresh, **options)
        if (apart := loaded.far(total, out)) > WITHIN:
            found.append(f"{path} cut in two differs by {apart:.1e}")
    return [*found, *([] if calls else ["no block is cut"])]


class Missing(torch.nn.Module):
    """A part that another device has."""

    def forward(self, x, *args, **options):
        return x


def chained(base, rows) -> list[str]:
    """Two devices one behind the other, each with half of the layers."""
    wanted = base(inputs_embeds=rows).last_hidden_state
    names = [n for n in base._pp_plan if isinstance(base.get_submodule(n), torch.nn.ModuleList)]
    behind = list(base._pp_plan)[list(base._pp_plan).index(names[0]) + 1 :]
    x = rows
    count = len(base.get_submodule(names[0]))
    for first, last in ((0, count // 2), (count // 2, count)):
        part = copy.deepcopy(base)
        layers = part.get_submodule(names[0])
        for i in range(count):
            if not first <= i < last:
                layers[i] = Missing()
        if last < count:
            for name in behind:
                parent, _, own = name.rpartition(".")
                setattr(part.get_submodule(parent), own, Missing())
        x = part(inputs_embeds=x).last_hidden_state
    return [] if len(names) == 1 and torch.equal(x, wanted) else ["half and half of the layers give other states"]


def processed(processor, token: int) -> list[str]:
    """Counts before there is a picture, and the text that pictures become, beside what the processor makes."""
    found = []
    for width, height in ((64, 48), (30, 200), (500, 40)):
        picture = Image.new("RGB", (width, height), "red")
        asked = f"a{processor.image_token}b"
        made = processor(text=[asked], images=[[picture]], return_text_replacement_offsets=True)
        counts = processor._get_num_multimodal_tokens(image_sizes=[(height, width)])
        if counts["num_image_tokens"] != [int((made["input_ids"] == token).sum())]:
            found.append(f"{counts} of a picture of {width}x{height}, which has {int((made['input_ids'] == token).sum())} tokens")
        (entry,) = made["text_replacement_offsets"][0]
        grown = asked[: entry["span"][0]] + entry["replacement"] + asked[entry["span"][1] :]
        if grown[slice(*entry["new_span"])] != entry["replacement"] or entry["type"] != "image":
            found.append(f"{entry} is not where it says")
        encoder = processor.whole.encoders[processor.whole._text_entry()]
        ids = [p.id for p in encoder.tokenizer.encode(grown)]
        if [i for i in made["input_ids"][0].tolist() if i not in (encoder.bos, encoder.eos)] != [i for i in ids if i != encoder.bos]:
            found.append("the text with what pictures become has other ids")
    return found


class Calls(TorchFunctionMode, list):
    """Counts fused attention."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is torch.nn.functional.scaled_dot_product_attention:
            self.append(func)
        return func(*args, **(kwargs or {}))


def implementations(folder: Path, model, prompt, found: list[str]) -> None:
    """`attn_implementation` is obeyed: eager gives the same numbers by other code, and can be set later."""
    ids, media = prompt
    wanted = model(input_ids=ids[None], **media).logits
    other = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, attn_implementation="eager").eval()
    with Calls() as calls:
        made = other(input_ids=ids[None], **media).logits
        eager = len(calls)
        other.set_attn_implementation("sdpa")
        again = other(input_ids=ids[None], **media).logits
    if eager >= len(calls) - eager or loaded.far(made, wanted) > WITHIN:
        found.append(f"eager: {eager} calls of sdpa, {len(calls) - eager} by sdpa; apart {loaded.far(made, wanted):.1e}")
    if not torch.equal(again, wanted):
        found.append("set back to sdpa it gives other numbers")


if __name__ == "__main__":
    torch.set_num_threads(1)
    for given in sys.argv[1:]:
        try:
            result = served(Path(given))
        except Exception as error:
            result = [f"{type(error).__name__}: {error}"[:600], traceback.format_exc()[-1200:]]
        assert "vlmgraph" not in sys.modules
        print("RESULT " + json.dumps(result), flush=True)
