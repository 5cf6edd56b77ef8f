"""Models under study: open one, name its places, run it with reads and edits, make its twins."""

from __future__ import annotations

from veriscope.subjects.edits import Add, Edit, Erase, Mean, Onto, Resample, SetTo, Swap, Zero
from veriscope.subjects.known import loaded
from veriscope.subjects.loading import load, zoo_names
from veriscope.subjects.reader import CharReader, Reader, WordReader
from veriscope.subjects.run import Run
from veriscope.subjects.sites import At, Read, Site, Span
from veriscope.subjects.subject import Subject
from veriscope.subjects.sweep import Sweep, Swept, Variant

__all__ = [
    "Add",
    "At",
    "CharReader",
    "Edit",
    "Erase",
    "Mean",
    "Onto",
    "Read",
    "Reader",
    "Resample",
    "Run",
    "SetTo",
    "Site",
    "Span",
    "Subject",
    "Swap",
    "Sweep",
    "Swept",
    "Variant",
    "WordReader",
    "Zero",
    "load",
    "loaded",
    "zoo_names",
]
