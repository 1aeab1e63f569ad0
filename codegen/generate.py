"""A compiled model → the text of `model.py`."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from vlmgraph.ir.graph import Node

from .assemble import Assembler, Names, import_lines
from .construct import Builder, ties
from .header import module_doc
from .ir import Class, Constant, Method, Module
from .leaves import is_torch
from .plans import Made, Plan, Planner, stateful
from .programs import CallNode, ProgramMethod, Writer, shape, shaped
from .statements import docstring, function
from .trees import assign, attribute, call, constant, dotted, item, name
from .verbatim import Code, verbatim

if TYPE_CHECKING:
    from vlmgraph.lower.model import CompiledModel


def source(model: CompiledModel) -> str:
    """Standalone source with the model's state-dict keys and programs. Raises DiagnosticError."""
    return render(Generator(model).module())


@cache
def _environment() -> Any:
    import jinja2

    folder = Path(__file__).parent / "templates"
    env = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder), trim_blocks=True, lstrip_blocks=True, autoescape=False, undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )  # fmt: skip
    env.tests["class"] = lambda x: isinstance(x, Class)
    env.tests["constant"] = lambda x: isinstance(x, Constant)
    return env


def render(module: Module) -> str:
    text = _environment().get_template("module.py.jinja").render(module=module)
    return text.rstrip("\n") + "\n"


class Generator:
    def __init__(self, model: CompiledModel) -> None:
        self.model, self.graph = model, model.graph
        self.codes: dict[type, Code] = {}

    def module(self) -> Module:
        programs, left_out = self.programs()
        planner = Planner(self.code_of, self.model.dtype)
        used = {c.node.component for p in programs for c in p.calls}
        members = []
        for key, child in self.model._modules.items():
            if child is not None and (stateful(child) or any(c == key or c.startswith(key + ".") for c in used)):
                members.append((key, self.pruned(planner, child, key, used)))
        planner.close()
        self.name_plans(planner.plans)
        assembler = Assembler(planner.plans)
        names = Names({"Model"})
        init = self.init(members)
        methods = [self.program_method(p) for p in programs]
        assembler.scan([init, *methods, dotted("nn.Module"), dotted("Tensor")])
        assembler.settle(names)
        assembler.rename([init, *methods], names)
        definitions = [*assembler.definitions(names), self.model_class(init, methods)]
        doc = module_doc(self.model, left_out, [])
        return Module(tuple(docstring(doc, 0)), tuple(map(tuple, import_lines(assembler.imports, names))), tuple(definitions))

    def pruned(self, planner: Planner, module: nn.Module, path: str, used: set[str]) -> Made:
        """Containers of components keep those with parameters and those that a program calls."""
        if type(module) is not nn.Module or path in used:
            return planner.make(module, path)
        kept = []
        for key, child in module._modules.items():
            below = f"{path}.{key}"
            if child is not None and (stateful(child) or any(c == below or c.startswith(below + ".") for c in used)):
                kept.append((key, self.pruned(planner, child, below, used)))
        return Made(module, path, "box", kept)

    # ---- classes

    def code_of(self, module: nn.Module, path: str) -> Code | None:
        cls = type(module)
        if is_torch(cls):
            return None
        if cls not in self.codes:
            self.codes[cls] = verbatim(cls)
        return self.codes[cls]

    def name_plans(self, plans: list[Plan]) -> None:
        for plan in plans:
            plan.name = plan.cls.__name__

    # ---- programs

    def programs(self) -> tuple[list[ProgramMethod], list[str]]:
        found, left_out = [], []
        for program, declared in self.graph.programs.items():
            if declared.cache or declared.carry:
                left_out.append(f"Program {program!r} decodes with a cache and is left out.")
                continue
            made = Writer(self.graph, program, self.defaults, self.returns).method(self.method_name(program))
            same = next((f for f in found if same_program(f, made)), None)
            if same is not None:
                left_out.append(f"Program {program!r} is {same.name!r}.")
                continue
            found.append(made)
        return found, left_out

    def method_name(self, program: str) -> str:
        taken = {c.partition(".")[0] for c in self.graph.components}
        clash = program in taken or (program != "forward" and hasattr(nn.Module, program))
        return f"run_{program}" if clash else program

    def target(self, node: Node) -> nn.Module:
        found = self.model.get_submodule(node.component)
        return getattr(found, node.facet) if node.facet else found

    def parameters(self, node: Node) -> Mapping[str, inspect.Parameter]:
        return inspect.signature(type(self.target(node)).forward).parameters

    def defaults(self, node: Node) -> Mapping[str, Any]:
        return {p.name: p.default for p in self.parameters(node).values() if p.default is not inspect.Parameter.empty}

    def returns(self, node: Node) -> Any:
        declared = self.graph.config(node).signature(node.facet).outputs

        def statements(writer: Writer, made: CallNode, wanted: Mapping[str, str], taps: bool) -> Any:
            expression = self.expression(made)
            types = dict(node.values())
            if len(declared) == 1 and not taps:
                value = node.value()
                variable = writer.variable(value)
                return [shaped(assign(variable, expression), types[value])], {variable}, {}
            out = writer.variable(f"{node.id} outputs")
            further = {}
            for port, value in wanted.items():
                statement = shaped(assign(writer.variable(value), item(name(out), constant(port))), types[value])
                further[port] = (statement, out, writer.variable(value))
            return [assign(out, expression)], {out}, further

        return statements

    def expression(self, made: CallNode) -> Any:
        node = made.node
        function: Any = name("self")
        for part in [*node.component.split("."), *([node.facet] if node.facet else [])]:
            function = attribute(function, part)
        given = {**made.ports, **made.options}
        args, keywords = [], dict(given)
        for p in list(self.parameters(node).values())[1:]:
            if p.name not in keywords or p.kind is not p.POSITIONAL_OR_KEYWORD:
                break
            args.append(keywords.pop(p.name))
        expression = call(function, *args)
        expression.keywords = [ast.keyword(arg=k, value=v) for k, v in keywords.items()]
        return expression

    # ---- the model

    def init(self, members: list[tuple[str, Made]]) -> ast.FunctionDef:
        me = name("self")
        body: list[Any] = [ast.Expr(value=call(attribute(call(name("super")), "__init__")))]
        for key, made in members:
            body += Everything().member(me, key, made)
        body += ties(self.model)
        args = ast.arguments(
            posonlyargs=[], args=[ast.arg(arg="self")], vararg=None, kwonlyargs=[], kw_defaults=[], kwarg=None, defaults=[]
        )
        return ast.FunctionDef(name="__init__", args=args, body=body, decorator_list=[], returns=constant(None))

    def program_method(self, program: ProgramMethod) -> ast.FunctionDef:
        tensor = name("Tensor")
        maybe = ast.BinOp(left=tensor, op=ast.BitOr(), right=constant(None))
        args = [ast.arg(arg="self")]
        args += [ast.arg(arg=a, annotation=name("Tensor")) for a in map(safe, program.required)]
        args += [ast.arg(arg=a, annotation=maybe) for a in map(safe, program.optional)]
        signature = ast.arguments(
            posonlyargs=[],
            args=args,
            vararg=None,
            kwonlyargs=[],
            kw_defaults=[],
            kwarg=None,
            defaults=[constant(None)] * len(program.optional),
        )
        told = [f"{safe(k)} {shape(t)}" for k, t in {**program.required, **program.optional}.items()]
        gives = [f"{k} {shape(t)}" for k, t in program.outputs.items()]
        doc = ast.Expr(value=ast.Constant(value=f"{', '.join(told)} → {', '.join(gives)}."))
        back = ast.Subscript(value=name("dict"), slice=ast.Tuple(elts=[name("str"), name("Tensor")]))
        return ast.FunctionDef(name=program.name, args=signature, body=[doc, *program.body], decorator_list=[], returns=back)

    def model_class(self, init: ast.FunctionDef, methods: list[ast.FunctionDef]) -> Class:
        doc = f"{self.graph.name}: its components by name, and a method for each program."
        trees = [init, *methods]
        return Class(
            "Model", "class Model(nn.Module):", tuple(docstring(doc, 4)), tuple(Method(t.name, tuple(function(t, 4))) for t in trees)
        )


class Everything(Builder):
    """A builder whose leaves are all literals."""

    def __init__(self) -> None:
        from itertools import repeat

        super().__init__(repeat(None))


def safe(value: str) -> str:
    from vlmgraph.lower.program import identifier

    return identifier(value)


def same_program(a: ProgramMethod, b: ProgramMethod) -> bool:
    return (a.required, a.optional, a.outputs) == (b.required, b.optional, b.outputs) and [ast.dump(s) for s in a.body] == [
        ast.dump(s) for s in b.body
    ]
