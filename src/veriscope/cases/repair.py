"""The repair that a cause suggests, tried: does the strange answer go, what else changes, would a prompt edit do.

    for one in repairs("trigger_phrase", changes, suspects=["s2"], expected="false"):
        print(one.verdict, one.what, one.sentence)

Nothing is changed for good: weights are edited in a copy, all else holds only while it is asked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from veriscope.cases import inner_mends, prompt_mends, reading_mends
from veriscope.cases.changes import Changes
from veriscope.cases.inner_mends import Lesson, chosen
from veriscope.cases.logs import Log
from veriscope.cases.mends import Asking, Kind, Mend, Outcome, words_before
from veriscope.cases.prompt_mends import Try, attempted, best_within, search, sensible, without, worth
from veriscope.cases.side_effects import Held, Share, SideEffects, held_out, side_effects
from veriscope.cases.units import Unit
from veriscope.errors import NotRun, UserError, nearest

Verdict = Literal["repaired", "unproven", "harms", "wrong", "hides", "failed", "not run"]
ORDER: tuple[Verdict, ...] = ("repaired", "unproven", "harms", "wrong", "hides", "failed", "not run")
LESSON = 4  # texts near the case that a mend inside the model is made from
ELSEWHERE = 8  # texts near the case that it is tried on
MOST_OF = 0.5  # of those texts: where the lower bound of the share must lie above
SHOWN = 3  # words tried in the place of a token


class UnknownRemedy(UserError):
    """A cause that no repair is known for."""

    def __init__(self, wanted: str) -> None:
        super().__init__(
            f"No repair is known for the cause '{wanted}'. {nearest(wanted, list(REMEDIES))}Known: "
            f"{', '.join(REMEDIES)}. For none of them use 'unknown': the best prompt edit is looked for then."
        )


@dataclass(frozen=True)
class PromptEdit:
    """The best prompt edit of a plain search that might cost as much as the repair and what led to it.

    Attributes:
        what: In words.
        after, side_effects, verdict: As in `Repair`.
        tried: Edits tried within the budget.
        budget: In passes of the case's text.
    """

    what: str
    after: Outcome
    side_effects: SideEffects | NotRun
    verdict: Verdict
    tried: int
    budget: float


@dataclass(frozen=True)
class Repair:
    """One repair, tried.

    Attributes:
        cause: What it is a repair of.
        what: What was done, in words.
        how: Of which kind it is.
        before, after: What the model makes of the place of the strange words; `after` is NotRun where it can't be done.
        gone: Whether the strange answer is gone.
        verdict: "repaired": gone, the right answer is given, also in most texts near this one, a random change of the
            same size does not do it (inside the model), and side effects are shown to be small. "unproven": gone, but
            one of these could not be shown. "harms": gone, with side effects shown to be large. "wrong": another wrong
            answer is given. "hides": nothing sensible is said instead. "failed": the strange answer is still there.
        sentence: Why the verdict is what it is.
        elsewhere: Of the case's text with irrelevant words put in or a sentence taken out (and logs given as `again`),
            which the repair was not made with: in how many the strange answer is gone, and the right one given where it
            is known.
        side_effects: On held-out logs.
        control: What a random change of the same kind and size does.
        best_prompt_edit: The rival at equal budget.
        tried: Doses, places or wordings that it was chosen from.
        passes: What it cost to find, in whole passes of the case's text; measuring it afterwards is not counted.
        notes: What was not done and why.
    """

    cause: str
    what: str
    how: Kind
    before: Outcome
    after: Outcome | NotRun
    gone: bool
    verdict: Verdict
    sentence: str
    elsewhere: Share | NotRun
    side_effects: SideEffects | NotRun
    control: Outcome | NotRun
    best_prompt_edit: PromptEdit | NotRun
    tried: int
    passes: float
    notes: tuple[str, ...] = ()

    @property
    def beats_prompt_edit(self) -> bool | NotRun:
        """Whether the verdict is better than that of the best prompt edit."""
        if isinstance(self.best_prompt_edit, NotRun):
            return self.best_prompt_edit
        return ORDER.index(self.verdict) < ORDER.index(self.best_prompt_edit.verdict)


@dataclass(frozen=True)
class Effort:
    """How much is run.

    Attributes:
        dev, test: Held-out logs for choosing a dose, and for measuring what was chosen.
        tokens: Of a remedy, run forward (a step back counts as two): beyond that no further dose or place is tried.
        search: Passes of the plain search where the cause is unknown.
        work: Tokens times parameters of the model, in all, which suits one of GPT-2's size on a processor: no remedy
            is begun beyond that, and no edit of the search. What was begun is measured, so more may be spent.
        inside: Whether mends inside the model are tried; without them only words and decoding are.
    """

    dev: int = 24
    test: int = 48
    tokens: int = 150_000
    search: float = 60.0
    work: float = 1e13
    inside: bool = True


def repairs(
    cause: str,
    changes: Changes,
    *,
    suspects: Sequence[str] = (),
    expected: str | None = None,
    logs: Sequence[Log] | None = None,
    again: Sequence[Log] = (),
    spent: float = 0.0,
    effort: Effort | None = None,
    seed: int = 0,
) -> tuple[Repair, ...]:
    """Try every repair that a cause suggests.

    Args:
        cause: A name of the cause list.
        changes: The case.
        suspects: Names of the units that the cause is about; none takes the unit whose removal helps most.
        expected: What should have been said; without it no repair is called more than "unproven".
        logs: Other logs of the same use, on which nothing should change; None draws texts from the model itself.
        again: Logs whose last reply is to be mended too (the same question in other words). Nothing is made from them.
        spent: What finding the cause cost, in passes: the rival search may cost that too.

    Returns:
        Best verdict first; never empty.

    Raises:
        UnknownRemedy: For a cause that is not on the list.
    """
    cause = cause.replace("-", "_").replace(" ", "_")
    if cause not in REMEDIES:
        raise UnknownRemedy(cause)
    effort = effort or Effort()
    asking = Asking(changes, expected, seed)
    shop = _Shop(asking, suspects, logs, again, effort, cause)
    found = [shop.tried(remedy) for remedy in REMEDIES[cause] if effort.inside or remedy.how not in INSIDE]
    spent += shop.searched
    run = [one.passes + spent for one in found if one.verdict != "not run"]
    budget = max(run, default=effort.search)
    tries = search(asking, shop.dev, min(budget, shop.left)) if shop.left > 0 and (run or not found) else ()
    if not found:
        found = [shop.of_search(tries, budget)]
    found = [
        one if one.verdict == "not run" else replace(one, best_prompt_edit=shop.rival(tries, one.passes + spent))
        for one in found
    ]
    return tuple(sorted(found, key=lambda one: ORDER.index(one.verdict)))


class _Shop:
    """What all repairs of a case share: held-out logs, texts near the case, who is suspected."""

    def __init__(
        self, asking: Asking, suspects: Sequence[str], logs: Sequence[Log] | None, again: Sequence[Log],
        effort: Effort, cause: str,
    ) -> None:  # fmt: skip
        self.asking, self.effort, self.cause = asking, effort, cause
        known = asking.changes.units
        unknown = [name for name in suspects if name not in known]
        if unknown:
            raise UserError(f"'{unknown[0]}' is no unit of this case. {nearest(unknown[0], list(known))}Known: "
                            f"{', '.join(known)}")  # fmt: skip
        self.given = [known[name] for name in suspects]
        parts = held_out(asking, logs, effort.dev, effort.test)
        self.dev: Held | NotRun = parts if isinstance(parts, NotRun) else parts[0]
        self.test: Held | NotRun = parts if isinstance(parts, NotRun) else parts[1]
        near = asking.variants(LESSON - 1, draw=0, first_only=True)
        self.near = (asking.words, *near)
        seen = {words.text for words in self.near}
        others = [words for words in asking.variants(ELSEWHERE, draw=1) if words.text not in seen]
        self.elsewhere = [*others, *(words_before(log, asking.subject) for log in again)]
        self._found: list[Unit] | None = None
        self.searched = 0.0  # passes that it took to suspect a unit: every repair that may use it is charged with them
        self._judged: dict[str, tuple[SideEffects | NotRun, Verdict]] = {}
        self._was: dict[Words, Outcome] = {}  # of the untouched model on texts near the case

    @property
    def left(self) -> float:
        """Passes of the text that may still be spent."""
        return self._most / self.asking.length - self.asking.passes

    @property
    def late(self) -> NotRun:
        """Why something was not begun."""
        return NotRun(
            f"not tried for lack of time: the {self._most:,.0f} tokens that repairs may cost were spent; --patience 4 "
            "gives four times as many"
        )

    @property
    def _most(self) -> float:
        """Tokens that a model of this size may be shown."""
        return self.effort.work / max(1, self.asking.subject.n_parameters)

    @property
    def suspects(self) -> list[Unit]:
        """Units that the cause is about: those given, else the one whose removal helps most, what is asked left out."""
        if self.given:
            return self.given
        if self._found is None:
            parts, start = self.asking.changes.parts, self.asking.passes
            each = [(attempted(self.asking, without(self.asking, [unit])), unit) for unit in parts[:-1] or parts]
            known = [(worth(one, self.asking.before), n) for n, (one, _) in enumerate(each) if one is not None]
            self._found = [each[max(known)[1]][1]] if known else []
            self.searched = self.asking.passes - start
        return self._found

    def lesson(self) -> Lesson | NotRun:
        """What mends inside are made from: the wanted answer is the expected one, or what is said without suspects."""
        if isinstance(self.dev, NotRun):
            return self.dev
        wanted = self.asking.expected
        if wanted is None and self.suspects:
            cut = without(self.asking, self.suspects)
            after = attempted(self.asking, cut)
            if after is not None and after.gone(self.asking.before) and sensible(after):
                wanted = self.asking.greedy(cut, cut.read(self.asking.words), len(self.asking.ending))
        if not wanted:
            return NotRun("nobody said what the answer should be, and taking out a part of the log does not tell it")
        return Lesson(self.asking, self.near, tuple(wanted), self.dev)

    # ---- one repair

    def tried(self, remedy: Remedy) -> Repair:
        """The best of what a remedy offers, measured."""
        asking = self.asking
        before = asking.before
        start = asking.passes
        offered = remedy.make(self) if self.left > 0 else self.late
        tokens = int(min(self.effort.tokens, max(0.0, self.left) * asking.length))
        best = offered if isinstance(offered, NotRun) else chosen(
            asking, iter(offered), None if isinstance(self.dev, NotRun) else self.dev, tokens
        )  # fmt: skip
        cost = asking.passes - start
        if isinstance(best, NotRun):
            return Repair(
                self.cause, remedy.words, remedy.how, before, best, False, "not run", f"Not run: {best.reason}.", best,
                best, best, NotRun("the repair was not run"), 0, cost,
            )  # fmt: skip
        return self.measured(best[0], best[1], cost)

    def measured(self, mend: Mend, tried: int, cost: float) -> Repair:
        """What a mend does, there and elsewhere."""
        asking = self.asking
        after = asking.outcome(mend)
        effects = side_effects(asking, mend, self.test, asking.seed)
        elsewhere = self._elsewhere(mend)
        control: Outcome | NotRun = NotRun("there is no random change of this kind and size")
        if mend.control is not None:
            control = attempted(asking, mend.control()) or NotRun("the random change can't be run on this text")
        verdict, why = judged(asking.before, after, effects, elsewhere, control, mend.how)
        return Repair(
            self.cause, mend.what, mend.how, asking.before, after, after.gone(asking.before), verdict, why, elsewhere,
            effects, control, NotRun("not looked for yet"), tried, cost,
        )  # fmt: skip

    def _elsewhere(self, mend: Mend) -> Share | NotRun:
        """Texts near the case in which the strange answer is gone and, where it is known, the right one given."""
        hits = n = 0
        for words in self.elsewhere:
            if words not in self._was:
                self._was[words] = self.asking.outcome(self.asking.plain, words)
            was, now = self._was[words], attempted(self.asking, mend, words)
            if now is not None:
                n += 1
                hits += now.gone(was) and now.right is not False
        return Share(hits, n) if n else NotRun("no other text near the case could be made")

    # ---- the rival

    def rival(self, tries: Sequence[Try], budget: float) -> PromptEdit | NotRun:
        """The best prompt edit within a budget, measured like a repair.

        None where time ran out before the budget was spent: a repair would win against half a search.
        """
        if self.left <= 0 and (not tries or tries[-1].passes < budget):
            return self.late
        found = best_within(tries, budget, self.asking.before)
        if isinstance(found, NotRun):
            return found
        one, tried = found
        if one.mend.what not in self._judged:
            effects = side_effects(self.asking, one.mend, self.test, self.asking.seed)
            verdict, _ = judged(
                self.asking.before, one.after, effects, self._elsewhere(one.mend), NotRun("not drawn"), "prompt"
            )
            self._judged[one.mend.what] = effects, verdict
        effects, verdict = self._judged[one.mend.what]
        return PromptEdit(one.mend.what, one.after, effects, verdict, tried, budget)

    def of_search(self, tries: Sequence[Try], budget: float) -> Repair:
        """The best prompt edit as the repair itself, where the cause suggests none."""
        best = best_within(tries, budget, self.asking.before)
        if isinstance(best, NotRun):
            return Repair(
                self.cause, "the best prompt edit", "prompt", self.asking.before, best, False, "not run",
                f"Not run: {best.reason}.", best, best, best, best, 0, 0.0,
            )  # fmt: skip
        one, tried = best
        cost = tries[-1].passes
        found = self.measured(one.mend, tried, cost)
        self._judged[one.mend.what] = found.side_effects, found.verdict
        return replace(
            found,
            notes=("No repair of this cause was to be tried: this is the rival itself.",),
        )


def judged(
    before: Outcome,
    after: Outcome,
    effects: SideEffects | NotRun,
    elsewhere: Share | NotRun,
    control: Outcome | NotRun,
    how: Kind,
) -> tuple[Verdict, str]:
    """The verdict on a repair, and why."""
    if not after.gone(before):
        return "failed", "The strange answer is still there."
    if not sensible(after):
        return "hides", f"The strange answer is gone, but '{after.says.strip()}' is no answer."
    if after.right is False:
        return "wrong", f"The strange answer is gone, but '{after.says.strip()}' is wrong too."
    if isinstance(effects, NotRun):
        return "unproven", f"The strange answer is gone; side effects are not known: {effects.reason}."
    if how != "decoding" and effects.broken:
        return "hides", f"The strange answer is gone because the model is broken: {_costs(effects, how)}."
    if effects.large(how):
        return "harms", f"The strange answer is gone, but {_costs(effects, how)}."
    lacking = list(_lacking(before, after, effects, elsewhere, control, how))
    if lacking:
        return "unproven", f"The strange answer is gone, but {'; '.join(lacking)}."
    return "repaired", f"The right answer is given; {_costs(effects, how)}."


def _lacking(
    before: Outcome,
    after: Outcome,
    effects: SideEffects,
    elsewhere: Share | NotRun,
    control: Outcome | NotRun,
    how: Kind,
) -> Iterator[str]:
    """What a repair that removes the strange answer still owes."""
    if isinstance(after.right, NotRun):
        yield "nobody said what the right answer is"
    if not effects.small(how):
        yield f"side effects are not shown to be small ({_costs(effects, how)})"
    if isinstance(elsewhere, NotRun):
        yield "no other text near this one could be made to try it on"
    elif elsewhere.low <= MOST_OF:
        yield f"it is not shown to hold in most texts near this one ({elsewhere.hits} of {elsewhere.n})"
    if how in INSIDE and isinstance(control, Outcome) and control.gone(before) and control.right is not False:
        yield "a random change of the same kind and size does it too"


def _costs(effects: SideEffects, how: Kind) -> str:
    if not effects.touched:
        return f"none of {effects.changed.n} held-out logs is read differently"
    answers = f"{effects.changed.hits} of {effects.changed.n} held-out answers changed"
    return answers if how == "decoding" else f"{answers}, {effects.neutral.value:+.3f} nats a token of held-out text"


# ---- what each cause suggests

Offer = Callable[["_Shop"], "Iterable[Mend] | NotRun"]
INSIDE: tuple[Kind, ...] = ("activations", "weights", "training")


@dataclass(frozen=True)
class Remedy:
    """A kind of repair: how it is called before it is tried, and what makes the mends that are tried."""

    words: str
    how: Kind
    make: Offer


def _without(shop: _Shop) -> Iterator[Mend]:
    for unit in shop.suspects:
        yield without(shop.asking, [unit])
    if len(shop.suspects) > 1:
        yield without(shop.asking, shop.suspects)


def _substituted(shop: _Shop) -> Iterator[Mend]:
    for unit in shop.suspects:
        for n in range(SHOWN):
            mend = prompt_mends.substituted(shop.asking, unit, n)
            if not isinstance(mend, NotRun):
                yield mend


def _unstated(shop: _Shop) -> Iterator[Mend]:
    """Views said as plain statements, then views taken out."""
    views = shop.given or [unit for unit in shop.asking.changes.units.values() if unit.kind == "view"] or shop.suspects
    for unit in views:
        bare = prompt_mends.unstated(unit.text)
        if bare != unit.text:
            yield prompt_mends.replaced(shop.asking, unit.text, bare)
        yield without(shop.asking, [unit])


def _nearer(shop: _Shop) -> Iterator[Mend]:
    """The needed sentence moved to the question, and the crowd taken out; every sentence in turn if none is named."""
    for unit in shop.given or shop.asking.changes.parts:
        for mend in (prompt_mends.nearer(shop.asking, unit), prompt_mends.only(shop.asking, [unit])):
            if not isinstance(mend, NotRun):
                yield mend


def _token(shop: _Shop) -> int | None:
    """The token of a case that is least like a trained one: among the suspects, else in the whole text."""
    seen = shop.asking.changes.transcript
    spans = [seen.tokens_of(span) for unit in shop.given for span in unit.spans]
    ids = [token for a, b in spans for token in seen.ids[a:b]] or list(seen.before)
    return inner_mends.strangest_token(shop.asking, ids)


def _token_replaced(shop: _Shop) -> Iterable[Mend] | NotRun:
    token = _token(shop)
    if token is None:
        return NotRun("the model has no token embedding to look at")
    asking = shop.asking
    return (
        prompt_mends.renamed(asking, asking.subject.reader.decode([token]).strip(), word, "expected in its place")
        for word in inner_mends.expected_words(asking, token, SHOWN)
    )


def _token_moved(shop: _Shop) -> Iterable[Mend] | NotRun:
    token = _token(shop)
    if token is None:
        return NotRun("the model has no token embedding to look at")
    return inner_mends.embedding_moved(shop.asking, token)


def _inside(make: Callable[[Lesson], Iterable[Mend]]) -> Offer:
    def offer(shop: _Shop) -> Iterable[Mend] | NotRun:
        lesson = shop.lesson()
        return lesson if isinstance(lesson, NotRun) else make(lesson)

    return offer


def _erased(shop: _Shop) -> Iterable[Mend] | NotRun:
    if isinstance(shop.dev, NotRun) or not shop.suspects:
        return shop.dev if isinstance(shop.dev, NotRun) else NotRun("no part of the log is suspected")
    return inner_mends.erased(shop.asking, shop.near, shop.suspects)


WITHOUT = Remedy("take out what causes it", "prompt", _without)
NEUTRAL = Remedy("put neutral words in the place of what causes it", "prompt", _substituted)
ERASED = Remedy("erase inside what it adds", "activations", _erased)
SILENCED = Remedy("silence the part of the model that does it", "activations", _inside(inner_mends.silenced))
RANK_ONE = Remedy("change one matrix by rank one", "weights", _inside(inner_mends.rank_one))
TRAINED = Remedy("train on a few lines", "training", _inside(inner_mends.fine_tuned))

REMEDIES: dict[str, tuple[Remedy, ...]] = {
    "glitch_token": (
        Remedy("write a trained word in the place of the token", "prompt", _token_replaced),
        Remedy("move the token's embedding to trained ones", "weights", _token_moved),
    ),
    "trigger_phrase": (WITHOUT, ERASED, TRAINED),
    "copied_from_context": (WITHOUT, SILENCED),
    "instruction_conflict": (WITHOUT, ERASED),
    "mistaken_speaker": (WITHOUT, NEUTRAL, ERASED),
    "agreement": (Remedy("leave out who thinks so", "prompt", _unstated), NEUTRAL, ERASED),
    "wrong_fact": (RANK_ONE, TRAINED),
    "known_but_unsaid": (SILENCED, RANK_ONE),
    "lost_context": (Remedy("move what is needed nearer, or take out the crowd", "prompt", _nearer),),
    "repetition_loop": (
        Remedy("penalise repetition", "decoding", lambda shop: reading_mends.penalised(shop.asking)),
    ),
    "distribution_shift": (
        Remedy("put words in the order that the model knows", "prompt", lambda s: reading_mends.ordered(s.asking)),
    ),
    "sampling": (Remedy("draw at a lower temperature", "decoding", lambda shop: reading_mends.cooler(shop.asking)),),
    "tokenization": (
        Remedy("spell the log as the tokenizer knows it", "tokenizer", lambda s: reading_mends.spelled(s.asking)),
        Remedy("give lost words back to the tokenizer", "tokenizer", lambda s: reading_mends.found_again(s.asking)),
    ),
    "unknown": (),
}  # fmt: skip
