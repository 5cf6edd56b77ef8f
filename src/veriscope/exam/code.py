"""Which code an outcome hangs on, as one hash: so that a kept outcome is used again only while it is still true.

Hashed is what Python would run and not how it is written down: comments, docstrings and layout don't count.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
from functools import cache
from pathlib import Path

import veriscope

# What a trial may load by name, without an import statement that would show it.
ROOMS = ("methods", "rivals", "subjects", "examples", "exam/rivals.py", "findings.py", "trials/trial.py")
# Files that decide nothing: words, and packages whose first file only hands on names.
SILENT = (
    "trials/rates.py",
    "trials/wording.py",
    "exam/planting.py",
    *(f"{p}__init__.py" for p in ("", "claims/", "exam/", "trials/", "zoo/")),
)


@cache
def code_hash(*modules: str) -> str:
    """Hash of these modules, of all that they import from veriscope or their own package, and of the shared rooms.

    Args:
        modules: Import paths: the bench of a claim type, and the bed that plants its claims.

    Returns:
        16 hex digits.
    """
    root = Path(veriscope.__file__).parent
    waiting = [f for room in ROOMS for f in _files(root / room)]
    waiting += [f for name in modules if (f := _file_of(name)) is not None]
    silent = {root / name for name in SILENT}
    tops = {"veriscope", *(name.split(".")[0] for name in modules)}
    seen: dict[Path, str] = {}
    while waiting:
        path = waiting.pop()
        if path in seen or path in silent:
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        waiting += [f for name in _imported(tree) if name.split(".")[0] in tops and (f := _file_of(name)) is not None]
        seen[path] = ast.dump(_without_docs(tree))
    text = "\n".join(sorted(seen.values()))
    return hashlib.sha256(f"{veriscope.__version__}\n{text}".encode()).hexdigest()[:16]


def _files(path: Path) -> list[Path]:
    return sorted(path.rglob("*.py")) if path.is_dir() else [path]


def _file_of(name: str) -> Path | None:
    """A module's file; None for what is no module, or no Python file."""
    try:
        found = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None
    origin = found.origin if found is not None else None
    return Path(origin) if origin is not None and origin.endswith(".py") else None


def _imported(tree: ast.AST) -> list[str]:
    """Modules that a tree's import statements name, at any depth; what is imported from one may be a module too."""
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return names


def _without_docs(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                node.body = node.body[1:]
    return tree
