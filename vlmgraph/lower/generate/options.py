"""How texts are written: the options of `generate`, under the names that transformers has for them."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from ...diagnostics import Diagnostic, DiagnosticError
from ...diagnostics import codes as C

FILE = "generation_config.json"
ELSEWHERE = {
    "assistant_model", "constraints", "custom_generate", "diversity_penalty", "dola_layers", "force_words_ids", "guidance_scale",
    "num_beam_groups", "negative_prompt_ids", "output_attentions", "output_hidden_states", "output_logits", "output_scores",
    "penalty_alpha", "prompt_lookup_num_tokens", "return_dict_in_generate", "synced_gpus", "typical_p", "watermarking_config",
}  # fmt: skip
"""Options of transformers that are refused by name."""


class Options(BaseModel):
    """What may be chosen. Ids that a caller gives as None are none."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    max_new_tokens: int = Field(20, ge=0)
    min_new_tokens: int = Field(0, ge=0)
    max_length: int | None = Field(None, ge=1, description="of prompt and answer; max_new_tokens wins")
    min_length: int = Field(0, ge=0, description="of prompt and answer")
    eos_token_id: tuple[int, ...] = Field((), description="ids that end an answer")
    pad_token_id: int = Field(0, ge=0, description="stands behind the end of a row")
    stop_strings: tuple[str, ...] = Field((), description="texts that end an answer, wherever their tokens begin and end")
    do_sample: bool = False
    temperature: float = Field(1.0, ge=0, allow_inf_nan=False)
    top_k: int = Field(0, ge=0, description="draw among so many tokens; 0: all")
    top_p: float = Field(1.0, ge=0, le=1)
    min_p: float = Field(0.0, ge=0, le=1, description="least probability beside that of the likeliest")
    seed: int | tuple[int, ...] | None = Field(None, description="of row 0, and one more for each row behind it; or one a row")
    repetition_penalty: float = Field(1.0, gt=0, allow_inf_nan=False)
    no_repeat_ngram_size: int = Field(0, ge=0)
    bad_words_ids: tuple[tuple[int, ...], ...] = ()
    suppress_tokens: tuple[int, ...] = ()
    forced_bos_token_id: int | None = Field(None, description="the first token behind a decoder's start")
    forced_eos_token_id: tuple[int, ...] = Field((), description="one of these is the last token that there is room for")
    num_beams: int = Field(1, ge=1, le=1024)
    num_return_sequences: int = Field(1, ge=1)
    length_penalty: float = Field(1.0, allow_inf_nan=False, description="scores are divided by length ** length_penalty")
    early_stopping: bool | Literal["never"] = False
    use_cache: bool = True
    cache_implementation: Literal["dynamic", "static"] = "dynamic"

    @field_validator("eos_token_id", "suppress_tokens", "forced_eos_token_id", mode="before")
    @classmethod
    def _some(cls, value: Any) -> Any:
        value = value.tolist() if isinstance(value, torch.Tensor) else value
        return () if value is None else (value,) if isinstance(value, int) else value

    @field_validator("stop_strings", mode="before")
    @classmethod
    def _strings(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _fits(self) -> Options:
        if any(not text for text in self.stop_strings):
            raise ValueError("an empty stop string would end every answer before it begins")
        if any(not word for word in self.bad_words_ids):
            raise ValueError("an entry of bad_words_ids has no ids")
        if self.num_beams > 1 and self.num_return_sequences > self.num_beams:
            raise ValueError(f"{self.num_return_sequences} of {self.num_beams} beams cannot be returned: raise num_beams")
        if self.num_beams == 1 and not self.do_sample and self.num_return_sequences > 1:
            raise ValueError("num_return_sequences above 1 gives the same answer again: set do_sample=True, or num_beams")
        if self.min_new_tokens > self.max_new_tokens and self.max_length is None:
            raise ValueError(f"min_new_tokens is {self.min_new_tokens}, max_new_tokens {self.max_new_tokens}")
        return self

    def sized(self, prompt: int, given: Mapping[str, Any]) -> Options:
        """With lengths counted from the end of a prompt. A folder's max_length that the prompt has used up says nothing.

        Raises DiagnosticError for a max_length of the caller's (`given`) that the prompt has used up.
        """
        most, least = self.max_new_tokens, max(self.min_new_tokens, self.min_length - prompt)
        if self.max_length is not None and "max_new_tokens" not in given:
            most = self.max_length - prompt
            if most < 1 and "max_length" in given:
                text = f"max_length is {self.max_length}, but the prompt has {prompt} tokens already"
                raise DiagnosticError(Diagnostic(C.BAD_OPTION, text, fix="give max_new_tokens, which counts the answer alone"))
            if most < 1:
                most = self.max_new_tokens
        return self.model_copy(update={"max_new_tokens": most, "min_new_tokens": min(max(least, 0), most)})


def options_of(given: Mapping[str, Any], defaults: Mapping[str, Any], source: str = FILE) -> Options:
    """Options of a call over those of a folder. A None of the caller's leaves an option as it is by default, ids are none then.

    Raises DiagnosticError for values that cannot hold.
    """
    none = {"eos_token_id": (), "suppress_tokens": (), "forced_bos_token_id": None, "forced_eos_token_id": ()}
    own = {name: none.get(name) if value is None else value for name, value in given.items() if value is not None or name in none}
    own |= {name: Options.model_fields[name].default for name, value in given.items() if value is None and name not in none}
    known = {name: value for name, value in defaults.items() if name in Options.model_fields and value is not None and name not in own}
    if "max_new_tokens" in own:
        known.pop("max_length", None)
    if "max_length" in own:
        known.pop("max_new_tokens", None)
    return _valid({**known, **own}, set(own), source)


def _valid(values: Mapping[str, Any], own: set[str], source: str) -> Options:
    try:
        return Options.model_validate(dict(values))
    except ValidationError as error:
        found = []
        for fault in error.errors():
            name = str(fault["loc"][0]) if fault["loc"] else ""
            said = fault["msg"].removeprefix("Value error, ")
            text = f"{name} = {values[name]!r}: {said}" if name in values else said
            where = "" if not name or name in own else f", in {source}"
            about = Options.model_fields[name].description if name in Options.model_fields else None
            found.append(Diagnostic(C.BAD_OPTION, f"{text}{where}", notes=(f"{name}: {about}",) if about else ()))
        raise DiagnosticError(*found) from None


def split(given: Mapping[str, Any], inputs: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Options and inputs of a call. Raises DiagnosticError for an option of transformers that there is none of here, or a misspelt one."""
    options = {name: value for name, value in given.items() if name in Options.model_fields}
    others = {name: value for name, value in given.items() if name not in options}
    for name in others:
        if name in inputs:
            continue
        if name in ELSEWHERE:
            raise DiagnosticError(Diagnostic(C.BAD_OPTION, f"generate has no option {name!r}", fix=f"leave {name} out"))
        near = difflib.get_close_matches(name, [*Options.model_fields, *inputs], 1)
        if near and near[0] in Options.model_fields:
            raise DiagnosticError(Diagnostic(C.BAD_OPTION, f"generate has no option {name!r}", fix=f"did you mean {near[0]!r}?"))
    return options, others


def folder_options(folder: Path) -> dict[str, Any]:
    """What a folder's generation_config.json says; nothing where there is none. Raises DiagnosticError where it cannot be read."""
    path = folder / FILE
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DiagnosticError(Diagnostic(C.BAD_CONFIG, f"{path} cannot be read: {error}")) from None
    if not isinstance(found, dict):
        raise DiagnosticError(Diagnostic(C.BAD_CONFIG, f"{path} holds no table"))
    known = {name: value for name, value in found.items() if name in Options.model_fields and value is not None}
    if known.get("cache_implementation") not in (None, "dynamic", "static"):
        del known["cache_implementation"]  # how keys and values are stored changes no token
    if known.get("pad_token_id") == -1:
        del known["pad_token_id"]  # none
    options_of({}, known, str(path))
    return known
