"""Which model a log is worked on: the one given, else the one that the log names, if that is one of the zoo's."""

from __future__ import annotations

import json
import pkgutil
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from veriscope.cases.logs import Log
from veriscope.errors import UserError
from veriscope.subjects import Subject, load
from veriscope.zoo import town

BUILDERS = "veriscope.zoo.incidents.models"
MAKES = ("shipped", "taught_model", "late_word", "turned_heads", "rounded", "leaning", "without_words")


class NoModel(UserError):
    """A log that does not say which model spoke, or names one that no log may open."""

    def __init__(self, log: Log) -> None:
        named = f"names the model {json.dumps(log.model)[:80]}" if log.model else "names no model"
        super().__init__(
            f"{log.name} {named}, and a log may only open models of the zoo ({', '.join(town.VARIANTS)}). Say which "
            f"model spoke: veriscope case {log.source or 'LOG.json'} --model FOLDER"
        )


def model_of(log: Log, given: str | None = None) -> Subject:
    """The model to work on; the ones opened last are kept open.

    A log is someone else's file, so what it names is looked up among the zoo's models and builders and never imported.

    Args:
        given: Folder, zoo name or hub id; None takes what the log names.

    Raises:
        NoModel, CannotLoad.
    """
    if given is not None:
        return _loaded(given)
    if isinstance(log.model, str) and log.model in town.VARIANTS:
        return _loaded(log.model)
    if isinstance(log.model, Mapping):
        module, _, make = str(log.model.get("path", "")).partition(":")
        settings = log.model.get("settings", {})
        if module == BUILDERS and make in MAKES and isinstance(settings, Mapping):
            return _built(make, json.dumps(dict(settings), sort_keys=True), log)
    raise NoModel(log)


@lru_cache(maxsize=4)
def _loaded(what: str) -> Subject:
    return load(what)


_kept: dict[tuple[str, str], Subject] = {}


def _built(make: str, settings: str, log: Log) -> Subject:
    if (make, settings) not in _kept:
        builder: Any = pkgutil.resolve_name(f"{BUILDERS}:{make}")
        try:
            _kept[make, settings] = builder(**json.loads(settings))
        except (TypeError, ValueError, KeyError) as error:
            raise UserError(
                f"{log.name} names the model {make} with settings that it can't be made of: {error}."
            ) from error
    return _kept[make, settings]
