"""`veriscope topics` and `veriscope case --topics`: trained, kept, read in a case, refused for another model."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from veriscope import cli
from veriscope.zoo.incidents.labelled import town_labelled

Run = Callable[..., tuple[int, str, str]]
SCENE = "two birds sing . the coin is in the garden . the hat is in the attic . where is the coin ? answer :"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """`veriscope ...` in this process and in a folder of its own: status, standard output, standard error."""
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)

    def veriscope(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["veriscope", *map(str, words)])
        capsys.readouterr()
        status = 0
        try:
            cli.main()
        except SystemExit as ended:
            status = int(ended.code or 0)
        said = capsys.readouterr()
        return status, said.out, said.err

    return veriscope


def test_readings_of_topics_are_trained_once_and_speak_in_a_case(run: Run) -> None:
    logs = town_labelled(420, 0, "topic", only=("places", "colours", "moods"))
    lines = [{**one, "messages": [one["messages"][one["turn"]]], "turn": 0} for one in logs]
    Path("labelled.jsonl").write_text("\n".join(map(json.dumps, lines)))
    Path("log.json").write_text(json.dumps({"prompt": SCENE, "completion": " garden", "strange": "garden"}))

    status, out, err = run("topics", "labelled.jsonl", "--model", "town", "--out", "kept", "--traps", 30)

    assert status == 0 and "420 labelled turns" in err
    assert "Told rightly of" in out and "--topics kept" in out
    status, out, _ = run("case", "log.json", "--model", "town", "--topics", "kept", "--no-repair")
    assert status == 0 and "it was working on places" in out
    assert "What it was working on" in Path("veriscope-cases/log.html").read_text()
    status, out, _ = run("case", "log.json", "--model", "town", "--topics", "kept", "--no-repair", "--json")
    assert json.loads(out)[0]["topics"]["turns"][0]["claim"] == "places"

    status, _, err = run("case", "log.json", "--model", "town-seed2", "--topics", "kept", "--no-repair")

    assert status == 2 and "were trained on town, and this is town-seed2" in err


def test_logs_without_topics_are_refused_with_what_to_label(run: Run) -> None:
    Path("labelled.jsonl").write_text(
        json.dumps({"messages": [{"role": "user", "content": "x"}], "labels": {"age": "1"}})
    )

    status, _, err = run("topics", "labelled.jsonl", "--model", "town")

    assert status == 2 and "Readings of topics need logs of two topics at least" in err
