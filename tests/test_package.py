"""The package as a whole: what importing it costs, what it offers and what must never be installed beside it."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent
# Ground first. A room imports from its own floor and from those below it.
FLOORS = (
    ("errors",),
    ("examples", "ledger", "compute"),
    ("subjects",),
    ("findings",),
    ("methods", "rivals"),
    ("claims",),
    ("trials",),
    ("patching", "zoo", "exam"),
    ("cases", "studies"),
    ("report",),
    ("cli", "__main__", "__init__"),
)


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def test_importing_is_quick_and_brings_no_torch() -> None:
    code = (
        "import time, sys; t = time.perf_counter(); import veriscope; print(time.perf_counter() - t);"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    )

    seconds = min(float(run(code)) for _ in range(3))

    assert seconds < 0.3


def test_a_room_imports_only_from_its_own_floor_and_below() -> None:
    package = REPOSITORY / "src" / "veriscope"
    floor_of = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
    upward = []

    for path in sorted(package.rglob("*.py")):
        file = path.relative_to(package)
        for name in _imported(ast.parse(path.read_text(encoding="utf-8"))):
            room = name.split(".")[1]
            if room in floor_of and floor_of[room] > floor_of[file.parts[0].removesuffix(".py")]:
                upward.append(f"{file.as_posix()} imports {name}")

    assert not upward
    assert {path.name.removesuffix(".py") for path in package.iterdir() if path.suffix in ("", ".py")} <= {
        *floor_of, "__pycache__",
    }  # fmt: skip


def _imported(tree: ast.AST) -> list[str]:
    """Modules and names of veriscope that import statements name, at any depth."""
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return [name for name in names if name.startswith("veriscope.")]


@pytest.mark.slow
def test_every_public_name_is_there_and_loads_once() -> None:
    import veriscope

    assert sorted(veriscope.__all__) == sorted(veriscope._PUBLIC)
    for name in veriscope.__all__:
        assert getattr(veriscope, name) is getattr(veriscope, name)
        assert name in dir(veriscope)


def test_an_unknown_name_is_an_attribute_error() -> None:
    import veriscope

    with pytest.raises(AttributeError, match="'veriscope' has no attribute 'lode'"):
        _ = veriscope.lode  # type: ignore[attr-defined]


def test_examples_is_a_function_and_a_room_whoever_imports_it_first() -> None:
    for first in ("import veriscope.examples", "from veriscope.examples import Sample", "pass"):
        out = run(
            f"{first}\nimport veriscope as vs\n"
            "rows = [{'text': f'row {i}', 'z': str(i % 2)} for i in range(60)]\n"
            "print(vs.examples(rows, label='z').n, vs.examples.Sample.__name__)"
        )

        assert out == "60 Sample"


@pytest.mark.parametrize("name", ["torchvision", "timm", "torchaudio"])
def test_what_breaks_transformers_beside_our_torch_is_not_installed(name: str) -> None:
    assert importlib.util.find_spec(name) is None, f"{name} must not be in this environment: pip uninstall {name}"


def test_versions_agree_and_are_pinned() -> None:
    import veriscope

    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    lock = (REPOSITORY / "requirements.lock").read_text()
    pinned = {line.split("==")[0].lower().replace("_", "-") for line in lock.splitlines() if "==" in line}
    wanted = [*project["dependencies"], *project["optional-dependencies"]["test"]]
    names = {w.split("==")[0].split(">=")[0].lower() for w in wanted}

    assert project["version"] == veriscope.__version__
    assert "torch==2.13.0\n" in lock
    assert names <= pinned
    assert f"## {veriscope.__version__}" in (REPOSITORY / "CHANGELOG.md").read_text()


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make on this machine")
def test_make_installs_once_for_the_same_versions_and_again_for_others(tmp_path: Path) -> None:
    for name in ("Makefile", "pyproject.toml", "requirements.lock"):
        shutil.copy(REPOSITORY / name, tmp_path / name)

    def planned() -> str:
        # Not as a part of the make that may be running this test: its flags would be taken for ours.
        env = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "WORKERS"))}
        command = ["make", "-n", "test"]
        return subprocess.run(command, cwd=tmp_path, env=env, check=True, capture_output=True, text=True).stdout

    first = planned()
    stamp = tmp_path / re.findall(r"touch (\S+)", first)[0]
    stamp.parent.mkdir()
    stamp.touch()
    second = planned()
    (tmp_path / "requirements.lock").write_text("torch==2.13.0\n")

    assert first.index("install --constraint requirements.lock torch==2.13.0") < first.index("--requirement")
    assert "install" not in second and "pytest -n 2" in second
    assert "install" in planned()
