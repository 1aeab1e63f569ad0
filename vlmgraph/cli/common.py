"""What the verbs share: the spec on the command line, findings on the screen, files written whole."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..diagnostics import Diagnostic, DiagnosticError

if TYPE_CHECKING:
    from ..spec import Spec

FINDINGS = ("human", "concise", "json", "sarif", "github")


def spec_arguments(parser: argparse.ArgumentParser, name: str = "spec") -> None:
    parser.add_argument(name, metavar="SPEC", help="a name (`cogvlm`, see `vlmgraph list`) or the path of a .toml file")
    overlay_arguments(parser)


def overlay_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--size", metavar="NAME", help="a size of the spec, for example tiny")
    parser.add_argument("--variant", metavar="NAME", help="a variant of the spec")
    parser.add_argument(
        "--set", metavar="KEY=VALUE", action="append", default=[], dest="overrides",
        help="override one value, for example --set components.llm.layers=2 or --set llm.layers=2; the value is TOML, and [expect] is "
        "left out; repeat for more",
    )  # fmt: skip


def findings_argument(parser: argparse.ArgumentParser) -> None:
    format_argument(parser, FINDINGS, "how findings are printed (default: %(default)s)")


def format_argument(parser: argparse.ArgumentParser, choices: Sequence[str], help: str = "default: %(default)s") -> None:
    """`--format`, and `--json` where that is one of the choices."""
    parser.add_argument("--format", choices=choices, default=choices[0], help=help)
    if "json" in choices:
        parser.add_argument("--json", action="store_const", const="json", dest="format", help="the same as --format json")


def overrides(pairs: Sequence[str]) -> Sequence[str]:
    """The pairs of --set as they are. Raises UsageError for an entry without a key and `=`."""
    for pair in pairs:
        key, equals, _ = pair.partition("=")
        if not equals or not key.strip():
            raise UsageError(f"--set {pair}: write KEY=VALUE, for example --set llm.layers=2")
    return pairs


class UsageError(Exception):
    """A command line that cannot be meant; exit code 2."""


def read(args: argparse.Namespace, spec: str | None = None) -> Spec:
    """The spec that the arguments name, overlaid. Raises DiagnosticError."""
    from ..spec import read_spec

    return read_spec(spec or args.spec, size=args.size, variant=args.variant, overrides=overrides(args.overrides))


def emit(diagnostics: Iterable[Diagnostic], format: str = "human") -> int:
    """Print findings, the exit code says whether an error is among them. People's forms go to stderr, data to stdout."""
    from ..diagnostics.render import render

    found = list(diagnostics)
    if format not in FINDINGS:
        format = "human"
    stream = sys.stderr if format in ("human", "concise") else sys.stdout
    text = render(found, format, color=colour(stream))
    if text:
        print(text.rstrip("\n"), file=stream)
    return 1 if any(d.severity == "error" for d in found) else 0


def colour(stream: Any) -> bool:
    return stream.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"


def write(text: str, output: str | None) -> None:
    """To the file `output`, whole or not at all, or to stdout. Raises DiagnosticError where it cannot be written."""
    if output in (None, "-"):
        print(text, end="" if text.endswith("\n") else "\n")
        return
    path = Path(str(output))
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(text if text.endswith("\n") else f"{text}\n", encoding="utf-8")
        part.replace(path)
    except OSError as error:
        raise unwritable(output, error) from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def unwritable(output: object, error: OSError) -> DiagnosticError:
    from ..diagnostics import codes as C

    fix = "choose another place with -o"
    return DiagnosticError(Diagnostic(C.OUTPUT, f"cannot write {output}: {error.strerror or error}", fix=fix))


@contextmanager
def progress(text: str) -> Iterator[Callable[[str], None]]:
    """A spinner on stderr while something long runs, and a function that says which part of it does; nothing where nobody watches."""
    if not sys.stderr.isatty():
        yield lambda part: None
        return
    from rich.console import Console

    with Console(stderr=True).status(text) as status:
        yield lambda part: status.update(f"{text}: {part}")
