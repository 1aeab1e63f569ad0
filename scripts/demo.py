"""The whole way of one spec, from TOML to an answer about a photo: `python scripts/demo.py [SPEC]`, or `make demo`.

Every line that starts with `$` is a command that can be typed as it stands. Returns 1 when a step fails.
"""

from __future__ import annotations

import shlex
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

PROMPT = "What is in this photo?"


def main(arguments: list[str]) -> int:
    spec = arguments[0] if arguments else "specs/cogvlm.toml"
    name = Path(spec).stem
    published, tiny = f"build/demo/{name}", f"build/demo/{name}-tiny"
    china, flower = photos(Path("build/demo"))
    began = time.perf_counter()
    try:
        vlmgraph("check", spec)
        vlmgraph("compile", spec, "-o", published)
        vlmgraph("compile", spec, "--size", "tiny", "--device", "cpu", "-o", tiny)
        reloaded(spec, tiny)
        vlmgraph("run", tiny, "--image", china, "--prompt", PROMPT, "--max-new-tokens", "24")
        print("  (weights that nobody trained say nothing; the way from the photo to these bytes is the one that trained ones go)")
        seen(tiny, china, flower)
        vlmgraph("report", spec)
    except Failed as failure:
        print(f"\nthe demo failed: {failure}", file=sys.stderr)
        return 1
    print(f"\n{written(published)}")
    print(f"\n{published}/report.html shows the diagram; the demo took {time.perf_counter() - began:.1f} s")
    return 0


class Failed(Exception):
    """A step that did not give what it has to."""


@contextmanager
def step(title: str) -> Iterator[None]:
    print(f"\n$ {title}", flush=True)
    began = time.perf_counter()
    yield
    sys.stdout.flush()
    print(f"  [{time.perf_counter() - began:.2f} s]", flush=True)


def vlmgraph(*arguments: str) -> None:
    """One command, in this process. Its findings go to the same place as its results, so that they stay in order."""
    from vlmgraph.cli import main as command

    with step(shlex.join(["vlmgraph", *arguments])):
        code = command(arguments)
    if code:
        raise Failed(f"`{shlex.join(['vlmgraph', *arguments])}` ended with {code}")


def photos(folder: Path) -> list[str]:
    """Copies of the two photographs that scikit-learn ships; it is not imported for them."""
    found = find_spec("sklearn")
    if found is None or not found.submodule_search_locations:
        raise SystemExit("the demo's photos come with scikit-learn: pip install 'vlmgraph[demo]', or run `make demo`")
    folder.mkdir(parents=True, exist_ok=True)
    source = Path(found.submodule_search_locations[0], "datasets/images")
    return [shutil.copy(source / name, folder) for name in ("china.jpg", "flower.jpg")]


def reloaded(spec: str, folder: str) -> None:
    """The model built again from the spec and the one read back from disk are the same, bit by bit."""
    import torch

    import vlmgraph

    with step(f"python: vlmgraph.load({folder!r})"):
        built = vlmgraph.compile(vlmgraph.read_spec(spec, size="tiny"), seed=0)
        loaded = vlmgraph.load(folder)
        ours, theirs = built.state_dict(), loaded.state_dict()
        if ours.keys() != theirs.keys() or not all(torch.equal(value, theirs[key]) for key, value in ours.items()):
            raise Failed(f"{folder} does not hold the weights that were saved")
        parameters = sum(p.numel() for p in loaded.parameters())
        print(f"{len(theirs)} tensors, {parameters:,} parameters: all equal to those of the model that was saved")


def seen(folder: str, *pictures: str) -> None:
    """Another photo has to give other numbers: an answer that ignores the picture is none."""
    import torch

    import vlmgraph
    from vlmgraph.processor.model import model_processor

    with step("python: the same question about another photo"):
        model = vlmgraph.load(folder)
        processor = model_processor(model.spec, model.graph, folder)
        given = [{k: torch.from_numpy(v) for k, v in processor.ask(PROMPT, images=p).items()} for p in pictures]
        between = " and ".join(Path(p).name for p in pictures)
        for what, program in (("outputs", model.main), ("visual features", "encode_image")):  # gates that start closed hide the second
            inputs = model.programs[program].graph().inputs if program in model.programs else ()
            made = [first(model.programs[program](**{k: v for k, v in one.items() if k in inputs})) for one in given if inputs]
            moved = float((made[0] - made[1]).norm() / made[0].norm()) if made else 0.0
            if moved > 1e-4:
                print(f"{between}: the {what} differ by {moved:.1%}")
                return
        raise Failed(f"nothing in the model depends on the photo: its {what} move by {moved:.1e}")


def first(outputs: Mapping[str, Any]) -> Any:
    """The first output, for text that of its last token."""
    value = next(iter(outputs.values())).detach()
    return value[0, -1] if value.ndim == 3 else value


def written(folder: str) -> str:
    files = sorted(Path(folder).iterdir())
    width = max(len(p.name) for p in files)
    return "\n".join([f"{folder} holds", *(f"  {p.name:{width}}  {p.stat().st_size:>9,} bytes" for p in files)])


if __name__ == "__main__":
    # findings are printed to stderr; here they belong between the commands
    sys.stderr = sys.stdout
    raise SystemExit(main(sys.argv[1:]))
