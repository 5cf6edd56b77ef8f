"""Logs of every kind are read as they were written; what can't be read is refused in words that help."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from veriscope.cases import BadLog, Log, NoAssistant, NoSuchSpan, Strange, Turn, find, log_of, read_logs
from veriscope.cases.logs import BadOffsets

CHAT = {"messages": [{"role": "user", "content": "Is it so?"}, {"role": "assistant", "content": "It is not so."}]}
SHARE = {"conversations": [{"from": "human", "value": "Is it so?"}, {"from": "gpt", "value": "It is not so."}]}
TURNS = (Turn("user", "Is it so?"), Turn("assistant", "It is not so."))


def written(folder: Path, name: str, data: Any) -> Path:
    path = folder / name
    path.write_text(data if isinstance(data, str) else json.dumps(data), encoding="utf-8")
    return path


@pytest.mark.parametrize("data", [CHAT, SHARE, CHAT["messages"], [CHAT]])
def test_message_lists_are_read(tmp_path: Path, data: Any) -> None:
    path = written(tmp_path, "one.json", data)

    (log,) = read_logs(path)

    assert log.turns == TURNS and log.form == "chat" and log.name == "one.json" and log.source == str(path)


def test_prompt_and_completion_are_read_as_they_are(tmp_path: Path) -> None:
    path = written(tmp_path, "a.json", {"prompt": " Once ", "completion": "upon\n", "strange": "upon"})

    (log,) = read_logs(path)

    assert log.turns == (Turn("prompt", " Once "), Turn("assistant", "upon\n"))
    assert log.form == "prompt" and log.marked == "upon"


def test_lines_may_be_of_several_forms_and_are_numbered(tmp_path: Path) -> None:
    lines = [json.dumps(CHAT), "", json.dumps({**SHARE, "id": "x"}), json.dumps({"prompt": "a", "completion": "b"})]

    logs = read_logs(written(tmp_path, "many.jsonl", "\n".join(lines)))

    assert [log.name for log in logs] == ["many.jsonl:1", "many.jsonl:x", "many.jsonl:4"]


def sample(answer: str = "It is not so.") -> dict[str, Any]:
    parts = [{"type": "reasoning", "reasoning": "hm"}, {"type": "text", "text": answer}]
    return {"id": "q1", "epoch": 2, "messages": [CHAT["messages"][0], {"role": "assistant", "content": parts}]}


def test_inspect_logs_are_read_as_files(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "run.eval", "w") as archive:
        archive.writestr("header.json", "{}")
        archive.writestr("samples/q1_epoch_2.json", json.dumps(sample()))
    written(tmp_path, "run.json", {"version": 2, "eval": {}, "samples": [sample(), sample("Yes.")]})

    logs = read_logs(tmp_path)

    assert [log.turns[-1].text for log in logs] == ["It is not so.", "It is not so.", "Yes."]
    assert "kind 'reasoning' in turn 1 was left out" in logs[0].notes[0]


def test_a_broken_archive_says_what_to_do(tmp_path: Path) -> None:
    path = written(tmp_path, "run.eval", "not a zip")

    with pytest.raises(BadLog, match="inspect log convert"):
        read_logs(path)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        ("{", "not valid JSON"),
        ({"text": "x"}, "its keys: text"),
        ([], "holds no log"),
        ({"messages": [{"content": "x"}]}, "message 0 has no 'role'"),
        ({"messages": "x"}, "not a list of objects"),
        ({"messages": [{"role": "assistant", "content": 3}]}, "neither text nor a list of parts"),
        ({"prompt": 1, "completion": "x"}, "must be text"),
        ({**CHAT, "strange": [1, 2, 3, 4]}, "neither a text nor"),
        (3, "neither an object nor a list"),
    ],
)
def test_what_is_no_log_is_refused_with_the_reason(tmp_path: Path, data: Any, why: str) -> None:
    with pytest.raises(BadLog, match=why):
        read_logs(written(tmp_path, "bad.json", data))


def test_a_log_without_an_answer_is_refused() -> None:
    with pytest.raises(NoAssistant, match=r"no assistant turn with words in it \(roles: user, assistant\)"):
        log_of({"messages": [*CHAT["messages"][:1], {"role": "assistant", "content": " "}]})


def test_the_last_time_that_words_are_said_is_marked() -> None:
    log = Log("l", (Turn("user", "so"), Turn("assistant", "so so"), Turn("user", "so?"), Turn("assistant", "no, so")))

    assert find(log, "so") == Strange(3, 4, 6, "text")
    assert find(log, "so so") == Strange(1, 0, 5, "text")
    assert find(log, (0, 2)) == Strange(3, 0, 2, "offsets")
    assert find(log, (1, 3, 5)) == Strange(1, 3, 5, "offsets")


def test_words_that_do_not_occur_are_answered_with_the_nearest() -> None:
    log = Log("l", (Turn("user", "zebra"), Turn("assistant", "There is a zebra in my garden, I fear.")))

    with pytest.raises(NoSuchSpan, match="nearest words are: 'zebra in my'"):
        find(log, "zebre in my")
    with pytest.raises(BadOffsets, match="turn 1 has 38 characters"):
        find(log, (1, 5, 90))
    with pytest.raises(BadOffsets):
        find(log, (0, 0, 3))
