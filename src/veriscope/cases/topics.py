"""Trains readings of what a model works on at each turn, and holds each to its stated error, traps included.

    topics = train_topics(subject, read_labelled("logs.jsonl"))  # labels: {"topic": "spelling"}
    for at in working_on(seen, subject, topics):
        at.turn, at.claim, at.why

Logs are split in three, never their turns: one part to fit, one to calibrate, one to count errors. A topic is claimed
only if its wrong claims on the third part, and the traps of each kind that it falls for (`veriscope.cases.traps`), are
shown to be at most as many as was stated (AI Safety via Debate, 2018, Irving et al., asks for claims that can be
checked in this way).
"""

from __future__ import annotations

import math
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from sklearn.covariance import LedoitWolf
from torch import Tensor

from veriscope.cases.baselines import TextClassifier
from veriscope.cases.kept_topics import Rate, Reader, TopicReading, Topics, TrapRate, text_doubt
from veriscope.cases.labelled import Labelled
from veriscope.cases.readings import before_reply
from veriscope.cases.traps import KINDS, Topic, spelled_naming, topic_list, traps
from veriscope.claims import Represents
from veriscope.errors import NotRun, UserError
from veriscope.examples import Sample, examples
from veriscope.examples.sample import make_example
from veriscope.ledger import Ledger, use
from veriscope.methods import LogisticProbe
from veriscope.methods.linear import cluster_folds
from veriscope.subjects import Read, Subject
from veriscope.trials import trial
from veriscope.trials.statistics import clopper_pearson

LABEL = "topic"
MOST_SITES = 12  # blocks are thinned out evenly beyond that
FEWEST = 6  # turns of a topic in each part, below which it is left out
PASSES = 1.5  # of each turn and trap, with what reading and fitting take
CHECKED = 60  # word lists on which the place of distances is chosen

Told = Callable[[str], None]


class TooFewTopics(UserError):
    """Labelled logs that do not tell topics apart."""

    def __init__(self, counts: Counter[str], known: Sequence[str]) -> None:
        found = ", ".join(f"{name} ({n})" for name, n in counts.most_common(8)) or "none"
        super().__init__(
            f"Readings of topics need logs of two topics at least, each with {4 * FEWEST} conversations or more. Found "
            f"under the label '{LABEL}': {found}. Declared topics: {', '.join(known)}. Label logs by them, or declare "
            f"yours in a YAML (topic_list('YOURS.yaml'), or --declared YOURS.yaml)."
        )


def train_topics(
    subject: Subject,
    labelled: Sequence[Labelled],
    topics: Sequence[Topic] | None = None,
    *,
    seed: int = 0,
    error: float = 0.1,
    trap_count: int = 60,
    represented: bool = False,
    told: Told = lambda step: None,
) -> Topics:
    """Fit, calibrate and check readings of the topics that logs are labelled by.

    Args:
        labelled: Turns with a label "topic". Per topic, 3 / error of its conversations are too few to speak.
        topics: The declared list; None takes the built-in one.
        seed: Of the split and the traps.
        error: The stated error: the share of a topic's turns that may be missed, and of its claims that may be wrong.
        trap_count: Traps of each kind for each topic; each costs a pass.
        represented: Put each topic on trial as C1 too, on turns that quote other topics.
        told: Is given each step in words as it begins.

    Raises:
        TooFewTopics, BadTemplate, TooLong.
    """
    declared = {topic.name: topic for topic in (topic_list() if topics is None else topics)}
    fit, calibrate, check = _parts(labelled, declared, seed)
    told("fitting")
    classifier = TextClassifier.fit(
        [words_of(one) for one in fit], [one.labels[LABEL] for one in fit], [one.log.name for one in fit]
    )
    naming = {name: spelled_naming(declared[name], classifier, subject) for name in classifier.classes}
    reader = _fitted(subject, fit, naming, error, seed)
    told("calibrating")
    usual, text_usual = _usual(subject, calibrate, reader, classifier)
    blank = Topics(
        subject.name, subject.hash, error, seed, (), rate(0, 1), rate(0, 1), reader, usual, classifier, text_usual
    )
    told("counting errors on held-out logs")
    checker = _Checker(subject, blank, check, naming, trap_count, seed)
    readings = []
    for number, name in enumerate(reader.names):
        told(f"traps for '{name}'")
        stands: str | NotRun = NotRun("not asked for: train_topics(..., represented=True) puts it on trial")
        if represented:
            told(f"C1, is '{name}' represented")
            stands = _represented(subject, [*fit, *calibrate, *check], name, seed)
        readings.append(checker.reading(declared[name], len(usual[number][0]), stands))
    return replace(blank, readings=tuple(readings), told=checker.told(), text_told=checker.text_told())


def expected_seconds(subject: Subject, labelled: Sequence[Labelled], trap_count: int = 60) -> float:
    """What training will take on this machine, without C1, by the time of a few logs; rough."""
    texts = [before_reply(one, subject).text for one in labelled[:16]]
    subject.run(texts[:2], logits="last")
    begun = time.perf_counter()
    subject.run(texts, logits="last")
    one = (time.perf_counter() - begun) / max(1, len(texts))
    topics = len({one.labels[LABEL] for one in labelled if LABEL in one.labels})
    return one * PASSES * (len(labelled) + len(KINDS) * trap_count * topics)


def words_of(one: Labelled) -> str:
    """What the text classifier gets: the words of the turn. Those before it are of other topics and mislead it."""
    return one.log.turns[one.turn].text


def rate(hits: int, n: int) -> Rate:
    """A counted share with its exact bounds; of nothing counted, nothing is known."""
    low, high = clopper_pearson(hits, n) if n else (0.0, 1.0)
    return Rate(hits, n, low, high)


# ---- fitting and calibrating


def _parts(
    labelled: Sequence[Labelled], declared: Mapping[str, Topic], seed: int
) -> tuple[list[Labelled], list[Labelled], list[Labelled]]:
    """Three parts by conversation, of the topics that each part has a few turns of."""
    known = [one for one in labelled if one.labels.get(LABEL) in declared]
    counts = Counter(one.labels[LABEL] for one in {(one.log.name, one.labels[LABEL]): one for one in known}.values())
    enough = {name for name, n in counts.items() if n >= 4 * FEWEST}
    if len(enough) < 2:
        found = Counter(one.labels[LABEL] for one in labelled if LABEL in one.labels)
        raise TooFewTopics(found, list(declared))
    used = [one for one in known if one.labels[LABEL] in enough]
    fold = cluster_folds([one.log.name for one in used], 3, seed).tolist()
    fit, calibrate, check = ([one for one, f in zip(used, fold, strict=True) if f == part] for part in range(3))
    return fit, calibrate, check


def _fitted(
    subject: Subject, fit: Sequence[Labelled], naming: Mapping[str, Sequence[str]], error: float, seed: int
) -> Reader:
    """The reading at its best site, and distances where they notice most lists of words as no task."""
    texts = [before_reply(one, subject).text for one in fit]
    rows = tuple(
        make_example(text, label=one.labels[LABEL], cluster=one.log.name) for text, one in zip(texts, fit, strict=True)
    )
    sites = sites_of(subject)
    with use(Ledger.in_memory()):
        found = LogisticProbe(site=sites, seed=seed).fit(subject, Sample(rows, "turns", "", "dev", LABEL))
    weight, bias = found.weight, found.bias
    if len(found.classes) == 2:  # one column speaks for the second class: the first stays at 0
        weight, bias = torch.cat([0 * weight, weight], 1), torch.cat([0 * bias, bias])
    codes = torch.tensor([found.classes.index(one.labels[LABEL]) for one in fit])
    lists = [
        text for name in found.classes for text in _lists(subject, fit, name, naming[name], len(found.classes), seed)
    ]
    run = subject.run([*texts, *lists], read=[Read(site, "last") for site in sites])
    acts = {site: run[Read(site, "last")].flatten(1).double().cpu() for site in sites}
    noticed = {site: _noticed(acts[site][: len(texts)], acts[site][len(texts) :], codes, error) for site in sites}
    far = max(sites, key=lambda site: noticed[site])
    means, precision = _spread(acts[far][: len(texts)], codes)
    return Reader(found.classes, found.site, far, weight, bias, means, precision)


def sites_of(subject: Subject) -> tuple[str, ...]:
    """The residual stream behind each block, blocks thinned out evenly."""
    n = subject.n_blocks
    blocks = sorted({round(i * (n - 1) / max(1, min(MOST_SITES, n) - 1)) for i in range(min(MOST_SITES, n))})
    return tuple(f"blocks.{block}.resid_post" for block in blocks)


def _lists(
    subject: Subject, fit: Sequence[Labelled], name: str, naming: Sequence[str], topics: int, seed: int
) -> list[str]:
    """A few lists of a topic's words, as turns that ask for nothing; drawn apart from those of the check."""
    rng = random.Random(f"lists {name} {seed}")
    some = traps("listed", name, naming, fit, math.ceil(CHECKED / topics), subject, rng)
    return [before_reply(trap.turn, subject).text for trap in some]


def _spread(
    acts: Float[Tensor, "turn d"], codes: Int[Tensor, "turn"]
) -> tuple[Float[Tensor, "topic d"], Float[Tensor, "d d"]]:
    """Means of topics, and the inverse of the covariance that they share, shrunk (Ledoit and Wolf, 2004)."""
    means = torch.stack([acts[codes == c].mean(0) for c in range(int(codes.max()) + 1)])
    shrunk = LedoitWolf(assume_centered=True).fit((acts - means[codes]).numpy())
    return means.float(), torch.from_numpy(shrunk.precision_).float()


def _noticed(
    acts: Float[Tensor, "turn d"], lists: Float[Tensor, "list d"], codes: Int[Tensor, "turn"], error: float
) -> float:
    """Share of lists that lie farther from every topic than its turns do; half of the turns say how far those lie."""
    half = torch.arange(len(acts)) % 2 == 0
    if not len(lists) or any(not bool((codes[half] == c).any()) for c in codes.unique().tolist()):
        return 0.0
    means, precision = (part.double() for part in _spread(acts[half], codes[half]))

    def far(some: Tensor) -> Tensor:
        away = some[:, None] - means
        return ((away @ precision) * away).sum(-1)

    usual = far(acts[~half])[range(int((~half).sum())), codes[~half]].quantile(1 - error / 2)
    return float((far(lists).amin(1) > usual).double().mean())


def _usual(
    subject: Subject, calibrate: Sequence[Labelled], reader: Reader, classifier: TextClassifier
) -> tuple[tuple[tuple[Tensor, Tensor], ...], tuple[Tensor, ...]]:
    """How strange turns of each topic are for it: by doubt and distance, and by the text classifier's doubt."""
    doubt, far = reader.strangeness(subject, [before_reply(one, subject).text for one in calibrate])
    words = text_doubt(classifier, reader.names, [words_of(one) for one in calibrate])
    mine = [torch.tensor([one.labels[LABEL] == name for one in calibrate]) for name in reader.names]
    both = tuple((doubt[rows, n].sort().values, far[rows, n].sort().values) for n, rows in enumerate(mine))
    return both, tuple(words[rows, n].sort().values for n, rows in enumerate(mine))


# ---- counting errors


class _Checker:
    """Counts errors on the third part and on traps made of it."""

    def __init__(
        self, subject: Subject, topics: Topics, check: Sequence[Labelled], naming: Mapping[str, Sequence[str]],
        trap_count: int, seed: int,
    ) -> None:  # fmt: skip
        self.subject, self.topics, self.check, self.naming = subject, topics, check, naming
        self.trap_count, self.seed = trap_count, seed
        self.truth = [one.labels[LABEL] for one in check]
        self.inside, self.text = self._sets(check)

    def reading(self, topic: Topic, calibrated_on: int, stands: str | NotRun) -> TopicReading:
        """One topic with its rates, and whether it may be claimed."""
        name = topic.name
        own = [found for found, true in zip(self.inside, self.truth, strict=True) if true == name]
        missed = rate(sum(name not in found for found in own), len(own))
        claims = [true for found, true in zip(self.inside, self.truth, strict=True) if found == (name,)]
        wrong = rate(sum(true != name for true in claims), len(claims))
        rates = tuple(found for kind in KINDS if (found := self._trap_rate(kind, name)) is not None)
        silence = self._silence(name, calibrated_on, wrong, rates)
        return TopicReading(name, topic.words, calibrated_on, missed, wrong, rates, stands, silence)

    def told(self) -> Rate:
        """Held-out turns rightly claimed."""
        return self._right(self.inside)

    def text_told(self) -> Rate:
        return self._right(self.text)

    def _right(self, sets: Sequence[tuple[str, ...]]) -> Rate:
        return rate(sum(found == (true,) for found, true in zip(sets, self.truth, strict=True)), len(self.truth))

    def _sets(self, turns: Sequence[Labelled]) -> tuple[list[tuple[str, ...]], list[tuple[str, ...]]]:
        texts = [before_reply(one, self.subject).text for one in turns]
        inside = self.topics.sets(self.topics.fits(self.subject, texts))
        return inside, self.topics.sets(self.topics.text_fits([words_of(one) for one in turns]))

    def _trap_rate(self, kind: str, name: str) -> TrapRate | None:
        """How often the topic is claimed where it is only spoken of; None where no trap can be put."""
        rng = random.Random(f"traps {kind} {name} {self.seed}")
        some = traps(kind, name, self.naming[name], self.check, self.trap_count, self.subject, rng)
        if not some:
            return None
        inside, text = self._sets([trap.turn for trap in some])
        fell = [sum(found == (name,) for found in sets) for sets in (inside, text)]
        right = [
            sum(
                found == (trap.works_on,) if trap.works_on else len(found) != 1
                for found, trap in zip(sets, some, strict=True)
            )
            for sets in (inside, text)
        ]
        return TrapRate(kind, *(rate(n, len(some)) for n in (*fell, *right)))

    def _silence(self, name: str, on: int, wrong: Rate, rates: Sequence[TrapRate]) -> str:
        """Why a topic may not be claimed, in one sentence with the worst that was counted; empty where it may."""
        error, need = self.topics.error, math.ceil(2 / self.topics.error)
        silent, stated = f"'{name}' stays silent", f"{100 * error:g}% is stated"
        if on < need:
            return f"{silent}: its sets were calibrated on {on} turns, and {need} are needed."
        counted = [(wrong, "of its held-out claims were wrong", "logs")]
        counted += [(one.inside, f"turns are read as it where {KINDS[one.kind]}", "traps") for one in rates]
        worst, what, more = max(counted, key=lambda one: one[0].high)
        if worst.high > error:
            mend = f"; more {more} would tell" if worst.hits <= error * worst.n else ""
            return f"{silent}: {worst.at_most} {what}, and {stated}{mend}."
        lacking = [kind for kind in KINDS if kind not in {one.kind for one in rates}]
        return f"{silent}: it was not tried on turns where {KINDS[lacking[0]]}." if lacking else ""


def _represented(subject: Subject, turns: Sequence[Labelled], name: str, seed: int) -> str | NotRun:
    """C1: is it read beyond the words? In every text a task of the topic stands; in half of them it is only quoted."""
    rng = random.Random(f"represented {name} {seed}")
    own = [one for one in turns if one.labels[LABEL] == name]
    quoting = [*traps("quoted", name, (), turns, 2 * len(own), subject, rng)]
    names = sorted({one.labels[LABEL] for one in turns} - {name})
    for _ in range(2):
        for one in own:
            other = rng.choice(names)
            quoted = [host for host in turns if host.labels[LABEL] == other]
            quoting += traps("quoted", other, (), [one, rng.choice(quoted)], 1, subject, rng)
    rows = [
        {
            "text": before_reply(trap.turn, subject).text,
            "works_on": name if trap.works_on == name else f"not {name}",
            "log": trap.turn.log.name,
        }
        for trap in quoting
    ]
    ledger = Ledger.in_memory()
    try:
        with use(ledger):
            on = examples(rows, label="works_on", cluster="log", name=f"turns that speak of {name}")
            finding = LogisticProbe(site=sites_of(subject), seed=seed).fit(subject, on.dev)
            verdict = trial(
                Represents(finding, of="works_on", on=on, name=name), subject=subject, ledger=ledger, seed=seed
            )
    except UserError as error:
        return NotRun(f"it can't be put on trial ({error})")
    return f"{verdict.word}: {verdict.sentence}"
