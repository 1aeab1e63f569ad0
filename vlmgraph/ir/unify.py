"""Unification of symbolic dims: equations between dims bind the flexible symbols of signatures."""

from __future__ import annotations

from dataclasses import dataclass, field

from .dims import Call, Dim, Symbol, _canonical


class Conflict(Exception):
    """Two dims that cannot be equal."""

    def __init__(self, left: Dim, right: Dim) -> None:
        self.left, self.right = left, right
        super().__init__(f"{left} is not {right}")


@dataclass
class Unifier:
    """Equations solved so far. Equations with no single unknown wait in `pending` and are tried again.

    Rigid symbols among `peers` may turn out to be one another (the later one goes), but never anything else.
    """

    bindings: dict[Symbol, Dim] = field(default_factory=dict)
    pending: list[tuple[Dim, Dim]] = field(default_factory=list)
    peers: tuple[Symbol, ...] = ()

    def value(self, dim: Dim) -> Dim:
        """The dim with everything known put in. Raises DimError when an exact division fails."""
        seen = 0
        while any(s in self.bindings for s in dim.symbols()):
            dim = dim.substitute(self.bindings)
            seen += 1
            if seen > 1000:
                raise RecursionError("cyclic dimension bindings")
        return dim

    def equate(self, left: Dim, right: Dim) -> None:
        """Require equality. Raises Conflict when it cannot hold, DimError when a division leaves a remainder."""
        a, b = self.value(left), self.value(right)
        if a == b:
            return
        difference = a - b
        if difference.constant is not None:
            raise Conflict(a, b)
        solved = _solve(difference) or self.pair(difference)
        if solved is not None:
            symbol, value = solved
            self.bindings[symbol] = value
            waiting, self.pending = self.pending, []
            for x, y in waiting:
                self.equate(x, y)
        elif any(s.flexible for s in difference.symbols()):
            self.pending.append((a, b))
        else:
            raise Conflict(a, b)

    def pair(self, difference: Dim) -> tuple[Symbol, Dim] | None:
        """`k * B - k * C = 0` of two peers: the later one and the earlier."""
        if len(difference.terms) != 2 or sum(coefficient for _, coefficient in difference.terms) != 0:
            return None
        found = [m[0] for m, _ in difference.terms if len(m) == 1 and isinstance(m[0], Symbol) and m[0] in self.peers]
        if len(found) != 2:
            return None
        first, second = sorted(found, key=self.peers.index)
        return second, Dim.of(first)


def _solve(difference: Dim) -> tuple[Symbol, Dim] | None:
    """`difference = 0` solved for a flexible symbol that stands alone in one term."""
    for monomial, coefficient in difference.terms:
        if len(monomial) != 1 or not isinstance(monomial[0], Symbol) or not monomial[0].flexible:
            continue
        symbol = monomial[0]
        rest = _canonical({m: c for m, c in difference.terms if m != monomial})
        if symbol in rest.symbols():
            continue
        numerator = rest * -1 if coefficient > 0 else rest
        scale = abs(coefficient)
        if scale != 1:
            if any(c % scale != 0 for _, c in numerator.terms):
                continue
            numerator = Dim(tuple((m, c // scale) for m, c in numerator.terms))
        return symbol, numerator
    for monomial, coefficient in difference.terms:
        # N/4 = 64: an exact division by a number can be undone
        if (
            len(difference.terms) <= 2
            and len(monomial) == 1
            and isinstance(monomial[0], Call)
            and monomial[0].op == "/"
            and abs(coefficient) == 1
        ):
            top, bottom = monomial[0].args
            rest = _canonical({m: c for m, c in difference.terms if m != monomial})
            numerator = rest * -coefficient
            if bottom.constant is not None:
                inner = _solve(top - numerator * bottom)
                if inner is not None:
                    return inner
    return None
