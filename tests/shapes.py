"""Shapes in signatures are checked while the tests run, in the functions and dataclasses that state one.

jaxtyping's own hook (`pytest --jaxtyping-packages=...`) checks every function of the package, also where mypy has said
all there is to say: more than half of the time of the tests went into that. Which functions state a shape stands in
their source, so it is read there, before a module is run.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import CodeType, ModuleType

import beartype
import jaxtyping

KINDS = ("Bool", "Float", "Int", "Shaped")  # the names of jaxtyping that veriscope writes shapes with
checked = jaxtyping.jaxtyped(typechecker=beartype.beartype)
_NAME = "checked_shapes"  # what `checked` is called in the modules


def install(package: str) -> None:
    """Check the shapes of what is imported from this package from now on."""
    assert package not in sys.modules, f"{package} was imported before the tests could check its shapes"
    sys.meta_path.insert(0, _Finder(package))


class _Finder(MetaPathFinder):
    def __init__(self, package: str) -> None:
        self.package = package

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname.split(".")[0] != self.package:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


class _Loader(SourceFileLoader):
    """Compiles modules that use jaxtyping, and writes nothing: the compiled files are those of plain imports."""

    def get_code(self, fullname: str) -> CodeType | None:
        path = self.get_filename(fullname)
        source = self.get_data(path)
        if b"from jaxtyping import" not in source:
            return super().get_code(fullname)
        tree = _Stated().visit(ast.parse(source, path))
        return compile(tree, path, "exec", dont_inherit=True)


class _Stated(ast.NodeTransformer):
    """Puts `checked` on functions and classes that state a shape."""

    def visit_Module(self, node: ast.Module) -> ast.AST:
        self.generic_visit(node)
        future = [i for i, part in enumerate(node.body) if getattr(part, "module", "") == "__future__"]
        node.body[max(future) + 1 : max(future) + 1] = ast.parse(f"from shapes import checked as {_NAME}").body
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        self.generic_visit(node)
        every = (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs, node.args.vararg, node.args.kwarg)
        if any(_states_shape(a) for a in (*(one.annotation for one in every if one is not None), node.returns)):
            node.decorator_list.append(ast.copy_location(ast.Name(_NAME, ast.Load()), node))  # before any other
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        self.generic_visit(node)
        if any(isinstance(child, ast.AnnAssign) and _states_shape(child.annotation) for child in node.body):
            node.decorator_list.insert(0, ast.copy_location(ast.Name(_NAME, ast.Load()), node))  # after `dataclass`
        return node


def _states_shape(annotation: ast.expr | None) -> bool:
    """Whether `Float[Tensor, "..."]` or its like stands anywhere in an annotation."""
    return annotation is not None and any(
        isinstance(part, ast.Subscript) and isinstance(part.value, ast.Name) and part.value.id in KINDS
        for part in ast.walk(annotation)
    )
