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

from .abstract import Pending
from .assemble import Assembler, Names, import_lines
from .cached import CACHES
from .construct import Builder, ties
from .docs import told
from .header import module_doc
from .ir import Class, Constant, Method, Module
from .leaves import is_torch
from .naming import name_plans
from .plans import Made, Planner, stateful
from .problems import PROBLEMS, diagnosed
from .programs import CallNode, ProgramMethod, Writer, shape, shaped
from .settle import Settler
from .specialise import Specializer
from .statements import docstring, function
from .trees import assign, attribute, call, constant, dotted, name
from .units import Unit, method_node_of
from .values import reference
from .verbatim import Code, doc_of, torch_base, verbatim

if TYPE_CHECKING:
    from vlmgraph.lower.model import CompiledModel


def source(model: CompiledModel, cached: str | None = None) -> str:
    """Standalone source with the model's state-dict keys and programs. Raises DiagnosticError.

    `cached` is a program that decodes with a cache: its method takes `cache_COMPONENT` for each component that it caches, and where it
    carries values there is `NAME_step` too, for the steps behind the first.
    """
    try:
        return render(Generator(model, cached).module())
    except PROBLEMS as error:
        raise diagnosed(error, model) from error


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
    def __init__(self, model: CompiledModel, cached: str | None = None) -> None:
        self.cached = cached
        if model.device.type != "meta":  # modules are followed with stand-ins for tensors
            model = type(model)(model.spec, model.graph, device="meta")
        self.model, self.graph = model, model.graph
        self.codes: dict[type, Code] = {}
        self.unit_codes: dict[Unit, Code] = {}
        self.ports: dict[str, list[str]] = {}

    def module(self) -> Module:
        self.targets: dict[str, nn.Module] = {}
        programs, left_out = self.programs()
        self.special = Specializer(self.model)
        for program in programs:
            for made in program.calls:
                self.special.program_call(self.target(made.node), made.arguments, self.wanted(made.node))
        self.special.run_all()
        for program in programs:
            program.body = self.unpacked(program.body)
        units = list(dict.fromkeys(u for u in self.special.unit_of.values() if u is not None and u.me is not None))
        functions = [u for u in self.special.units.values() if not u.opaque]
        every = [*units, *(m for u in units for m in u.methods.values()), *functions]
        Settler(every, self.special.unit_of, [p.body for p in programs]).run()
        planner = Planner(self.code_of, self.model.dtype)
        used = {c.node.component for p in programs for c in p.calls}
        members = []
        for key, child in self.model._modules.items():
            if child is not None and (stateful(child) or any(c == key or c.startswith(key + ".") for c in used)):
                members.append((key, self.pruned(planner, child, key, used)))
        planner.close()
        name_plans(planner.plans, self.graph.components)
        assembler = Assembler(planner.plans, {u.key: u.tree for u in self.special.units.values()})
        names = Names({"Model"})
        init = self.init(members)
        methods = [self.program_method(p) for p in programs]
        caches = [reference((c.__module__, c.__name__), c.__name__) for c in CACHES] if self.cached else []
        assembler.scan([init, *methods, dotted("nn.Module"), dotted("Tensor"), *caches])
        assembler.settle(names)
        assembler.rename([init, *methods], names)
        definitions = [*assembler.definitions(names), self.model_class(init, methods)]
        doc = module_doc(self.model, left_out, [])
        return Module(tuple(docstring(doc, 0)), tuple(map(tuple, import_lines(assembler.imports, names))), tuple(definitions))

    def wanted(self, node: Node) -> list[str] | None:
        """Outputs of a node that some program reads; None where its module gives one value."""
        return self.ports.get(node.id)

    def unpacked(self, body: list[Any]) -> list[Any]:
        """Assignments of several outputs, written for how the module gives them: one value, a tuple, or a dict."""
        made: list[Any] = []
        for node in body:
            for field in ("body", "orelse"):
                if isinstance(getattr(node, field, None), list):
                    setattr(node, field, self.unpacked(getattr(node, field)))
            unpack = getattr(node, "unpack", None)
            if unpack is None:
                made.append(node)
                continue
            module, out, variables = unpack
            unit = self.special.unit_of.get(id(module))
            if unit is not None and unit.results is not None:
                targets = [name(variables[r][0]) if r in variables else name("_") for r in unit.results]
                node.targets = [targets[0] if len(targets) == 1 else ast.Tuple(elts=targets)]
                node.trail = "# " + ", ".join(variables[r][1] for r in unit.results if r in variables)
                made.append(node)
                continue
            made.append(assign(out, node.value))
            for port, (variable, shape_text) in variables.items():
                statement = assign(variable, call(attribute(name(out), "get"), constant(port)))
                statement.trail = "# " + shape_text  # type: ignore[attr-defined]
                made.append(statement)
        return made

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
        unit = self.special.unit_of.get(id(module))
        if unit is None:
            if id(module) not in self.special.verbatim and method_node_of(cls, "forward") is None and torch_base(cls) is not nn.Module:
                return None  # a class of torch with other first weights, or a container
            if cls not in self.codes:
                try:
                    self.codes[cls] = verbatim(cls)
                except PROBLEMS as error:
                    error.path = path  # type: ignore[attr-defined]
                    raise
            return self.codes[cls]
        if trivial(unit) or (unit.me is None and torch_base(cls) is not nn.Module):
            return None
        if unit not in self.unit_codes:
            self.unit_codes[unit] = self.unit_code(unit, cls)
        return self.unit_codes[unit]

    def unit_code(self, unit: Unit, cls: type) -> Code:
        if unit.me is None:
            return Code(doc_of(cls), [], torch_base(cls), set())
        reached = [unit]
        for one in reached:
            assert one.tree is not None
            read = {
                n.attr
                for n in ast.walk(one.tree)
                if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name) and n.value.id == "self"
            }
            reached += [m for m in unit.methods.values() if m.name in read and m not in reached]
        trees = [u.tree for u in reached if u.tree is not None]
        reads = {
            n.attr
            for t in trees
            for n in ast.walk(t)
            if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name) and n.value.id == "self"
        }
        return Code(self.class_doc(cls, trees, reads), trees, torch_base(cls), reads)

    def class_doc(self, cls: type, trees: list[ast.FunctionDef], reads: set[str]) -> str:
        """A class's docstring without the options that are settled here."""
        options: set[str] = set()
        for base in cls.__mro__:
            for method in ("__init__", "forward"):
                if not is_torch(base) and base is not object and method in base.__dict__:
                    options |= {p for p in inspect.signature(base.__dict__[method]).parameters if p != "self"}
        there = {a.arg for t in trees for a in t.args.args} | reads | {"x", "image", "ids"}
        return told(doc_of(cls), options - there, keep_first=True)

    # ---- programs

    def programs(self) -> tuple[list[ProgramMethod], list[str]]:
        found: list[ProgramMethod] = []
        left_out = []
        self.methods: dict[str, ProgramMethod] = {}
        """The method of each program that has one."""
        self.steps: dict[str, ProgramMethod] = {}
        for program, declared in self.graph.programs.items():
            if program == self.cached:
                found += self.decoding(program)
                continue
            if self.cached is not None and same_declared(declared, self.graph.programs[self.cached]):
                left_out.append(f"Program {program!r} is {self.cached!r} with caches that are empty.")
                continue
            if declared.cache or declared.carry:
                left_out.append(f"Program {program!r} decodes with a cache and is left out.")
                continue
            made = Writer(self.graph, program, self.defaults, self.returns).method(self.method_name(program))
            same = next((f for f in found if same_program(f, made)), None)
            if same is not None:
                left_out.append(f"Program {program!r} is {same.name!r}.")
                self.methods[program] = same
                continue
            self.methods[program] = made
            found.append(made)
        return found, left_out

    def decoding(self, program: str) -> list[ProgramMethod]:
        """The method of a program that decodes, and that of its later steps where it carries values to them."""
        name = self.method_name(program)
        made = self.methods[program] = Writer(self.graph, program, self.defaults, self.returns).method(name)
        if not self.graph.programs[program].carry:
            return [made]
        step = self.steps[program] = Writer(self.graph, program, self.defaults, self.returns, step=True).method(f"{name}_step")
        return [made, step]

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
        lazy = self.graph.config(node).requested
        declared = [port for port in self.graph.config(node).signature(node.facet).outputs if port not in lazy]

        def statements(writer: Writer, made: CallNode, wanted: Mapping[str, str], several: bool) -> Any:
            expression = self.expression(made)
            types = dict(node.values())
            if len(declared) == 1 and not several:
                value = node.value()
                variable = writer.variable(value)
                return [shaped(assign(variable, expression), types[value])], {variable}, {}
            self.ports.setdefault(node.id, [])
            self.ports[node.id] += [p for p in wanted if p not in self.ports[node.id]]
            statement = assign("_", expression)
            out = writer.variable(f"{node.id} outputs")
            variables = {port: (writer.variable(value), shape(types[value])) for port, value in wanted.items()}
            statement.unpack = (self.target(node), out, variables)  # type: ignore[attr-defined]
            return [statement], {v for v, _ in variables.values()}, {}

        return statements

    def expression(self, made: CallNode) -> Any:
        node = made.node
        function: Any = name("self")
        for part in [*node.component.split("."), *([node.facet] if node.facet else [])]:
            function = attribute(function, part)
        expression = call(function)
        expression.pending = Pending([self.target(node)], {**made.ports, **made.options})  # type: ignore[attr-defined]
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
        signature.kwonlyargs = [ast.arg(arg=c, annotation=name("KVCache")) for c in program.caches]
        signature.kw_defaults = [None] * len(program.caches)
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
        self.literal = True


def trivial(unit: Unit) -> bool:
    """Whether a forward only hands its input on to the torch class it extends."""
    if unit.me is None or torch_base(type(unit.me.one)) is nn.Module or unit.tree is None:
        return False
    body = [s for s in unit.tree.body if not (isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant))]
    if len(body) != 1 or not isinstance(body[0], ast.Return) or not isinstance(body[0].value, ast.Call):
        return False
    return ast.unparse(ast.fix_missing_locations(body[0].value.func)) == "super().forward"


def safe(value: str) -> str:
    from vlmgraph.lower.program import identifier

    return identifier(value)


def same_declared(a: Any, b: Any) -> bool:
    """Whether two programs are cut alike, whatever they keep between steps."""
    return (a.outputs, a.inputs, a.without) == (b.outputs, b.inputs, b.without)


def same_program(a: ProgramMethod, b: ProgramMethod) -> bool:
    return (a.required, a.optional, a.outputs) == (b.required, b.optional, b.outputs) and [ast.dump(s) for s in a.body] == [
        ast.dump(s) for s in b.body
    ]
