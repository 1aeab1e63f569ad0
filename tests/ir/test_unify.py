"""Unification: unknowns are found in both directions, rigid symbols never change."""

import pytest

from vlmgraph.ir.dims import Dim, DimError, Symbol, parse_dim
from vlmgraph.ir.unify import Conflict, Unifier

X, Y = (Dim.of(Symbol(n, flexible=True)) for n in ("node.x", "node.y"))
B = Dim.of(Symbol("B"))


def test_forward_and_backward():
    unifier = Unifier()
    unifier.equate(X, Y)
    unifier.equate(Y, Dim.of(4096))
    assert unifier.value(X).constant == 4096


def test_linear_equations_are_solved():
    unifier = Unifier()
    unifier.equate(X * 4 + 1, Dim.of(1025))
    assert unifier.value(X).constant == 256


def test_exact_division_is_undone():
    unifier = Unifier()
    unifier.equate(Dim.of(64), parse_dim("q/4").substitute({Symbol("q"): X}))
    assert unifier.value(X).constant == 256


def test_pending_equations_are_tried_again():
    unifier = Unifier()
    unifier.equate(X * Y, Dim.of(12))
    unifier.equate(X, Dim.of(3))
    assert unifier.value(Y).constant == 4


def test_conflicts():
    unifier = Unifier()
    unifier.equate(X, Dim.of(1024))
    with pytest.raises(Conflict) as caught:
        unifier.equate(X, Dim.of(1408))
    assert (caught.value.left.constant, caught.value.right.constant) == (1024, 1408)
    with pytest.raises(Conflict):
        unifier.equate(B, Dim.of(2))


def test_a_late_value_that_leaves_a_remainder_is_refused():
    unifier = Unifier()
    half = parse_dim("q/14").substitute({Symbol("q"): X})
    unifier.equate(X, Dim.of(500))
    with pytest.raises(DimError):
        unifier.equate(half, Y)
