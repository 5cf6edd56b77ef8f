"""Chat logs as files: what was said by whom, whatever program wrote it down, and which words of it are strange.

Read are message lists as OpenAI's interface has them, ShareGPT conversations, {"prompt", "completion"}, JSON or JSON
Lines of these, Inspect logs (`.eval`, a zip of JSON, or `.json`), and folders. Nothing in a file is ever run.
"""

from __future__ import annotations

import difflib
import json
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from veriscope.errors import UserError

ROLES = {"human": "user", "gpt": "assistant", "bot": "assistant", "chatgpt": "assistant", "model": "assistant"}
SUFFIXES = (".json", ".jsonl", ".eval")
LARGEST = 2**28  # bytes of one file in an archive: more of them are no log, and might be meant to fill the memory
Mark = str | tuple[int, int] | tuple[int, int, int]


class BadLog(UserError):
    """A file that can't be read as a chat log."""

    def __init__(self, source: str, why: str, mend: str = "") -> None:
        mend = mend or (
            'Give {"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}, or '
            '{"prompt": "...", "completion": "..."}, as .json or one a line as .jsonl.'
        )
        super().__init__(f"{source} can't be read as a chat log: {why}. {mend}")


class NoAssistant(UserError):
    """A log in which the model says nothing."""

    def __init__(self, log: Log) -> None:
        roles = ", ".join(dict.fromkeys(turn.role for turn in log.turns)) or "none"
        super().__init__(
            f"{log.name} has no assistant turn with words in it (roles: {roles}), so there is nothing to explain. Add "
            f'what the model answered as {{"role": "assistant", "content": "..."}}.'
        )


class NoSuchSpan(UserError):
    """Words that no assistant turn of the log holds."""

    def __init__(self, log: Log, wanted: str, near: str) -> None:
        hint = f"The nearest words are: '{near}'. " if near else ""
        super().__init__(
            f"'{wanted}' does not occur in what the assistant says in {log.name}. {hint}Copy it from the log, give "
            f"(turn, start, end) in characters, or leave it out to take the least expected words."
        )


class BadOffsets(UserError):
    """Offsets that mark nothing in an assistant turn."""

    def __init__(self, log: Log, mark: Sequence[int]) -> None:
        spoken = [f"turn {n} has {len(t.text)} characters" for n, t in enumerate(log.turns) if t.role == "assistant"]
        super().__init__(
            f"Offsets {tuple(mark)} mark no words of an assistant turn of {log.name}: {'; '.join(spoken)}. Give (turn, "
            f"start, end), or (start, end) in the last of them."
        )


@dataclass(frozen=True)
class Turn:
    """What one speaker said in one go.

    Attributes:
        role: "system", "user", "assistant", "tool", or what else the log calls it; "prompt" for plain text.
        text: As it stands in the log, nothing stripped.
    """

    role: str
    text: str


@dataclass(frozen=True)
class Log:
    """One conversation, or one prompt with what the model made of it.

    Attributes:
        name: File and, where it holds several, its number or id there.
        turns: In order; at least one is the assistant's.
        form: "chat" is read through the tokenizer's chat template where it has one; "prompt" is continued as it is.
        source: Path of the file; empty for a log made in memory.
        marked: The words that the file itself calls strange ("strange": text or [turn, start, end]), if it does.
        expected: What should have been said in the place of the strange words ("expected": text, or several that would
            all do), if the file says so.
        model: What the file calls the model that spoke ("model"), as it stands there; nothing is opened for it here.
        notes: What was left out in reading it (pictures, tool calls), one sentence each.
    """

    name: str
    turns: tuple[Turn, ...]
    form: Literal["chat", "prompt"] = "chat"
    source: str = ""
    marked: Mark | None = None
    expected: tuple[str, ...] = ()
    model: str | Mapping[str, Any] | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Strange:
    """The words whose cause is asked for: characters `start` to `end` of the text of one assistant turn.

    Attributes:
        turn: Number of the turn in the log.
        found: How it was found: "text", "offsets", or "least expected" (nobody marked it).
    """

    turn: int
    start: int
    end: int
    found: Literal["text", "offsets", "least expected"] = "text"


def read_logs(path: str | Path) -> list[Log]:
    """Every log of a file, or of all `.json`, `.jsonl` and `.eval` files of a folder and those within.

    Raises:
        BadLog: A file is none of the forms known; the message says which and what to write instead.
        NoAssistant: The model says nothing in a log.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.suffix in SUFFIXES and file.is_file())
        if not files:
            raise BadLog(str(path), f"the folder holds no {', '.join(SUFFIXES)} file")
        return [log for file in files for log in read_logs(file)]
    if not path.is_file():
        raise BadLog(str(path), "there is no such file", "Check the name.")
    read = {".eval": _archive, ".jsonl": _lines}.get(path.suffix, _json)
    logs = list(read(path))
    if not logs:
        raise BadLog(str(path), "it holds no log")
    if len(logs) > 1:
        names = [log.name or str(number) for number, log in enumerate(logs)]
        logs = [replace(log, name=f"{path.name}:{name}") for log, name in zip(logs, names, strict=True)]
    else:
        logs = [replace(logs[0], name=path.name)]
    return [replace(log, source=str(path)) for log in logs]


def log_of(entry: Mapping[str, Any], name: str = "log", source: str = "", *, answered: bool = True) -> Log:
    """A log from plain data in one of the forms known.

    Args:
        answered: Whether the model must have said something in it.

    Raises:
        BadLog, NoAssistant.
    """
    notes: list[str] = []
    form: Literal["chat", "prompt"] = "chat"
    source = source or name
    if "messages" in entry:
        turns = _messages(entry["messages"], "role", "content", source, notes)
    elif "conversations" in entry:
        turns = _messages(entry["conversations"], "from", "value", source, notes)
    elif "prompt" in entry and "completion" in entry:
        both = entry["prompt"], entry["completion"]
        if not all(isinstance(text, str) for text in both):
            raise BadLog(source, "prompt and completion must be text")
        turns, form = [Turn("prompt", both[0]), Turn("assistant", both[1])], "prompt"
    else:
        keys = ", ".join(map(str, list(entry)[:8])) or "none"
        raise BadLog(source, f"it has neither messages, conversations, nor prompt and completion (its keys: {keys})")
    model = entry.get("model") if isinstance(entry.get("model"), str | Mapping) else None
    marked = _mark(entry.get("strange"), source)
    expected = _expected(entry.get("expected"), source)
    log = Log(
        name, tuple(turns), form, marked=marked, expected=expected, model=model, notes=tuple(dict.fromkeys(notes))
    )
    if answered and not any(turn.role == "assistant" and turn.text.strip() for turn in log.turns):
        raise NoAssistant(log)
    return log


def find(log: Log, mark: Mark) -> Strange:
    """The strange span by its words (the last time that the assistant says them) or by its offsets.

    Args:
        mark: Text, (turn, start, end), or (start, end) in the last assistant turn.

    Raises:
        NoSuchSpan: With the nearest words of the log.
        BadOffsets.
    """
    spoken = [n for n, turn in enumerate(log.turns) if turn.role == "assistant" and turn.text.strip()]
    if not isinstance(mark, str):
        turn, start, end = mark if len(mark) == 3 else (spoken[-1], *mark)
        if turn not in spoken or not 0 <= start < end <= len(log.turns[turn].text):
            raise BadOffsets(log, mark)
        return Strange(turn, start, end, "offsets")
    for turn in reversed(spoken):
        start = log.turns[turn].text.rfind(mark)
        if start >= 0 and mark.strip():
            return Strange(turn, start, start + len(mark))
    raise NoSuchSpan(log, mark, _nearest(mark, [log.turns[turn].text for turn in spoken]))


def _nearest(wanted: str, texts: Sequence[str]) -> str:
    """The stretch of as many words that is most like what was wanted."""
    size, best, found = max(1, len(wanted.split())), 0.0, ""
    match = difflib.SequenceMatcher(b=wanted.lower(), autojunk=False)
    for text in texts:
        words = list(re.finditer(r"\S+", text))
        for first in range(max(1, len(words) - size + 1)):
            some = words[first : first + size]
            stretch = text[some[0].start() : some[-1].end()] if some else ""
            match.set_seq1(stretch.lower())
            if match.quick_ratio() > best and match.ratio() > best:
                best, found = match.ratio(), stretch
    return found


# ---- forms


def _messages(entries: Any, role: str, content: str, source: str, notes: list[str]) -> list[Turn]:
    """Turns of a list of messages."""
    if not isinstance(entries, list) or not all(isinstance(one, Mapping) for one in entries):
        raise BadLog(source, "its messages are not a list of objects")
    turns = []
    for number, one in enumerate(entries):
        if not isinstance(one.get(role), str):
            raise BadLog(source, f"message {number} has no '{role}'")
        who = ROLES.get(one[role].lower(), one[role].lower())
        turns.append(Turn(who, _text(one.get(content), number, source, notes)))
        if one.get("tool_calls"):
            notes.append(f"Tool calls of turn {number} were left out: only words are read.")
    return turns


def _text(content: Any, number: int, source: str, notes: list[str]) -> str:
    """The words of a message, whose content is a text or a list of parts."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise BadLog(source, f"the content of message {number} is neither text nor a list of parts")
    words = []
    for part in content:
        if isinstance(part, str):
            words.append(part)
        elif isinstance(part, Mapping) and isinstance(part.get("text"), str):
            words.append(part["text"])
        else:
            kind = part.get("type", "unknown") if isinstance(part, Mapping) else type(part).__name__
            notes.append(f"A part of kind '{kind}' in turn {number} was left out: only words are read.")
    return "".join(words)


def _mark(given: Any, source: str) -> Mark | None:
    if given is None or isinstance(given, str):
        return given or None
    if isinstance(given, Mapping):
        given = [given.get(name) for name in ("turn", "start", "end") if name in given]
    if isinstance(given, list) and len(given) in (2, 3) and all(type(n) is int for n in given):
        return tuple(given)
    raise BadLog(source, '"strange" is neither a text nor [turn, start, end]')


def _expected(given: Any, source: str) -> tuple[str, ...]:
    some = [given] if isinstance(given, str) else given or []
    if not isinstance(some, list) or not all(isinstance(one, str) for one in some):
        raise BadLog(source, '"expected" is neither a text nor a list of texts')
    return tuple(one for one in some if one.strip())


def _json(path: Path) -> Iterator[Log]:
    yield from _data(_parsed(path.read_bytes(), str(path)), str(path))


def _lines(path: Path) -> Iterator[Log]:
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        if line.strip():
            where = f"{path} line {number}"
            for log in _data(_parsed(line, where), where):
                yield replace(log, name=log.name or str(number))


def _data(data: Any, where: str) -> Iterator[Log]:
    """Logs of parsed JSON: one, a list of them, a bare list of messages, or an Inspect log."""
    if isinstance(data, Mapping) and isinstance(data.get("samples"), list) and "eval" in data:
        for sample in data["samples"]:
            yield _sample(sample, where)
    elif isinstance(data, Mapping):
        yield log_of(data, str(data.get("id") or data.get("name") or ""), where)
    elif isinstance(data, list) and data and all(isinstance(one, Mapping) and "role" in one for one in data):
        yield log_of({"messages": data}, "", where)
    elif isinstance(data, list):
        for number, one in enumerate(data):
            if not isinstance(one, Mapping):
                raise BadLog(where, f"entry {number} is not an object")
            log = log_of(one, str(one.get("id") or one.get("name") or ""), f"{where} entry {number}")
            yield replace(log, name=log.name or str(number))
    else:
        raise BadLog(where, "it is neither an object nor a list")


def _sample(sample: Any, where: str) -> Log:
    """A sample of an Inspect log; its messages end with the model's answer."""
    if not isinstance(sample, Mapping) or "messages" not in sample:
        raise BadLog(where, "a sample has no messages")
    name = f"{sample.get('id', '')}.{sample.get('epoch', 1)}"
    return log_of({"messages": sample["messages"]}, name, f"{where} sample {name}")


def _archive(path: Path) -> Iterator[Log]:
    """Samples of an Inspect `.eval` log: files samples/*.json of a zip."""
    mend = "Write it as JSON with: inspect log convert LOG --to json --output-dir FOLDER"
    try:
        with zipfile.ZipFile(path) as archive:
            names = sorted(n for n in archive.namelist() if n.startswith("samples/") and n.endswith(".json"))
            for name in names:
                if archive.getinfo(name).file_size > LARGEST:
                    raise BadLog(str(path), f"{name} is larger than {LARGEST >> 20} MiB", mend)
                yield _sample(_parsed(archive.read(name), f"{path} {name}"), str(path))
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:
        raise BadLog(str(path), f"the archive can't be opened ({error})", mend) from error


def _parsed(raw: bytes, where: str) -> Any:
    try:
        return json.loads(raw.decode("utf-8-sig"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise BadLog(where, f"it is not valid JSON in UTF-8 ({error})") from error
