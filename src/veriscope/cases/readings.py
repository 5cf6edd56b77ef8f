"""Readings of what a model takes its user to be, trained on labelled logs and put on trial before they may speak.

    readings = train_readings(subject, read_labelled("logs.jsonl"), taxonomy(), seed=0)
    readings.save("my-readings")

Read is the residual stream at the last token before a reply, where probes of a user model read best (Designing a
Dashboard for Transparency and Control of Conversational AI, 2024). Every reading goes through C1 (represents: beyond
what the words themselves give away), and every vector through C4 (steers). Conversations are split, never their rows.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from veriscope.cases.baselines import TextClassifier, asked
from veriscope.cases.kept_readings import Contest, Push, Readings, Share, SpeakerReading, Tried
from veriscope.cases.labelled import Attribute, Labelled
from veriscope.cases.logs import Strange, Turn
from veriscope.cases.neutral import nothing
from veriscope.cases.transcript import Transcript, transcript
from veriscope.claims import Represents, Steers
from veriscope.errors import NotRun, UserError
from veriscope.examples import Examples, Sample, examples
from veriscope.findings import Reading
from veriscope.ledger import Ledger, use
from veriscope.methods import LogisticProbe, MeanDifference, cluster_folds, encode, held_out_scores
from veriscope.methods.bits import calibrated_bits, platt
from veriscope.subjects import Add, Edit, Subject
from veriscope.subjects.endings import continuations
from veriscope.trials import Effort, Verdict
from veriscope.trials.statistics import Resampler, clopper_pearson
from veriscope.trials.trial import trial

Told = Callable[[str], None]
HALVES = 40  # fits on half of the dev logs: what intervals are made of
NEARLY = 0.03  # bits: so near to the best site, an earlier one is taken
MOST_SITES = 16  # blocks are thinned out evenly beyond that
DOSES = (-1.0, 0.0, 0.125, 0.25, 0.5, 1.0, 2.0, 4.0)  # gaps between the means; C4 takes the largest affordable
PUSHED = 48  # dev logs on which the site of a push is chosen
NEUTRAL, NEUTRAL_TOKENS = 800, 40  # texts that the model writes itself, for side effects
SCREENED = 200  # of these, by which the site of a push is chosen
MOST_WORDS, LIKELY, TELLING = 3, 0.05, 1.0  # first words of a reply: how many, how likely at least, and nats apart
ASKED = 60  # held-out logs on which the model is asked
C1_PASSES, C4_PASSES = 9, 60  # passes of every log that the trials take, roughly


class NothingToRead(UserError):
    """Labelled logs that tell of no attribute."""

    def __init__(self, known: Sequence[str], found: Sequence[str]) -> None:
        super().__init__(
            f"The logs are labelled by {', '.join(found) or 'nothing'}, and the attributes known are "
            f"{', '.join(known)}. Name yours in a YAML and give it with --taxonomy, or label logs by one of these with "
            f"two values at least."
        )


@dataclass(frozen=True)
class Heard:
    """A labelled log as the model reads it, up to the last token before its reply."""

    labelled: Labelled
    seen: Transcript
    text: str


def train_readings(
    subject: Subject,
    labelled: Sequence[Labelled],
    taxonomy: Sequence[Attribute],
    *,
    seed: int = 0,
    told: Told = lambda step: None,
    ledger: Ledger | None = None,
    effort: Effort | None = None,
) -> Readings:
    """Train a reading for each value of each attribute that the logs are labelled by, and put it on trial.

    Args:
        subject: A causal model.
        labelled: From `read_labelled`; what its conversations are decides the split.
        taxonomy: The attributes to read; those that no log is labelled by are left out.
        seed: Of folds, halves, twins and draws.
        told: Is given each step in words as it begins.
        ledger: Where looks, tries and verdicts are written; with the same file a killed training goes on.
        effort: Of the trials.

    Raises:
        NothingToRead, BadTemplate, TooLong.
    """
    attributes = present(taxonomy, labelled)
    ledger = ledger or Ledger.in_memory()
    told("reading the logs")
    heard = [before_reply(one, subject) for one in labelled]
    neutral, effort = _Neutral(subject, seed, told), effort or Effort()
    with use(ledger):
        parts = [_Trainer(subject, heard, one, seed, told, ledger, effort, neutral).train() for one in attributes]
    names = {one.log.name for one in labelled}
    held = {name for part in parts for name in part.held_out}
    return Readings(
        subject.name, subject.hash, len(names), len(held), seed, attributes,
        tuple(one for part in parts for one in part.readings),
        tuple(part.contest for part in parts if part.contest is not None),
        {part.attribute: part.classifier for part in parts if part.classifier is not None},
        {name: fits for part in parts for name, fits in part.fits.items()},
        {name: vector for part in parts for name, vector in part.vectors.items()},
    )  # fmt: skip


def present(taxonomy: Sequence[Attribute], labelled: Sequence[Labelled]) -> tuple[Attribute, ...]:
    """The attributes that two values or more of occur in the logs, with those values."""
    found: dict[str, set[str]] = {}
    for one in labelled:
        for name, value in one.labels.items():
            found.setdefault(name, set()).add(value)
    cut = (replace(one, values=tuple(v for v in one.values if v in found.get(one.name, ()))) for one in taxonomy)
    out = tuple(one for one in cut if len(one.values) > 1)
    if not out:
        raise NothingToRead([one.name for one in taxonomy], sorted(found))
    return out


def expected_seconds(subject: Subject, labelled: Sequence[Labelled], taxonomy: Sequence[Attribute]) -> float:
    """What training will take on this machine, by the time of a few logs; rough."""
    texts = [before_reply(one, subject).text for one in labelled[:16]]
    subject.run(texts[:2], logits="last")
    begun = time.perf_counter()
    subject.run(texts, logits="last")
    one = (time.perf_counter() - begun) / len(texts)
    readings = sum(1 if len(a.values) == 2 else len(a.values) for a in present(taxonomy, labelled))
    return one * len(labelled) * readings * (C1_PASSES + C4_PASSES)


def before_reply(one: Labelled, subject: Subject) -> Heard:
    """A labelled log as the model reads it when it is about to answer the labelled turn."""
    word = one.log.turns[one.turn].text.split()[0]  # stands for the reply: nothing of it is read
    log = replace(one.log, turns=(*one.log.turns[: one.turn + 1], Turn("assistant", word)))
    seen = transcript(log, Strange(one.turn + 1, 0, len(word)), subject)
    return Heard(one, seen, _without_special(subject, seen))


def _without_special(subject: Subject, seen: Transcript) -> str:
    """The text before the reply, without a first token that a template writes and the tokenizer puts there again."""
    text, tokenizer = seen.context, subject.reader.tokenizer
    first = getattr(tokenizer, "bos_token", None)
    if not seen.special and first and text.startswith(first) and subject.tokens([text])[0][:2].count(seen.ids[0]) == 2:
        return text[len(first) :]
    return text


# ---- one attribute


@dataclass(frozen=True, eq=False)
class _Trained:
    """All that was made of one attribute."""

    attribute: str
    readings: tuple[SpeakerReading, ...]
    contest: Contest | None
    classifier: TextClassifier | None
    fits: dict[str, Tensor]
    vectors: dict[str, Tensor]
    held_out: frozenset[str]


class _Trainer:
    """Trains the readings of one attribute."""

    def __init__(
        self, subject: Subject, heard: Sequence[Heard], attribute: Attribute, seed: int, told: Told, ledger: Ledger,
        effort: Effort, neutral: _Neutral,
    ) -> None:  # fmt: skip
        self.subject, self.attribute, self.seed, self.told = subject, attribute, seed, told
        self.ledger, self.effort = ledger, effort
        self.heard = [one for one in heard if one.labelled.labels.get(attribute.name) in attribute.values]
        self.sites = sites_of(subject)
        self.fits: dict[str, Tensor] = {}
        self.vectors: dict[str, Tensor] = {}
        self.held: Sample | None = None
        self.neutral = neutral

    def train(self) -> _Trained:
        two = len(self.attribute.values) == 2
        values = self.attribute.values[1:] if two else self.attribute.values
        readings = tuple(self._value(value, self.attribute.values[0] if two else f"not {value}") for value in values)
        contest, classifier = self._contest(readings)
        held = frozenset(self.held.clusters) if self.held is not None else frozenset()
        return _Trained(self.attribute.name, readings, contest, classifier, self.fits, self.vectors, held)

    def _value(self, value: str, rest: str) -> SpeakerReading:
        """One reading with its trials."""
        name = self.attribute.name
        blank = SpeakerReading(name, value, rest, "", NotRun(""), NotRun("no held-out log was opened"), NotRun(""))
        try:
            on = self._examples(value, rest)
            self.told(f"{blank.name}: fitting at {len(self.sites)} sites")
            finding = _pointing(self._best_reading(on.dev), value)
            self.told(f"{blank.name}: C1, is it represented")
            verdict = self._trial(Represents(finding, of=name, on=on, name=f"{blank.name} is read"))
        except UserError as error:
            why = NotRun(f"it can't be put on trial ({error})")
            return replace(blank, represents=why, pushes=why)
        tried = short(verdict)
        self.fits[blank.name] = fits_of(finding, self.subject, on.dev, value, self.seed)
        out = replace(blank, site=finding.site, represents=tried, errors=self._errors(blank.name, finding, on, verdict))
        if not tried.supported:
            return replace(out, pushes=NotRun("what is not shown to be represented is not swapped"))
        return replace(out, pushes=self._pushes(out, on))

    def _examples(self, value: str, rest: str) -> Examples:
        rows = [
            {
                "text": one.text,
                self.attribute.name: value if one.labelled.labels[self.attribute.name] == value else rest,
                "log": one.labelled.log.name,
            }
            for one in self.heard
        ]
        return examples(rows, label=self.attribute.name, cluster="log", name=f"logs by {self.attribute.name}")

    def _best_reading(self, dev: Sample) -> Reading:
        """The logistic probe at the first site that tells nearly as much on held-out dev logs as the best one.

        Behind it the state turns into what will be said, which any direction can read. All sites count as tried.
        """
        codes, _ = encode(dev)
        fold = cluster_folds(dev.clusters, seed=self.seed)
        probes = [LogisticProbe(site=site, seed=self.seed) for site in self.sites]
        readings = [probe.fit(self.subject, dev) for probe in probes]
        acts = [self.subject.acts(dev.texts, site).float().cpu() for site in self.sites]
        scores = [
            held_out_scores(probe, some, codes[None], fold, n_classes=2)
            for probe, some in zip(probes, acts, strict=True)
        ]
        bits = calibrated_bits(torch.cat(scores), codes.repeat(len(scores), 1), 2)
        best = int((bits >= bits.max() - NEARLY).nonzero()[0])
        return replace(readings[best], origin=dataclasses.replace(readings[best].origin, tried=len(self.sites)))

    def _trial(self, claim: Any) -> Verdict:
        return trial(claim, subject=self.subject, ledger=self.ledger, seed=self.seed, effort=self.effort)

    def _errors(self, name: str, finding: Reading, on: Examples, verdict: Verdict) -> Share | NotRun:
        """Held-out logs with a row that is read wrongly; the pool is opened only where the trial opened it."""
        if not self.ledger.rows("look", examples=on.hash, pool="gate", by=verdict.card):
            return NotRun("the held-out logs stayed closed")
        self.held = on.gate.open(by=verdict.card, ledger=self.ledger)
        wrong = self._told_of(name, finding.site, self.held) != torch.tensor(
            [label == name.partition("=")[2] for label in self.held.labels]
        )
        return counted({cluster for cluster, odd in zip(self.held.clusters, wrong.tolist(), strict=True) if odd},
                       self.held.n_clusters)  # fmt: skip

    def _told_of(self, name: str, site: str, sample: Sample) -> Tensor:
        acts = self.subject.acts(sample.texts, site).float().cpu()
        return acts @ self.fits[name][0, :-1] + self.fits[name][0, -1] > 0

    # ---- pushes

    def _pushes(self, reading: SpeakerReading, on: Examples) -> tuple[Push, ...] | NotRun:
        """A vector towards each side, put on trial as C4 at a site chosen on dev."""
        words = telling_words(self.subject, on.dev)
        if isinstance(words, NotRun):
            return words
        sides = (reading.value, reading.rest) if len(self.attribute.values) == 2 else (reading.value,)
        out = []
        for toward in sides:
            self.told(f"{reading.name}: C4, does it steer towards '{toward}'")
            try:
                finding = self._best_push(on, toward, words)
                claim = Steers(
                    finding, toward=toward, of=self.attribute.name, on=on, targets=words, doses=DOSES, at="last",
                    neutral=self.neutral.texts, name=f"{reading.name} steers towards {toward}",
                )  # fmt: skip
                verdict = self._trial(claim)
            except UserError as error:
                return NotRun(f"no push can be put on trial ({error})")
            dose = working_dose(verdict)
            vector = finding.as_change("add", toward).vector
            assert vector is not None
            self.vectors[f"{reading.name} toward {toward}"] = vector.float().cpu() * dose
            foils = next(some for name, some in words.items() if name != toward)
            out.append(Push(toward, finding.site, dose, words[toward], foils, short(verdict)))
        return tuple(out)

    def _best_push(self, on: Examples, toward: str, words: dict[str, tuple[str, ...]]) -> Reading:
        """The vector that moves the words most on dev for what it costs on neutral text.

        Half a gap is added. What it moves grows with the dose and what it costs (KL divergence) with its square, so the
        first over the root of the second is what a budget buys. Every method at every site counts as tried.
        """
        some = on.dev.where(lambda e: e.label != toward)
        rng = np.random.default_rng([self.seed, 0xA7])
        some = some.take(sorted(rng.permutation(len(some))[:PUSHED].tolist()))
        targets, foils = _first_tokens(self.subject, some.texts[0], words, toward)
        plain = [self._last_logits(texts) for texts in (some.texts, self.neutral.begun)]
        methods = [kind(site=site, seed=self.seed) for kind in (MeanDifference, LogisticProbe) for site in self.sites]
        best: tuple[float, Reading] | None = None
        for method in methods:
            finding = method.fit(self.subject, on.dev)
            vector = finding.as_change("add", toward).vector
            assert vector is not None
            edit = Edit(finding.site, Add(vector * 0.5), at="last")
            moved, cost = (self._last_logits(texts, edit) for texts in (some.texts, self.neutral.begun))
            apart = moved - plain[0]
            gain = float((apart[:, targets].mean(1) - apart[:, foils].mean(1)).mean())
            shares = plain[1].log_softmax(-1)
            kl = float((shares.exp() * (shares - cost.log_softmax(-1))).sum(-1).mean())
            worth = gain / max(kl, 1e-9) ** 0.5
            if best is None or worth > best[0]:
                best = worth, finding
        assert best is not None
        return replace(best[1], origin=dataclasses.replace(best[1].origin, tried=len(methods)))

    def _last_logits(self, texts: Sequence[str], edit: Edit | None = None) -> Float[Tensor, "text vocab"]:
        found = self.subject.run(texts, edits=[edit] if edit is not None else [], logits="last").logits
        assert found is not None
        return found.float().cpu()

    # ---- beside the words and the asking

    def _contest(self, readings: Sequence[SpeakerReading]) -> tuple[Contest | None, TextClassifier | None]:
        """Reading, text classifier and asking on the held-out logs that the trials opened."""
        if self.held is None or any(one.name not in self.fits for one in readings):
            return None, None
        self.told(f"{self.attribute.name}: beside a text classifier and asking")
        closed = set(self.held.clusters)
        dev = [one for one in self.heard if one.labelled.log.name not in closed]
        held = [one for one in self.heard if one.labelled.log.name in closed]
        label = [one.labelled.labels[self.attribute.name] for one in held]
        classifier = TextClassifier.fit(
            [one.labelled.text for one in dev], [one.labelled.labels[self.attribute.name] for one in dev],
            [one.labelled.log.name for one in dev],
        )  # fmt: skip
        inside = self._inside(readings, [one.text for one in held])
        text = classifier.predict([one.labelled.text for one in held])
        rng = np.random.default_rng([self.seed, 0xA5])
        rows = sorted(rng.permutation(len(held))[:ASKED].tolist())
        said = self._asked([held[n] for n in rows])
        clusters = [one.labelled.log.name for one in held]
        right = [np.array([a == b for a, b in zip(found, label, strict=True)], float) for found in (inside, text)]
        over_text = paired(right[0], right[1], clusters, self.seed)
        told: Share | NotRun = said if isinstance(said, NotRun) else NotRun("")
        over: tuple[float, float, float] | NotRun = said if isinstance(said, NotRun) else NotRun("")
        if not isinstance(said, NotRun):
            hits = np.array([a == label[n] for a, n in zip(said, rows, strict=True)], float)
            told = _share(hits, [clusters[n] for n in rows])
            over = paired(right[0][rows], hits, [clusters[n] for n in rows], self.seed)
        contest = Contest(
            self.attribute.name, _share(right[0], clusters), _share(right[1], clusters), told, over_text, over,
            contest_words(self.attribute.name, over_text),
        )  # fmt: skip
        return contest, classifier

    def _inside(self, readings: Sequence[SpeakerReading], texts: Sequence[str]) -> list[str]:
        """The value that the readings give to each text."""
        odds = []
        for one in readings:
            acts = self.subject.acts(texts, one.site).float().cpu()
            odds.append(acts @ self.fits[one.name][0, :-1] + self.fits[one.name][0, -1])
        if len(readings) == 1:
            return [readings[0].value if told > 0 else readings[0].rest for told in odds[0].tolist()]
        return [readings[n].value for n in torch.stack(odds).argmax(0).tolist()]

    def _asked(self, heard: Sequence[Heard]) -> list[str] | NotRun:
        out = []
        for one in heard:
            log = replace(one.labelled.log, turns=one.labelled.log.turns[: one.labelled.turn + 1])
            turn = one.labelled.turn
            seen = transcript(log, Strange(turn, 0, len(log.turns[turn].text)), self.subject)
            found = asked(self.subject, seen, self.attribute)
            if isinstance(found, NotRun):
                return found
            out.append(found.answer)
        return out


# ---- parts


def sites_of(subject: Subject) -> tuple[str, ...]:
    """The residual stream before and behind the MLP of each block, blocks thinned out evenly."""
    kinds = [kind for kind in ("resid_mid", "resid_post") if f"blocks.0.{kind}" in subject.sites]
    most = max(1, MOST_SITES // max(1, len(kinds)))
    blocks = sorted({round(n) for n in np.linspace(0, subject.n_blocks - 1, min(most, subject.n_blocks)).tolist()})
    return tuple(f"blocks.{block}.{kind}" for block in blocks for kind in kinds)


def fits_of(finding: Reading, subject: Subject, dev: Sample, value: str, seed: int) -> Float[Tensor, "fit d_and_1"]:
    """Weights and offset of calibrated log-odds of a value: of the finding, then of fits on random halves of the logs.

    Each is calibrated by scores of logs that it did not see (Platt, 1999). The spread over halves is that of the whole
    fit (delete-half jackknife).
    """
    probe = LogisticProbe(site=finding.site, position=finding.position, l2=100.0, seed=seed)
    acts = subject.acts(dev.texts, finding.site).float().cpu()
    codes = torch.tensor([int(label == value) for label in dev.labels])
    fold = cluster_folds(dev.clusters, seed=seed)
    scores = held_out_scores(LogisticProbe(site=finding.site, seed=seed), acts, codes[None], fold, n_classes=2)
    out = [_calibrated(finding.weight[:, 0].float().cpu(), finding.bias.float().cpu()[0], scores, codes[None])]
    names = sorted(set(dev.clusters))
    rng = np.random.default_rng([seed, 0xA4])
    halves = []
    for _ in range(HALVES):
        kept = {names[n] for n in rng.permutation(len(names))[: len(names) // 2].tolist()}
        half = torch.tensor([cluster in kept for cluster in dev.clusters])
        if all(len(codes[some].unique()) == 2 for some in (half, ~half)):
            halves.append(half)
    train = torch.stack(halves)
    solved = probe.weights(acts, codes.repeat(len(train), 1), train, n_classes=2, seed=seed)
    for n, half in enumerate(train):
        away = acts[~half] @ solved.weight[n] + solved.bias[n]
        out.append(_calibrated(solved.weight[n, :, 0], solved.bias[n, 0], away[None], codes[None, ~half]))
    return torch.stack(out)


def _calibrated(
    weight: Float[Tensor, "d"], bias: Tensor, scores: Float[Tensor, "1 example 1"], codes: Tensor
) -> Float[Tensor, "d_and_1"]:
    """Weights and offset of log-odds."""
    found = platt(scores, codes, 2)
    slope, offset = found.slope[0].float(), (found.offset[0, 1] - found.offset[0, 0]).float()
    return torch.cat([slope * weight, (slope * bias + offset)[None]])


class _Neutral:
    """Texts that the model writes with nothing before them: on its own distribution, and about nothing in the logs."""

    def __init__(self, subject: Subject, seed: int, told: Told) -> None:
        self.subject, self.seed, self.told = subject, seed, told

    @cached_property
    def texts(self) -> tuple[str, ...]:
        self.told("neutral text, which pushes must leave as it is")
        start = nothing(self.subject)
        drawn, _ = continuations(self.subject, [start], tokens=NEUTRAL_TOKENS, draws=NEUTRAL, seed=self.seed)
        texts = dict.fromkeys(self.subject.reader.decode(ids).strip() for ids in drawn[0][1:] if len(ids) > 3)
        return tuple(text for text in texts if text)

    @cached_property
    def begun(self) -> list[str]:
        """The first half of some of them: where the state at the last token is about to go on."""
        return [text[: 1 + text.find(" ", len(text) // 2)].strip() or text for text in self.texts[:SCREENED]]


def _pointing(finding: Reading, value: str) -> Reading:
    """The reading with the value as the class that a positive score speaks for."""
    if finding.classes[1] == value:
        return finding
    first, second = finding.classes
    return replace(finding, weight=-finding.weight, bias=-finding.bias, classes=(second, first), gaps=finding.gaps)


def telling_words(subject: Subject, dev: Sample) -> dict[str, tuple[str, ...]] | NotRun:
    """For each label, the first words of a reply that the model says there and not with the other label, on dev."""
    codes, classes = encode(dev)
    logits = subject.run(dev.texts, logits="last").logits
    assert logits is not None
    shares = logits.float().cpu().log_softmax(-1)
    means = torch.stack([shares[codes == c].logsumexp(0) - float((codes == c).sum().log()) for c in range(2)])
    out = {}
    for c, name in enumerate(classes):
        apart = means[c] - means[1 - c]
        likely = [n for n in apart.argsort(descending=True).tolist() if means[c, n].exp() >= LIKELY]
        ids = [n for n in likely if apart[n] >= TELLING][:MOST_WORDS]
        words = tuple(subject.reader.decode([n]) for n in ids)
        if not words:
            return NotRun(
                f"no first word of its reply is {np.e**TELLING:.1f} times as likely with '{name}' as without, so there "
                f"is no behaviour that a swap could be held to"
            )
        out[name] = words
    return out


def _first_tokens(
    subject: Subject, text: str, words: dict[str, tuple[str, ...]], toward: str
) -> tuple[list[int], list[int]]:
    """Tokens of the words of one side, and of the other."""
    ids = {name: subject.answer_ids([text] * len(some), list(some)).tolist() for name, some in words.items()}
    return ids[toward], [n for name, some in ids.items() if name != toward for n in some]


def working_dose(verdict: Verdict) -> float:
    """The dose at which a C4 trial held its claim."""
    for gate in verdict.gates:
        if gate.gate == "g1" and "dose" in gate.series:
            return max(gate.series["dose"])
    return 0.0


def short(verdict: Verdict) -> Tried:
    """A verdict in short, with the gate that stopped it."""
    claim = verdict.claim.split()[0]
    return Tried(claim, verdict.word, _stopped(verdict) if verdict.word != "SUPPORTED" else "", verdict.sentence,
                 verdict.card)  # fmt: skip


def _stopped(verdict: Verdict) -> str:
    claim = verdict.claim.split()[0]
    for gate in verdict.gates:
        if gate.role in ("gate", "instrument", "falsifier") and gate.outcome in ("fail", "unclear", "fired", "not run"):
            found = gate.estimate
            size = f" ({found.value:.2f} {gate.unit}" if not isinstance(found, NotRun) else f" ({found.reason}"
            margin = f", {gate.margin:g} needed" if gate.margin is not None and gate.better == "higher" else ""
            margin = f", {gate.margin:g} allowed" if gate.margin is not None and gate.better == "lower" else margin
            held = f" over {gate.strongest}" if gate.strongest and not isinstance(found, NotRun) else ""
            return f"{claim} is {verdict.word} at its gate '{gate.title}'{size}{held}{margin})"
    return f"{claim} is {verdict.word}"


def counted(hit: set[str], n: int) -> Share:
    """A share of logs with its exact interval."""
    low, high = clopper_pearson(len(hit), n, 0.975)
    return Share(len(hit), n, low, high)


def _share(right: Float[np.ndarray, "row"], clusters: Sequence[str]) -> Share:
    """Logs of which every row is told rightly."""
    wrong = {name for name, hit in zip(clusters, right, strict=True) if not hit}
    return counted(set(clusters) - wrong, len(set(clusters)))


def paired(
    one: Float[np.ndarray, "row"], other: Float[np.ndarray, "row"], clusters: Sequence[str], seed: int
) -> tuple[float, float, float]:
    """Mean difference and its interval over logs."""
    found = Resampler(tuple(clusters), seed, draws=2_000).mean(one - other)
    return found.value, found.low, found.high


def contest_words(attribute: str, over_text: tuple[float, float, float]) -> str:
    """What the comparison with a text classifier says."""
    value, low, high = (100 * one for one in over_text)
    size = f"{value:+.0f} points [{low:.0f}, {high:.0f}]"
    if low > 0:
        return f"'{attribute}' is told better inside the model than by the text classifier: {size}."
    if high < 0:
        return f"No advantage over the text classifier for '{attribute}': it tells more than the model shows, {size}."
    return f"No advantage over the text classifier for '{attribute}': {size}."
