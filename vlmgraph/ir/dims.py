"""Symbolic dimensions: polynomials over named atoms, parsed without `eval`.

A `Dim` is kept in one canonical form, so equality of dims is equality of values:
`(H/14)*(W/14)+1` and `1+(W/14)*(H/14)` are the same object state.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

MAX_TEXT = 4_000
MAX_TERMS = 10_000
"""A product of sums doubles its terms with every factor."""


class DimError(ValueError):
    """A dimension that cannot be read or has no integer value."""


@dataclass(frozen=True, order=True)
class Symbol:
    """A named unknown. `flexible` ones belong to a node's signature and may be bound."""

    name: str
    flexible: bool = False

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, order=True)
class Call:
    """A non-polynomial operation: exact division `/`, floor division `//`, `%`, `max`, `min`; comparisons are 1 where they hold, else 0."""

    op: str
    args: tuple[Dim, ...]

    def __str__(self) -> str:
        if self.op in ("max", "min"):
            return f"{self.op}({', '.join(map(str, self.args))})"
        left, right = (str(a) if a.plain else f"({a})" for a in self.args)
        return f"{left}{self.op}{right}"


Atom = Symbol | Call
Monomial = tuple[Atom, ...]


def _key(atom: Atom) -> str:
    return str(atom)


@dataclass(frozen=True)
class Dim:
    """A polynomial with integer coefficients: sorted pairs of a monomial and its coefficient."""

    terms: tuple[tuple[Monomial, int], ...] = ()

    @staticmethod
    def of(value: int | str | Dim | Symbol) -> Dim:
        if isinstance(value, Dim):
            return value
        if isinstance(value, int):
            return Dim((((), value),)) if value else Dim()
        if isinstance(value, Symbol):
            return Dim((((value,), 1),))
        return parse_dim(value)

    @property
    def constant(self) -> int | None:
        """The integer this dim equals, or None while a symbol is left."""
        if not self.terms:
            return 0
        if len(self.terms) == 1 and not self.terms[0][0]:
            return self.terms[0][1]
        return None

    @property
    def compound(self) -> bool:
        return len(self.terms) > 1 or (len(self.terms) == 1 and len(self.terms[0][0]) + (self.terms[0][1] != 1) > 1)

    @property
    def plain(self) -> bool:
        """Whether its text needs no parentheses as an operand: a number, a name, a function."""
        if not self.terms or self.constant is not None:
            return (self.constant or 0) >= 0
        monomial, coefficient = self.terms[0]
        if len(self.terms) > 1 or len(monomial) > 1 or coefficient != 1:
            return False
        return isinstance(monomial[0], Symbol) or monomial[0].op in ("max", "min")

    def symbols(self) -> set[Symbol]:
        found: set[Symbol] = set()
        for monomial, _ in self.terms:
            for atom in monomial:
                if isinstance(atom, Symbol):
                    found.add(atom)
                else:
                    for arg in atom.args:
                        found |= arg.symbols()
        return found

    def substitute(self, values: Mapping[Symbol, Dim]) -> Dim:
        if not values or not (self.symbols() & values.keys()):
            return self
        total = Dim()
        for monomial, coefficient in self.terms:
            product = Dim.of(coefficient)
            for atom in monomial:
                if isinstance(atom, Symbol):
                    product = product * values.get(atom, Dim.of(atom))
                else:
                    product = product * apply(atom.op, *(a.substitute(values) for a in atom.args))
            total = total + product
        return total

    def __add__(self, other: Dim | int) -> Dim:
        sums = dict(self.terms)
        for monomial, coefficient in Dim.of(other).terms:
            sums[monomial] = sums.get(monomial, 0) + coefficient
        return _canonical(sums)

    def __mul__(self, other: Dim | int) -> Dim:
        products: dict[Monomial, int] = {}
        factors = Dim.of(other).terms
        if len(self.terms) * len(factors) > MAX_TERMS:
            raise DimError(f"a dimension of more than {MAX_TERMS:,} terms")
        for left, a in self.terms:
            for right, b in factors:
                monomial = tuple(sorted(left + right, key=_key))
                products[monomial] = products.get(monomial, 0) + a * b
        return _canonical(products)

    def __neg__(self) -> Dim:
        return self * -1

    def __sub__(self, other: Dim | int) -> Dim:
        return self + -Dim.of(other)

    __radd__ = __add__
    __rmul__ = __mul__

    def __str__(self) -> str:
        if not self.terms:
            return "0"
        out = ""
        for monomial, coefficient in self.terms:
            factors = [str(atom) if isinstance(atom, Symbol) or atom.op in ("max", "min") else f"({atom})" for atom in monomial]
            if len(self.terms) == 1 and len(monomial) == 1 and coefficient == 1:
                factors = [str(monomial[0])]
            if not monomial or abs(coefficient) != 1:
                factors.insert(0, str(abs(coefficient)))
            sign = "-" if coefficient < 0 else "+" if out else ""
            out += sign + "*".join(factors)
        return out


def _canonical(sums: Mapping[Monomial, int]) -> Dim:
    terms = [(m, c) for m, c in sums.items() if c]
    # constants last, then by text: `N+1`, not `1+N`
    return Dim(tuple(sorted(terms, key=lambda t: (not t[0], [_key(a) for a in t[0]]))))


_FUNCTIONS: dict[str, Callable[[int, int], int]] = {
    "//": lambda a, b: a // b,
    "%": lambda a, b: a % b,
    "max": max,
    "min": min,
    "<": lambda a, b: int(a < b),
    "<=": lambda a, b: int(a <= b),
    "==": lambda a, b: int(a == b),
    "!=": lambda a, b: int(a != b),
}
_SWAPPED = {">": "<", ">=": "<="}
COMPARISONS = ("<", "<=", "==", "!=", ">", ">=")


def apply(op: str, left: Dim, right: Dim) -> Dim:
    """Build `left op right`, folding what can be folded.

    Raises DimError when an exact division leaves a remainder or a divisor is zero.
    """
    if op in _SWAPPED:
        return apply(_SWAPPED[op], right, left)
    a, b = left.constant, right.constant
    if op in ("/", "//", "%") and b == 0:
        raise DimError(f"{left} {op} 0 divides by zero")
    if op == "/":
        if b is not None:
            if all(c % b == 0 for _, c in left.terms):
                return Dim(tuple((m, c // b) for m, c in left.terms))
            if a is not None:
                raise DimError(f"{a} is not divisible by {b}")
        if left == right:
            return Dim.of(1)
    elif a is not None and b is not None:
        return Dim.of(_FUNCTIONS[op](a, b))
    elif left == right and op in COMPARISONS:
        return Dim.of(_FUNCTIONS[op](0, 0))
    return Dim((((Call(op, (left, right)),), 1),))


_TOKEN = re.compile(r"\s*(?:(\d[\d_]*)|(\??[A-Za-z_][A-Za-z0-9_.]*)|(//|<=|>=|==|!=|[-+*/%(),<>]))")


@lru_cache(maxsize=4096)
def parse_dim(text: str, unknowns: bool = False) -> Dim:
    """Read `+ - * / // %`, `max(a, b)`, `min(a, b)`, `ceil(a/b)`, `floor(a/b)`, comparisons, parentheses, names and integers.

    `/` is exact and refuses a remainder. A comparison is 1 or 0, so `n + (n > 1)` counts a thumbnail only where there are several tiles.
    With `unknowns` (the text form of a graph) `?name` is a flexible symbol.
    """
    return _Parser(text, unknowns).whole()


class _Parser:
    def __init__(self, text: str, unknowns: bool = False) -> None:
        self.text, self.unknowns = text, unknowns
        self.tokens: list[str] = []
        at = 0
        if len(text) > MAX_TEXT:
            raise DimError("dimension expression is too long")
        while text[at:].strip():
            match = _TOKEN.match(text, at)
            if not match:
                raise DimError(f"cannot read dimension {text!r} at {text[at:].strip()!r}")
            self.tokens.append(match.group().strip())
            at = match.end()
        if len(self.tokens) > 200:
            raise DimError("dimension expression is too long")
        self.at = 0

    def peek(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def take(self, expected: str = "") -> str:
        token = self.peek()
        if not token or (expected and token != expected):
            raise DimError(f"cannot read dimension {self.text!r}: expected {expected or 'a name or number'}")
        self.at += 1
        return token

    def whole(self) -> Dim:
        dim = self.comparison()
        if self.peek():
            raise DimError(f"cannot read dimension {self.text!r}: unexpected {self.peek()!r}")
        return dim

    def comparison(self) -> Dim:
        dim = self.sum()
        if self.peek() in COMPARISONS:
            dim = apply(self.take(), dim, self.sum())
        return dim

    def sum(self) -> Dim:
        dim = self.product()
        while self.peek() in ("+", "-"):
            dim = dim + self.product() if self.take() == "+" else dim - self.product()
        return dim

    def product(self) -> Dim:
        dim = self.atom()
        while self.peek() in ("*", "/", "//", "%"):
            op = self.take()
            dim = dim * self.atom() if op == "*" else apply(op, dim, self.atom())
        return dim

    def atom(self) -> Dim:
        token = self.take()
        if token == "(":
            dim = self.comparison()
            self.take(")")
            return dim
        if token == "-":
            return -self.atom()
        if token[0].isdigit():
            return Dim.of(int(token))
        if token in ("ceil", "floor") and self.peek() == "(":
            return self.rounded(token)
        if token in ("max", "min") and self.peek() == "(":
            self.take("(")
            left = self.comparison()
            self.take(",")
            right = self.comparison()
            self.take(")")
            return apply(token, left, right)
        if token[0].isalpha() or token[0] == "_":
            return Dim.of(Symbol(token))
        if token[0] == "?" and self.unknowns:
            return Dim.of(Symbol(token[1:], flexible=True))
        raise DimError(f"cannot read dimension {self.text!r}: unexpected {token!r}")

    def rounded(self, function: str) -> Dim:
        """`ceil(a*b/c)`: one quotient, whose division need not be exact."""
        self.take("(")
        top, bottom = self.atom(), Dim.of(1)
        while self.peek() in ("*", "/"):
            if self.take() == "*":
                top = top * self.atom()
            else:
                bottom = bottom * self.atom()
        self.take(")")
        if bottom == Dim.of(1):
            return top
        return apply("//", top + bottom - 1 if function == "ceil" else top, bottom)
