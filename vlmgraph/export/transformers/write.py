"""Writes the folder: source, configuration, weights, what generation and processors need."""

from __future__ import annotations

import json
import shutil
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ...diagnostics import Diagnostic, DiagnosticError
from ...diagnostics import codes as C
from ...ir.graph import Graph
from ...weights.load import LOCK, state_tensors
from ...weights.lock import lock_text
from ...weights.safetensors_io import SHARD_BYTES, save_weights, write_text
from .attention import through_interface
from .engine import STATES, Engine, Unmet, attends_by_interface, engine
from .engine import generator as served_generator
from .plan import Plan, outside, plan, roles, to_json, writing_program
from .processing import SETTINGS, Processing, processing

if TYPE_CHECKING:
    from ...codegen.generate import Generator
    from ...lower.model import CompiledModel
    from ...processor.core import Processor

TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "tokenizer.model", "vocab.json",
    "merges.txt", "chat_template.jinja",
)  # fmt: skip
"""Of the folder that a model was loaded from."""


def export(model: CompiledModel, folder: Path, max_shard_bytes: int = SHARD_BYTES, **options: Any) -> str:
    """Write the folder; says what is in it. Raises DiagnosticError where the model has no source that stands alone, or no weights."""
    from ... import codegen
    from ...codegen.generate import Generator, render
    from ...codegen.problems import PROBLEMS, diagnosed

    assert codegen is not None
    if options:
        text = f"the target transformers has no option {next(iter(options))!r}"
        raise DiagnosticError(Diagnostic(C.CANNOT_SAVE, text, fix="leave it out"))
    if model.device.type == "meta":
        text = f"{model.graph.name} has no weights: it was built on the meta device"
        raise DiagnosticError(Diagnostic(C.CANNOT_SAVE, text, fix='build it with device="cpu", or load a folder with weights'))
    writes = writing_program(model.graph)
    program = writes or model.main
    declared = model.graph.programs[program]
    try:
        found, _ = asked(model, writes)
        if found is None:
            generator = Generator(model, program if declared.cache or declared.carry else None)
            found = Source(None, generator, *through_interface(render(generator.module())))
    except PROBLEMS as error:
        raise diagnosed(error, model) from error
    run = program if found.engine is None else STATES
    made = plan(model, found.generator, found.text, run, writes is not None, found.attends, found.engine)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / LOCK, lock_text(model.spec, model.graph))
    write_text(folder / made.source, found.text)
    for module, template in ((made.configuration_module, "configuration"), (made.modeling_module, "modeling")):
        write_text(folder / f"{module}.py", rendered(template, made))
    save_weights(weights(model, made), folder, max_shard_bytes)
    write_text(folder / "config.json", to_json(configuration(model, made)))
    processor, notes = read_processor(model)
    if processor is not None:
        notes += write_processor(model, processor, made, folder)
    if made.generates:
        write_text(folder / "generation_config.json", to_json(generation(model.graph, processor)))
    told = [f"{folder}: {', '.join(sorted(p.name for p in folder.iterdir()))}", *notes]
    return "\n".join(told)


class Source(NamedTuple):
    """The modules as text, with what wrote it and the classes that attend by the interface; `engine` where engines can run it."""

    engine: Engine | None
    generator: Generator
    text: str
    attends: list[str]


def asked(model: CompiledModel, program: str | None) -> tuple[Source | None, str]:
    """The source that gives what engines ask of a model, or why there is none."""
    from ...codegen.generate import render

    try:
        found = engine(model, program)
    except Unmet as unmet:
        return None, str(unmet)
    generator = served_generator(model, found)
    made = Source(found, generator, *through_interface(render(generator.module())))
    if not attends_by_interface(made.text, made.attends):
        return None, "the stack's attention is not that of the interface"
    return made, ""


def read_processor(model: CompiledModel) -> tuple[Processor | None, list[str]]:
    """The model's processor as its spec and the folder it was loaded from have it; and what there is to say where there is none."""
    from ...processor.model import model_processor

    origin = getattr(model, "origin", None)
    try:
        return model_processor(model.spec, model.graph, getattr(origin, "folder", None)), []
    except DiagnosticError as error:
        return None, [f"no processor: {d.message}" for d in error.diagnostics]


def write_processor(model: CompiledModel, processor: Processor, made: Plan, folder: Path) -> list[str]:
    """Its files, and those of the tokenizer; what there is to say where it cannot stand alone."""
    origin = getattr(model, "origin", None)
    for name in TOKENIZER_FILES:
        if origin is not None and (origin.folder / name).is_file() and origin.folder.resolve() != folder.resolve():
            shutil.copyfile(origin.folder / name, folder / name)
    try:
        found = processing(processor, model.graph, made.prefix)
    except DiagnosticError as error:
        return [f"no processor files: {d.message} [{d.code}]" for d in error.diagnostics]
    for module, text in found.files.items():
        write_text(folder / f"processing_{module}.py", text)
    write_text(folder / "processing_base.py", rendered("base", found))
    write_text(folder / f"processing_{made.name}.py", rendered("processing", found))
    place = f"processing_{made.name}.{made.prefix}Processor"
    named = {"processor_class": f"{made.prefix}Processor", "auto_map": {"AutoProcessor": place}}
    write_text(folder / SETTINGS, to_json({**named, "settings": found.stored}))
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["auto_map"]["AutoProcessor"] = place
    write_text(folder / "config.json", to_json(config))
    return [f"note: {note.message}" for note in processor.notes]


@cache
def environment() -> Any:
    import jinja2

    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"), trim_blocks=True, lstrip_blocks=True, autoescape=False,
        undefined=jinja2.StrictUndefined, keep_trailing_newline=True,
    )  # fmt: skip


def rendered(template: str, made: Plan | Processing) -> str:
    text: str = environment().get_template(f"{template}.py.jinja").render(p=made)
    return text.rstrip("\n") + "\n"


def weights(model: CompiledModel, made: Plan) -> dict[str, Any]:
    """Each tensor once: of tied ones the first name."""
    tensors = {outside(k, made.engine): v for k, v in state_tensors(model)}
    return {k: v for k, v in tensors.items() if k not in made.ties}


def auto_classes(made: Plan) -> list[str]:
    """The Auto classes that give the model."""
    if not made.generates:
        return ["AutoModel"]
    return ["AutoModel", "AutoModelForCausalLM", *(["AutoModelForImageTextToText"] if made.others else [])]


def configuration(model: CompiledModel, made: Plan) -> dict[str, Any]:
    auto = {"AutoConfig": f"{made.configuration_module}.{made.config_class}"}
    auto |= dict.fromkeys(auto_classes(made), f"{made.modeling_module}.{made.model_class}")
    if made.engine is not None:
        auto["AutoModel"] = f"{made.modeling_module}.{made.base_class}"
    dtype = str(model.dtype).removeprefix("torch.")
    nested = {"text_config": {"model_type": f"{made.model_type}_text", "dtype": dtype, **made.facts}}
    return {
        "architectures": [made.model_class],
        "model_type": made.model_type,
        "auto_map": auto,
        "dtype": dtype,
        "is_encoder_decoder": False,
        "tie_word_embeddings": bool(made.ties),
        "roles": roles(model.graph, made.engine),
        **(made.facts if made.engine is None else nested),
    }


def generation(graph: Graph, processor: Processor | None) -> dict[str, Any]:
    """Greedy, as `vlmgraph run` is, until the ids that end an answer where the processor names them."""
    known: dict[str, Any] = {"do_sample": False, "pad_token_id": 0}
    written = "decoder_input_ids" if "decoder_input_ids" in graph.inputs else "input_ids"
    encoder = None if processor is None else processor.encoders.get(written, processor.encoders.get("input_ids"))
    if encoder is not None:
        known["pad_token_id"] = int(encoder.pad or 0)
        known |= {"eos_token_id": list(encoder.stop)} if encoder.stop else {}
        known |= {"bos_token_id": encoder.bos} if encoder.bos is not None else {}
    return known
