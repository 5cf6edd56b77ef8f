"""What a model took its user to be before each reply, what moved that, and whether it caused the strange one.

Readings that stood their trials are read at the last token before each reply. What moved them is found by taking
sentences out; whether they matter, by pushing the residual stream to the other value and asking again, against random
pushes of the same length (Designing a Dashboard for Transparency and Control of Conversational AI, 2024).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from veriscope.cases.baselines import asked
from veriscope.cases.changes import Changes
from veriscope.cases.kept_readings import Contest, Push, Readings, Share, SpeakerReading
from veriscope.cases.labelled import Labelled
from veriscope.cases.logs import Strange
from veriscope.cases.mends import HALF, RARELY
from veriscope.cases.transcript import Chars, Transcript, transcript
from veriscope.cases.units import Unit, units
from veriscope.errors import BadPrompt, NotRun
from veriscope.subjects import Add, Edit, Subject
from veriscope.subjects.endings import Ending
from veriscope.subjects.generation import generate
from veriscope.subjects.plan import plan
from veriscope.subjects.run import execute

Word = Literal["caused", "moved", "not shown"]
MOST_REPLIES = 8  # the last ones, that readings are made before
MOST_MOVED = 3  # units that are shown for a reading
RANDOM = 20  # pushes of the same length: the strange words must fall further than under any of them
SAID = 24  # tokens of a reply that are said again
LEAST = 0.5  # logits that a push must move the choice by, the least that C4 calls an effect
IRRELEVANT = 16  # neutral texts put in, that a reading must be moved further than


@dataclass(frozen=True)
class Moved:
    """A part of the log that moved a reading further than any irrelevant edit.

    Attributes:
        unit, text, turn: What it is; the turn is None where it stands in several.
        spans: Characters of the transcript that was read.
        nats: How far the log-odds of the value read fall without it.
        reply: How far the log-probability of the reply falls without it (nats).
        word: The word of it without which they fall furthest; empty where none alone goes beyond the floor.
    """

    unit: str
    text: str
    turn: int | None
    spans: tuple[Chars, ...]
    nats: float
    reply: float
    word: str


@dataclass(frozen=True)
class TurnReading:
    """One reading before one reply.

    Attributes:
        attribute, value, rest: What is read: whether the value holds, or `rest`.
        reply: Number of the turn that the model is about to say.
        share: Calibrated probability of the value.
        low, high: Its 95% interval, over fits on random halves of the labelled logs.
        moved: What moved it most, strongest first.
        floor: The furthest that irrelevant text put in moves the log-odds (nats).
        reply_floor: The furthest that it moves the log-probability of the reply.
    """

    attribute: str
    value: str
    rest: str
    reply: int
    share: float
    low: float
    high: float
    moved: tuple[Moved, ...]
    floor: float | NotRun
    reply_floor: float | NotRun

    @property
    def carries(self) -> bool:
        """Whether the reply, too, hangs on what moved the reading, beyond irrelevant edits."""
        floor = self.reply_floor
        return not isinstance(floor, NotRun) and any(part.reply > floor for part in self.moved)

    @property
    def read(self) -> str:
        """What is read; empty where the interval holds both, or where nothing in the log moved it.

        Where nothing in the log says anything of an attribute, a reading still gives a number, and a push along it may
        still turn a reply round: neither is about this log.
        """
        unsure = self.low <= 0.5 <= self.high or not self.moved
        return "" if unsure else self.value if self.share > 0.5 else self.rest

    @property
    def sure(self) -> tuple[float, float, float]:
        """The probability of what is more likely, with its interval."""
        if self.share > 0.5:
            return self.share, self.low, self.high
        return 1 - self.share, 1 - self.high, 1 - self.low


@dataclass(frozen=True)
class Swap:
    """The strange reply asked for again with the attribute swapped inside.

    The push is as strong as its C4 trial found harmless, which may be less than the whole way to the other value: then
    a reply that stays does not show that the attribute did not cause it.

    Attributes:
        attribute, was, to: What was read, and what it was pushed to.
        site, dose: As the C4 trial held them; a dose of 1 is the whole gap between the two values.
        replies: Numbers of the turns before which it was pushed: those where it was read so.
        before, after: The most likely reply without and with the push.
        margin: Logits by which the strange words' first token leads the next best, or lags behind it (negative).
        moved: Logits that the push takes off that.
        gone: Whether the strange words are no longer what is said.
        random: What random pushes of the same length take off.
        random_gone: Random pushes under which they are gone.
        whole: The reply at a dose of 1, where the dose is below: beyond what C4 checked, so it counts for nothing.
        covered: Whether the reply begins with a word that C4 was held to, or hangs on the words that moved the reading:
            else nothing is shown, as a push may do anything to a reply that has nothing to do with it.
        word: "caused": covered, gone, and moved further than under any random push. "moved": all but gone. Else "not
            shown".
    """

    attribute: str
    was: str
    to: str
    site: str
    dose: float
    replies: tuple[int, ...]
    before: str
    after: str
    margin: float
    moved: float
    gone: bool
    random: tuple[float, ...]
    random_gone: int
    whole: str | NotRun
    covered: bool
    word: Word


@dataclass(frozen=True)
class Beside:
    """What one knows of this log's user without looking inside: before the strange reply.

    Attributes:
        attribute: Its name.
        text, text_share: The value that the text classifier tells, and its probability.
        asked, asked_share: What the model answers when it is asked, and its share among the values.
    """

    attribute: str
    text: str | NotRun
    text_share: float | NotRun
    asked: str | NotRun
    asked_share: float | NotRun


@dataclass(frozen=True)
class UserModel:
    """What a model took its user to be.

    Attributes:
        turns: Readings before each reply, in the order of the log.
        errors: How often each reading errs on held-out logs, by "attribute=value".
        silent: Readings that may not speak, and why, one sentence each.
        swaps: Swaps before the strange reply.
        unswapped: What could not be swapped, and why, one sentence each.
        beside: The text classifier and asking, on this log.
        contests: The same on held-out labelled logs, paired with the readings.
        notes: What else must be known.
    """

    turns: tuple[TurnReading, ...]
    errors: tuple[tuple[str, Share | NotRun], ...]
    silent: tuple[str, ...]
    swaps: tuple[Swap, ...]
    unswapped: tuple[str, ...]
    beside: tuple[Beside, ...]
    contests: tuple[Contest, ...]
    notes: tuple[str, ...]

    @property
    def last(self) -> tuple[TurnReading, ...]:
        """The readings before the strange reply."""
        return tuple(one for one in self.turns if one.reply == self.turns[-1].reply) if self.turns else ()

    @property
    def sentence(self) -> str:
        """All of it in one or two sentences."""
        read = [one for one in self.last if one.read]
        if not self.turns:
            return "No reading may speak." if self.silent else "Nothing was read."
        if not read:
            return "Before the strange reply no reading was sure of anything that the log says."
        parts = [
            f"{one.attribute} '{one.read}' ({one.sure[0]:.0%} [{one.sure[1]:.0%}, {one.sure[2]:.0%}])" for one in read
        ]
        text = f"Before the strange reply the model took its user to be: {', '.join(parts)}."
        return " ".join([text, *(swap_words(one) for one in self.swaps)])


def _percent(value: float, low: float, high: float) -> str:
    return f"{value:.1%} [{low:.1%}, {high:.1%}]"


def swap_words(swap: Swap) -> str:
    """What a swap showed."""
    what = f"Pushed inside from {swap.attribute} '{swap.was}' to '{swap.to}'"
    size = (
        f"its words led by {swap.margin:.1f} logits, the push takes off {swap.moved:.1f}, random pushes of that length "
        f"{max(swap.random):.1f} at most"
    )
    if swap.word == "caused":
        return f"{what} it says '{swap.after.strip()}' instead, so that is what caused the reply: {size}."
    whole = "" if isinstance(swap.whole, NotRun) else (
        f"; the push is {swap.dose:g} of the way, no further is free of side effects; all the way it would say "
        f"'{swap.whole.strip()}'"
    )  # fmt: skip
    if swap.word == "moved":
        return f"{what} it leans away from its reply and still gives it: a part of the cause: {size}{whole}."
    if not swap.covered:
        return (
            f"{what} nothing is shown: the reply has none of the words that C4 was held to, and does not hang on what "
            f"moved this reading."
        )
    return f"{what} it gives the same reply: that it caused it is not shown: {size}{whole}."


def user_model(changes: Changes, subject: Subject, readings: Readings) -> UserModel:
    """What the model took its user to be before each reply up to the strange one.

    Args:
        changes: The case's texts (`veriscope.cases.case.begin`).
        subject: The model that the readings were trained on.
        readings: From `train_readings`; those that their trials did not support stay silent.
    """
    seen, speaking = changes.transcript, readings.speaking
    replies = [n for n in _replies(seen)][-MOST_REPLIES:]
    notes = []
    if len(_replies(seen)) > len(replies):
        notes.append(f"Readings were made before the last {MOST_REPLIES} replies only.")
    turns: list[TurnReading] = []
    for reply in replies if speaking else ():
        turns += _read_before(_changes_before(changes, reply), reply, subject, readings)
    swaps, unswapped = _swaps(changes, subject, readings, turns)
    return UserModel(
        tuple(turns), tuple((one.name, one.errors) for one in speaking),
        tuple(one.silence for one in readings.readings if not one.speaks), tuple(swaps), tuple(unswapped),
        tuple(_beside(seen, subject, readings)), readings.contests, tuple(notes),
    )  # fmt: skip


def _replies(seen: Transcript) -> list[int]:
    """Turns of the assistant that stand in the transcript with something before them."""
    said = [n for n, turn in enumerate(seen.log.turns[: seen.strange.turn + 1]) if turn.role == "assistant"]
    return [n for n in said if (chars := seen.turns[n]) is not None and seen.tokens_of(chars)[0] > 0]


def _changes_before(changes: Changes, reply: int) -> Changes:
    """The text up to a reply, with its units; neutral words are those of the case."""
    seen = changes.transcript
    if reply == seen.strange.turn and seen.strange.start == 0:
        return changes
    text = seen.log.turns[reply].text
    template: Literal["chat", "plain"] = "plain" if seen.special else "chat"
    here = transcript(seen.log, Strange(reply, 0, len(text)), changes.subject, template)
    out = Changes(here, units(here), changes.subject, seed=changes.seed)
    out.__dict__["neutral"] = changes.neutral  # a cached property: drawn once a case
    return out


# ---- reading


class _LastTokens:
    """Keeps what stands at the last token of each context, at some sites."""

    def __init__(self, sites: Sequence[str], contexts: Sequence[Sequence[int]]) -> None:
        self.sites = tuple(sites)
        self.last = torch.tensor([len(ids) - 1 for ids in contexts])
        self.acts: dict[str, dict[int, Tensor]] = {site: {} for site in sites}

    def see(
        self, site: str, acts: Float[Tensor, "row *unit"], text: Int[Tensor, "row"], position: Int[Tensor, "row"]
    ) -> None:
        for row in (position.cpu() == self.last[text.cpu()]).nonzero().flatten().tolist():
            self.acts[site][int(text[row])] = acts[row].flatten().float().cpu()

    def at(self, site: str) -> Float[Tensor, "context d"]:
        held = self.acts[site]
        return torch.stack([held[n] for n in range(len(self.last))])


def _read_before(changes: Changes, reply: int, subject: Subject, readings: Readings) -> Iterator[TurnReading]:
    """Every reading that may speak, before one reply, with what moved it."""
    seen = changes.transcript
    end = len(seen.context.rstrip())  # what stands there is not taken out: it is where the reading is made
    kinds = ("sentence", "system", "turn")
    parts = [unit for unit in changes.units.values() if unit.kind in kinds and unit.spans[-1][1] < end]
    without = {unit.name: changes.removed([unit.name]) for unit in parts}
    odd = _irrelevant(changes, parts)
    contexts = [tuple(seen.before), *without.values(), *odd]
    acts, endings = _acts(changes, contexts, [one.site for one in readings.speaking])
    lost = [endings[0].total - one.total for one in endings]
    by_reply = dict(zip(without, lost[1 : 1 + len(without)], strict=True))
    none = NotRun("no irrelevant edit could be made")
    reply_floor = max(map(abs, lost[1 + len(without) :])) if odd else none
    for one in readings.speaking:
        told, spread = readings.log_odds(one, acts[one.site])
        side = 1.0 if told[0] > 0 else -1.0
        falls = (told[0] - told) * side
        furthest = float(falls[1 + len(without) :].abs().max()) if odd else float("inf")
        by_unit = dict(zip(without, falls[1 : 1 + len(without)].tolist(), strict=True))
        some = sorted((n for n in by_unit if by_unit[n] > furthest), key=lambda n: -by_unit[n])[:MOST_MOVED]
        moved = tuple(
            _moved(changes, changes.units[n], (by_unit[n], by_reply[n]), one, readings, float(told[0]), side, furthest)
            for n in some
        )
        floor = furthest if odd else none
        shares = torch.sigmoid(spread[:, 0]).quantile(torch.tensor([0.025, 0.975])).tolist()
        share = float(torch.sigmoid(told[0]))
        yield TurnReading(
            one.attribute,
            one.value,
            one.rest,
            reply,
            share,
            min(shares[0], share),
            max(shares[1], share),
            moved,
            floor,
            reply_floor,
        )


def _irrelevant(changes: Changes, parts: Sequence[Unit]) -> list[tuple[int, ...]]:
    """Contexts with neutral words put in at the places of units: the reverse of taking out what says nothing."""
    sizes = [changes.size([unit.name]) for unit in parts]
    out = []
    for n in range(IRRELEVANT if sizes else 0):
        place = parts[n % len(parts)].spans[0][0]
        ids = changes.inserted(place, sizes[(n + n // len(sizes)) % len(sizes)], n)
        if not isinstance(ids, NotRun) and changes.fits(ids):
            out.append(ids)
    return out


def _acts(
    changes: Changes, contexts: Sequence[Sequence[int]], sites: Sequence[str]
) -> tuple[dict[str, Float[Tensor, "context d"]], list[Ending]]:
    """What stands at the last token of each context, and the reply behind it."""
    watch = _LastTokens(tuple(dict.fromkeys(sites)), contexts)
    endings = changes.run(contexts, watch)
    return {site: watch.at(site) for site in watch.sites}, endings


def _moved(
    changes: Changes, unit: Unit, falls: tuple[float, float], one: SpeakerReading, readings: Readings, base: float,
    side: float, floor: float,
) -> Moved:  # fmt: skip
    """A unit that moved a reading, with the word of it that did most."""
    seen = changes.transcript
    contexts: list[list[int]] = []
    words: list[str] = []
    for start, end in unit.spans:
        at = start
        for word in seen.text[start:end].split():
            begin = seen.text.index(word, at)
            at = begin + len(word)
            try:
                ids = seen.read(changes.subject, seen.edited([(begin, at + (seen.text[at : at + 1] == " "), "")]))
            except BadPrompt:
                continue
            contexts.append(ids)
            words.append(word)
    most = ""
    if contexts:
        told, _ = readings.log_odds(one, _acts(changes, contexts, [one.site])[0][one.site])
        best = int(((base - told) * side).argmax())
        most = words[best] if float((base - told)[best] * side) > floor else ""
    return Moved(unit.name, unit.text, unit.turn, unit.spans, *falls, most)


# ---- swapping


def _swaps(
    changes: Changes, subject: Subject, readings: Readings, turns: Sequence[TurnReading]
) -> tuple[list[Swap], list[str]]:
    """Every swap before the strange reply that a C4 trial supports; why there is none, for the others."""
    swaps, why = [], []
    last = {(one.attribute, one.value): one for one in turns if one.reply == changes.transcript.strange.turn}
    for reading in readings.speaking:
        here = last.get((reading.attribute, reading.value))
        if here is None or not here.read:
            why.append(f"'{reading.name}' is not swapped: {_unread(here)}.")
            continue
        for holder, toward in _others(reading, here.read, readings):
            push = holder.push(toward)
            if isinstance(push, NotRun):
                why.append(f"'{reading.attribute}' is not swapped to '{toward}': {push.reason}.")
                continue
            replies = tuple(
                one.reply for one in turns
                if (one.attribute, one.value) == (reading.attribute, reading.value) and one.read == here.read
            )  # fmt: skip
            vector = readings.vector(holder, push)
            swaps.append(_swapped(changes, subject, push, vector, here, replies))
    return swaps, list(dict.fromkeys(why))


def _unread(here: TurnReading | None) -> str:
    """Why nothing is read before the strange reply."""
    if here is not None and not here.moved:
        return "nothing in the log moves it further than irrelevant edits do, so it is not about this log"
    return "it is not sure before the strange reply"


def _others(reading: SpeakerReading, read: str, readings: Readings) -> list[tuple[SpeakerReading, str]]:
    """What may be pushed to instead of what is read, and the reading whose push that is."""
    if read == reading.rest:
        return [(reading, reading.value)] if len(readings.of(reading.attribute)) == 1 else []
    if len(readings.of(reading.attribute)) == 1:
        return [(reading, reading.rest)]
    return [(one, one.value) for one in readings.of(reading.attribute) if one.speaks and one is not reading]


def _swapped(
    changes: Changes, subject: Subject, push: Push, vector: Float[Tensor, "d"], here: TurnReading,
    replies: tuple[int, ...],
) -> Swap:  # fmt: skip
    """The strange reply asked for again under one push, and under random ones of its length."""
    seen = changes.transcript
    chars = [seen.turns[n] for n in replies]
    places = [seen.tokens_of(one)[0] - 1 for one in chars if one is not None]

    def edits(by: Float[Tensor, "d"]) -> list[Edit]:
        return [Edit(push.site, Add(by), at=place) for place in places]

    plain, again = _asked_again(seen, subject, []), _asked_again(seen, subject, edits(vector))
    rng = torch.Generator().manual_seed(changes.seed)
    random, gone = [], 0
    for _ in range(RANDOM):
        noise = torch.randn(len(vector), generator=rng)
        other = _asked_again(seen, subject, edits(noise / noise.norm() * vector.norm()))
        random.append(plain.margin - other.margin)
        gone += _is_gone(plain, other)
    moved, vanished = plain.margin - again.margin, _is_gone(plain, again)
    beyond = moved > max(random) and moved >= LEAST
    covered = here.carries or subject.reader.decode([seen.ending[0]]).strip() in {word.strip() for word in push.foils}
    shown = beyond and covered
    word: Word = "caused" if shown and vanished else "moved" if shown else "not shown"
    start = seen.tokens_of(seen.turns[seen.strange.turn] or seen.span)[0]
    before, after = (_says(seen, subject, some, start) for some in ([], edits(vector)))
    whole: str | NotRun = NotRun("the push already goes all the way")
    if 0 < push.dose < 1:
        whole = _says(seen, subject, edits(vector / push.dose), start)
    return Swap(
        here.attribute, here.read, push.toward, push.site, push.dose, replies, before, after, plain.margin, moved,
        vanished, tuple(random), gone, whole, covered, word,
    )  # fmt: skip


@dataclass(frozen=True)
class _Again:
    """The strange words under a push.

    Attributes:
        nats: Their log-probability.
        margin: Logits by which the first of them leads the best other token.
        said: Whether they are what is said.
    """

    nats: float
    margin: float
    said: bool


def _is_gone(plain: _Again, again: _Again) -> bool:
    """Half as likely is enough where the words were the likeliest; those that were drawn must be a twentieth."""
    return not again.said and plain.nats - again.nats >= (HALF if plain.said else RARELY)


@torch.no_grad()
def _asked_again(seen: Transcript, subject: Subject, edits: Sequence[Edit]) -> _Again:
    engine: Any = subject._engine
    ids, first = list(seen.ids[:-1]), seen.target[0]
    todo = plan([ids], batch_tokens=len(ids), fill=engine.fill, device=subject.device)
    run, _ = execute(engine, todo, reads=(), edits=list(edits), logits="all", grad=False, site=engine.sites)
    assert run.logits is not None
    logits = run.logits[0, first - 1 : len(ids)].float().cpu()
    shares, ending = logits.log_softmax(-1), torch.tensor(seen.ending)
    others = logits[0].clone()
    others[ending[0]] = -torch.inf
    nats = float(shares.gather(1, ending[:, None]).double().sum())
    return _Again(nats, float(logits[0, ending[0]] - others.max()), shares.argmax(-1).equal(ending))


def _says(seen: Transcript, subject: Subject, edits: Sequence[Edit], start: int) -> str:
    """The most likely reply from its beginning, as long as the one in the log."""
    engine: Any = subject._engine
    chars = seen.turns[seen.strange.turn] or seen.span
    context, size = subject.context, len(subject.reader.encode_bare(seen.text[slice(*chars)]))
    tokens = min(SAID, size, SAID if context is None else context - start)
    if tokens < 1:
        return ""
    new, _ = generate(
        engine, [list(seen.ids[:start])], max_new_tokens=tokens, edits=edits, temperature=0.0, seed=0,
        stop=subject._stop_ids(), batch_tokens=1024, fill=engine.fill, site=engine.sites,
    )  # fmt: skip
    return subject.reader.decode(new[0]) if new[0] else ""


# ---- beside


def _beside(seen: Transcript, subject: Subject, readings: Readings) -> Iterator[Beside]:
    """Text classifier and asking before the strange reply, for every attribute that something may speak of."""
    log, turn = seen.log, seen.strange.turn - 1
    if turn < 0:
        return
    up_to = replace(log, turns=log.turns[: turn + 1])
    text = Labelled(up_to, turn, {}).text
    for attribute in readings.attributes:
        classifier = readings.classifiers.get(attribute.name)
        if classifier is None:
            continue
        shares = classifier.probabilities([text])[0]
        best = int(shares.argmax())
        found = asked(subject, transcript(up_to, Strange(turn, 0, len(log.turns[turn].text)), subject), attribute)
        answer: str | NotRun = found if isinstance(found, NotRun) else found.answer
        share: float | NotRun = found if isinstance(found, NotRun) else max(found.shares)
        yield Beside(attribute.name, classifier.classes[best], float(shares[best]), answer, share)
