"""The result file of the cause list on paper: counts with their intervals, and what they belong to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from veriscope.cases.causes.catalogue import results, version
from veriscope.cases.exam import Outcome, record
from veriscope.cases.exam_table import ASKED, PAGE, TABLES, filled, totals, write
from veriscope.errors import UserError

ROOT = Path(__file__).parents[2]


def _recorded(folder: Path) -> dict[str, object]:
    """Two sampling incidents, two with a cause that is not listed, and a sound log of which a cause is named."""
    said = [("sampling", "sampling"), ("sampling", "indistinguishable"), ("unlisted", "unknown"),
            ("unlisted", "indistinguishable"), ("clean", "wrong_fact")]  # fmt: skip
    outcomes = [Outcome(f"{n}", cause, "veriscope", first, (), 0.1) for n, (cause, first) in enumerate(said)]
    record(folder / "results.json", outcomes, 11, "2026-01-01")
    found: dict[str, object] = json.loads((folder / "results.json").read_text())
    return found


def test_the_totals_count_what_was_named_first_and_what_could_not_be_told_apart_as_unknown(tmp_path: Path) -> None:
    found = totals(_recorded(tmp_path)["rows"])  # type: ignore[arg-type]

    assert [found["veriscope"][name] for name in ASKED] == [(1, 2), (2, 2), (1, 1)]


def test_a_result_file_says_which_list_code_and_machine_class_it_is_of(tmp_path: Path) -> None:
    kept = _recorded(tmp_path)

    assert kept["version"] == version() and kept["seed"] == 11 and kept["code"]
    assert {"python", "machine", "veriscope", "torch"} <= set(kept["versions"])  # type: ignore[call-overload]


def test_the_docs_are_written_from_the_result_file(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    marks = "".join(f"<!-- cases: {name} -->\nold\n<!-- end -->\n" for name in TABLES)
    (tmp_path / PAGE).write_text(marks, encoding="utf-8")

    write(tmp_path, _recorded(tmp_path))

    text = (tmp_path / PAGE).read_text(encoding="utf-8")
    assert "old" not in text and "| sampling | 1 | indistinguishable 1 |" in text
    assert "| veriscope | 1 of 2 [1%, 99%] | 2 of 2 [16%, 100%] | 1 of 1 " in text
    assert f"| {version()} | 11 | 2026-01-01 |" in text


def test_without_results_and_without_a_page_it_is_said(tmp_path: Path) -> None:
    assert "not measured yet" in filled("<!-- cases: rates -->\n<!-- end -->\n", {})
    with pytest.raises(UserError, match="project's own folder"):
        write(tmp_path, {})
    with pytest.raises(UserError, match="no table 'rate'"):
        filled("<!-- cases: rate -->\n<!-- end -->\n", {})


def test_the_page_is_the_one_that_the_packages_results_write() -> None:
    text = (ROOT / PAGE).read_text(encoding="utf-8")

    assert filled(text, results()) == text, "run: veriscope exam --only cases --write-docs"
    assert all(f"<!-- cases: {name} -->" in text for name in TABLES)


def test_the_packages_results_are_of_this_version_of_the_list() -> None:
    assert not results() or results()["version"] == version()
