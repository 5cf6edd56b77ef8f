"""One virtual environment for each peer, since the newest of them can't be installed beside each other."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(os.environ.get("BENCH_ENVS") or Path.home() / ".cache" / "veriscope-bench")


@dataclass(frozen=True)
class Contender:
    """A worker: who it is, which file in `benchmarks/peers/` it runs, and what its environment needs.

    Attributes:
        pins: Requirements beside torch and transformers; none means that it runs in the environment of veriscope.
        takes: Workloads that it has a contestant in.
    """

    name: str
    module: str
    pins: tuple[str, ...]
    takes: tuple[str, ...]


_MODELS = ("W1", "W1 everything", "W2", "W3", "W4", "W7 gradients", "W7 attribution", "W8 all", "W8 last", "W9")
_HOOKED = tuple(name for name in _MODELS if name != "W7 gradients")

PLAIN = Contender("transformers", "plain", (), _MODELS)
OURS = Contender("veriscope", "ours", (), (*_MODELS, "W5"))
PEERS = (
    Contender("TransformerLens", "transformer_lens", ("transformer-lens==4.3.0",), _HOOKED),
    Contender("nnsight", "nnsight", ("nnsight==0.8.1",), _HOOKED),
    Contender("pyvene", "pyvene", ("pyvene==0.1.8",), ("W1", "W2", "W3", "W4", "W8 all", "W8 last", "W9")),
    Contender("captum", "captum", ("captum==0.9.0",), ("W7 gradients",)),
    Contender("scikit-learn", "scikit_learn", (), ("W5",)),
)
NOT_YET = {"sae-lens": "no workload here yet (W6 comes with the dictionary work)"}


class NoEnvironment(Exception):
    """An environment that could not be made, with the reason."""


def python_of(who: Contender) -> Path:
    """The interpreter of a contender, its environment made if need be.

    Raises:
        NoEnvironment: pip failed, or torchvision came along (it can't be imported beside the pinned torch).
    """
    if not who.pins:
        return Path(sys.executable)
    ours = {name: importlib.metadata.version(name) for name in ("torch", "transformers")}
    wanted = [f"{name}=={version.split('+')[0]}" for name, version in ours.items()] + list(who.pins)
    folder = FOLDER / who.module
    python, stamp = folder / "bin" / "python", folder / "made.txt"
    if not (stamp.exists() and stamp.read_text() == "\n".join(wanted)):
        _make(folder, python, wanted)
        stamp.write_text("\n".join(wanted))
    return python


def _make(folder: Path, python: Path, wanted: list[str]) -> None:
    print(f"  making an environment: {' '.join(wanted)}", flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder, with_pip=True)
    pip = [str(python), "-m", "pip", "--disable-pip-version-check", "--no-input", "install", "--quiet"]
    index = os.environ.get("TORCH_INDEX")
    if index:
        _run([*pip, "--no-deps", "--index-url", index, wanted[0]])
    _run([*pip, *wanted])
    seen = "import importlib.util, sys; sys.exit(importlib.util.find_spec('torchvision') is not None)"
    if subprocess.run([str(python), "-c", seen]).returncode:
        raise NoEnvironment("it brings torchvision, which can't be imported beside this torch")


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
        raise NoEnvironment(f"pip install failed: {(said or ['no message'])[0][:200]}")
