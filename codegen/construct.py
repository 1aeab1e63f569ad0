"""How modules are made, as syntax trees: constructors of planned classes and the calls in them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Any

from torch import nn

from .leaves import Leaf
from .plans import CONTAINERS, Made, Plan, TensorMember, key_range, type_of
from .trees import attribute, call, constant, dotted, item, name
from .values import reference

SPACES = {"linear": "nn", "conv": "nn"}


class Builder:
    """Writes members of one class; every leaf is a literal, or the parameter that its column became."""

    def __init__(self, leaves: Iterator[Any]) -> None:
        self.leaves = leaves
        self.literal = False
        """Whether all leaves are literals."""

    def leaf(self, leaf: Leaf) -> Any:
        found = next(self.leaves)
        return constant(leaf.value) if found is None else name(found)

    def made(self, made: Made) -> Any:
        """The call that makes a module."""
        if made.kind == "plan":
            assert made.plan is not None
            return call(reference(made.plan), *(self.leaf(leaf) for leaf in plan_leaves(made)))
        if made.kind == "torch":
            return self.torch(type_of(made.module), made.members)
        if made.kind == "box":
            return call(dotted("nn.Module"))
        return self.container(made)

    def torch(self, cls: type, members: list[tuple[str, Any]]) -> Any:
        args, keywords = [], {}
        for key, leaf in members:
            found = next(self.leaves)
            value = constant(leaf.value) if found is None else name(found)
            if not key:
                args.append(value)
            elif found is not None or leaf.value != leaf.default:
                keywords[key] = value
        made = call(torch_class(cls), *args)
        made.keywords = [ast.keyword(arg=k, value=v) for k, v in keywords.items()]
        return made

    def container(self, made: Made) -> Any:
        listed = {"list": "nn.ModuleList", "dict": "nn.ModuleDict", "sequential": "nn.Sequential"}[made.kind]
        if made.uniform:
            counts = next(self.leaves) if made.kind != "dict" else None
            count = constant(len(made.members)) if counts is None else name(counts)
            inner = self.made(made.members[0][1])
            if made.kind == "dict":
                keys = key_range(made)
                assert keys is not None
                ends = [keys.start, keys.stop, keys.step] if keys.step != 1 else [keys.stop] if not keys.start else [keys.start, keys.stop]
                over = ast.comprehension(target=name("i"), iter=call(name("range"), *map(constant, ends)), ifs=[], is_async=0)
                return call(dotted(listed), ast.DictComp(key=call(name("str"), name("i")), value=inner, generators=[over]))
            over = ast.comprehension(target=name("_"), iter=call(name("range"), count), ifs=[], is_async=0)
            every = ast.GeneratorExp(elt=inner, generators=[over])
            return call(dotted(listed), ast.Starred(value=every) if made.kind == "sequential" else every)
        every = period(made) if self.literal and made.kind == "list" else 0
        values = [self.made(m) for _, m in made.members]
        if every:  # every so many layers another kind
            test = ast.Compare(left=name("i"), ops=[ast.Eq()], comparators=[constant(0)])
            test.left = ast.BinOp(left=name("i"), op=ast.Mod(), right=constant(every))
            over = ast.comprehension(target=name("i"), iter=call(name("range"), constant(len(values))), ifs=[], is_async=0)
            each = ast.IfExp(test=test, body=values[0], orelse=values[1])
            return call(dotted(listed), ast.GeneratorExp(elt=each, generators=[over]))
        if made.kind == "dict":
            return call(dotted(listed), ast.Dict(keys=[constant(k) for k, _ in made.members], values=values))
        if made.kind == "sequential":
            return call(dotted(listed), *values)
        return call(dotted(listed), ast.List(elts=values)) if values else call(dotted(listed))

    def tensor(self, member: TensorMember) -> Any:
        dims = [self.leaf(leaf) for leaf in member.shape]
        extra = {k: dotted(v) if v.startswith("torch.") else constant(v == "True") for k, v in member.extra}
        inner = call(dotted("torch.empty"), *(dims or [ast.Tuple(elts=[])]), **{k: v for k, v in extra.items() if k == "dtype"})
        if member.kind == "buffer":
            return inner
        return call(dotted("nn.Parameter"), inner, **{k: v for k, v in extra.items() if k != "dtype"})

    def member(self, target: Any, attr: str, member: Any) -> list[Any]:
        """The statements that give `target` the member `attr`."""
        if isinstance(member, Leaf):
            return [put(target, attr, self.leaf(member))]
        if isinstance(member, TensorMember):
            if member.kind == "buffer":
                return [ast.Expr(value=call(attribute(target, "register_buffer"), constant(attr), self.tensor(member)))]
            return [put(target, attr, self.tensor(member))]
        made = [put(target, attr, self.made(member))]
        if member.kind == "box":
            for key, inner in member.members:
                made += self.member(attribute(target, attr), key, inner)
        return made


def period(made: Made) -> int:
    """n where elements 0, n, 2n, ... are made by one call and all others by another; 0 where there is no such n."""
    calls = [(m.skeleton, m.deep) for _, m in made.members]
    for every in range(2, len(calls) // 2 + 1):
        if calls[0] != calls[1] and all(c == (calls[0] if i % every == 0 else calls[1]) for i, c in enumerate(calls)):
            return every
    return 0


def plan_leaves(made: Made) -> list[Leaf]:
    assert made.plan is not None
    return [Leaf(v, p) for v, p in zip(made.plan.values(made), made.plan.parameters)]


def put(target: Any, attr: str, value: Any) -> Any:
    """`target.attr = value`; what is no identifier is added as a module."""
    place = attribute(target, attr)
    if isinstance(place, ast.Attribute):
        return ast.Assign(targets=[place], value=value)
    return ast.Expr(value=call(attribute(target, "add_module"), constant(attr), value))


def torch_class(cls: type) -> Any:
    """`nn.Linear`; classes that torch.nn does not show by that name go by their full path."""
    if getattr(nn, cls.__name__, None) is cls:
        return dotted(f"nn.{cls.__name__}")
    return dotted(f"{cls.__module__}.{cls.__qualname__}")


def constructor(plan: Plan) -> ast.FunctionDef | None:
    """`__init__` of a planned class; None where it has nothing to do."""
    first = plan.instances[0]
    names = [None if c is None else plan.parameters[c] for c in plan.column]
    builder = Builder(iter(names))
    builder.literal = all(n is None for n in names)
    me = name("self")
    begin = call(attribute(call(name("super")), "__init__"))
    if plan.code.base in CONTAINERS:
        kind = {nn.ModuleList: "list", nn.ModuleDict: "dict", nn.Sequential: "sequential"}[plan.code.base]
        inner = [(k, m) for k, m in first.members if isinstance(m, Made)]
        rest = [(k, m) for k, m in first.members if not isinstance(m, Made)]
        kept = [builder.member(me, k, m) for k, m in rest]
        begin.args = builder.container(Made(first.module, first.path, kind, inner)).args
        body: list[Any] = [ast.Expr(value=begin), *(s for made in kept for s in made)]
    else:
        if first.base:
            made = builder.torch(plan.code.base, first.base)
            begin.args, begin.keywords = made.args, made.keywords
        body = [ast.Expr(value=begin)]
        for attr, member in first.members:
            made = builder.member(me, attr, member)
            if plan.code.methods and attr not in plan.code.reads and "*" not in plan.code.reads:
                made[0].trail = "# of the checkpoint; no program reads it"
            body += made
    if len(body) == 1 and not begin.args and not begin.keywords:
        return None
    types = [type(made.leaves()[plan.column.index(i)].value) for i in range(len(plan.parameters)) for made in plan.instances[:1]]
    args = [ast.arg(arg="self")] + [ast.arg(arg=p, annotation=name(annotation(t))) for p, t in zip(plan.parameters, types)]
    signature = ast.arguments(posonlyargs=[], args=args, vararg=None, kwonlyargs=[], kw_defaults=[], kwarg=None, defaults=[])
    return ast.FunctionDef(name="__init__", args=signature, body=body, decorator_list=[], returns=constant(None))


def annotation(kind: type) -> str:
    return kind.__name__ if kind in (int, float, bool, str, tuple, list, dict) else "object"


def located(root: nn.Module, path: str) -> Any:
    """`self.llm.layers[0].mlp` for a path in the model's tree."""
    made: Any = name("self")
    module: Any = root
    for part in path.split("."):
        if isinstance(module, (nn.ModuleList, nn.Sequential)):
            made = item(made, constant(int(part)))
        elif isinstance(module, nn.ModuleDict):
            made = item(made, constant(part))
        else:
            made = attribute(made, part)
        module = getattr(module, part)
    return made


def ties(root: nn.Module) -> list[Any]:
    """Statements that make one parameter out of those that the model shares."""
    first: dict[int, str] = {}
    statements = []
    for path, parameter in root.named_parameters(remove_duplicate=False):
        if id(parameter) in first:
            statements.append(ast.Assign(targets=[located(root, path)], value=located(root, first[id(parameter)])))
        first.setdefault(id(parameter), path)
    return statements
