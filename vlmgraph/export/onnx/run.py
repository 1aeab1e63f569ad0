"""A folder of graphs run with onnxruntime and numpy alone: torch is not imported.

What one graph gives another takes as it lies in onnxruntime's memory. Keys and values of a graph with `shared` buffers (`--optimize`) stand
in one place with room for all new tokens and are written there; of others the operators give longer ones at each step.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ... import pages
from ...diagnostics import Diagnostic, DiagnosticError
from ...diagnostics import codes as C

if TYPE_CHECKING:
    from .bound import Bound, Values

MANIFEST = "manifest.json"
Arrays = dict[str, np.ndarray]


def is_exported(folder: str | Path) -> bool:
    return (Path(folder) / MANIFEST).is_file()


class Exported:
    """The graphs of a folder, each opened when it is first run.

    `threads` is onnxruntime's intra_op_num_threads, 0 for one on each core. On `cuda` values still stand in the machine's own memory
    between the graphs. Raises DiagnosticError, when a graph is opened too, where it would run on another device than this one.
    """

    def __init__(self, folder: str | Path, threads: int = 0, device: str = "cpu") -> None:
        self.folder, self.threads, self.device = Path(folder), threads, device
        self.providers = providers(device)
        self.manifest: dict[str, Any] = json.loads((self.folder / MANIFEST).read_text(encoding="utf-8"))
        self.sessions: dict[str, Any] = {}

    def run(self, program: str, **inputs: np.ndarray) -> Arrays:
        """The outputs of a program without a cache, by their names."""
        made = self.program(program)
        if "graphs" not in made:
            raise DiagnosticError(Diagnostic(C.MISSING_INPUT, f"{program!r} decodes: call `generate`"))
        values: Values = dict(inputs)
        for step in made["graphs"]:
            self.bound(step)(values, {})
        return {name: as_array(values[value]) for name, value in made["outputs"].items()}

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
        values: Values = {k: v for k, v in inputs.items() if v is not None}
        if input_ids is not None:
            values["input_ids"] = input_ids
        if written not in values:
            start = int(self.manifest["tokens"].get("<decoder_start>", 0))
            values[written] = np.full((len(next(iter(values.values()))), 1), start, dtype=np.int64)
        ids = values[written]
        stop = [eos_token_id] if isinstance(eos_token_id, int) else list(eos_token_id or ())
        done = np.zeros(len(ids), dtype=bool)
        tokens: list[np.ndarray] = []
        real = as_array(values[mask]) if (mask := made["padding"]) in values else np.ones((len(ids), 0))
        real = np.concatenate([real, np.ones((len(real), max_new_tokens), dtype=real.dtype)], axis=1)  # new tokens are no padding
        cache: Values = {}
        bound: dict[int, Bound] = {}
        phases = made if self.fed(made["prompt"], values) else made.get("text", {"prompt": made["step"], "step": made["step"]})
        steps = phases["prompt"]  # a text without media needs none of what sees them
        for count in range(max_new_tokens):
            for step in steps:
                if id(step) not in bound:
                    bound[id(step)] = self.bound(step)
                bound[id(step)](values, cache, max_new_tokens - count - 1)
            token = choose(as_array(values[made["logits"]])[:, -1].astype(np.float32, copy=False))
            token = np.where(done, pad_token_id, token) if stop else token
            tokens.append(token[:, None])
            if streamer:
                streamer(token)
            if stop:
                done |= np.isin(token, stop)
            if (stop and done.all()) or count + 1 == max_new_tokens:
                break
            values[written] = token[:, None].astype(ids.dtype, copy=False)
            if mask in values:
                values[mask] = real[:, : real.shape[1] - max_new_tokens + count + 1]
            for name in made["seen"]:
                if name in values:
                    values[name] = as_array(values[name])[:, -1:]
            steps = phases["step"]
        return np.concatenate([ids, *tokens], axis=1)

    def bound(self, step: Mapping[str, Any]) -> Bound:
        from .bound import Bound

        return Bound(self.session(step["graph"]), self.manifest["graphs"][step["graph"]], step)

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

    def session(self, name: str) -> Any:
        if name not in self.sessions:
            import onnxruntime

            options = onnxruntime.SessionOptions()
            options.log_severity_level = 3
            options.intra_op_num_threads = self.threads
            options.enable_mem_pattern = "cache" not in self.manifest["graphs"][name]  # a new plan for each length costs more than it saves
            path = self.folder / self.manifest["graphs"][name]["file"]
            reread = self.device == "cpu" and "cache" in self.manifest["graphs"][name]  # all weights, by each step
            try:
                with pages.collapsing() if reread else nullcontext():
                    made = onnxruntime.InferenceSession(str(path), options, providers=self.providers)
            except Exception as error:
                needs = self.manifest["graphs"][name].get("onnxruntime", "")
                text = f"onnxruntime {onnxruntime.__version__} does not open {path}"
                fix = f'pip install "onnxruntime{needs}"' if needs else None
                raise DiagnosticError(Diagnostic(C.NO_GENERATE, text, notes=(str(error).splitlines()[0],), fix=fix)) from error
            if made.get_providers()[:1] != self.providers[:1]:  # it goes on without a word
                raise absent(self.device, f"onnxruntime made {name} for {', '.join(made.get_providers())} in its place")
            self.sessions[name] = made
        return self.sessions[name]


PROVIDERS = {"cpu": ["CPUExecutionProvider"], "cuda": ["CUDAExecutionProvider", "CPUExecutionProvider"]}


def providers(device: str) -> list[str]:
    """What onnxruntime is asked for. Raises DiagnosticError for a device that this onnxruntime was not built for."""
    if device not in PROVIDERS:
        raise absent(device, f"graphs run on {' or '.join(PROVIDERS)}")
    if device != "cpu":
        import onnxruntime

        if PROVIDERS[device][0] not in (has := onnxruntime.get_available_providers()):
            raise absent(device, f"this onnxruntime has {', '.join(has)}")
    return PROVIDERS[device]


def absent(device: str, why: str) -> DiagnosticError:
    fix = "--device cpu, or onnxruntime-gpu beside a driver and the CUDA libraries of its version"
    return DiagnosticError(Diagnostic(C.NO_DEVICE, f"the device {device!r} cannot be used: {why}", fix=fix))


def as_array(value: Any) -> np.ndarray:
    """Of a value in onnxruntime's memory, or an array as it is."""
    found: np.ndarray = value if isinstance(value, np.ndarray) else value.numpy()
    return found
