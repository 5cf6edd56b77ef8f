"""The append-only, hash-chained record: cards, looks, tries, evidence, verdicts, failures. Plain data, no torch."""

from veriscope.ledger.asking import (
    count_looks,
    count_tries,
    current,
    early_looks,
    evidence_for,
    tried,
    use,
    versions,
)
from veriscope.ledger.book import KINDS, START, Ledger, Row
from veriscope.ledger.canonical import canonical, digest
from veriscope.ledger.exported import import_check

__all__ = [
    "KINDS",
    "START",
    "Ledger",
    "Row",
    "canonical",
    "count_looks",
    "count_tries",
    "current",
    "digest",
    "early_looks",
    "evidence_for",
    "import_check",
    "tried",
    "use",
    "versions",
]
