"""The compiled model: modules by component id, programs by name, called with the inputs' names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx, nn

from ..diagnostics import Collector, Diagnostic, DiagnosticError
from ..diagnostics import codes as C
from ..ir.graph import Graph
from ..ir.types import Type
from ..passes.last import last_position
from ..passes.objectives import objective_graph
from ..passes.slice import MissingInput, ProgramGraph, slice_program
from ..spec import Spec
from .build import allocate, build_modules
from .generate import Recordings, generate, stream
from .inputs import Watch, check_placeholders, prepared, unfed_placeholders
from .program import lower_program
from .sample_image import draw, pixels

if TYPE_CHECKING:
    from .fast import Regions
    from .fast.lowbit import Choice, Quantization


class CompiledProgram:
    """One entry point. It is lowered once for each set of inputs it is called with."""

    def __init__(self, model: CompiledModel, name: str) -> None:
        self.model, self.name = model, name
        self._lowered: dict[tuple[frozenset[str], bool, bool], tuple[ProgramGraph, Any]] = {}
        self._watched: dict[frozenset[str], list[Watch]] = {}

    @property
    def source(self) -> Graph:
        """The graph this program is cut from; an objective has its own, with its feeds in place."""
        return self.model.objective_graph(self.name) if self.name.startswith("objective.") else self.model.graph

    def graph(self, present: frozenset[str] | None = None, step: bool = False) -> ProgramGraph:
        """The nodes that run when the inputs `present` are given (default: all of them)."""
        return slice_program(self.source, self.name, present, step)

    def lowered(self, present: frozenset[str] | None = None, step: bool = False, last: bool = False) -> tuple[ProgramGraph, Any]:
        """The program's slice and its fx module for these inputs; with `last` logits are of the last position alone."""
        present = frozenset(self.graph().inputs) if present is None else present
        key = (present, step, last)
        if key not in self._lowered:
            try:
                program = self.graph(present, step)
                program = last_position(self.source, program) if last else program
            except MissingInput as error:
                types = self.model.graph.inputs
                wanted = ", ".join(f"{n}: {types[n]}" for n in error.needed if n in types)
                label = self.model.graph.labels.get(f"program:{self.name}")
                raise DiagnosticError(Diagnostic(C.MISSING_INPUT, str(error), label, notes=(wanted,) if wanted else ())) from error
            self._lowered[key] = (program, lower_program(self.source, program, self.model))
        return self._lowered[key]

    def run(
        self, inputs: Mapping[str, Any], caches: Mapping[str, Any] | None = None, step: bool = False, last: bool = False
    ) -> dict[str, Any]:
        """Outputs by name, and carried values as `carry.<name>`. With `last` logits are of the last position alone."""
        given = {k: v for k, v in inputs.items() if v is not None}
        program, module = self.lowered(present := frozenset(given), step, last)
        if not step:
            if present not in self._watched:
                self._watched[present] = unfed_placeholders(self.source, self.graph(), program)
            check_placeholders(self._watched[present], given)
            if self.model.mode == "compile" and not torch.is_grad_enabled():
                self.model.settle()
        arguments = [given[name] for name in program.inputs]
        arguments += [(caches or {}).get(component) for component in program.cache]
        try:
            return module(*arguments)
        except ValueError as error:
            if getattr(error, "diagnostic", None) is None and type(error) is ValueError:
                raise
            raise DiagnosticError(Diagnostic(C.BAD_INPUT_VALUE, str(error))) from error

    def __call__(self, **inputs: Any) -> dict[str, Tensor]:
        out = self.run(self.model.prepare(inputs, self.name))
        return {name: value for name, value in out.items() if not name.startswith("carry.")}

    @property
    def fx(self) -> fx.GraphModule:
        """The fx form with every input given."""
        program = self.graph()
        return lower_program(self.source, program, self.model)


class Programs(Mapping[str, CompiledProgram]):
    """The declared programs, and `objective.<name>` for each loss."""

    def __init__(self, model: CompiledModel) -> None:
        names = [*model.graph.programs, *(f"objective.{o}" for o in model.graph.objectives)]
        self._programs = {name: CompiledProgram(model, name) for name in names}

    def __getitem__(self, name: str) -> CompiledProgram:
        return self._programs[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._programs)

    def __len__(self) -> int:
        return len(self._programs)


class CompiledModel(nn.Module):
    """A spec as a torch module. State-dict keys start with component ids; `model(**inputs)` runs program `forward`."""

    def __init__(self, spec: Spec, graph: Graph, device: str = "cpu", dtype: torch.dtype = torch.float32, mode: str = "eager") -> None:
        super().__init__()
        self.spec, self.graph, self.mode = spec, graph, mode
        self.generation: dict[str, Any] = {}
        """Defaults of `generate` that its folder has."""
        self._objective_graphs: dict[str, Graph] = {}
        build_modules(graph, self)
        if device != "meta":
            allocate(self, device, dtype)
        elif dtype != torch.float32:
            self.to(dtype)
        self.programs = Programs(self)
        self.quantization: Quantization | None = None
        """What of it is low-bit, by role, with the errors of the weights."""
        self.eval()
        self._placed: set[tuple[int, int]] = set()
        self.compiled_regions: Regions | None = None
        """With `mode="compile"`: what was compiled, how often and for how long, `compiled_regions.report()`."""
        self.recorded_steps: Recordings | None = None
        """With `mode="compile"`: steps of decoding that are recorded and replayed on a CUDA device, `recorded_steps.report()`."""
        if mode == "compile":
            from .fast import Regions, fuse  # what compiles takes seconds to import

            fuse(self)
            self.compiled_regions, self.recorded_steps = Regions(self), Recordings()

    @property
    def device(self) -> torch.device:
        return next((p.device for p in self.parameters()), torch.device("cpu"))  # a model of ops alone has no parameters

    @property
    def dtype(self) -> torch.dtype:
        return next((p.dtype for p in self.parameters() if p.is_floating_point()), torch.float32)

    @property
    def main(self) -> str:
        """The program that a call runs: `forward`, or the first declared."""
        return "forward" if "forward" in self.programs else next(iter(self.programs))

    def forward(self, **inputs: Any) -> dict[str, Tensor]:
        return self.programs[self.main](**inputs)

    @torch.inference_mode(False)
    def settle(self) -> None:
        """With `mode="compile"`: join weights that are read together and lay them in huge pages, where they were loaded or moved since."""
        from .fast import place, settle
        from .fast.lowbit import native

        settle(self)
        if self.device.type == "cpu":
            native.load()
            self._placed = place(self, self._placed)

    def quantize(self, choice: Choice) -> Quantization:
        """Make linear maps low-bit, in place: `"int8"`, `"int4"`, or by role `["int4", "head=int8"]`. What is left trains no more.

        Raises DiagnosticError for a choice that cannot be meant, and where something is quantised already.
        """
        from .fast.lowbit import native, quantize

        if self.quantization is not None:
            raise DiagnosticError(Diagnostic(C.BAD_OPTION, f"{self.graph.name} is quantised already", fix="load it anew"))
        self.quantization = quantize(self, choice)
        if self.device.type == "cpu":
            native.load()
        if self.compiled_regions is not None:
            from .fast import Regions

            self.compiled_regions = Regions(self)
        return self.quantization

    def train(self, mode: bool = True) -> CompiledModel:
        """Raises DiagnosticError where weights are low-bit: they cannot be learned."""
        if mode and getattr(self, "quantization", None) is not None:
            text = f"{self.graph.name} is quantised, and codes of a few bits cannot be trained"
            raise DiagnosticError(Diagnostic(C.CANNOT_TRAIN, text, fix="train it without quantize, and quantise what was trained"))
        super().train(mode)
        return self

    def objective_graph(self, name: str) -> Graph:
        """The graph with an objective's own nodes and rebound ports, typed anew."""
        if name not in self._objective_graphs:
            found = Collector()
            self._objective_graphs[name] = objective_graph(self.graph, name.partition(".")[2], found)
            found.stop()
        return self._objective_graphs[name]

    def prepare(self, inputs: Mapping[str, Any], program: str) -> dict[str, Any]:
        """Inputs checked against their declared types and moved to the model's dtype. Raises DiagnosticError."""
        return prepared(inputs, self.accepted(program), self.graph.name, self.dtype, self.device)

    def accepted(self, program: str) -> dict[str, Type]:
        """What may be given: the graph's inputs (of an objective as its loss takes them) and the values a program is cut at."""
        types = dict(self.programs[program].source.inputs if program in self.programs else self.graph.inputs)
        declared = self.graph.programs.get(program)
        for cut in (declared.inputs or ()) if declared else ():
            types.setdefault(cut, self.graph.types()[self.graph.resolve(cut)])
        return types

    def generate(self, *args: Any, generation_mode: str = "text", **kwargs: Any) -> Tensor:
        """Prompt and new tokens, [B, T + new]. Argument names as in transformers; see `vlmgraph.lower.generate`.

        With `generation_mode="image"` the codes of an image instead, [B, count] (`vlmgraph.lower.sample_image`).
        """
        if generation_mode not in ("text", "image"):
            raise ValueError(f"generation_mode is 'text' or 'image', not {generation_mode!r}")
        return draw(self, *args, **kwargs)[1] if generation_mode == "image" else generate(self, *args, **kwargs)

    def stream(self, processor: Any, *args: Any, **kwargs: Any) -> Iterator[str]:
        """The answer to one prompt as pieces of text while it is written; arguments as of `generate`.

        for piece in model.stream(processor, **inputs, max_new_tokens=64):
            print(piece, end="", flush=True)
        """
        return stream(self, processor, *args, **kwargs)

    def generate_image(self, *args: Any, **kwargs: Any) -> Tensor:
        """float32 pixels [B, 3, H, W] of an image for each prompt, by a spec that declares a procedure for it; `Processor.pictures` makes
        pictures of them.

            inputs = processor(text=processor.prompt("generate_image", prompt="a red fox in snow"))
            pixels = model.generate_image(**inputs, guidance_scale=5.0, generator=torch.Generator().manual_seed(0))

        Takes `input_ids`, `attention_mask` and the options of `vlmgraph.lower.sample_image`: guidance_scale, do_sample, temperature,
        top_k, top_p, num_return_sequences, generator.
        """
        return pixels(self, *draw(self, *args, **kwargs))

    def save(self, folder: str | Path, format: str = "vlmgraph") -> Path:
        """Write the compiled folder (`format="vlmgraph"`) or a transformers-format checkpoint (`"transformers"`)."""
        from ..weights.save import save_model

        return save_model(self, Path(folder), format)
