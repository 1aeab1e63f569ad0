"""A folder of graphs run with onnxruntime and numpy alone: torch is not imported."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...diagnostics import Diagnostic, DiagnosticError
from ...diagnostics import codes as C

MANIFEST = "manifest.json"
Arrays = dict[str, np.ndarray]


def is_exported(folder: str | Path) -> bool:
    return (Path(folder) / MANIFEST).is_file()


class Exported:
    """The graphs of a folder, each opened when it is first run."""

    def __init__(self, folder: str | Path, threads: int = 0) -> None:
        self.folder, self.threads = Path(folder), threads
        self.manifest: dict[str, Any] = json.loads((self.folder / MANIFEST).read_text(encoding="utf-8"))
        self.sessions: dict[str, Any] = {}

    def run(self, program: str, **inputs: np.ndarray) -> Arrays:
        """The outputs of a program without a cache, by their names."""
        made = self.program(program)
        if "graphs" not in made:
            raise DiagnosticError(Diagnostic(C.MISSING_INPUT, f"{program!r} decodes: call `generate`"))
        values = dict(inputs)
        for step in made["graphs"]:
            self.through(step, values, {})
        return {name: values[value] for name, value in made["outputs"].items()}

    def generate(
        self,
        input_ids: np.ndarray | None = None,
        *,
        max_new_tokens: int = 20,
        eos_token_id: int | Sequence[int] | None = None,
        pad_token_id: int = 0,
        choose: Callable[[np.ndarray], np.ndarray] = lambda logits: logits.argmax(-1),
        streamer: Callable[[np.ndarray], None] | None = None,
        program: str | None = None,
        **inputs: Any,
    ) -> np.ndarray:
        """Prompt and new tokens [B, T + new]; `choose` takes logits [B, V] and gives a token a row, the most likely by default.

        The prompt is padded on the left. Raises DiagnosticError where no program of the folder decodes, or an input is missing.
        """
        name = program or next((n for n, p in self.manifest["programs"].items() if p.get("logits")), "")
        made = self.program(name)
        if made.get("logits") is None:
            raise DiagnosticError(Diagnostic(C.NO_GENERATE, f"program {name!r} of {self.folder} gives no logits to choose tokens from"))
        written = made["written"]
        values = {k: v for k, v in inputs.items() if v is not None}
        if input_ids is not None:
            values["input_ids"] = input_ids
        if written not in values:
            start = int(self.manifest["tokens"].get("<decoder_start>", 0))
            values[written] = np.full((len(next(iter(values.values()))), 1), start, dtype=np.int64)
        ids = values[written]
        stop = [eos_token_id] if isinstance(eos_token_id, int) else list(eos_token_id or ())
        done = np.zeros(len(ids), dtype=bool)
        cache: Arrays = {}
        steps = made["prompt"] if self.fed(made["prompt"], values) else made["step"]  # a text without media needs none of what sees them
        for count in range(max_new_tokens):
            for step in steps:
                self.through(step, values, cache)
            token = np.where(done, pad_token_id, choose(values[made["logits"]][:, -1].astype(np.float32)))
            ids = np.concatenate([ids, token[:, None]], axis=1)
            if streamer:
                streamer(token)
            done |= np.isin(token, stop)
            if done.all() or count + 1 == max_new_tokens:
                break
            values[written] = token[:, None].astype(ids.dtype)
            if (mask := made["padding"]) in values:
                values[mask] = np.concatenate([values[mask], np.ones_like(values[mask][:, :1])], axis=1)
            for name in made["seen"]:
                if name in values:
                    values[name] = values[name][:, -1:]
            steps = made["step"]
        return ids

    def program(self, name: str) -> dict[str, Any]:
        programs: dict[str, Any] = self.manifest["programs"]
        if name not in programs:
            reason = self.manifest["refused"].get(name)
            text = (
                f"{self.folder} holds no program {name!r}" + (f": {reason}" if reason else "")
                if name
                else f"no program of {self.folder} decodes"
            )
            raise DiagnosticError(Diagnostic(C.NO_GENERATE, text, notes=(f"programs: {', '.join(programs)}",)))
        found: dict[str, Any] = programs[name]
        return found

    def fed(self, steps: Sequence[Mapping[str, Any]], values: Mapping[str, np.ndarray]) -> bool:
        """Whether the graphs can run one after another from these values."""
        there = set(values)
        for step in steps:
            if not set(step["reads"].values()) <= there:
                return False
            there |= set(step["gives"].values())
        return True

    def through(self, step: Mapping[str, Any], values: Arrays, cache: Arrays) -> None:
        """One graph: `values` and `cache` learn what it gives."""
        graph = self.manifest["graphs"][step["graph"]]
        session = self.session(step["graph"])
        feed: Arrays = {}
        taken = {i.name: i.type for i in session.get_inputs()}
        for name, value in step["reads"].items():
            if value not in values:
                text = f"{step['graph']} reads {value!r}, which is not given"
                raise DiagnosticError(
                    Diagnostic(C.MISSING_INPUT, text, fix="give the inputs that the folder was exported with, an image among them")
                )
            if name in taken:
                feed[name] = values[value].astype(KINDS.get(taken[name], values[value].dtype), copy=False)
        slots = graph.get("cache", ())
        if graph.get("takes_past"):
            feed |= {s["past"]: cache[s["past"]] if s["past"] in cache else self.nothing(graph, s["past"], feed) for s in slots}
        wanted = [*step["gives"], *(s["present"] for s in slots)]
        for name, made in zip(wanted, session.run(wanted, feed)):
            if name in step["gives"]:
                values[step["gives"][name]] = made
            else:
                cache[next(s["past"] for s in slots if s["present"] == name)] = made

    def nothing(self, graph: Mapping[str, Any], name: str, feed: Arrays) -> np.ndarray:
        """A cache of no token, with as many rows as what else enters."""
        dims: dict[str, list[Any]] = {i["name"]: i["dims"] for i in graph["inputs"]}
        batch = dims[name][0]
        rows = next(value.shape[dims[other].index(batch)] for other, value in feed.items() if batch in dims[other])
        kind = next(i["dtype"] for i in graph["inputs"] if i["name"] == name)
        shape = [d if isinstance(d, int) else rows if axis == 0 else 0 for axis, d in enumerate(dims[name])]
        return np.zeros(shape, dtype={"float": np.float32, "float16": np.float16}[kind])

    def session(self, name: str) -> Any:
        if name not in self.sessions:
            import onnxruntime

            options = onnxruntime.SessionOptions()
            options.log_severity_level = 3
            options.intra_op_num_threads = self.threads
            path = self.folder / self.manifest["graphs"][name]["file"]
            self.sessions[name] = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        return self.sessions[name]


KINDS = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(bool)": np.bool_,
}
