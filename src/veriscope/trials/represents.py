"""The gates of C1 REPRESENTS, in the order of its battery.

Each gate is a function of the bench (claim, subject and pools, with activations read once) and its line of
the battery. What the claim gets, its controls get: the same method, folds, calibration and items. A method that
hears no labels (a random direction, a principal component) can't be refitted to control labels, so the logistic probe
of the same family is fitted to them as well, and the stronger of the two is the control.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from veriscope.claims.battery import GateSpec
from veriscope.claims.represents import Represents
from veriscope.errors import BadPosition, NotRun, UserError
from veriscope.examples import Sample
from veriscope.methods import LogisticProbe, method
from veriscope.methods.linear import cluster_folds, held_out_scores
from veriscope.methods.random_direction import along
from veriscope.rivals import (
    AskModel,
    BagOfNgrams,
    EmbeddingProbe,
    LengthPosition,
    Majority,
    NgramBayes,
    TokenPairs,
)
from veriscope.subjects import Subject
from veriscope.trials.evidence import Control, Estimate, GateResult
from veriscope.trials.judge import Effort, against, falsifier, judge, not_run, printed
from veriscope.trials.reading import as_array, bits_of, crossfit_bits
from veriscope.trials.statistics import Array, Resampler, spread_of


@dataclass(eq=False)
class Bench:
    """A C1 trial's data. `gate` stays None until the instrument is checked and the power is known."""

    MIN_CLUSTERS: ClassVar[int] = 20  # fewer in a pool and a cluster bootstrap means little
    MIN_ITEMS: ClassVar[int] = 100

    claim: Represents
    subject: Subject
    dev: Sample
    seed: int = 0
    effort: Effort = Effort()
    gate: Sample | None = None
    shift: Sample | None = None
    tries: int = 1

    @cached_property
    def method(self) -> Any:
        """The method that made the finding, rebuilt from its record, at the one site that was chosen."""
        origin = self.claim.finding.origin
        made = method(origin.method, **{**origin.settings, "site": origin.site, "position": origin.position})
        if not hasattr(made, "weights"):
            raise UserError(
                f"{origin.method} has no `weights(acts, codes, train, n_classes=, seed=)`, so its controls can't be "
                f"fitted the way the claim was. Add it, or put the claim as C10 or C12."
            )
        return made

    @cached_property
    def readers(self) -> dict[str, Any]:
        """What controls are fitted by: the claim's own method, and the logistic probe that stands for its family."""
        finding = self.claim.finding
        probe = LogisticProbe(site=finding.site, position=finding.position, seed=self.finding_seed)
        own = {type(self.method).__name__: self.method}
        return own if type(self.method) is LogisticProbe else {**own, "LogisticProbe": probe}

    @property
    def classes(self) -> tuple[str, ...]:
        return self.claim.finding.classes

    @cached_property
    def fold(self) -> Int[Tensor, "example"]:
        return cluster_folds(self.dev.clusters, self.effort.folds, self.seed)

    @cached_property
    def draws(self) -> Resampler:
        return Resampler(tuple(self.opened.clusters), self.seed)

    @property
    def opened(self) -> Sample:
        assert self.gate is not None, "the gate pool has not been opened yet"
        return self.gate

    def codes(self, sample: Sample) -> Int[Tensor, "example"]:
        """Label of each example as the index of its class."""
        index = {c: i for i, c in enumerate(self.classes)}
        strange = sorted({str(x) for x in sample.labels} - set(index))
        if strange:
            raise UserError(f"Labels {strange[:3]} occur in the {sample.pool} pool but not in dev. Merge or drop them.")
        return torch.tensor([index[x] for x in sample.labels])

    def acts(self, subject: Subject, sample: Sample) -> Float[Tensor, "example d"]:
        at = subject.where(self.claim.finding.position, sample)
        return subject.acts(sample.texts, self.claim.finding.site, at)

    @cached_property
    def dev_acts(self) -> Float[Tensor, "example d"]:
        return self.acts(self.subject, self.dev)

    @cached_property
    def gate_acts(self) -> Float[Tensor, "item d"]:
        return self.acts(self.subject, self.opened)

    def bits(
        self,
        dev_acts: Tensor,
        gate_acts: Tensor,
        dev_codes: Tensor,
        gate_codes: Tensor,
        seed: int = 0,
        frozen: Tensor | None = None,
        reader: Any = None,
    ) -> Array:
        """Bits per gate item for each labelling, by the claim's own method or another reader.

        Codes are [task, example], bits [task, item].
        """
        found = crossfit_bits(
            reader or self.method,
            dev_acts,
            dev_codes,
            self.fold,
            gate_acts,
            gate_codes,
            len(self.classes),
            seed=seed,
            frozen=frozen,
        )
        return as_array(found)

    @cached_property
    def claimed(self) -> Array:
        """Bits per gate item of the finding as it was frozen."""
        frozen = self.claim.finding.score(self.gate_acts)
        dev, gate = self.codes(self.dev)[None], self.codes(self.opened)[None]
        return self.bits(self.dev_acts, self.gate_acts, dev, gate, seed=self.finding_seed, frozen=frozen)[0]

    @cached_property
    def taught(self) -> Array:
        """Bits per gate item of what the best reader learns of the variable from dev, as the controls do; or the
        claim's own, where those are fewer.

        A finding may have been fitted on more texts than dev has. Controls that learn on dev would then seem to know
        less than it for want of texts alone.
        """
        dev, gate = self.codes(self.dev)[None], self.codes(self.opened)[None]
        found = self.claimed
        for number, reader in enumerate(self.readers.values()):
            again = self.bits(self.dev_acts, self.gate_acts, dev, gate, seed=self.finding_seed, reader=reader)[0]
            if again.mean() >= self.claimed.mean():
                return self.claimed
            found = again if number == 0 or again.mean() > found.mean() else found
        return found

    @property
    def finding_seed(self) -> int:
        return self.claim.finding.origin.seed

    @staticmethod
    def passes(claim: Represents, effort: Effort) -> int:
        """About how many forward passes of single examples the battery takes."""
        return (3 + effort.twins) * claim.on.n

    def dev_estimate(self) -> Estimate:
        """Cross-fitted effect on dev: what power is reckoned from before the gate pool is opened (rule R7)."""
        held_out = _crossfit_on_dev(self, self.codes(self.dev)[None])
        found = Resampler(tuple(self.dev.clusters), self.seed, draws=1_000).mean(held_out)
        return _no_surer_than_an_effect(found, self.claim.smallest_effect)


def _no_surer_than_an_effect(found: Estimate, smallest: float) -> Estimate:
    """Widen a dev estimate to the spread that bits have where there is an effect of the smallest size.

    A reader that calibration sets to nothing gives exactly zero bits everywhere, which is no sign of power. Bits
    of b on average have a standard deviation of about sqrt(2 b / ln 2) (log-likelihood ratios of two Gaussians).
    """
    half = 1.645 * float(np.sqrt(2 * smallest / np.log(2)) / np.sqrt(found.clusters))
    return replace(found, low=min(found.low, found.value - half), high=max(found.high, found.value + half))


def _crossfit_on_dev(
    bench: Bench, codes: Int[Tensor, "one example"], acts: Tensor | None = None, reader: Any = None
) -> Array:
    """Bits of each dev item under the folds that did not see it."""
    acts = bench.dev_acts if acts is None else acts
    scores = held_out_scores(
        reader or bench.method, acts, codes, bench.fold, n_classes=len(bench.classes), seed=bench.finding_seed
    )
    return as_array(bits_of(scores, codes, scores, codes, len(bench.classes)))[0]


def planted_feature(bench: Bench, spec: GateSpec) -> GateResult:
    """i0, rule R5: a coin planted into the same activations must be found by what the controls are fitted by.

    It is planted on dev along a direction that the activations already vary in, at 1.25 of its standard deviations
    either way. That asks what so much data at this site can show, whatever was claimed: a direction that was drawn or
    taken from the activations alone finds no coin, and is refuted or not by what it reads, not by this.
    """
    rng = torch.Generator().manual_seed(bench.seed + 17)
    acts = bench.dev_acts
    coin = torch.randint(len(bench.classes), (len(acts),), generator=rng)
    centred = acts - acts.mean(0)
    direction = centred.T @ torch.randn(len(acts), generator=rng, dtype=acts.dtype)
    direction = direction / direction.norm().clamp_min(1e-12)
    sd = (centred @ direction).std().clamp_min(1e-6)
    place = coin.to(acts.dtype) - coin.to(acts.dtype).mean()
    planted = acts + 2.5 * sd * place[:, None] * direction
    found = {name: _crossfit_on_dev(bench, coin[None], planted, reader) for name, reader in bench.readers.items()}
    best = max(found, key=lambda name: found[name].mean())
    draws = Resampler(tuple(bench.dev.clusters), bench.seed, draws=1_000)
    return judge(
        spec,
        draws.mean(found[best]),
        note=f"a coin planted at 1.25 sd along a natural direction of the same activations, found by {best}",
    )


def against_learners(bench: Bench, spec: GateSpec, controls: Mapping[str, Array], note: str) -> GateResult:
    """Hold the claim against controls that learn on dev, and leave it open where they had fewer texts than it.

    A claim that passes is held against them again with what dev can teach of it (`Bench.taught`). If the finding is
    known to have learnt from more texts than dev has, by over a quarter, a pass says nothing at all.
    """
    found = against(spec, bench.claimed, controls, bench.draws, note=note)
    texts, learnt = len(bench.dev), bench.claim.finding.origin.fitted_on
    if found.outcome != "pass" or (learnt <= MORE_TEXTS * texts and bench.taught is bench.claimed):
        return found
    alike = against(spec, bench.taught, controls, bench.draws)
    if learnt <= MORE_TEXTS * texts and alike.outcome == "pass":
        return found
    why = f"its controls learnt from {texts:,} dev texts" + (f", the finding from {learnt:,}" if learnt > texts else "")
    why += f"; a reading has {bench.taught.mean():.2f} bits from theirs where the claim has {bench.claimed.mean():.2f}"
    note = f"{why}: give dev more texts; {note}".rstrip("; ")
    return replace(alike, outcome="unclear", items_needed=None, note=note)


MORE_TEXTS = 1.25  # times the texts that the controls learn from, up to which a finding's count as no more than theirs


def held_out(bench: Bench, spec: GateSpec) -> GateResult:
    """d1: usable bits on clusters never seen; chance is zero bits.

    Printed and not judged: g2 to g5 ask for as many bits beyond controls that count as zero at the least.
    """
    codes = bench.codes(bench.opened)
    score = bench.claim.finding.score(bench.gate_acts)
    guess = (score[:, 0] > 0).long() if len(bench.classes) == 2 else score.argmax(-1)
    right = as_array((guess == codes).double())
    return printed(
        spec,
        bench.draws.mean(bench.claimed),
        raw=bench.draws.mean(right),
        spread=spread_of(bench.claimed, bench.opened.clusters),
        note=f"raw is accuracy, in shares; {len(bench.classes)} classes",
    )


def redraw(
    keys: tuple[list[str], list[str]], codes: Int[Tensor, "example"], n_classes: int, draws: int, seed: tuple[int, ...]
) -> tuple[Int[Tensor, "draw example"], Int[Tensor, "draw item"]]:
    """Control labels that hang on a key (the token type, say) exactly as much as the real ones do.

    Each key gets the label frequencies of another key, drawn at random, and its examples get labels drawn from
    them, in dev and gate alike. Frequencies are shrunk towards the overall ones by what chance alone explains
    (method of moments), so a label that ignores the key gives coins, and one that is a function of it gives
    Hewitt and Liang's control task. Drawing a fixed label for each key regardless would refute every
    contextual variable in a space where types are separable, which is every language model's.

    Args:
        keys: Key of each dev example and of each gate item.
        codes: Real labels of dev.
    """
    names, index = np.unique(np.asarray(keys[0] + keys[1]), return_inverse=True)
    dev = index[: len(keys[0])]
    counts = np.zeros((len(names), n_classes))
    np.add.at(counts, (dev, codes.numpy()), 1.0)
    size = counts.sum(1)
    overall = counts.sum(0) / size.sum()
    seen = np.flatnonzero(size)
    share = counts[seen] / size[seen, None]
    noise = (overall * (1 - overall)).sum()
    between = max(
        0.0, float((((share - overall) ** 2).sum(1) * size[seen]).sum() / size.sum() - noise * len(seen) / size.sum())
    )
    keep = between / (between + noise / size[seen]) if between else np.zeros(len(seen))
    shrunk = overall + keep[:, None] * (share - overall)
    rng = np.random.default_rng(seed)
    given = shrunk[rng.integers(0, len(seen), size=(draws, len(names)))].cumsum(-1)[:, index]
    labels = torch.as_tensor((rng.random((draws, len(index), 1)) > given[..., :-1]).sum(-1))
    return labels[:, : len(keys[0])], labels[:, len(keys[0]) :]


def control_task(bench: Bench, spec: GateSpec) -> GateResult:
    """g2: selectivity (Hewitt and Liang, Designing and Interpreting Probes with Control Tasks, 2019).

    Labels are redrawn per token type (the token read at), per context (the token and the one before), per value of
    every factor that names many things, and per item, see `redraw`. A probe that merely remembers which of them had
    which label does as well on these.

    The control of a family is the draw that is read best: a label that is one more such draw beats the best of 20 once
    in 21 times, and the mean of them every second time.
    """
    controls, families = {}, []
    codes, classes = bench.codes(bench.dev), len(bench.classes)
    for salt, (family, keys) in enumerate(_control_keys(bench, bench.dev, bench.opened).items()):
        dev_codes, gate_codes = redraw(keys, codes, classes, bench.effort.draws, (bench.seed, 0xC7, salt))
        usable = [t for t in range(len(dev_codes)) if len(dev_codes[t].unique()) == classes]
        for name, reader in bench.readers.items() if usable else ():
            bits = bench.bits(bench.dev_acts, bench.gate_acts, dev_codes[usable], gate_codes[usable], reader=reader)
            controls[f"redrawn per {family}, {name}"] = bits[bits.mean(1).argmax()]
        families.append(f"{len(set(keys[0] + keys[1])):,} of {family}")
    note = f"the best read of {bench.effort.draws} draws a family; {', '.join(families)}"
    return against_learners(bench, spec, controls, note)


MANY = 20  # values from which on a factor names things that could be remembered, and is not a variable itself


def _control_keys(bench: Bench, dev: Sample, gate: Sample) -> dict[str, tuple[list[str], list[str]]]:
    """What labels are redrawn by, for dev and gate: the token read at, it with the one before, factors, the item."""
    types, contexts = [], []
    for sample in (dev, gate):
        at = bench.subject.where(bench.claim.finding.position, sample)
        types.append(bench.subject.type_at(sample.texts, at))
        contexts.append(_with_the_one_before(bench.subject, sample.texts, at, types[-1]))
    found = {"type": (types[0], types[1]), "context": (contexts[0], contexts[1])}
    for factor in (f for f in dev.factor_names if f in gate.factor_names):
        keys = (dev.factor(factor), gate.factor(factor))
        if len(set(keys[0])) >= MANY and set(keys[0]) & set(keys[1]) and not _same(keys, found["type"]):
            found[f"factor {factor}"] = keys
    return {**found, "item": ([f"dev {e.id}" for e in dev.examples], [f"gate {e.id}" for e in gate.examples])}


def _same(some: tuple[list[str], list[str]], others: tuple[list[str], list[str]]) -> bool:
    """Whether two keys part the examples alike."""
    pairs = set(zip(some[0] + some[1], others[0] + others[1], strict=True))
    return len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})


def _with_the_one_before(subject: Subject, texts: list[str], at: Any, types: list[str]) -> list[str]:
    """Each read token with the token before it; the token alone where it is the first."""
    if isinstance(at, str) or (isinstance(at, int) and at < 0):
        before: Any = {"last": -2, "first": 0}.get(at, at - 1 if isinstance(at, int) else 0)  # type: ignore[arg-type]
    else:
        before = torch.as_tensor(at).sub(1).clamp_min(0)
        before = before if before.ndim else int(before)
    try:
        return [f"{a} {b}" for a, b in zip(subject.type_at(texts, before), types, strict=True)]
    except BadPosition:
        return types


def dead_salmon(bench: Bench, spec: GateSpec) -> GateResult:
    """g3: the same probe on random-weight twins (The Dead Salmons of AI Interpretability, Meloux 2025).

    A twin has the same tokens and the same wiring, buffers included, and none of what was learnt: what any network of
    the architecture holds is no finding about this one.
    """
    dev_codes, gate_codes = bench.codes(bench.dev)[None], bench.codes(bench.opened)[None]
    controls = {}
    for twin_seed in range(bench.effort.twins):
        twin = bench.subject.twin("random", bench.seed * 1000 + twin_seed)
        dev, gate = bench.acts(twin, bench.dev), bench.acts(twin, bench.opened)
        for name, reader in bench.readers.items():
            bits = bench.bits(dev, gate, dev_codes, gate_codes, bench.finding_seed, reader=reader)
            controls[f"random-weight twin {twin_seed + 1}, {name}"] = bits[0]
    return against_learners(bench, spec, controls, f"{bench.effort.twins} twins, the probe fitted afresh on each")


ASKED = 200  # dev items that a rival which asks the model is calibrated on: asking costs passes, two numbers need few


def rival_bits(rival: Any, bench: Bench) -> Array | NotRun:
    """Bits per gate item of a rival that never looks inside, calibrated on dev like the claim.

    Readers of the surface are calibrated on folds held out from their fit. A model that is asked learns from at
    most four solved examples, so it is asked once and calibrated on other dev items.
    """
    predictor = rival.fit(bench.subject, bench.dev)
    if isinstance(predictor, NotRun):
        return predictor
    codes = bench.codes(bench.dev)
    if isinstance(rival, AskModel):
        picked = torch.randperm(len(bench.dev), generator=torch.Generator().manual_seed(bench.seed))[:ASKED]
        codes = codes[picked]
        held_out = _log_odds(predictor, bench.dev.take(picked.tolist()), bench.classes)
    else:
        rival = getattr(predictor, "settled", rival)  # a penalty chosen on all of dev favours the rival, if anything
        held_out = torch.zeros(len(bench.dev), len(bench.classes))
        for f in range(int(bench.fold.max()) + 1):
            inside = bench.fold == f
            fitted = rival.fit(bench.subject, _rows(bench.dev, ~inside))
            held_out[inside] = _log_odds(fitted, _rows(bench.dev, inside), bench.classes)
    gate = _log_odds(predictor, bench.opened, bench.classes)
    if len(bench.classes) == 2:
        held_out, gate = held_out[:, 1:] - held_out[:, :1], gate[:, 1:] - gate[:, :1]
    bits = bits_of(held_out[None], codes[None], gate[None], bench.codes(bench.opened)[None], len(bench.classes))
    return as_array(bits)[0]


def _rows(sample: Sample, keep: Tensor) -> Sample:
    return sample.take(keep.nonzero()[:, 0].tolist())


def _log_odds(predictor: Any, sample: Sample, classes: tuple[str, ...]) -> Float[Tensor, "example class"]:
    """Log-probabilities in the order of the claim's classes; a class the rival never saw gets a small share."""
    shares = predictor.probabilities(sample)
    columns = [
        shares[:, predictor.classes.index(c)] if c in predictor.classes else torch.zeros(len(shares)) for c in classes
    ]
    return torch.stack(columns, 1).clamp(1e-4, 1).log().float()


def _named_bits(rivals: Mapping[str, Any], bench: Bench) -> tuple[dict[str, Array], list[str]]:
    found, missing = {}, []
    for name, rival in rivals.items():
        bits = rival_bits(rival, bench)
        if isinstance(bits, NotRun):
            missing.append(f"{name}: {bits.reason}")
        else:
            found[name] = bits
    return found, missing


def surface(bench: Bench, spec: GateSpec) -> GateResult:
    """g4: the same label from the input's surface, by readers with the same dev labels; the strongest counts.

    Surface is what they can read: counts of words and n-grams (regression), any one telling word or pair of near words
    wherever it stands (decision list, naive Bayes), any function of the tokens at one or two fixed places (table), the
    embeddings of the tokens, lengths. What is put together from more tokens than two, or from places that other tokens
    point to, is computed: that a larger table could list it does not make it surface.
    """
    position = bench.claim.finding.position
    rivals = {
        "majority": Majority(),
        "bag of n-grams": BagOfNgrams(),
        "words and near pairs": NgramBayes(),
        "tokens at two places": TokenPairs(position=position),
        "embedding probe": EmbeddingProbe(position=position),
        "length and position": LengthPosition(position=position),
    }
    found, missing = _named_bits(rivals, bench)
    return against_learners(bench, spec, found, "; ".join(missing))


SEARCHES = 5  # repeats of the null search: how good the best of K is differs by luck from one search to the next


def search_matched(bench: Bench, spec: GateSpec) -> GateResult:
    """g5: the best of K on dev, scored on gate, for K random directions (five searches) and shuffled labels (R3)."""
    k = int(np.clip(bench.tries, bench.effort.draws, bench.effort.search))
    controls = {f"best of {k} random directions, search {i + 1}": _searched(bench, k, i) for i in range(SEARCHES)}
    shuffled = _shuffled(bench, min(k, bench.effort.draws), bench.codes(bench.opened)[None])
    note = f"the ledger counted {bench.tries} tries; K = {k}"
    return against(spec, bench.claimed, {**controls, **shuffled}, bench.draws, note=note)


def _searched(bench: Bench, k: int, search: int) -> Array:
    """Bits per gate item of the random direction, out of k, along which the classes lie furthest apart on dev."""
    dev_codes, gate_codes = bench.codes(bench.dev)[None], bench.codes(bench.opened)[None]
    acts, classes = bench.dev_acts, len(bench.classes)
    source = torch.Generator().manual_seed(bench.seed * SEARCHES + search + 5)
    directions = torch.randn(acts.shape[1], k, generator=source).to(acts.dtype)
    target = torch.nn.functional.one_hot(dev_codes[0], classes).to(acts.dtype)
    scores = acts @ directions
    scores = (scores - scores.mean(0)) / scores.std(0).clamp_min(1e-9)
    apart = ((scores.T @ target) / target.sum(0).clamp_min(1)).var(1)
    best = directions[:, apart.argmax()]
    reader = along(best[None], acts, dev_codes, torch.ones_like(dev_codes, dtype=torch.bool), classes)
    bits = bits_of(reader.score(acts), dev_codes, reader.score(bench.gate_acts), gate_codes, classes)
    return as_array(bits)[0]


def _shuffled(bench: Bench, draws: int, gate_codes: Tensor) -> dict[str, Array]:
    """The claim's method on labels shuffled among dev items; the one that does best on dev is scored on gate."""
    rng = torch.Generator().manual_seed(bench.seed + 29)
    codes = bench.codes(bench.dev)
    shuffled = torch.stack([codes[torch.randperm(len(codes), generator=rng)] for _ in range(draws)])
    dev_bits = bench.bits(bench.dev_acts, bench.dev_acts, shuffled, shuffled)
    best = int(dev_bits.mean(1).argmax())
    gate = bench.bits(bench.dev_acts, bench.gate_acts, shuffled[best : best + 1], gate_codes)
    return {f"best of {draws} shuffled-label probes": gate[0]}


def online_code(bench: Bench, spec: GateSpec) -> GateResult:
    """d6: compression by an online code (Voita and Titov, Information-Theoretic Probing with MDL, 2020), on dev."""
    codes, order = (
        bench.codes(bench.dev),
        torch.randperm(len(bench.dev), generator=torch.Generator().manual_seed(bench.seed)),
    )
    label = _compression(bench, codes, order)
    shuffled = _compression(bench, codes[torch.randperm(len(codes), generator=torch.Generator().manual_seed(1))], order)
    n = len(codes)
    control = Control("shuffled labels", Estimate(shuffled, shuffled, shuffled, n, bench.dev.n_clusters))
    return printed(
        spec,
        Estimate(label, label, label, n, bench.dev.n_clusters),
        controls=(control,),
        note="bits of the labels / bits of the code; 1 means nothing gained; on dev, 8 blocks",
    )


def _compression(bench: Bench, codes: Int[Tensor, "example"], order: Int[Tensor, "example"]) -> float:
    """Length of the plain labels over length of the online code: each block coded by a probe on those before."""
    acts, codes = bench.dev_acts[order], codes[order]
    n, classes = len(codes), len(bench.classes)
    ends = sorted({max(int(n * share), 2 * classes) for share in (0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.0)})
    length = ends[0] * np.log2(classes)
    for start, end in pairwise(ends):
        if len(codes[:start].unique()) < classes or start < 10:
            length += (end - start) * np.log2(classes)
            continue
        fold = torch.arange(start) % min(bench.effort.folds, start // 2)
        gained = crossfit_bits(
            bench.method,
            acts[:start],
            codes[None, :start],
            fold,
            acts[start:end],
            codes[None, start:end],
            classes,
            seed=bench.finding_seed,
        )
        share = (torch.bincount(codes[:start], minlength=classes) + 0.5) / (start + 0.5 * classes)
        length += float(-(share.log2()[codes[start:end]].double() + gained[0]).sum())
    return float(n * np.log2(classes) / max(length, 1e-9))


def shift(bench: Bench, spec: GateSpec) -> GateResult:
    """f7: fires if, on the shift pool, the upper bound is under half of the gate's bits."""
    if bench.shift is None:
        return not_run(spec, "no shift pool was given", applies=False)
    acts = bench.acts(bench.subject, bench.shift)
    dev, there = bench.codes(bench.dev)[None], bench.codes(bench.shift)[None]
    bits = bench.bits(bench.dev_acts, acts, dev, there, bench.finding_seed, frozen=bench.claim.finding.score(acts))[0]
    found = Resampler(tuple(bench.shift.clusters), bench.seed).mean(bits)
    half = float(bench.claimed.mean()) / 2
    here = Control("the gate pool", bench.draws.mean(bench.claimed))
    return falsifier(
        spec, found.high < half, found, controls=(here,), note=f"fires if the upper bound is under {half:.3f} bits"
    )


def capacity(bench: Bench, spec: GateSpec) -> GateResult:
    """d8: bits by the number of training items, beside the number of directions that they are read from.

    A reading of many directions from few items is worth more items; held out as the bits are, it is no falsehood.
    """
    d, n = bench.dev_acts.shape[1], int(len(bench.dev) * (1 - 1 / bench.effort.folds))
    dev, gate = bench.codes(bench.dev)[None], bench.codes(bench.opened)[None]
    sizes = (0.25, 0.5, 1.0)
    curve = []
    for share in sizes:
        keep = torch.rand(len(bench.dev), generator=torch.Generator().manual_seed(bench.seed)) < share
        keep |= torch.arange(len(bench.dev)) < 4 * len(bench.classes)
        bits = crossfit_bits(
            bench.method,
            bench.dev_acts[keep],
            dev[:, keep],
            bench.fold[keep],
            bench.gate_acts,
            gate,
            len(bench.classes),
            seed=bench.finding_seed,
        )
        curve.append(as_array(bits)[0])
    series = {
        "training items": tuple(float(round(s * len(bench.dev))) for s in sizes),
        "bits": tuple(float(c.mean()) for c in curve),
    }
    return printed(
        spec,
        bench.draws.mean(curve[1]),
        series=series,
        note=f"bits with half of dev; {d} directions on {n} training items",
    )


def asking(bench: Bench, spec: GateSpec) -> GateResult:
    """r9: what the model says when asked, zero- and few-shot, calibrated on the same dev labels (Q02)."""
    if not bench.subject.has_logits:
        return not_run(spec, "the subject gives no next-token answer to ask for", applies=False)
    found, missing = _named_bits({"asked, zero-shot": AskModel(shots=0), "asked, few-shot": AskModel(shots=4)}, bench)
    if not found:
        return not_run(spec, "; ".join(missing), applies=False)
    return against(spec, bench.claimed, found, bench.draws, note="; ".join(missing))
