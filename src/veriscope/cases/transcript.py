"""A log as the model reads it, up to the end of the strange span: nothing behind it can have caused it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import jinja2
import numpy as np
from numpy.typing import NDArray

from veriscope.cases.logs import Log, Mark, NoAssistant, Strange, Turn, find
from veriscope.errors import BadPrompt, UserError
from veriscope.subjects import CharReader, Subject, WordReader
from veriscope.subjects.endings import Endings

Chars = tuple[int, int]  # first character, and one behind the last
LONGEST_WINDOW = 8  # words that may be the least expected ones together
AROUND = 8  # words on either side that they are held against
SPARE_SHARE = 8  # where a log must be cut, an eighth of the context is left free for what is put in later


class NoTemplate(UserError):
    """A chat template that was asked for and does not exist."""

    def __init__(self, model: str) -> None:
        super().__init__(
            f"The tokenizer of {model} has no chat template. Use template='plain' to join the turns as they are, give "
            f'a model with a template, or set one: subject.reader.tokenizer.chat_template = "..."'
        )


class BadTemplate(UserError):
    """A chat template that can't show a log."""

    def __init__(self, model: str, log: str, why: str) -> None:
        super().__init__(
            f"The chat template of {model} can't show {log}: {why}. Change the log's roles to what the template "
            f"knows, or use template='plain'."
        )


class TooLong(UserError):
    """A strange span that does not fit into the context with anything before it."""

    def __init__(self, log: str, tokens: int, context: int, model: str) -> None:
        super().__init__(
            f"The strange span of {log} takes {tokens} tokens and {model} has a context of {context}, so nothing "
            f"before it could be read. Mark fewer words."
        )


class NothingBefore(UserError):
    """A strange span with nothing before it that could have caused it."""

    def __init__(self, log: str) -> None:
        super().__init__(
            f"Nothing stands before the strange span of {log}, and the tokenizer puts no token there: the model can't "
            f"say how likely it is. Add the prompt, or mark words further on."
        )


@dataclass(frozen=True)
class Transcript:
    """The text that the model saw before and while it said the strange span, with the place of everything in it.

    Attributes:
        log, strange: Where it came from.
        text: As the model reads it; ends with the strange span.
        turns: Characters of `text` that are each turn's own words; None for a turn that was cut or lies behind.
        span: Characters of `text` that are the strange span.
        ids: Tokens of `text`.
        chars: Characters of `text` that each token stands for; empty for tokens that no character stands for.
        target: First token of the strange span, and one behind the last.
        special: Whether the tokenizer adds its special tokens; a chat template has written them already.
        how: How turns became one text, in words.
        notes: What was cut and why, one sentence each; empty if nothing was.
    """

    log: Log
    strange: Strange
    text: str
    turns: tuple[Chars | None, ...]
    span: Chars
    ids: tuple[int, ...]
    chars: tuple[Chars, ...]
    target: tuple[int, int]
    special: bool
    how: str
    notes: tuple[str, ...] = ()

    @property
    def context(self) -> str:
        """What stands before the first token of the strange span."""
        return self.text[: self.chars[self.target[0] - 1][1]]

    @property
    def before(self) -> tuple[int, ...]:
        """Tokens of the context."""
        return self.ids[: self.target[0]]

    @property
    def ending(self) -> tuple[int, ...]:
        """Tokens of the strange span."""
        return self.ids[self.target[0] :]

    def tokens_of(self, chars: Chars) -> tuple[int, int]:
        """First token that holds one of these characters, and one behind the last; (0, 0) if none does."""
        held = [n for n, (start, end) in enumerate(self.chars) if start < chars[1] and end > chars[0]]
        return (held[0], held[-1] + 1) if held else (0, 0)

    def edited(self, changes: Sequence[tuple[int, int, str]]) -> str:
        """The context with stretches of characters replaced; stretches may touch and must not overlap."""
        context, out, at = self.context, [], 0
        for start, end, new in sorted(changes):
            out += [context[at:start], new]
            at = end
        return "".join([*out, context[at:]])

    def read(self, subject: Subject, context: str) -> list[int]:
        """Tokens of a changed context."""
        return read(subject, context, self.special)[0]


def transcript(
    log: Log, strange: Strange, subject: Subject, template: Literal["auto", "chat", "plain"] = "auto"
) -> Transcript:
    """The text that a model read, as far as its context allows.

    Args:
        template: "auto" takes the tokenizer's chat template for a chat where it has one, and says in `how` what it
            did; "chat" insists on it; "plain" joins the turns.

    Returns:
        Its `notes` say what was cut: whole turns from the oldest on, system turns last, then words of the oldest.

    Raises:
        NoTemplate, BadTemplate, TooLong, NothingBefore.
    """
    has = bool(getattr(subject.reader.tokenizer, "chat_template", None))
    if template == "chat" and not has:
        raise NoTemplate(subject.name)
    show = _Template(subject) if template == "chat" or (template == "auto" and has and log.form == "chat") else None
    turns: list[Turn | None] = list(log.turns[: strange.turn + 1])
    last = log.turns[strange.turn]
    turns[-1] = replace(last, text=last.text[: strange.end])
    whole = _laid_out(log, strange, subject, turns, show)
    limit = subject.context
    if limit is None or len(whole.ids) <= limit:
        return whole
    return _shortened(log, strange, subject, turns, show, whole, limit)


def least_expected(log: Log, subject: Subject, template: Literal["auto", "chat", "plain"] = "auto") -> Strange:
    """The words of the assistant that the model itself expected least, against those around them.

    Of all stretches of up to 8 words within a turn, the one whose mean surprise (nats a word) stands out most from that
    of the words around it, in standard errors of that mean.
    """
    spoken = [n for n, turn in enumerate(log.turns) if turn.role == "assistant" and turn.text.strip()]
    if not spoken:
        raise NoAssistant(log)
    text = log.turns[spoken[-1]].text
    seen = transcript(log, Strange(spoken[-1], 0, len(text.rstrip()), "least expected"), subject, template)
    stretches = [(n, chars) for n, chars in enumerate(seen.turns) if n in spoken and chars is not None]
    first = max(1, seen.tokens_of(stretches[0][1])[0])
    nats = Endings(subject, seen.ids[:-1]).run([(seen.ids[:first], seen.ids[first:])])[0].nats.double().cpu().numpy()
    best: tuple[float, Strange] | None = None
    per_turn = []
    for turn, (start, end) in stretches:
        words = [(w.start(), w.end()) for w in re.finditer(r"\S+", seen.text[start:end])]
        surprise = np.zeros(len(words))
        for n, (_, stop) in enumerate(seen.chars[first:]):
            held = [k for k, (_, b) in enumerate(words) if start + b >= stop > start]
            if held and stop <= end:
                surprise[held[0]] -= nats[n]
        per_turn.append((turn, words, surprise, seen.log.turns[turn].text.find(seen.text[start:end])))
    spread = float(np.concatenate([surprise for _, _, surprise, _ in per_turn]).std()) or 1.0
    for turn, words, surprise, shift in per_turn:
        score, a, b = _window(surprise, spread)
        if best is None or score > best[0]:
            best = score, Strange(turn, words[a][0] + shift, words[b - 1][1] + shift, "least expected")
    assert best is not None
    return best[1]


def mark(log: Log, given: Mark | None, subject: Subject) -> Strange:
    """The strange span: what is given, else what the log itself marks, else the least expected words."""
    given = given if given is not None else log.marked
    return least_expected(log, subject) if given is None else find(log, given)


def read(subject: Subject, text: str, special: bool) -> tuple[list[int], list[Chars]]:
    """Tokens of a text, and the characters each stands for; a special token that ends every text is left out."""
    reader, tokenizer = subject.reader, subject.reader.tokenizer
    if reader.is_hf and tokenizer.is_fast:
        out = tokenizer(text, add_special_tokens=special, return_offsets_mapping=True, verbose=False)
        ids, chars = list(out["input_ids"]), [(int(a), int(b)) for a, b in out["offset_mapping"]]
        while special and ids and ids[-1] in reader.special and chars[-1][0] == chars[-1][1]:
            ids, chars = ids[:-1], chars[:-1]
    else:
        ids = reader.encode([text])[0] if special else reader.encode_bare(text)
        chars = _spelled(subject, text, ids)
    at = 0
    for n, (_, end) in enumerate(chars):  # special tokens stand for nothing, at the place where they are
        chars[n] = (chars[n][0], end) if end > chars[n][0] else (at, at)
        at = max(at, chars[n][1])
    return ids, chars


def spells(subject: Subject, text: str) -> bool:
    """Whether the tokenizer has tokens for these words, white space aside."""
    try:
        again = subject.reader.decode(subject.reader.encode_bare(text))
    except BadPrompt:
        return False
    return "".join(again.split()) == "".join(text.split())


# ---- one text of all turns


class _Template:
    """The chat template of a subject's tokenizer."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject

    def show(self, log: Log, turns: Sequence[Turn]) -> str:
        messages = [{"role": turn.role, "content": turn.text} for turn in turns]
        tokenizer: Any = self.subject.reader.tokenizer
        try:
            return str(tokenizer.apply_chat_template(messages, tokenize=False, continue_final_message=True))
        except (jinja2.TemplateError, ValueError, TypeError, KeyError) as error:
            raise BadTemplate(self.subject.name, log.name, str(error).split("\n")[0]) from error


def _laid_out(
    log: Log, strange: Strange, subject: Subject, turns: Sequence[Turn | None], show: _Template | None
) -> Transcript:
    """Turns as one text; None stands for a turn that is left out."""
    left = [turn for turn in turns if turn is not None]
    if show is not None:
        text, how = show.show(log, left), "the tokenizer's chat template"
    else:
        text, how = _joined(log, left, subject)
    places, at = [], 0
    for turn in left:
        words = turn.text.strip() if show is not None else turn.text
        start = text.find(words, at)
        if start < 0:
            raise BadTemplate(subject.name, log.name, f"it changes the words of a turn ('{words[:40]}')")
        places.append((start, start + len(words)))
        at = start + len(words)
    some = iter(places)
    chars = tuple(None if turn is None else next(some) for turn in turns)
    final = log.turns[strange.turn].text
    lead = len(final[: strange.end]) - len(final[: strange.end].lstrip()) if show is not None else 0
    cut = strange.end - len(left[-1].text)  # of the strange turn's own beginning, where it had to be shortened
    start = places[-1][0] + max(0, strange.start - lead - cut)
    text = text[: places[-1][1]]
    return _tokenized(log, strange, subject, text, chars, (start, len(text)), show is None, how)


def _joined(log: Log, turns: Sequence[Turn], subject: Subject) -> tuple[str, str]:
    """Turns as lines with who speaks, where the tokenizer can spell that; else just one behind the other."""
    if log.form == "chat" and spells(subject, "System: User: Assistant:\n"):
        return "\n".join(f"{turn.role.capitalize()}: {turn.text}" for turn in turns), (
            "the tokenizer has no chat template, or it was not wanted: a line a turn, with who speaks before it"
        )
    text = ""
    for turn in turns:
        apart = not text or text[-1].isspace() or turn.text[:1].isspace()
        text += turn.text if apart else subject.reader.join + turn.text
    if log.form == "prompt":
        return text, "prompt and completion, as they are"
    return text, "the tokenizer has neither a chat template nor words for who speaks: turns joined as they are"


def _tokenized(
    log: Log,
    strange: Strange,
    subject: Subject,
    text: str,
    turns: tuple[Chars | None, ...],
    span: Chars,
    special: bool,
    how: str,
) -> Transcript:
    ids, chars = read(subject, text, special)
    first = next((n for n, (start, end) in enumerate(chars) if end > span[0] and end > start), len(ids))
    notes = list(log.notes)
    if first == 0:
        if len(ids) < 2:
            raise NothingBefore(log.name)
        first = 1
        notes.append("Nothing stands before the first token of the strange span, so that token is not measured.")
    before, again = read(subject, text[: chars[first - 1][1]], special)
    if before != ids[:first] and before:
        notes.append("The context alone reads as other tokens at the seam than with the strange span behind it.")
        ids, chars, first = [*before, *ids[first:]], [*again, *chars[first:]], len(before)
    unknown = getattr(subject.reader.tokenizer, "unk_token_id", None)
    lost = sum(token == unknown for token in ids) if unknown is not None else 0
    if lost:
        notes.append(f"{lost} of {len(ids)} tokens are words that the tokenizer does not know.")
    return Transcript(
        log, strange, text, turns, span, tuple(ids), tuple(chars), (first, len(ids)), special, how, tuple(notes)
    )


# ---- what does not fit


def _shortened(
    log: Log,
    strange: Strange,
    subject: Subject,
    turns: list[Turn | None],
    show: _Template | None,
    whole: Transcript,
    limit: int,
) -> Transcript:
    """The end of a log that is too long: oldest turns go first, then the beginning of the oldest that is left."""
    need, goal = len(whole.ending), limit - limit // SPARE_SHARE
    if need >= goal:
        raise TooLong(log.name, need, limit, subject.name)
    turns, gone, cut, found = list(turns), [], 0, whole
    while len(found.ids) > goal:
        left = [n for n, turn in enumerate(turns) if turn is not None]
        older = [n for n in left[:-1] if turns[n].role != "system"] or left[:-1]  # type: ignore[union-attr]
        number = older[0] if older else left[-1]
        turn, chars = turns[number], found.turns[number]
        assert turn is not None and chars is not None
        first, stop = found.tokens_of(chars)
        excess = len(found.ids) - goal
        lost = min(found.chars[min(first + excess, stop - 1)][0], found.span[0]) - chars[0]
        if number != left[-1] and (stop - first <= excess or lost <= 0):
            turns[number] = None
            gone.append(number)
        elif lost <= 0:
            raise TooLong(log.name, need, limit, subject.name)
        else:
            turns[number] = replace(turn, text=turn.text[-(chars[1] - chars[0] - lost) :])
            cut += lost
        found = _laid_out(log, strange, subject, turns, show)
    words = [f"the log takes {len(whole.ids)} tokens and {subject.name} has a context of {limit}"]
    if gone:
        words.append(f"turns {', '.join(map(str, gone))} (counted from 0) were cut")
    if cut:
        words.append(f"the first {cut} characters of the oldest turn left were cut")
    note = "; ".join(words)
    return replace(found, notes=(*found.notes, f"{note[0].upper()}{note[1:]}."))


# ---- words that the model did not expect


def _window(surprise: NDArray[np.float64], spread: float) -> tuple[float, int, int]:
    """The stretch of words whose mean surprise stands out most from the words around it."""
    best = (-np.inf, 0, 1)
    for a in range(len(surprise)):
        for b in range(a + 1, min(a + LONGEST_WINDOW, len(surprise)) + 1):
            near = np.concatenate([surprise[max(0, a - AROUND) : a], surprise[b : b + AROUND]])
            score = (surprise[a:b].mean() - (near.mean() if len(near) else surprise.mean())) * np.sqrt(b - a) / spread
            if score > best[0]:
                best = (float(score), a, b)
    return best


def _spelled(subject: Subject, text: str, ids: Sequence[int]) -> list[Chars]:
    """Characters of each token of a tokenizer that keeps none: words, characters, or what each decodes to in turn."""
    tokenizer = subject.reader.tokenizer
    if isinstance(tokenizer, WordReader):
        return [(word.start(), word.end()) for word in re.finditer(r"\S+", text)]
    if isinstance(tokenizer, CharReader):
        return [(n, n + 1) for n in range(len(text))]
    out, at = [], 0
    for number in ids:
        piece = subject.reader.decode([number]).strip()
        start = text.find(piece, at) if piece else at
        if start < 0 or text[at:start].strip():
            raise UserError(
                f"The tokenizer of {subject.name} does not say which characters its tokens stand for. Use a fast "
                f"tokenizer (tokenizer.json), or one whose tokens decode to their own words."
            )
        out.append((start, start + len(piece)))
        at = start + len(piece)
    return out
