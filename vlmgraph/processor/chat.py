"""Conversations and prompts to one text, with the stretches that a model is trained to write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from . import problems
from .config import Chat, Text
from .problems import problem
from .template import fill

Message = Mapping[str, Any]
Content = str | Sequence[Mapping[str, Any]]


class Written(NamedTuple):
    """`answers` are character ranges: what assistants said, with the end of turn, without blanks at its end."""

    text: str
    answers: tuple[tuple[int, int], ...] = ()


def conversation(config: Chat, messages: Sequence[Message], media: Mapping[str, str], generate: bool) -> Written:
    """Messages with `role` and `content` (a text, or items of `type` text, image, video or an input's name) as one text.

    `generate` opens the next answer. Raises VG0712 for roles and items that the entry does not have.
    """
    said = list(messages)
    if config.system is not None and (not said or said[0].get("role") != "system"):
        said.insert(0, {"role": "system", "content": config.system})
    text, answers = "", []
    for message in said:
        role = message.get("role")
        if role not in config.roles or role == "generate":
            roles = [r for r in config.roles if r != "generate"]
            raise problem(problems.TEMPLATE, f"a message has the role {role!r}", f"use one of {', '.join(roles)}")
        part = config.roles[role]
        values = {"text": content(message.get("content", ""), media)}
        values["space"] = "" if values["text"].startswith(tuple(m for m in media.values() if m)) else " "
        filled = fill(part, values)
        if role == "assistant":
            start = len(text) + len(fill(part[: part.index("{text}")], values))
            answers.append((start, len(text) + len(filled.rstrip())))
        text += filled
    if generate:
        text += config.roles.get("generate", "")
    return Written(text, tuple(answers))


def content(said: Content, media: Mapping[str, str]) -> str:
    """The text of one message."""
    if isinstance(said, str):
        return said
    parts = []
    for item in said:
        kind = str(item.get("type"))
        if kind == "text":
            parts.append(str(item.get("text", "")))
        elif kind in media:
            parts.append(media[kind])
        else:
            known = ", ".join(["text", *media])
            raise problem(problems.TEMPLATE, f"a message has an item of the type `{kind}`", f"this processor takes {known}")
    return "".join(parts)


def prompt(config: Text, name: str, values: Mapping[str, object]) -> str:
    """A named prompt of the spec. Raises VG0712 for an unknown one."""
    if name not in config.prompts:
        known = ", ".join(config.prompts) or "none"
        raise problem(problems.TEMPLATE, f"there is no prompt `{name}`", f"known prompts: {known}")
    return fill(config.prompts[name], values)
