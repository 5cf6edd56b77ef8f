"""Ways to answer a log differently, and what is said then: the words read, the model, its activations, its choice."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import log
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from veriscope.cases.changes import Changes
from veriscope.cases.logs import Log, Strange
from veriscope.cases.neutral import nothing
from veriscope.cases.transcript import Transcript, read, transcript
from veriscope.errors import BadPrompt, NotRun
from veriscope.subjects import Edit, Read, Subject
from veriscope.subjects.generation import generate
from veriscope.subjects.plan import plan
from veriscope.subjects.run import execute
from veriscope.subjects.sweep import logits_of as unembedded
from veriscope.subjects.sweep import why_not

Ids = Sequence[int]
Kind = Literal["prompt", "tokenizer", "decoding", "activations", "weights", "training"]
MOST_SAID = 12  # tokens of an answer that are shown
LOGITS_AT_ONCE = 2**25  # numbers
HALF = log(2)
RARELY = log(20)
LONGEST_LOOP = 64  # tokens of an answer that is looked at for a loop
CYCLE, CYCLES = 12, 3  # longest cycle of a loop, and how often it must come
ALIKE = 20  # what is said instead must be among so many words that the untouched model might say there


@dataclass(frozen=True)
class Words:
    """What a model reads before it answers.

    Attributes:
        text: All of it.
        special: Whether the tokenizer adds its special tokens.
        start: First character of the log's own words: what is put before them goes here.
        begun: Characters at the end of `text` that are the beginning of the reply itself.
    """

    text: str
    special: bool = True
    start: int = 0
    begun: int = 0


@dataclass(frozen=True, eq=False)
class Mend:
    """A standing change: every text is answered with it in place. The subject itself is never changed.

    Attributes:
        what: In words.
        how: Of which kind it is.
        subject: Who answers: the subject itself, or a copy with other weights.
        rule: What every text becomes before it is read.
        reads: How words become tokens where the tokenizer itself is mended.
        edits: What is done to activations, at every position.
        temperature: 0 < temperature: what logits are divided by before a token is chosen.
        penalty: Above 1: logits of tokens that the reply holds already are divided by it, or multiplied where they are
            below 0 (CTRL: A Conditional Transformer Language Model, 2019).
        renamed: Words and what is written for them: the expected answer is one with the new words.
        control: A mend of the same kind and size that knows nothing of the case.
    """

    what: str
    how: Kind
    subject: Subject
    rule: Callable[[Words], str] | None = None
    reads: Callable[[Words], list[int]] | None = None
    edits: tuple[Edit, ...] = ()
    temperature: float = 1.0
    penalty: float = 1.0
    renamed: tuple[str, str] | None = None
    control: Callable[[], Mend] | None = None

    def read(self, words: Words) -> list[int]:
        """Tokens of a text.

        Raises:
            BadPrompt: The tokenizer has no token for a word of the changed text.
        """
        if self.reads is not None:
            return self.reads(words)
        text = words.text if self.rule is None else self.rule(words)
        ids = read(self.subject, text, words.special)[0] if text.strip() else []
        return ids or nothing(self.subject)


@dataclass(frozen=True)
class Outcome:
    """What the model makes of the place where it said the strange words.

    Attributes:
        nats: Log-probability of the strange span.
        strange: Whether the most likely answer is the strange span.
        says: The most likely answer, at most 12 tokens of it.
        rank: Place of its first token among what the untouched model would say to the untouched text; 1 is the first.
        expected: Log-probability of the expected answer; NotRun where nobody said what it is.
        right: Whether the most likely answer begins with the expected one; NotRun likewise.
        loops: Whether the most likely answer, of as many tokens as the strange span, ends in a loop; looked for where
            the strange span itself does.
    """

    nats: float
    strange: bool
    says: str
    rank: int
    expected: float | NotRun
    right: bool | NotRun
    loops: bool = False

    def gone(self, before: Outcome) -> bool:
        """Whether the strange answer is gone: it is not the likeliest, and much less likely than it was.

        Half as likely is enough where it was the likeliest answer before; one that was drawn must be a twentieth. A
        loop is not gone where another loop is in its place.
        """
        fall = before.nats - self.nats
        return not self.strange and not self.loops and fall >= (HALF if before.strange else RARELY)

    @property
    def empty(self) -> bool:
        """Whether nothing is said that has a letter or a digit."""
        return not any(sign.isalnum() for sign in self.says)


class Asking:
    """One case, asked again under mends.

    Attributes:
        words: What the model read before the strange span.
        answer: What should have been said; None where nobody knows.
        ending, expected: Tokens of the strange span, and of that answer.
        passes: Cost so far, in whole passes of the case's text; a step backward counts as two.
    """

    def __init__(self, changes: Changes, expected: str | None = None, seed: int = 0) -> None:
        self.changes, self.subject, self.seed = changes, changes.subject, seed
        seen = changes.transcript
        self.words, self.ending = words_of(seen), list(seen.ending)
        self.answer = expected
        self.expected = None if expected is None else self._continued(expected)
        self.passes = 0.0
        self.plain = Mend("nothing", "prompt", self.subject)

    @cached_property
    def before(self) -> Outcome:
        """The untouched model on the untouched text."""
        return self.outcome(self.plain)

    @cached_property
    def _first(self) -> Float[Tensor, "vocab"]:
        """What the untouched model might say first."""
        return self.run(self.plain, [(list(self.changes.transcript.before), self.ending[:1])])[0][0]

    def outcome(self, mend: Mend, words: Words | None = None) -> Outcome:
        """What is said with a mend in place, to the case's text or to another one.

        Raises:
            BadPrompt: The mended text can't be read, or does not fit into the context.
        """
        words = words or self.words
        ids = mend.read(words)
        begun = len(read(self.subject, words.text[len(words.text) - words.begun :], False)[0]) if words.begun else 0
        wanted = self._wanted(mend)
        ends = [self.ending] if wanted is None else [self.ending, wanted]
        shares = self.run(mend, [(ids, end) for end in ends], begun)
        nats = [total(share, end) for share, end in zip(shares, ends, strict=True)]
        strange = said(shares[0], self.ending)
        endless = looping(self.ending)
        longest = min(max(map(len, ends)), LONGEST_LOOP if endless else MOST_SAID)
        answer = self.ending[:longest] if strange else self.greedy(mend, ids, longest, begun)
        right: bool | NotRun = NotRun("nobody said what the answer should be")
        if wanted is not None:
            right = said(shares[1], wanted)
        rank = int((self._first > self._first[answer[0]]).sum()) + 1 if answer else len(self._first)
        expected = nats[1] if wanted is not None else NotRun("nobody said what the answer should be")
        says = self.subject.reader.decode(answer[:MOST_SAID]) if answer else ""
        return Outcome(nats[0], strange, says, rank, expected, right, endless and looping(answer))

    def run(self, mend: Mend, texts: Sequence[tuple[Ids, Ids]], begun: int = 0) -> list[Float[Tensor, "token vocab"]]:
        """Log-probabilities in the place of each token of each ending."""
        self.passes += sum(len(ids) + len(end) - 1 for ids, end in texts) / self.length
        return [
            choices(mend, logits, ids, end, begun)
            for logits, (ids, end) in zip(logits_of(mend, texts), texts, strict=True)
        ]

    def greedy(self, mend: Mend, ids: Ids, tokens: int, begun: int = 0) -> list[int]:
        """The most likely answer, token by token."""
        context, new = self.subject.context, list[int]()
        tokens = tokens if context is None else max(1, min(tokens, context - len(ids)))
        stop = self.subject._stop_ids()
        if mend.penalty == 1:
            return self.greedy_all([ids], tokens, mend)[0]
        while len(new) < tokens:
            share = self.run(mend, [([*ids, *new], [0])], begun + len(new))[0]
            token = int(share[0].argmax())
            if token in stop:
                break
            new.append(token)
        return new

    def greedy_all(self, texts: Sequence[Ids], tokens: int, mend: Mend | None = None) -> list[list[int]]:
        """The most likely answers to several texts, without a penalty."""
        mend = mend or self.plain
        engine: Any = mend.subject._engine
        self.passes += sum(len(ids) + tokens - 1 for ids in texts) / self.length
        return generate(
            engine, texts, max_new_tokens=tokens, edits=mend.edits, temperature=0.0, seed=0,
            stop=self.subject._stop_ids(), batch_tokens=1024, fill=engine.fill, site=engine.sites,
        )[0]  # fmt: skip

    @property
    def length(self) -> int:
        return len(self.changes.transcript.ids) - 1

    def variants(self, count: int, draw: int, first_only: bool = False) -> list[Words]:
        """The case's text with irrelevant words put in or a sentence taken out, where the strange answer is as it was.

        Args:
            count: Most of them.
            draw: Another number draws others.
            first_only: Put in before everything, so that what stands behind keeps its place from the end.
        """
        out: list[Words] = []
        for words in self._drawn(3 * count, draw, first_only):
            if len(out) < count and words.text not in {self.words.text, *(one.text for one in out)}:
                out += [words] if self._still(words) else []
        return out

    def _drawn(self, count: int, draw: int, first_only: bool) -> Iterator[Words]:
        """Irrelevant words before each sentence in turn; then the text without each sentence but the last."""
        changes, neutral, parts = self.changes, self.changes.neutral, self.changes.parts
        rng = np.random.default_rng([self.seed, 0x7A, draw])
        if not isinstance(neutral, NotRun) and parts:
            starts = [unit.spans[0][0] for unit in parts][: 1 if first_only else None]
            sizes = [changes.size([unit.name]) for unit in parts]
            for n in range(count):
                place, size = starts[n % len(starts)], int(rng.choice(sizes))
                like = next((unit.text for unit in parts if unit.spans[0][0] == place), "x.")
                new = neutral.words(self.subject, size, rng, like if like[-1:] in ".?!" else f"{like[:1]}.")
                yield replace(self.words, text=f"{self.words.text[:place]}{new} {self.words.text[place:]}")
        for unit in () if first_only else parts[:-1]:
            start, end = unit.spans[0]
            yield replace(self.words, text=f"{self.words.text[:start]}{self.words.text[end:].lstrip(' ')}")

    def _still(self, words: Words) -> bool:
        """Whether a text fits, and the strange answer is the likeliest one, or as likely, as it was."""
        try:
            ids = self.plain.read(words)
        except BadPrompt:
            return False
        if not self.fits(ids):
            return False
        share = self.run(self.plain, [(ids, self.ending)])[0]
        likely = total(share, self.ending) > self.before.nats - HALF
        return said(share, self.ending) if self.before.strange else likely

    def fits(self, ids: Ids) -> bool:
        longest = max(len(self.ending), len(self.expected or ()))
        return self.subject.context is None or len(ids) + longest - 1 <= self.subject.context

    def _wanted(self, mend: Mend) -> list[int] | None:
        """The expected answer, with words that a mend renames."""
        if self.answer is None or mend.renamed is None:
            return self.expected
        old, new = mend.renamed
        return self._continued(re.sub(rf"(?<!\w){re.escape(old)}(?!\w)", lambda _: new, self.answer))

    def _continued(self, answer: str) -> list[int]:
        """Tokens of an answer in the place of the strange span."""
        seen = self.changes.transcript
        gap = seen.text[len(seen.context) : seen.span[0]]
        whole = seen.read(self.subject, f"{seen.context}{gap}{answer.strip()}")
        if whole[: len(seen.before)] == list(seen.before) and len(whole) > len(seen.before):
            return whole[len(seen.before) :]
        return list(self.subject.reader.encode_bare(answer.strip()))


def words_of(seen: Transcript) -> Words:
    """What stands before the strange span of a transcript."""
    start = min((chars[0] for chars in seen.turns if chars is not None), default=0)
    reply = seen.turns[seen.strange.turn]
    begun = max(0, len(seen.context) - reply[0]) if reply is not None else 0
    return Words(seen.context, seen.special, start, begun)


def words_before(log: Log, subject: Subject) -> Words:
    """What stands before the last reply of a log."""
    turn = max(n for n, one in enumerate(log.turns) if one.role == "assistant" and one.text.strip())
    return words_of(transcript(log, Strange(turn, 0, len(log.turns[turn].text)), subject))


# ---- runs


@torch.no_grad()
def logits_of(mend: Mend, texts: Sequence[tuple[Ids, Ids]]) -> list[Float[Tensor, "token vocab"]]:
    """Logits in the place of each token of each ending, a mend's own edits in place."""
    engine: Any = mend.subject._engine
    whole = [[*ids, *end[:-1]] for ids, end in texts]
    context = mend.subject.context
    longest = max(map(len, whole))
    if context is not None and longest > context:
        raise BadPrompt(f"A text of {longest} tokens is longer than the context of {context}: shorten it.")
    out: list[Tensor] = [torch.empty(0)] * len(texts)
    room = max(1, LOGITS_AT_ONCE // int(engine.sites["logits"].width))
    last = Read(f"blocks.{mend.subject.n_blocks - 1}.resid_post")
    inside = all(edit.site.startswith("blocks.") for edit in mend.edits)
    short = inside and last.site in engine.sites and not why_not(engine, (), ())  # the rest meets no unembedding
    for some in _groups([len(ids) for ids in whole], room):
        todo = plan([whole[n] for n in some], batch_tokens=room, fill=engine.fill, device=mend.subject.device)
        reads: tuple[Read, ...] = (last,) if short else ()
        run, _ = execute(
            engine, todo, reads=reads, edits=mend.edits, logits=None if short else "all", grad=False, site=engine.sites
        )
        held = run[last] if short else run.logits
        assert held is not None
        for row, n in enumerate(some):
            rows = held[row, len(whole[n]) - len(texts[n][1]) : len(whole[n])]
            out[n] = (unembedded(engine, rows, None) if short else rows).float().clone()
    return out


def _groups(lengths: Sequence[int], room: int) -> list[list[int]]:
    """Texts of about one length, as many as there is room for."""
    out: list[list[int]] = []
    for n in sorted(range(len(lengths)), key=lengths.__getitem__):
        if out and (len(out[-1]) + 1) * lengths[n] <= room:
            out[-1].append(n)
        else:
            out.append([n])
    return out


def choices(
    mend: Mend, logits: Float[Tensor, "token vocab"], ids: Ids, ending: Ids, begun: int = 0
) -> Float[Tensor, "token vocab"]:
    """Log-probabilities with which tokens are chosen, after penalty and temperature."""
    if mend.penalty != 1:
        logits = logits.clone()
        reply = list(ids[len(ids) - begun :]) if begun else []
        for row in range(len(logits)):
            held = torch.tensor(sorted({*reply, *ending[:row]}), device=logits.device, dtype=torch.long)
            old = logits[row, held]
            logits[row, held] = torch.where(old > 0, old / mend.penalty, old * mend.penalty)
    return (logits / mend.temperature).log_softmax(-1)


def looping(ids: Ids) -> bool:
    """Whether tokens end in a cycle of at most 12 that comes three times, and 12 tokens of it at least."""
    for cycle in range(1, CYCLE + 1):
        need = max(CYCLES * cycle, CYCLE)
        tail = list(ids[-need:])
        if len(tail) == need and all(tail[n] == tail[n - cycle] for n in range(cycle, need)):
            return True
    return False


def total(shares: Float[Tensor, "token vocab"], ending: Ids) -> float:
    """Log-probability of an ending."""
    return float(shares.gather(1, torch.tensor([*ending], device=shares.device)[:, None]).double().sum())


def said(shares: Float[Tensor, "token vocab"], ending: Ids) -> bool:
    """Whether an ending is what is said, word for word, when the likeliest token is taken each time."""
    return shares.argmax(-1).tolist() == list(ending)
