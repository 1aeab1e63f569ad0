"""Writes the folder: source, configuration, weights, what generation and processors need."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...diagnostics import Diagnostic, DiagnosticError
from ...diagnostics import codes as C
from ...ir.graph import Graph
from ...weights.load import state_tensors
from ...weights.safetensors_io import SHARD_BYTES, save_weights, write_text
from .plan import Plan, plan, to_json, writing_program

if TYPE_CHECKING:
    from ...lower.model import CompiledModel


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
        generator = Generator(model, program if declared.cache or declared.carry else None)
        text = render(generator.module())
    except PROBLEMS as error:
        raise diagnosed(error, model) from error
    made = plan(model, generator, program, writes is not None)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / made.source, text)
    for module, template in ((made.configuration_module, "configuration"), (made.modeling_module, "modeling")):
        write_text(folder / f"{module}.py", rendered(template, made))
    save_weights(weights(model, made), folder, max_shard_bytes)
    write_text(folder / "config.json", to_json(configuration(model, made)))
    if made.generates:
        write_text(folder / "generation_config.json", to_json(generation(model.graph)))
    return f"{folder}: {', '.join(sorted(p.name for p in folder.iterdir()))}"


@cache
def environment() -> Any:
    import jinja2

    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"), trim_blocks=True, lstrip_blocks=True, autoescape=False,
        undefined=jinja2.StrictUndefined, keep_trailing_newline=True,
    )  # fmt: skip


def rendered(template: str, made: Plan) -> str:
    text: str = environment().get_template(f"{template}.py.jinja").render(p=made)
    return text


def weights(model: CompiledModel, made: Plan) -> dict[str, Any]:
    """Each tensor once: of tied ones the first name."""
    tensors = {f"model.{k}": v for k, v in state_tensors(model)}
    return {k: v for k, v in tensors.items() if k not in made.ties}


def auto_classes(made: Plan) -> list[str]:
    """The Auto classes that give the model."""
    if not made.generates:
        return ["AutoModel"]
    return ["AutoModel", "AutoModelForCausalLM", *(["AutoModelForImageTextToText"] if made.others else [])]


def configuration(model: CompiledModel, made: Plan) -> dict[str, Any]:
    auto = {"AutoConfig": f"{made.configuration_module}.{made.config_class}"}
    auto |= dict.fromkeys(auto_classes(made), f"{made.modeling_module}.{made.model_class}")
    return {
        "architectures": [made.model_class],
        "model_type": made.model_type,
        "auto_map": auto,
        "dtype": str(model.dtype).removeprefix("torch."),
        "is_encoder_decoder": False,
        "tie_word_embeddings": bool(made.ties),
        **made.facts,
    }


def generation(graph: Graph) -> dict[str, Any]:
    """Greedy, as `vlmgraph run` is; the ids that end an answer where the spec's processor names them."""
    return {"do_sample": False, "pad_token_id": 0}
