"""`veriscope case`: logs in, pages out; what the user can mend is one message, and does not stop the other logs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from veriscope import cli

Run = Callable[..., tuple[int, str, str]]
SAID = {"prompt": "two birds sing . the coin is in the garden . where is the coin ? answer :", "completion": " garden"}


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """`veriscope case ...` in this process and in a folder of its own: status, standard output, standard error."""
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)

    def veriscope(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["veriscope", "case", *map(str, words)])
        capsys.readouterr()
        status = 0
        try:
            cli.main()
        except SystemExit as ended:
            status = int(ended.code or 0)
        said = capsys.readouterr()
        return status, said.out, said.err

    return veriscope


def put(name: str, *entries: object) -> Path:
    path = Path(name)
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(map(json.dumps, entries)), encoding="utf-8")
    return path


def test_a_folder_of_logs_becomes_pages_and_one_of_them_all(run: Run) -> None:
    put("logs/one.json", {**SAID, "strange": "garden"})
    put("logs/two.jsonl", {**SAID, "id": "a/../b"}, {"prompt": "two birds", "completion": " sing ."})

    status, out, err = run("logs", "--model", "town", "--no-repair")

    pages = sorted(path.name for path in Path("veriscope-cases").iterdir())
    assert status == 0 and pages == ["index.html", "one.html", "one.json", "two-2.html", "two-2.json",
                                     "two-a-..-b.html", "two-a-..-b.json"], err  # fmt: skip
    assert "s in all" in err and out.count("page ") == 3
    assert 'href="one.html"' in Path("veriscope-cases/index.html").read_text(encoding="utf-8")


def test_json_is_one_list_and_nothing_else(run: Run) -> None:
    put("one.json", {**SAID, "model": "town", "expected": "garden"})

    status, out, _ = run("one.json", "--json", "--span", "garden", "--no-repair")

    (case,) = json.loads(out)
    assert status == 0 and case["outside"]["holds"] is True and case["expected"] == ["garden"]
    assert not Path("veriscope-cases").exists()


@pytest.mark.parametrize(
    ("entry", "words", "told"),
    [
        ({"messages": [{"role": "user", "content": "two birds sing ."}]}, (), "has no assistant turn"),
        (SAID, ("--span", "gardn"), "The nearest words are: 'garden'"),
        ({"messages": [{"role": "user", "content": "two"}, {"role": "assistant", "content": "birds"}]},
         ("--template", "chat"), "has no chat template"),
        (SAID, ("--template", "some"), "--template auto, chat or plain"),
        ({**SAID, "completion": " garden" * 300}, ("--span", "garden " * 290 + "garden"), "Mark fewer words"),
        ({"prompt": "two birds jump .", "completion": " garden"}, (), ""),
        ({"talk": []}, (), "can't be read as a chat log"),
    ],
)  # fmt: skip
def test_bad_input_is_one_message(run: Run, entry: object, words: tuple[str, ...], told: str) -> None:
    put("log.json", entry)

    status, out, err = run("log.json", "--model", "town", "--no-repair", *words)

    assert "Traceback" not in err
    if told:
        assert status == 2 and told in err and err.count("veriscope:") == 1 and not out.strip()


def test_a_bad_log_does_not_stop_the_others_and_is_told_at_the_end(run: Run) -> None:
    put("bad.json", {"talk": []})
    put("good.json", {"prompt": "two birds", "completion": " sing ."})

    status, out, err = run("bad.json", "missing.json", "good.json", "--model", "town", "--no-repair")

    assert status == 2 and "page" in out and Path("veriscope-cases/good.html").exists()
    assert "bad.json can't be read" in err and "missing.json can't be read" in err


def test_who_spoke_must_be_said(run: Run) -> None:
    put("log.json", {**SAID, "model": "gpt-4"})

    status, _, err = run("log.json")

    assert status == 2 and "veriscope case log.json --model FOLDER" in err


def test_a_log_longer_than_the_context_says_what_was_cut(run: Run) -> None:
    put("log.json", {"prompt": "two birds sing . " * 120 + SAID["prompt"], "completion": " garden"})

    status, out, err = run("log.json", "--model", "town", "--span", "garden", "--no-repair")

    assert status == 0 and "were cut" in out, err
