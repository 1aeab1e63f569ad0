"""The chat template that a published checkpoint brings along: a Jinja text, run in a sandbox without access to anything."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from . import problems
from .problems import problem


class ChatTemplate:
    """A template as transformers runs it: blocks trimmed, `messages`, `add_generation_prompt` and the special tokens given."""

    def __init__(self, text: str, place: Path, tokens: Mapping[str, str]) -> None:
        from jinja2 import TemplateError
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        self.place, self.tokens = place, dict(tokens)
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
        environment.filters["tojson"] = lambda value, indent=None: json.dumps(value, ensure_ascii=False, indent=indent)
        environment.globals |= {"raise_exception": _refuse, "strftime_now": lambda form: datetime.now().strftime(form)}
        try:
            self.template = environment.from_string(text)
        except TemplateError as error:
            raise self.problem(error) from None

    def __call__(self, messages: Sequence[Mapping[str, Any]], generate: bool) -> str:
        """The conversation as text. Raises VG0712 where the template refuses it."""
        try:
            return self.template.render(messages=list(messages), add_generation_prompt=generate, **self.tokens)
        except Exception as error:  # a template can fail in any way a program can
            raise self.problem(error) from None

    def problem(self, error: Exception) -> Exception:
        return problem(
            problems.TEMPLATE, f"{self.place} cannot write this conversation: {error}", "remove the file to use the spec's template"
        )


def _refuse(message: str) -> None:
    from jinja2 import TemplateError

    raise TemplateError(message)


def find_template(folder: Path) -> ChatTemplate | None:
    """chat_template.jinja, or the key `chat_template` of the files where releases keep it; None where there is none for pictures."""
    text, place = None, folder / "chat_template.jinja"
    if place.is_file():
        text = place.read_text(encoding="utf-8", errors="replace")
    for name in ("chat_template.json", "processor_config.json", "tokenizer_config.json"):
        if text is None and (place := folder / name).is_file():
            text = _json(place).get("chat_template")
            # a tokenizer's own template may know nothing of contents in parts
            text = text if isinstance(text, str) and (name != "tokenizer_config.json" or "type" in text) else None
    if text is None:
        return None
    named = {k: v for k, v in _json(folder / "tokenizer_config.json").items() if k.endswith("_token")}
    tokens = {k: v.get("content", "") if isinstance(v, dict) else v for k, v in named.items()}
    return ChatTemplate(text, place, {k: v for k, v in tokens.items() if isinstance(v, str)})


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise problem(problems.TEMPLATE, f"{path} cannot be read: {error}", "copy the file again") from None
    return found if isinstance(found, dict) else {}
