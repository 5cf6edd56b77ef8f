"""All gates of a claim type run on one card: card, instrument, power, gate pool, gates, verdict.

The order is the point. The card is hashed and in the ledger before the gate pool is opened; the instrument
is checked and the power reckoned on dev before that too. Each finished gate is written at once, so a killed
trial resumes after the last one, and the verdict is decided from what the ledger holds.
"""

from __future__ import annotations

import dataclasses
import pkgutil
import time
from collections.abc import Callable, Sequence
from typing import Any

from veriscope import __version__
from veriscope.claims.battery import GateSpec, with_margins
from veriscope.claims.card import UNSTATED, Card, Purpose
from veriscope.errors import BadPosition, BadPrompt, NotRun, UserError
from veriscope.examples.seen import share_seen
from veriscope.findings import finding_hash
from veriscope.ledger import Ledger, count_tries, current, versions
from veriscope.subjects import Subject, loaded
from veriscope.trials import wording
from veriscope.trials.decide import Decision, decide
from veriscope.trials.evidence import Estimate, GateResult, Verdict, from_plain, to_plain
from veriscope.trials.judge import Effort
from veriscope.trials.rates import error_rates
from veriscope.trials.statistics import benjamini_hochberg, detectable

TOY_PARAMETERS = 10_000_000  # below this a subject is called a toy, first thing in the sentence (Q40)
Progress = Callable[[str, str], None]


class GateTooSmall(UserError):
    """A gate pool that could not show the claimed effect however strong it were."""

    def __init__(self, name: str, items: int, clusters: int, need_items: int, need_clusters: int) -> None:
        super().__init__(
            f"Claim '{name}': its gate pool has {items} items in {clusters} clusters; this claim type needs at least "
            f"{need_items} items in {need_clusters} clusters. Add examples of new clusters (templates, entities, "
            f"conversations), or name a finer `cluster` column."
        )


def trial(
    claim: Any,
    *,
    subject: Subject | None = None,
    ledger: Ledger | None = None,
    seed: int = 0,
    effort: Effort | None = None,
    purpose: Purpose = UNSTATED,
    progress: Progress | None = None,
) -> Verdict:
    """Put one claim on trial and return its verdict.

    Args:
        claim: A `Represents`, `Mediates`, `Necessary` or `Steers` (or a claim class of your own with a battery).
        subject: The model; by default the loaded one that the finding was made on.
        seed: Seed of the engine: folds, twins, redrawn labels, bootstrap draws.
        progress: Called with (gate, state) as gates begin and end.

    Raises:
        GateTooSmall: Before anything is opened or written.
        UserError: What else the claimant can mend.
    """
    ledger, effort = ledger or current(), effort or Effort()
    subject = subject or loaded(claim.finding.origin.subject)
    check(claim, subject)
    card = write_card(claim, subject, ledger, purpose)
    return run_card(claim, card, subject, ledger, seed, effort, progress or (lambda gate, state: None))


SEEN_AT_MOST = 0.01  # of a closed pool: what so few texts could add lies far under every margin


def check(claim: Any, subject: Subject) -> None:
    """Refuse what can be refused before anything is run or written."""
    with_margins(claim.battery, claim.margins)
    if not claim.smallest_effect > 0:
        raise UserError(
            f"Claim '{claim.name}': smallest_effect is {claim.smallest_effect}; it must be above 0, the least "
            f"effect in {claim.unit} that is worth claiming."
        )
    if claim.finding.origin.subject != subject.hash:
        raise UserError(
            f"Claim '{claim.name}': the finding was made on subject {claim.finding.origin.subject[:12]}, "
            f"but {subject.name} is {subject.hash[:12]}. Fit it again on this subject."
        )
    if claim.of != claim.on.variable:
        raise UserError(
            f"Claim '{claim.name}' is about '{claim.of}' but the label column of its examples is "
            f"'{claim.on.variable}'. Name that, or read the examples with label='{claim.of}'."
        )
    need_items, need_clusters = _bench(claim).MIN_ITEMS, _bench(claim).MIN_CLUSTERS
    pool = claim.on.gate
    if pool.n < need_items or pool.n_clusters < need_clusters:
        raise GateTooSmall(claim.name, pool.n, pool.n_clusters, need_items, need_clusters)
    _check_unseen(claim)
    _check_texts(claim, subject)


def _check_unseen(claim: Any) -> None:
    """Held-out texts must be held out: the finding learnt from none of them, or too few to move a result.

    A text may stand in two pools of one data set, under two clusters: loading it said so, and a finding of its dev pool
    is let through. Closed pools are looked through here; nothing leaves them but how many of their texts were seen.
    """
    origin = claim.finding.origin
    if origin.examples == claim.on.hash and share_seen(origin.seen, claim.on.dev.texts) > 0.5:
        return
    for pool in (claim.on.gate, claim.on.shift):
        texts = pool._sample.texts if pool is not None else []
        share = share_seen(origin.seen, texts)
        if share > SEEN_AT_MOST:
            raise UserError(
                f"Claim '{claim.name}': the finding learnt from {share:.0%} of the texts in the {pool.name} pool of "
                f"'{claim.on.name}', so they are not held out. Fit it on `data.dev` of the `examples(...)` that the "
                f"claim is on (the same rows and dev_share), or claim on rows that it has not learnt from."
            )


def _check_texts(claim: Any, subject: Subject) -> None:
    """Every text must fit the context and have the position, so that no trial stops half-way with its pool opened.

    Closed pools are looked through here, but nothing leaves them other than the complaint about a text.
    """
    closed = [pool._sample for pool in (claim.on.gate, claim.on.shift) if pool is not None]
    for sample in (claim.on.dev, *closed):
        try:
            subject.tokens(sample.texts)
            if sample.has("source"):
                subject.tokens(sample.sources)
            position = getattr(claim.finding, "position", claim.finding.origin.position)  # parts have none of their own
            if position != "all":
                subject.where(position, sample)
        except (BadPrompt, BadPosition) as odd:
            raise type(odd)(f"Claim '{claim.name}', {sample.pool} pool: {odd}") from None


def _bench(claim: Any) -> Any:
    return pkgutil.resolve_name(claim.bench)


def write_card(claim: Any, subject: Subject, ledger: Ledger, purpose: Purpose, study: str = "") -> Card:
    """Write the claim down, with the number of things tried before it, and put it in the ledger once."""
    origin = claim.finding.origin
    searched = {(claim.on.hash, claim.of), (origin.examples, origin.variable)}
    card = Card(
        type=claim.type,
        name=claim.name or claim.of,
        statement=claim.statement,
        subject=subject.hash,
        subject_name=subject.name,
        finding=finding_hash(claim.finding),
        method=origin.method,
        settings=dict(origin.settings),
        site=str(getattr(claim.finding, "site", origin.site)),
        position=str(getattr(claim.finding, "position", origin.position)),
        examples=claim.on.hash,
        examples_name=claim.on.name,
        variable=claim.of,
        scope=claim.scope or f"examples like those of {claim.on.name}, {subject.name} only",
        family=claim.family,
        ablations=getattr(claim, "ablations", ()),
        metric=claim.metric,
        unit=claim.unit,
        effect_gate=getattr(claim, "effect_gate", "g1"),
        smallest_effect=claim.smallest_effect,
        margins=dict(claim.margins),
        falsifier=claim.falsifier,
        assumptions=claim.assumptions,
        stressed=claim.stressed,
        search=sum(count_tries(ledger, examples=examples, of=of) for examples, of in searched),
        origin=origin.method,
        purpose=purpose,
        fields=getattr(claim, "fields", {}),
        engine=__version__,
    )
    card = _begun(ledger, card) or card
    ledger.append_once(
        "card", {"hash": card.hash, "name": card.name, "study": study, "card": card.model_dump(mode="json")}
    )
    return card


def _begun(ledger: Ledger, card: Card) -> Card | None:
    """The card under which this very claim's gate pool was opened before more was tried: its trial goes on."""
    opened = {row.body["by"] for row in ledger.rows("look", examples=card.examples, pool="gate")}
    wanted = card.model_dump(mode="json")
    for row in ledger.rows("card", name=card.name):
        if row.body["hash"] in opened and {**row.body["card"], "search": card.search} == wanted:
            return Card.model_validate(row.body["card"])
    return None


def run_card(
    claim: Any,
    card: Card,
    subject: Subject,
    ledger: Ledger,
    seed: int,
    effort: Effort,
    progress: Progress,
    study: str = "",
) -> Verdict:
    """Run what is not yet in the ledger of one card's battery, and decide."""
    battery = with_margins(claim.battery, claim.margins)
    bench = _bench(claim)(
        claim, subject, claim.on.dev, seed, effort, tries=max(card.search, claim.finding.origin.tried, 1)
    )
    record = _Record(ledger, card, seed, effort, bench, progress)
    results = [record.run(spec) for spec in battery if spec.role == "instrument"]
    if all(r.outcome in ("pass", "printed") for r in results):
        power = record.power(claim)
        if power is not None:
            results.append(power)
        else:
            bench.gate = claim.on.gate.open(by=card.hash, ledger=ledger)
            bench.shift = claim.on.shift.open(by=card.hash, ledger=ledger) if claim.on.shift is not None else None
            results += [record.run(spec) for spec in battery if spec.role != "instrument"]
    verdict = conclude(card, battery, results, _looks(ledger, card), subject.n_parameters, seed)
    enter_verdict(ledger, verdict, battery, subject.n_parameters, study, effort)
    return verdict


def _looks(ledger: Ledger, card: Card) -> int:
    """How many cards had opened the gate pool when this one did; the same number however often it is asked.

    For a card that left it closed: when the card was written.
    """
    opened = [(row.seq, row.body["by"]) for row in ledger.rows("look", examples=card.examples, pool="gate")]
    mine = [seq for seq, by in opened if by == card.hash]
    until = mine[0] if mine else ledger.rows("card", hash=card.hash)[0].seq
    return len({by for seq, by in opened if seq <= until})


def enter_verdict(
    ledger: Ledger,
    verdict: Verdict,
    battery: Sequence[GateSpec],
    n_parameters: int,
    study: str,
    effort: Effort,
    together: Sequence[float] = (),
) -> None:
    """Write a verdict with all that is needed to decide it again: battery, effort, model size.

    Args:
        together: The p-values of all claims that it was corrected with, where that changed it.
    """
    body = {
        "card": verdict.card,
        "name": verdict.name,
        "study": study,
        "seed": verdict.seed,
        "effort": to_plain(effort),
        "together": list(together),
        "n_parameters": n_parameters,
        "asks": {s.gate: s.asks for s in battery},
        "battery": [to_plain(s) for s in battery],
        "verdict": to_plain(verdict),
    }
    ledger.append_once("verdict", body)


def decide_again(ledger: Ledger, card_hash: str) -> list[Verdict]:
    """Decide a card's verdicts again from the ledger alone: cards, evidence and counts, no model and no data.

    Returns:
        One verdict for each verdict row of the card, in order: before a correction across claims, and after it.
    """
    rows = ledger.rows("card", hash=card_hash)
    if not rows:
        raise UserError(f"The ledger holds no card {card_hash[:12]}. List them: veriscope ledger show PATH --kind card")
    card = Card.model_validate(rows[0].body["card"])
    out = []
    for row in ledger.rows("verdict", card=card_hash):
        battery = [from_plain(GateSpec, s) for s in row.body["battery"]]
        key = {"card": card_hash, "seed": row.body["seed"], "effort": row.body["effort"]}
        found = {r.body["gate"]: from_plain(GateResult, r.body["result"]) for r in ledger.rows("evidence", **key)}
        order = ["p0", *(s.gate for s in battery)]
        results = sorted(found.values(), key=lambda r: (r.role != "instrument", order.index(r.gate)))
        rates = row.body["verdict"]["error_rates"]  # as they were known then
        verdict = conclude(
            card, battery, results, _looks(ledger, card), row.body["n_parameters"], row.body["seed"], rates
        )
        out.append(corrected(verdict, row.body["together"]))
    return out


def corrected(verdict: Verdict, together: Sequence[float], q: float = 0.05) -> Verdict:
    """Rule R13: a SUPPORTED whose p-value does not hold among those of all claims becomes INCONCLUSIVE."""
    kept = dict(zip(together, benjamini_hochberg(list(together), q), strict=True)) if together else {}
    if verdict.word != "SUPPORTED" or verdict.p_value is None or kept.get(verdict.p_value, True):
        return verdict
    toy = "Toy model only: " if verdict.sentence.startswith("Toy") else ""
    sentence = (
        f"{toy}INCONCLUSIVE (not supported) [{verdict.claim}]. Every gate was passed, but the evidence does not hold "
        f"against the number of claims: {len(together)} were tried together (Benjamini-Hochberg at {q:g}). Before "
        f"that correction: {verdict.sentence}"
    )
    return dataclasses.replace(verdict, word="INCONCLUSIVE", sentence=sentence)


@dataclasses.dataclass
class _Record:
    """Runs gates and writes each to the ledger, or reads it back where it was finished before."""

    ledger: Ledger
    card: Card
    seed: int
    effort: Effort
    bench: Any
    progress: Progress

    def run(self, spec: GateSpec) -> GateResult:
        key = {"card": self.card.hash, "gate": spec.gate, "seed": self.seed, "effort": to_plain(self.effort)}
        earlier = self.ledger.rows("evidence", **key)
        if earlier:
            self.progress(spec.gate, "kept")
            return from_plain(GateResult, earlier[-1].body["result"])
        self.progress(spec.gate, "running")
        began, passes = time.monotonic(), self.bench.subject.passes
        result: GateResult = pkgutil.resolve_name(spec.run)(self.bench, spec)
        result = dataclasses.replace(
            result,
            seed=self.seed,
            seconds=round(time.monotonic() - began, 3),
            passes=self.bench.subject.passes - passes,
        )
        self.ledger.append("evidence", {**key, "result": to_plain(result), "versions": versions()})
        self.progress(spec.gate, result.outcome)
        return result

    def power(self, claim: Any) -> GateResult | None:
        """Rule R7: the gate pool stays closed where it would miss both the smallest effect and the one seen on dev.

        Miss: with power under 0.8, by the spread over clusters that dev shows.
        """
        spec = GateSpec(
            "p0",
            "power on dev",
            "could the gate pool show the smallest effect?",
            "gate",
            claim.unit,
            "",
            level=1,
            margin=claim.smallest_effect,
            better="lower",
        )
        self.progress("p0", "running")
        found: Estimate = self.bench.dev_estimate()
        smallest = detectable(found, claim.on.gate.n_clusters)
        enough = smallest <= max(claim.smallest_effect, abs(found.value - claim.smallest_effect))
        self.progress("p0", "pass" if enough else "unclear")
        if enough:
            return None
        factor = (smallest / claim.smallest_effect) ** 2
        need = int(claim.on.gate.n * factor)
        result = GateResult(
            spec.gate,
            spec.title,
            "gate",
            claim.unit,
            "unclear",
            "lower",
            claim.smallest_effect,
            Estimate(smallest, smallest, smallest, claim.on.gate.n, claim.on.gate.n_clusters),
            note=f"UNDERPOWERED: detectable {smallest:.3f}, claimed {claim.smallest_effect:g}; "
            "the gate pool was left closed",
            items_needed=need,
            seed=self.seed,
        )
        self.ledger.append_once(
            "evidence",
            {
                "card": self.card.hash,
                "gate": "p0",
                "seed": self.seed,
                "effort": to_plain(self.effort),
                "result": to_plain(result),
            },
        )
        return result


def conclude(
    card: Card,
    battery: Sequence[GateSpec],
    results: Sequence[GateResult],
    looks: int,
    n_parameters: int,
    seed: int,
    rates: str | None = None,
) -> Verdict:
    """Decide and word from gate results and counts only, so that it can be repeated from the ledger."""
    decision: Decision = decide(battery, results)
    toy = n_parameters < TOY_PARAMETERS
    rates = error_rates(card.type, battery, results, card.method) if rates is None else rates
    text = wording.sentence(card, decision, results, toy=toy, looks=looks, rates=rates)
    primary = next((r for r in results if r.gate == card.effect_gate), None)
    weakest = wording.hardest(results)
    rivals = [r for r in results if r.role == "rival" and r.estimate]
    untested = tuple(
        f"{r.title}: {r.note}"
        for r in results
        if r.outcome == "not run" or (r.role != "diagnostic" and r.outcome == "printed")
    )
    return Verdict(
        card.type,
        card.name,
        card.hash,
        decision.word,
        decision.level,
        decision.useful,
        decision.advantage,
        text,
        tuple(results),
        primary.estimate if primary else NotRun(decision.because),
        card.unit,
        weakest.strongest if weakest else "",
        rivals[0].strongest if rivals else "",
        untested,
        looks,
        card.search,
        rates,
        decision.p_value,
        seed,
        round(sum(r.seconds for r in results), 2),
    )
