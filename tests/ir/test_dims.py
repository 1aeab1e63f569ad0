"""Symbolic dims: one canonical form, exact division, a parser without eval."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlmgraph.ir.dims import Dim, DimError, Symbol, parse_dim
from vlmgraph.ir.types import parse_type

NAMES = st.sampled_from(["B", "N", "T", "H"])


def expressions():
    leaf = st.integers(0, 40).map(str) | NAMES
    return st.recursive(
        leaf, lambda e: st.tuples(e, st.sampled_from(["+", "-", "*"]), e).map(lambda t: f"({t[0]} {t[1]} {t[2]})"), max_leaves=8
    )


@given(expressions(), st.fixed_dictionaries({n: st.integers(1, 9) for n in "BNTH"}))
def test_value_equals_python_arithmetic(text, values):
    dim = parse_dim(text).substitute({Symbol(n): Dim.of(v) for n, v in values.items()})
    assert dim.constant == eval(text, {}, values)


def every_operation():
    leaf = st.integers(0, 40).map(str) | NAMES
    infix = st.sampled_from(["+", "-", "*", "//", "%", "<", "<=", ">", ">=", "==", "!="])

    def larger(e):
        return st.tuples(e, infix, e).map(lambda t: f"({t[0]} {t[1]} {t[2]})") | st.tuples(st.sampled_from(["min", "max"]), e, e).map(
            lambda t: f"{t[0]}({t[1]}, {t[2]})"
        )

    return st.recursive(leaf, larger, max_leaves=6)


@given(every_operation(), st.fixed_dictionaries({n: st.integers(1, 9) for n in "BNTH"}))
def test_text_form_parses_back_and_means_the_same(text, values):
    try:
        dim = parse_dim(text)
        value = dim.substitute({Symbol(n): Dim.of(v) for n, v in values.items()}).constant
        wanted = eval(text, {"min": min, "max": max}, values)
    except (DimError, ZeroDivisionError):
        return  # a divisor that is 0
    assert parse_dim(str(dim)) == dim
    assert value == wanted


@pytest.mark.parametrize(
    ("text", "values", "wanted"),
    [
        ("256*(tiles + (tiles > 1))", {"tiles": 1}, 256),  # a thumbnail only beside several tiles
        ("256*(tiles + (tiles > 1))", {"tiles": 4}, 1280),
        ("ceil(H/14)", {"H": 225}, 17),
        ("floor(H/14)", {"H": 225}, 16),
        ("ceil(H*W/(14*14))", {"H": 15, "W": 14}, 2),
        ("max(1, 12 // images)", {"images": 40}, 1),
        ("min(460_800, 128*384*384 // (2*frames))", {"frames": 128}, 73728),
        ("N*(N != 3)", {"N": 3}, 0),
    ],
)
def test_rounding_bounds_and_conditions(text, values, wanted):
    assert parse_dim(text).substitute({Symbol(n): Dim.of(v) for n, v in values.items()}).constant == wanted


def test_equal_values_are_equal_objects():
    assert parse_dim("(H/14)*(W/14)+1") == parse_dim("1 + (W/14)*(H/14)")
    assert parse_dim("2*N - N") == parse_dim("N")


def test_exact_division_refuses_a_remainder():
    assert parse_dim("490/14").constant == 35
    with pytest.raises(DimError, match="500 is not divisible by 14"):
        parse_dim("H/14").substitute({Symbol("H"): Dim.of(500)})
    with pytest.raises(DimError):
        parse_dim("4/0")


@pytest.mark.parametrize("text", ["", "(", "a b", "1 +", "__import__('os')", "a;b", "*", "max(1", "1..2", "ceil(1/", "a < b < c", "a = b"])
def test_nonsense_is_refused(text):
    with pytest.raises(DimError):
        parse_dim(text)


@pytest.mark.parametrize(
    "text", ["image[N in B, 3, 490, 490]?", "tokens[..., d]", "patches[P in grid, 1176]", "maps[B, C, H, W]*4", "loss[]"]
)
def test_types_print_as_they_are_written(text):
    assert str(parse_type(text)) == text


def test_unknown_kind_suggests_the_nearest():
    with pytest.raises(DimError, match="did you mean 'tokens'"):
        parse_type("token[B, N]")
