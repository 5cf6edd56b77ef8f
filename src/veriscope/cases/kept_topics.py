"""What a model works on at each turn, as it was trained to be read: claims with a stated error, kept without code.

A turn gets the set of topics that it is not too strange for (split conformal prediction for each topic: Classification
with Valid and Adaptive Coverage, 2020, Romano et al.; Conditional Validity of Inductive Conformal Predictors, 2012,
Vovk). Too strange is a turn that the reading doubts more, or that lies farther from the turns of the topic (A Simple
Unified Framework for Detecting Out-of-Distribution Samples, 2018, Lee et al.), than all but the stated share of the
topic's own held-out turns. One topic in the set is a claim; none, or all, is "not told".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from veriscope.cases.baselines import TextClassifier
from veriscope.cases.kept_folder import put_folder, read_folder
from veriscope.cases.labelled import Labelled
from veriscope.cases.plain import made, plain
from veriscope.cases.readings import before_reply
from veriscope.cases.transcript import Transcript
from veriscope.errors import NotRun, UserError
from veriscope.subjects import Read, Subject

SCHEMA = 1
RECORD, TENSORS = "topics.json", "topics.safetensors"


class BadTopicReadings(UserError):
    """A folder that holds no readings of topics that can be used."""

    def __init__(self, folder: Path, why: str) -> None:
        super().__init__(
            f"{folder} holds no readings of topics that can be used: {why}. Train them: veriscope topics "
            f"LABELLED.jsonl --model MODEL --out {folder}"
        )


class TopicsOfAnother(UserError):
    """Readings of one model that are asked to read another."""

    def __init__(self, trained: str, asked: str) -> None:
        super().__init__(
            f"These readings of topics were trained on {trained}, and this is {asked}: what a direction means in one "
            f"model it does not mean in another. Train them on this one: veriscope topics LABELLED.jsonl --model MODEL "
            f"--out ANOTHER_FOLDER"
        )


@dataclass(frozen=True)
class Rate:
    """A share that was counted, with exact bounds (Clopper and Pearson, 1934), each of them one-sided 95%."""

    hits: int
    n: int
    low: float
    high: float

    @property
    def at_most(self) -> str:
        return f"{self.hits} of {self.n} (at most {100 * self.high:.1f}%)"

    @property
    def at_least(self) -> str:
        return f"{self.hits} of {self.n} (at least {100 * self.low:.1f}%)"


@dataclass(frozen=True)
class TrapRate:
    """How often a topic is claimed where it is only spoken of.

    Attributes:
        kind: One of `veriscope.cases.traps.KINDS`.
        inside: Traps that the reading fell for.
        text: Traps that the text classifier fell for, with sets calibrated on the same logs to the same error.
        right, text_right: Traps in which they claimed what was worked on; where nothing was, in which they claimed
            nothing. Whoever never claims anything falls for no trap.
    """

    kind: str
    inside: Rate
    text: Rate
    right: Rate
    text_right: Rate


@dataclass(frozen=True)
class TopicReading:
    """How well one topic is read.

    Attributes:
        name, words: As its list has them.
        calibrated_on: Turns of it that its sets were calibrated on.
        missed: Held-out turns of it whose set lacks it; promised to be at most the stated error.
        wrong: Claims of it on held-out logs that were wrong.
        traps: By kind; what the model has no tokens for is missing.
        represented: Verdict of its C1 trial on turns that quote other topics, or why there is none.
        silence: Why it is not claimed, in one sentence; empty where it may be.
    """

    name: str
    words: str
    calibrated_on: int
    missed: Rate
    wrong: Rate
    traps: tuple[TrapRate, ...]
    represented: str | NotRun
    silence: str

    @property
    def speaks(self) -> bool:
        return not self.silence


@dataclass(frozen=True)
class TopicAt:
    """What the model is working on when it is about to answer a turn.

    Attributes:
        turn: Number of the turn in the log.
        topics: The conformal set.
        claim: The one topic that is claimed; empty where it is not told.
        why: Why it is not told; empty where it is.
        fits: For each topic how unstrange the turn is for it: the conformal p-value.
        text: The set that the text classifier gives to the turn's words, calibrated to the same error.
    """

    turn: int
    topics: tuple[str, ...]
    claim: str
    why: str
    fits: Mapping[str, float]
    text: tuple[str, ...]


@dataclass(frozen=True)
class WorkedOn:
    """What the model was working on over the turns of a log, with what is known of how often such readings err.

    Attributes:
        sentence: The last turn before the strange words, in words.
        turns: Every user turn.
        error: The stated error.
        readings, told, text_told: As `Topics` has them.
    """

    sentence: str
    turns: tuple[TopicAt, ...]
    error: float
    readings: tuple[TopicReading, ...]
    told: Rate
    text_told: Rate


@dataclass(frozen=True, eq=False)
class Reader:
    """Scores how strange a turn is for each topic.

    Attributes:
        names: The topics, in the order of columns.
        site, far_site: Where the reading reads, and where distances are taken.
        weight, bias: Of the reading.
        means, precision: Of the turns of each topic at `far_site`, and of their common spread.
    """

    names: tuple[str, ...]
    site: str
    far_site: str
    weight: Float[Tensor, "d topic"]
    bias: Float[Tensor, "topic"]
    means: Float[Tensor, "topic d_far"]
    precision: Float[Tensor, "d_far d_far"]

    def strangeness(self, subject: Subject, texts: Sequence[str]) -> Float[Tensor, "2 text topic"]:
        """Doubt (nats) and squared distance of each text's last token, for each topic."""
        sites = dict.fromkeys((self.site, self.far_site))
        if len(texts) > 1 and all(text.startswith(texts[0]) for text in texts):  # turns of one log
            run = subject.variations(texts[-1], texts, read=list(sites))
        else:
            run = subject.run(texts, read=[Read(site, "last") for site in sites])
        acts = {site: run[Read(site, "last")].flatten(1).double().cpu() for site in sites}
        scores = acts[self.site] @ self.weight.double() + self.bias.double()
        away = acts[self.far_site][:, None] - self.means.double()
        far = ((away @ self.precision.double()) * away).sum(-1)
        return torch.stack([-scores.log_softmax(1), far])


@dataclass(frozen=True, eq=False)
class Topics:
    """Readings of what one model works on.

    Attributes:
        model, hash: Whose they are.
        error: The stated error.
        seed: Of splits and traps.
        readings: One a topic.
        told, text_told: Held-out turns rightly claimed, by the readings and by the text classifier.
        reader: Scores turns.
        usual: Strangeness of each topic's calibration turns, ascending: by doubt and by distance.
        classifier, text_usual: The text classifier, and its doubts on the same turns.
    """

    model: str
    hash: str
    error: float
    seed: int
    readings: tuple[TopicReading, ...]
    told: Rate
    text_told: Rate
    reader: Reader
    usual: tuple[tuple[Tensor, Tensor], ...]
    classifier: TextClassifier
    text_usual: tuple[Tensor, ...]

    @property
    def speaking(self) -> tuple[TopicReading, ...]:
        return tuple(one for one in self.readings if one.speaks)

    def fits(self, subject: Subject, texts: Sequence[str]) -> Float[Tensor, "text topic"]:
        """Conformal p-values: at most this share of a topic's own turns is as strange, in doubt or in distance."""
        doubt, far = self.reader.strangeness(subject, texts)
        one = unstrange(doubt, [usual[0] for usual in self.usual])
        other = unstrange(far, [usual[1] for usual in self.usual])
        return (2 * torch.minimum(one, other)).clamp(max=1)  # twice the smaller of two p-values (Bonferroni)

    def text_fits(self, turns: Sequence[str]) -> Float[Tensor, "text topic"]:
        """The same of the text classifier, from the words of the turns."""
        return unstrange(text_doubt(self.classifier, self.reader.names, turns), self.text_usual)

    def sets(self, fits: Float[Tensor, "text topic"]) -> list[tuple[str, ...]]:
        """The topics that a turn is not too strange for."""
        return [
            tuple(name for name, fit in zip(self.reader.names, row, strict=True) if fit > self.error)
            for row in fits.tolist()
        ]

    def save(self, folder: str | Path) -> Path:
        """Write a folder of two files; one without its JSON holds nothing."""
        tensors = {name: getattr(self.reader, name).float().contiguous() for name in _READER}
        for number, (doubt, far) in enumerate(self.usual):
            tensors |= {f"doubt {number}": doubt, f"far {number}": far, f"text {number}": self.text_usual[number]}
        record = {"schema": SCHEMA, **{name: plain(getattr(self, name)) for name in _PLAIN}}
        record |= {name: plain(getattr(self.reader, name)) for name in ("names", "site", "far_site")}
        return put_folder(folder, (RECORD, TENSORS), record, tensors)

    @classmethod
    def load(cls, folder: str | Path, subject: Subject) -> Topics:
        """Read a folder back; no code in it is run.

        Raises:
            BadTopicReadings: Something is missing, damaged or of another version.
            TopicsOfAnother: They were trained on another model.
        """
        folder = Path(folder).expanduser()
        record, tensors = read_folder(folder, (RECORD, TENSORS), SCHEMA, BadTopicReadings)
        try:
            names = tuple(record["names"])
            reader = Reader(names, record["site"], record["far_site"], *(tensors[name] for name in _READER))
            readings = made(tuple[TopicReading, ...], record["readings"])
            usual = tuple((tensors[f"doubt {n}"], tensors[f"far {n}"]) for n in range(len(names)))
            text = tuple(tensors[f"text {n}"] for n in range(len(names)))
            told, text_told = made(Rate, record["told"]), made(Rate, record["text_told"])
            out = cls(
                record["model"], record["hash"], float(record["error"]), int(record["seed"]), readings, told, text_told,
                reader, usual, made(TextClassifier, record["classifier"]), text,
            )  # fmt: skip
        except (KeyError, TypeError, ValueError) as error:
            raise BadTopicReadings(folder, f"{RECORD} lacks something ({error})") from error
        out.must_be_of(subject)
        return out

    def must_be_of(self, subject: Subject) -> None:
        """Raise TopicsOfAnother for any other model than the one they were trained on."""
        if self.hash != subject.hash:
            raise TopicsOfAnother(self.model, subject.name)


_READER = ("weight", "bias", "means", "precision")
_PLAIN = ("model", "hash", "error", "seed", "readings", "told", "text_told", "classifier")


def working_on(seen: Transcript, subject: Subject, topics: Topics) -> tuple[TopicAt, ...]:
    """What the model works on at each user turn up to the strange words, read at the last token before its reply.

    Raises:
        TopicsOfAnother.
    """
    topics.must_be_of(subject)
    turns = [
        number
        for number, turn in enumerate(seen.log.turns[: seen.strange.turn + 1])
        if turn.role in ("user", "prompt") and turn.text.strip() and seen.turns[number] is not None
    ]
    if not turns:
        return ()
    fits = topics.fits(subject, [before_reply(Labelled(seen.log, number, {}), subject).text for number in turns])
    text = topics.sets(topics.text_fits([seen.log.turns[number].text for number in turns]))
    silent = {one.name: one.silence for one in topics.readings if one.silence}
    out = []
    for number, row, found, words in zip(turns, fits.tolist(), topics.sets(fits), text, strict=True):
        claim, why = _claim(found, len(topics.readings), silent)
        out.append(TopicAt(number, found, claim, why, dict(zip(topics.reader.names, row, strict=True)), words))
    return tuple(out)


def worked_on(seen: Transcript, subject: Subject, topics: Topics) -> WorkedOn | NotRun:
    """What a case keeps of `working_on`.

    Raises:
        TopicsOfAnother.
    """
    turns = working_on(seen, subject, topics)
    if not turns:
        return NotRun("no user turn stands before the strange words")
    last, words = turns[-1], {one.name: one.words for one in topics.readings}
    sentence = f"What it was working on is {last.why}"
    if last.claim:
        sentence = (
            f"Before the strange words it was working on {last.claim} ({words[last.claim]}). On logs like those it was "
            f"trained on, at most {100 * topics.error:g}% of such claims are wrong."
        )
    return WorkedOn(
        sentence if sentence.endswith(".") else f"{sentence}.", turns, topics.error, topics.readings, topics.told,
        topics.text_told,
    )  # fmt: skip


def text_doubt(classifier: TextClassifier, names: Sequence[str], turns: Sequence[str]) -> Float[Tensor, "text topic"]:
    """Nats by which a text classifier doubts each topic."""
    order = [classifier.classes.index(name) for name in names]
    return -classifier.probabilities(turns).double()[:, order].clamp_min(1e-300).log()


def unstrange(scores: Float[Tensor, "text topic"], usual: Sequence[Tensor]) -> Float[Tensor, "text topic"]:
    """Share of a topic's calibration turns, and the turn itself, that are at least as strange."""
    columns = []
    for column, seen in zip(scores.T, usual, strict=True):
        below = torch.searchsorted(seen.to(column), column.contiguous())  # calibration turns that are less strange
        columns.append((len(seen) - below + 1).double() / (len(seen) + 1))
    return torch.stack(columns, 1)


def _claim(found: tuple[str, ...], all_topics: int, silent: Mapping[str, str]) -> tuple[str, str]:
    """The topic that is claimed, or why it is not told."""
    if not found:
        return "", "not told: the turn is unlike the turns of every topic that readings were trained for"
    if len(found) == all_topics:
        return "", "not told: it could be any topic"
    if len(found) > 1:
        return "", f"not told: it could be {' or '.join(found)}"
    return ("", f"not told: {silent[found[0]]}") if found[0] in silent else (found[0], "")
