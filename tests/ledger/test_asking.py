"""The ledger in use, and what trials and reports ask of it."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from veriscope.ledger import (
    Ledger,
    canonical,
    count_looks,
    count_tries,
    current,
    early_looks,
    evidence_for,
    tried,
    use,
    versions,
)


def test_the_innermost_use_is_current_and_ends_with_its_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VERISCOPE_LEDGER", raising=False)
    outer, inner, default = Ledger.in_memory(), Ledger.in_memory(), current()

    with use(outer):
        assert current() is outer
        with pytest.raises(RuntimeError), use(inner):
            assert current() is inner
            raise RuntimeError
        assert current() is outer
        seen: list[Ledger] = []
        thread = threading.Thread(target=lambda: seen.append(current()))
        thread.start()
        thread.join()

    assert current() is default and seen == [default]


def test_the_default_is_the_file_in_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VERISCOPE_LEDGER", str(tmp_path / "mine.sqlite"))

    current().append("note", {})

    assert current() is current() and Ledger(tmp_path / "mine.sqlite").verify() == 1


def test_a_try_is_recorded_once_and_counted_by_data_and_variable() -> None:
    ledger = Ledger.in_memory()
    with use(ledger):
        for seed in (0, 1, 1, 0):
            tried({"examples": "e", "variable": "mood", "seed": seed, "site": "blocks.1"})
        tried({"examples": "e", "variable": "other", "seed": 0})
        tried({"examples": "f", "variable": "mood", "seed": 0})
    ledger.append("try", {"examples": "e", "variable": "mood", "seed": 0, "site": "blocks.1"})  # written past `tried`

    assert len(ledger.rows("try")) == 5
    assert count_tries(ledger, examples="e", of="mood") == 2
    assert count_tries(ledger, examples="g", of="mood") == 0
    with pytest.raises(ValueError, match="must name its variable"):
        tried({"examples": "e"})


def test_finished_gates_are_found_again_by_card_gate_and_seed() -> None:
    ledger = Ledger.in_memory()
    body = {"card": "c", "gate": "g1", "seed": 0, "result": {"seed": 1}}
    ledger.append("evidence", body)
    last = ledger.append("evidence", body | {"result": {"seed": 2}})
    ledger.append("failure", body | {"gate": "g2"})

    assert evidence_for(ledger, "c", "g1", 0) == last
    for card, gate, seed in (("c", "g1", 1), ("c", "g2", 0), ("d", "g1", 0)):
        assert evidence_for(ledger, card, gate, seed) is None


def test_a_look_before_its_card_is_noticed() -> None:
    ledger = Ledger.in_memory()
    look = {"examples": "e", "pool": "gate", "n": 3, "again": False}
    early = ledger.append("look", look | {"by": "one"})
    ledger.append("card", {"hash": "one"})
    ledger.append("card", {"hash": "two"})
    ledger.append("look", look | {"by": "two"})
    ledger.append("card", {"hash": "two"})
    never = ledger.append("look", look | {"by": "three"})

    assert early_looks(ledger) == [early, never]
    assert count_looks(ledger, examples="e") == 3


def test_versions_are_plain_and_tell_nothing_about_the_person() -> None:
    found = versions()

    assert {"python", "machine", "numpy", "torch"} <= set(found) and canonical(found)
    assert not any("/" in value or "\\" in value for value in found.values())
