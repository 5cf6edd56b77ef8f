"""The cause list: one readable file of what may be behind a strange answer, and the error rates that were measured."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Any

import yaml


@dataclass(frozen=True)
class Entry:
    """One cause of the list.

    Attributes:
        name: As findings have it.
        title, words: What it is, in a few words and in a sentence.
        test, control: How it is detected, and what the detecting test is held against.
        repair: What is suggested.
        examples: Short ones.
        blind: What the test can't find.
    """

    name: str
    title: str
    words: str
    test: str
    control: str
    repair: str
    examples: tuple[str, ...]
    blind: str


def _file(name: str, package: str = "veriscope.cases.causes") -> str:
    return resources.files(package).joinpath(name).read_text(encoding="utf-8")


@lru_cache(maxsize=1)
def _list() -> Mapping[str, Any]:
    found: Mapping[str, Any] = yaml.safe_load(_file("causes.yaml"))
    return found


def version() -> str:
    """Of the list: it changes with any entry or test."""
    return str(_list()["version"])


@lru_cache(maxsize=1)
def catalogue() -> tuple[Entry, ...]:
    """Every cause of the list, in the order in which they explain; "unknown" is not among them."""
    return tuple(
        Entry(**{**entry, "name": name, "examples": tuple(entry["examples"])})
        for name, entry in _list()["causes"].items()
    )


def results() -> Mapping[str, Any]:
    """What was measured on planted incidents, as the package holds it; empty where nothing was kept."""
    try:
        found: Mapping[str, Any] = json.loads(_file("results.json", "veriscope.cases"))
    except FileNotFoundError:
        return {}
    return found


def measured(cause: str, who: str = "veriscope") -> Mapping[str, Any] | None:
    """The row of one cause: {who, cause, n, first, listed, unknown, wrong, low, high}; None where it was not measured.

    `low` and `high` are the 95% interval (Clopper and Pearson) of the share that came out right.
    """
    return next((row for row in results().get("rows", ()) if row["cause"] == cause and row["who"] == who), None)
