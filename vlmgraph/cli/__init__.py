"""The `vlmgraph` command. A verb's file is imported only when that verb is asked for, so that each starts fast."""

from __future__ import annotations

import argparse
import difflib
import importlib
import io
import os
import sys
from collections.abc import Callable, Sequence

CLEAN, FINDINGS, USAGE, INTERNAL, INTERRUPTED = 0, 1, 2, 3, 130

VERBS: dict[str, str] = {
    "check": "report every problem of a spec, with its place and the way out",
    "show": "draw or print the graph of a spec, or its values and where each came from",
    "diff": "compare two specs: components, dims, parameters, tokens, edges",
    "report": "parameters, FLOPs, memory, visual tokens, trainable parts; as text, JSON or HTML",
    "explain": "the page about a diagnostic code or a component type",
    "compile": "write a model out: source, graph, lock file, report, weights",
    "run": "answer a prompt about an image",
    "export": "write a model for another runtime",
    "import": "the spec of a published checkpoint folder, or the whole model as a vlmgraph folder",
    "list": "names of specs, components and presets",
    "schema": "the JSON Schema of specs, for editors",
    "plugins": "who provides which component, and whether it loads",
}

TAKEN = ("import", "list")
"""Verbs whose file has an underscore behind its name, which Python uses for something else."""

HELP = f"""usage: vlmgraph VERB ...

A compiler for vision-language models: from a TOML spec to a checked graph, PyTorch, source code and ONNX.

verbs:
{chr(10).join(f"  {name:9} {text}" for name, text in VERBS.items())}

examples:
  vlmgraph check cogvlm
  vlmgraph report llava-1.5 --format html -o llava.html
  vlmgraph compile cogvlm --size tiny -o build/cogvlm
  vlmgraph run build/cogvlm --image photo.jpg --prompt "What is this?"

`vlmgraph VERB --help` tells more. Exit codes: 0 clean, 1 findings, 2 usage, 3 internal error.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal that cannot show a character is no reason to stop
    # pydantic looks for plugins of its own in the metadata of every installed package
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    try:
        code = _command(arguments)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # the reader of a pipe went away (`| head`): nothing is left to say, also not while Python shuts down
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return CLEAN


def _command(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(HELP, end="")
        return CLEAN if arguments else USAGE
    if arguments[0] in ("-V", "--version"):
        from .. import __version__

        print(f"vlmgraph {__version__}")
        return CLEAN
    verb, *rest = arguments
    if verb not in VERBS:
        near = difflib.get_close_matches(verb, VERBS, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        print(f"vlmgraph: there is no verb {verb!r}{hint}\nverbs: {', '.join(VERBS)}", file=sys.stderr)
        return USAGE
    module = importlib.import_module(f".{verb}_" if verb in TAKEN else f".{verb}", __name__)
    parser = argparse.ArgumentParser(
        prog=f"vlmgraph {verb}", description=module.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    module.configure(parser)
    try:
        args = parser.parse_args(rest)
    except SystemExit as stop:
        return CLEAN if not stop.code else USAGE
    return _guarded(module.run, args)


def _guarded(run: Callable[[argparse.Namespace], int], args: argparse.Namespace) -> int:
    """The verb's exit code; what a user did wrong is printed, a fault of the program is named as one."""
    from ..diagnostics import DiagnosticError
    from .common import UsageError, emit

    try:
        return run(args)
    except DiagnosticError as error:
        return emit(error.diagnostics, getattr(args, "format", "human"))
    except UsageError as error:
        print(f"vlmgraph: {error}", file=sys.stderr)
        return USAGE
    except BrokenPipeError:
        raise
    except Exception:
        import traceback

        traceback.print_exc()
        print("vlmgraph: this is a fault of vlmgraph itself, not of the spec; please report it with the lines above", file=sys.stderr)
        return INTERNAL
