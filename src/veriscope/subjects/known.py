"""Subjects that this process has open, by their hash: a finding names its subject so, and a trial looks it up."""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from veriscope.errors import UserError

if TYPE_CHECKING:
    from veriscope.subjects.subject import Subject

_OPEN: WeakValueDictionary[str, Subject] = WeakValueDictionary()


def remember(subject: Subject, subject_hash: str) -> str:
    """Note an open subject under its hash, and give the hash back."""
    _OPEN[subject_hash] = subject
    return subject_hash


def loaded(subject_hash: str) -> Subject:
    """The open subject with this hash.

    Raises:
        UserError: None is open: load it again, or hand it to the trial.
    """
    found = _OPEN.get(subject_hash)
    if found is None:
        raise UserError(
            f"No open subject has the hash {subject_hash[:12]}. Load it, or pass it: trial(claim, subject=...)"
        )
    return found
