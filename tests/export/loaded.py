"""Run with `python -I`: loads folders as transformers does, where vlmgraph cannot be imported. Prints one line of JSON a folder."""

from __future__ import annotations

import json
import sys
import traceback
from pathlib import Path


class Blocker:
    """vlmgraph cannot be imported."""

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "vlmgraph":
            raise ImportError(f"{name} is out of reach here")
        return None


sys.meta_path.insert(0, Blocker())

import torch  # noqa: E402
import transformers  # noqa: E402
from PIL import Image  # noqa: E402
from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, AutoProcessor  # noqa: E402

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()


def far(a, b):
    return float((a.double() - b.double()).norm() / b.double().norm().clamp_min(1e-12)) if a.shape == b.shape else 1.0


class Forced:
    """A logits processor that writes given tokens [B, n], whatever the scores are."""

    def __init__(self, tokens, prompt):
        self.tokens, self.prompt = tokens, prompt

    def __call__(self, ids, scores):
        scores = torch.full_like(scores, -1e9)
        return scores.scatter(1, self.tokens[:, ids.shape[1] - self.prompt, None], 0.0)


def shown(value):
    """Pixels as pictures, wherever they stand."""
    if isinstance(value, torch.Tensor):
        return Image.fromarray(value.numpy())
    return [shown(v) for v in value] if isinstance(value, list) else value


def processed(folder: Path, calls) -> list[str]:
    """What differs between the inputs that the folder's processor makes and those recorded."""
    found = []
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    for call, wanted in calls:
        made = processor(**{name: shown(value) if name not in ("text", "messages") else value for name, value in call.items()})
        if sorted(made) != sorted(wanted):
            found.append(f"the processor makes {sorted(made)}, not {sorted(wanted)}")
        found += [f"the processor's {k} differs" for k in wanted if k in made and not same(made[k], wanted[k])]
    return found


def same(a, b):
    return a.dtype == b.dtype and torch.equal(a, b)


def compared(folder: Path) -> list[str]:
    """What differs between what the folder's model gives and what is recorded beside it."""
    saved = torch.load(folder / "recorded.pt", weights_only=True)
    found = []
    classes = AutoConfig.from_pretrained(folder, trust_remote_code=True).auto_map
    found += processed(folder, saved["processor"]) if "AutoProcessor" in classes else ["it has no processor"]
    auto = AutoModelForImageTextToText if "AutoModelForImageTextToText" in classes else AutoModel
    model, info = auto.from_pretrained(folder, trust_remote_code=True, output_loading_info=True)
    found += [f"{k}: {sorted(v)[:4]}" for k, v in info.items() if v]
    model.eval()
    seen = dict.fromkeys(saved["encoders"], 0)
    for name in seen:
        model.model.get_submodule(name).register_forward_hook(lambda *_, name=name: seen.update({name: seen[name] + 1}))
    for label, call in saved["calls"].items():
        with torch.no_grad():
            seen.update(dict.fromkeys(seen, 0))
            out = model(**call["inputs"])
            once = dict(seen)
            for name, wanted in call["outputs"].items():
                apart = far(out[name], wanted) if out.get(name) is not None else 1.0
                if apart > call["within"]:
                    found.append(f"{label}: {name} differs by {apart:.1e}")
        written = call["written"]
        if written is None:
            continue
        tokens, prompt = written["tokens"], written["prompt"]
        options = {"do_sample": False, "eos_token_id": None}
        for use_cache, scores, greedy in zip((True, False), written["scores"], written["greedy"], strict=True):
            how = f"{label}, {'with' if use_cache else 'without'} a cache"
            ids = model.generate(**call["inputs"], max_new_tokens=greedy.shape[1] - prompt, use_cache=use_cache, **options)
            if ids.tolist() != greedy.tolist():
                found.append(f"{how}: {ids.tolist()} and not {greedy.tolist()}")
            seen.update(dict.fromkeys(seen, 0))
            made = model.generate(
                **call["inputs"], max_new_tokens=tokens.shape[1], use_cache=use_cache, logits_processor=[Forced(tokens, prompt)],
                output_logits=True, return_dict_in_generate=True, **options,
            )  # fmt: skip
            apart = max(far(a, b) for a, b in zip(made.logits, scores.unbind(1), strict=True))
            if apart > call["within"]:
                found.append(f"{how}: scores of given tokens differ by {apart:.1e}")
            times = 1 if use_cache and written["cached"] else tokens.shape[1]
            if seen != {name: count * times for name, count in once.items()}:
                found.append(f"{how}: encoders ran {seen} times, in one run {once}")
        for how, wanted in written["others"].items():
            ways = {"beams": {"num_beams": 3}, "sampled": {"do_sample": True, "top_k": 20}}
            for use_cache in (True, False):
                torch.manual_seed(3)
                ids = model.generate(**call["inputs"], max_new_tokens=4, use_cache=use_cache, **options | ways[how])
                if ids.tolist() != wanted.tolist():
                    found.append(f"{label}, {how}, {'with' if use_cache else 'without'} a cache: {ids.tolist()} and not {wanted.tolist()}")
        if written["others"]:
            found += [f"{label}: {told}" for told in by_row(model, call["inputs"], written["greedy"][0], prompt)]
    return found


def by_row(model, given, greedy, prompt) -> list[str]:
    """A row by itself, without the padding on its left, is written on as in the batch."""
    found = []
    for i, keep in enumerate(given["attention_mask"].bool()):
        alone = {k: v[i : i + 1] for k, v in given.items() if len(v) == len(greedy) and k not in ("input_ids", "attention_mask")}
        alone = {k: v[:, keep] if v.dim() > 2 and v.shape[1] == len(keep) else v for k, v in alone.items()}  # what each token may see
        others = [k for k in given if k not in ("input_ids", "attention_mask", *alone)]
        ids = model.generate(
            input_ids=given["input_ids"][i : i + 1, keep],
            **alone,
            max_new_tokens=greedy.shape[1] - prompt,
            do_sample=False,
            eos_token_id=None,
        )
        if others or ids[0, int(keep.sum()) :].tolist() != greedy[i, prompt:].tolist():
            found.append(f"row {i} alone: {ids[0].tolist()}; in the batch {greedy[i].tolist()}; inputs not by row: {others}")
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    for given in sys.argv[1:]:
        try:
            result = compared(Path(given))
        except Exception as error:
            result = [f"{type(error).__name__}: {error}"[:600], traceback.format_exc()[-900:]]
        assert "vlmgraph" not in sys.modules
        print("RESULT " + json.dumps(result), flush=True)
