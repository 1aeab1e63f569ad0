"""Stand-ins for tensors that know their rank and kind of numbers and nothing else: what the partial evaluator folds on.

Following real tensors on the meta device would do, but loads half of torch's compiler for the shape rules of single operations.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

SIZE = 96
"""What a dim is where somebody asks."""
FLOAT, WHOLE, BOOL = torch.float32, torch.int64, torch.bool
META = torch.device("meta")


class NoRule(Exception):
    """An operation that has no rule here: its result is not known."""


class Stand:
    """A tensor of some rank and dtype. Methods and operators go through the same rules as torch's functions."""

    device = META
    is_cuda = False
    requires_grad = False

    def __init__(self, rank: int, dtype: torch.dtype = FLOAT) -> None:
        self.rank, self.dtype = rank, dtype

    def __repr__(self) -> str:
        return f"Stand({self.rank}, {self.dtype})"

    @property
    def shape(self) -> tuple[int, ...]:
        return (SIZE,) * self.rank

    @property
    def ndim(self) -> int:
        return self.rank

    @property
    def T(self) -> Stand:
        return self

    def dim(self) -> int:
        return self.rank

    def size(self, axis: int | None = None) -> Any:
        return self.shape if axis is None else self.shape[axis]

    def is_floating_point(self) -> bool:
        return self.dtype.is_floating_point

    def __len__(self) -> int:
        return SIZE

    def __bool__(self) -> bool:
        raise NoRule("a value")

    __int__ = __float__ = __index__ = __bool__  # type: ignore[assignment]
    __hash__ = object.__hash__

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name not in RULES:
            raise AttributeError(name)
        return lambda *args, **kwargs: RULES[name](self, *args, **kwargs)

    def __getitem__(self, index: Any) -> Stand:
        return indexed(self, index)

    def __eq__(self, other: object) -> Any:
        return spread(self, other, dtype=BOOL)

    __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __eq__  # type: ignore[assignment]

    def __add__(self, other: Any) -> Stand:
        return spread(self, other)

    __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __floordiv__ = __rfloordiv__ = __mod__ = __rmod__ = __add__
    __and__ = __rand__ = __or__ = __ror__ = __xor__ = __pow__ = __rpow__ = __matmul__ = __rmatmul__ = __add__

    def __truediv__(self, other: Any) -> Stand:
        return Stand(spread(self, other).rank)

    __rtruediv__ = __truediv__

    def __neg__(self) -> Stand:
        return Stand(self.rank, self.dtype)

    __invert__ = __abs__ = __neg__

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return applied(function, args, kwargs or {})


class Standing(TorchFunctionMode):
    """Inside, every function of torch goes by the rules, those that make tensors too."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return applied(function, args, kwargs or {})


def applied(function: Any, args: Any, kwargs: Any) -> Any:
    name = getattr(function, "__name__", "")
    if name in ("__get__", "dim", "size", "__len__", "is_floating_point", "stride") and not any(isinstance(a, Stand) for a in args):
        with torch._C.DisableTorchFunction():
            return function(*args, **kwargs)
    rule = RULES.get(name.strip("_") if name.startswith("__") else name) or (OPERATOR if name in OPERATORS else None)
    if name == "__getitem__":
        return indexed(*args)
    if rule is None:
        raise NoRule(name)
    return rule(*args, **kwargs)


def rank(x: Any) -> int:
    return x.rank if isinstance(x, Stand) else x.dim() if isinstance(x, Tensor) else 0


def dtype(x: Any) -> torch.dtype | None:
    if isinstance(x, (Stand, Tensor)):
        return x.dtype
    return {bool: BOOL, int: WHOLE, float: FLOAT}.get(type(x))


ORDER = (BOOL, WHOLE, FLOAT)


def wider(*values: Any) -> torch.dtype:
    """The dtype of a sum: floating point before whole numbers before booleans."""
    kinds = [d for v in values if (d := dtype(v)) is not None]
    return max(kinds or [FLOAT], key=lambda d: 2 if d.is_floating_point else ORDER.index(d) if d in ORDER else 1)


def spread(*values: Any, **options: Any) -> Stand:
    """Broadcast together."""
    return Stand(max(map(rank, values)), options.get("dtype") or wider(*values))


def alike(x: Any, *args: Any, **kwargs: Any) -> Stand:
    """The rank and dtype of the first argument."""
    return Stand(rank(x), kwargs.get("dtype") or dtype(x) or FLOAT)


def floats(x: Any, *args: Any, **kwargs: Any) -> Stand:
    return Stand(rank(x))


def cast(target: torch.dtype) -> Callable[..., Stand]:
    return lambda x, *args, **kwargs: Stand(rank(x), target)


def to(x: Any, *args: Any, **kwargs: Any) -> Stand:
    given = [a for a in (*args, *kwargs.values()) if isinstance(a, torch.dtype)]
    given += [a.dtype for a in args if isinstance(a, (Stand, Tensor))]
    return Stand(rank(x), given[0] if given else dtype(x) or FLOAT)


def reduced(target: torch.dtype | None = None) -> Callable[..., Any]:
    def rule(x: Any, dim: Any = None, keepdim: bool = False, *args: Any, **kwargs: Any) -> Any:
        dim = kwargs.get("axis", dim)
        kind = target or kwargs.get("dtype") or (WHOLE if dtype(x) is BOOL else dtype(x)) or FLOAT
        if dim is None or isinstance(dim, (Stand, Tensor)):
            return Stand(0, kind)
        gone = 0 if keepdim else len(dim) if isinstance(dim, (tuple, list)) else 1
        return Stand(rank(x) - gone, kind)

    return rule


def norm(x: Any, p: Any = 2, dim: Any = None, keepdim: bool = False, **kwargs: Any) -> Stand:
    return reduced(FLOAT)(x, dim, keepdim)


class Pair(tuple):
    """Values and indices."""

    values = property(lambda self: self[0])
    indices = property(lambda self: self[1])


def flatten(x: Any, start_dim: int = 0, end_dim: int = -1) -> Stand:
    n = rank(x)
    return Stand(n - (end_dim % n - start_dim % n), dtype(x) or FLOAT)


def unflatten(x: Any, dim: int, sizes: Any) -> Stand:
    return Stand(rank(x) + len(sizes) - 1, dtype(x) or FLOAT)


def sizes(args: Any) -> int:
    return len(args[0]) if len(args) == 1 and isinstance(args[0], (tuple, list)) else len(args)


def shaped(x: Any, *args: Any, **kwargs: Any) -> Stand:
    """Ranks that sizes give: reshape, view, expand, new_zeros."""
    return Stand(sizes(args), kwargs.get("dtype") or dtype(x) or FLOAT)


def made(target: torch.dtype) -> Callable[..., Stand]:
    return lambda *args, **kwargs: Stand(sizes(args), kwargs.get("dtype") or target)


def arange(*args: Any, **kwargs: Any) -> Stand:
    whole = all(isinstance(a, int) for a in args)
    return Stand(1, kwargs.get("dtype") or (WHOLE if whole else FLOAT))


def full(size: Any, value: Any, **kwargs: Any) -> Stand:
    return Stand(len(size), kwargs.get("dtype") or dtype(value) or FLOAT)


def tensor(data: Any, **kwargs: Any) -> Stand:
    depth, inner = 0, data
    while isinstance(inner, (tuple, list)):
        depth, inner = depth + 1, inner[0]
    return Stand(depth, kwargs.get("dtype") or dtype(inner) or FLOAT)


def first(values: Any, *args: Any, **kwargs: Any) -> Stand:
    return Stand(rank(values[0]), wider(*values))


def where(test: Any, a: Any, b: Any) -> Stand:
    return Stand(max(map(rank, (test, a, b))), wider(a, b))


def indexed(x: Any, index: Any) -> Stand:
    n = rank(x)
    parts = index if isinstance(index, tuple) else (index,)
    advanced: list[int] = []
    for part in parts:
        if part is None:
            n += 1
        elif isinstance(part, (Stand, Tensor)):
            n -= rank(part) if dtype(part) is BOOL else 1
            advanced.append(1 if dtype(part) is BOOL else rank(part))
        elif isinstance(part, (slice, type(Ellipsis))):
            continue
        else:
            n -= 1
    return Stand(n + max(advanced, default=0), dtype(x) or FLOAT)


def plus(count: int) -> Callable[..., Stand]:
    return lambda x, *args, **kwargs: Stand(rank(x) + count, dtype(x) or FLOAT)


def one_less(x: Any, *args: Any, **kwargs: Any) -> Stand:
    return Stand(rank(x) - 1, dtype(x) or FLOAT)


ALIKE = """
    flip clone contiguous clamp cumsum roll masked_fill transpose permute t T repeat_interleave detach abs square neg type_as relu silu
    gelu tanh sigmoid softplus dropout pad interpolate sort layer_norm group_norm batch_norm rms_norm triu tril zeros_like ones_like
    empty_like full_like conv1d conv2d conv3d conv_transpose2d adaptive_avg_pool2d avg_pool2d max_pool2d scaled_dot_product_attention
    index_select gather scatter float_power round floor ceil logsigmoid repeat
"""
FLOATS = "linear softmax log_softmax exp log cos sin rsqrt sqrt normalize pow float half bfloat16"
BOOLEANS = "eq ne lt le gt ge logical_and logical_or logical_not isnan isin"
SHAPED = "reshape view expand new_ones new_zeros new_empty new_full broadcast_to"


def each(names: str, rule: Callable[..., Any]) -> dict[str, Callable[..., Any]]:
    return dict.fromkeys(names.split(), rule)


RULES: dict[str, Callable[..., Any]] = {
    **each(ALIKE, alike),
    **each(FLOATS, floats),
    **each("long int", cast(WHOLE)),
    **each(BOOLEANS, lambda *args, **kwargs: spread(*args, dtype=BOOL)),
    **each("bool", cast(BOOL)),
    **each("sum mean amax amin", reduced()),
    **each("any all", reduced(BOOL)),
    **each("argmax argmin", reduced(WHOLE)),
    **each(SHAPED, shaped),
    **each("zeros ones empty rand randn", made(FLOAT)),
    **each("maximum minimum add sub mul matmul bmm", spread),
    **each("truediv div", lambda a, b: Stand(spread(a, b).rank)),
    **each("cat concat", first),
    **each("select squeeze", one_less),
    **each("view_as expand_as", lambda x, other: Stand(rank(other), dtype(x) or FLOAT)),
    "to": to,
    "norm": norm,
    "flatten": flatten,
    "unflatten": unflatten,
    "unsqueeze": plus(1),
    "arange": arange,
    "full": full,
    "tensor": tensor,
    "where": where,
    "stack": lambda values, *args, **kwargs: Stand(rank(values[0]) + 1, wider(*values)),
    "embedding": lambda ids, table, *args, **kwargs: Stand(rank(table if is_float(ids) else ids) + 1),
    "bucketize": lambda x, *args, **kwargs: Stand(rank(x), WHOLE),
    "searchsorted": lambda edges, x, **kwargs: Stand(rank(x), WHOLE),
    "eye": lambda *args, **kwargs: Stand(2, kwargs.get("dtype") or FLOAT),
    "cross_entropy": lambda *args, **kwargs: Stand(0),
    "cummax": lambda x, *args, **kwargs: Pair((alike(x), Stand(rank(x), WHOLE))),
}
OPERATORS = frozenset(
    f"__{operator}__"
    for operator in "add radd sub rsub mul rmul floordiv rfloordiv mod rmod and rand or ror xor pow rpow matmul rmatmul".split()  # noqa: SIM905
)
OPERATOR = spread


def is_float(x: Any) -> bool:
    found = dtype(x)
    return found is not None and found.is_floating_point


def stand(x: Any) -> Any:
    """A tensor as a stand-in."""
    return Stand(x.dim(), FLOAT if x.dtype.is_floating_point else x.dtype) if isinstance(x, Tensor) else x
