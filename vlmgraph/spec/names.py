"""What may be a name in a spec. Names become attributes of modules and variables of generated source, so they are checked here once."""

from __future__ import annotations

import keyword
import re

MAX_LENGTH = 64
IDENTIFIER = re.compile(r"[a-z][a-z0-9_]*")
DASHED = re.compile(r"[a-z0-9][a-z0-9_.-]*")
"""Sizes, variants, stages: never identifiers of Python. `.` as in `7b-v1.5`."""

_VARIABLES = """
    self torch nn math functools bool dict enumerate float getattr int isinstance len list max min print range set slice str super
    tuple type zip
"""
TAKEN = frozenset(_VARIABLES.split())
"""Variables and functions that generated source and forward functions need."""

_OF_MODULE = """
    accepted add_module apply bfloat16 buffers call_super_init children compile cpu cuda device double dtype dump_patches eval
    extra_repr float forward generate get_buffer get_extra_state get_parameter get_submodule graph half ipu load_state_dict main
    mode modules mtia named_buffers named_children named_modules named_parameters objective_graph parameters prepare programs
    register_backward_hook register_buffer register_forward_hook register_forward_pre_hook register_full_backward_hook
    register_full_backward_pre_hook register_load_state_dict_post_hook register_load_state_dict_pre_hook register_module
    register_parameter register_state_dict_post_hook register_state_dict_pre_hook requires_grad_ save set_extra_state
    set_submodule share_memory spec state_dict to to_empty train training type xpu zero_grad
"""
ATTRIBUTES = frozenset(_OF_MODULE.split())
"""Of torch.nn.Module and of a compiled model: a submodule of such a name would hide them."""

NUMBERED = {"mlp": "hidden", "patch": "size"}
"""Slots that a bare number fills, and the field of their layer that it is."""


def problem(name: str, *, attribute: bool = False) -> str | None:
    """Why a text cannot name a component, node, input, output, program, objective or block; None when it can.

    `attribute`: the name becomes a submodule too.
    """
    if len(name) > MAX_LENGTH:
        return f"a name has at most {MAX_LENGTH} characters"
    if not IDENTIFIER.fullmatch(name):
        return "a name is lower-case letters, digits and `_`, and starts with a letter"
    if keyword.iskeyword(name):
        return "this is a keyword of Python"
    if name in TAKEN or (attribute and name in ATTRIBUTES):
        return "generated code needs this name for something else"
    return None


def dashed_problem(name: str) -> str | None:
    """Why a text cannot name a size, variant or stage; None when it can."""
    if len(name) > MAX_LENGTH:
        return f"a name has at most {MAX_LENGTH} characters"
    if not DASHED.fullmatch(name):
        return "a name is lower-case letters, digits, `-`, `_` and `.`, and starts with a letter or a digit"
    return None


def suggestion(name: str) -> str | None:
    """The nearest text that is a name, where there is one."""
    if not name.isascii():
        return None
    made = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")[:MAX_LENGTH]
    if made and not made[0].isalpha():
        made = f"x{made}"[:MAX_LENGTH]
    if problem(made, attribute=True) and made:
        made = f"{made}_"[:MAX_LENGTH]
    return made if made and made != name and problem(made, attribute=True) is None else None
