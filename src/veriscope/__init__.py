"""veriscope puts claims about the inside of a neural network on trial.

The public names, each loaded on first use: `import veriscope` alone does no work and brings no torch.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# name -> "module:attribute", or "module" for a room that is used as it is
_PUBLIC = {
    "load": "veriscope.subjects:load",
    "examples": "veriscope.examples",  # callable: see _Room
    "methods": "veriscope.methods",
    "Represents": "veriscope.claims:Represents",
    "Mediates": "veriscope.claims:Mediates",
    "Necessary": "veriscope.claims:Necessary",
    "Steers": "veriscope.claims:Steers",
    "trial": "veriscope.trials.trial:trial",  # the file, whose name would else hide it
    "Ledger": "veriscope.ledger:Ledger",
    "save": "veriscope.findings:save",
    "load_finding": "veriscope.findings:load_finding",
    "zoo": "veriscope.zoo",
    "UserError": "veriscope.errors:UserError",
}

__all__ = [
    "Ledger",
    "Mediates",
    "Necessary",
    "Represents",
    "Steers",
    "UserError",
    "examples",
    "load",
    "load_finding",
    "methods",
    "save",
    "trial",
    "zoo",
]

if TYPE_CHECKING:
    from veriscope import methods, zoo
    from veriscope.claims import Mediates, Necessary, Represents, Steers
    from veriscope.errors import UserError
    from veriscope.examples import examples
    from veriscope.findings import load_finding, save
    from veriscope.ledger import Ledger
    from veriscope.subjects import load
    from veriscope.trials import trial


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'veriscope' has no attribute '{name}'")
    module, _, attribute = _PUBLIC[name].partition(":")
    value: Any = importlib.import_module(module)
    if attribute:
        value = getattr(value, attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})


class _Room(ModuleType):
    """A room that is named like its one public function: `vs.examples(...)` calls `vs.examples.examples(...)`."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return getattr(self, self.__name__.rpartition(".")[2])(*args, **kwargs)


class _Package(ModuleType):
    """This package: the import system binds each room here by its name, whoever imported it first."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "examples" and isinstance(value, ModuleType):
            value.__class__ = _Room
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
