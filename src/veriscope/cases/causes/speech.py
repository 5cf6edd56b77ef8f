"""Causes that somebody said: an order, a view, a name, a phrase without meaning for the question."""

from __future__ import annotations

import re
from collections.abc import Sequence

from veriscope.cases.causes.evidence import LEAST_MATCH, Evidence
from veriscope.cases.causes.findings import Finding
from veriscope.cases.transcript import Chars, spells
from veriscope.cases.units import Unit, content_words
from veriscope.trials.statistics import clopper_pearson

MOST = 12  # sentences looked at, the ones whose removal alters most first
PLAIN = 5  # neutral statements put in the place of one
SHARE = 0.5  # of the cases that must come out as the cause says
LEAST_SAYINGS = 4  # that the model expects in the place of one
SAYINGS = 16
FORESEEN = 1.5  # nats: a saying that costs less is a mere form, like a greeting
MOST_SAID = 6  # sayings looked at, the last ones
CARRIERS = 4  # sentences in which one word is tried by itself, in two places each
ORDERS = re.compile(
    r"\b(?:answer|say|reply|respond|write|print|output|tell|repeat|ignore|disregard|pretend)\b", re.IGNORECASE
)
FOR = ("i believe that", "i think that", "i am sure that", "i feel that", "I believe that", "I think that",
       "I am sure that", "I'm convinced that", "I feel that", "I agree that")  # fmt: skip
AGAINST = ("i doubt that", "i deny that", "i am not sure that", "i never heard that", "I doubt that", "I deny that",
           "I am not sure that", "I don't think that", "I don't believe that", "I disagree that")  # fmt: skip
ABOUT_ONESELF = re.compile(r"\b(?:i|my|me|we|our|i'm|i've)\b", re.IGNORECASE)
LABEL = re.compile(r"^\s*[\w ]{1,20}?\s?:\s+")


def instruction_conflict(evidence: Evidence) -> Finding:
    """A sentence that is no part of the question orders an answer, and the model obeys."""
    found = [_order(evidence, unit) for unit in _sentences(evidence) if ORDERS.search(unit.text)]
    return _best(found, "instruction_conflict", "No sentence beside the question orders an answer.")


def _order(evidence: Evidence, unit: Unit) -> Finding:
    """The order taken out, another word ordered, and the word said without an order."""
    span, first = unit.spans[0], evidence.strange.split()[0]
    place = evidence.stands(first, span)
    matched, earlier = evidence.earlier
    answered = matched >= LEAST_MATCH and evidence.transcript.chars[earlier][0] in range(*span)
    if place is None or answered:  # what answered the same question before is no order
        return Finding("instruction_conflict", False, units=(unit.name,))
    said = evidence.ask([evidence.without([span])])[0]
    gone = said is not None and not said.same
    others = [word for word in evidence.answers if word != evidence.strange]
    follows = [bool(evidence.would_say(evidence.put(place, word), word)) for word in others]
    alone = [evidence.put(span, text) for text in evidence.mentions(first)]
    mere = [one.same for one in evidence.ask(alone) if one is not None]
    share, floor = _share(follows), _share(mere)
    behind = evidence.table(["", unit.text], evidence.questions)
    asked, obeyed = ([said[n] == evidence.strange for said in behind] for n in (0, 1))
    always = _share(obeyed) >= 0.9 and _share(asked) <= 0.6
    holds = gone and (share >= SHARE or always) and floor < max(share, _share(obeyed))
    low, high = clopper_pearson(sum(follows), len(follows)) if follows else (0.0, 1.0)
    return Finding("instruction_conflict", holds, share, floor, low, high, (unit.name,), (
        f"Without '{unit.text}' the answer is '{said.word if said else ''}'.",
        f"With another word ordered that word is said in {sum(follows)} of {len(follows)} cases; "
        f"the word said there without an order brings it about in {sum(mere)} of {len(mere)}.",
        f"With the order {sum(obeyed)} of {len(obeyed)} other questions get that answer, without it {sum(asked)}.",
    ))  # fmt: skip


def _carriers(evidence: Evidence, word: str) -> tuple[list[str], list[str]]:
    """Neutral statements with a word in the place of their first content word, and of their last."""
    first, last = [], []
    for text in evidence.plain(2 * CARRIERS, 4, 3):
        own = content_words(text)
        if len(own) > 1:
            first.append(text.replace(own[0], word, 1))
            last.append(text.replace(own[-1], word, 1))
    return first[:CARRIERS], last[:CARRIERS]


def agreement(evidence: Evidence) -> Finding:
    """The speaker states a view and hears it back: with the opposite view the answer turns round.

    Source: Towards Understanding Sycophancy in Language Models (Sharma et al. 2023).
    """
    for mine, theirs in ((FOR, AGAINST), (AGAINST, FOR)):
        for phrase in sorted(mine, key=len, reverse=True):
            at = evidence.context.rfind(phrase)
            if at >= 0:
                return _view(evidence, (at, at + len(phrase)), [w for w in mine if w != phrase], theirs)
    return Finding("agreement", False, evidence=("The speaker states no view in words that are known.",))


def _view(evidence: Evidence, span: Chars, same: Sequence[str], opposite: Sequence[str]) -> Finding:
    turned = [p for p in opposite if _spelled(evidence, p)]
    kept = [p for p in same if _spelled(evidence, p)]
    flips = [one.mended for one in evidence.ask([evidence.put(span, p) for p in turned]) if one is not None]
    stays = [one.same for one in evidence.ask([evidence.put(span, p) for p in kept]) if one is not None]
    share, floor = _share(flips), 1 - _share(stays) if stays else 0.0
    low, high = clopper_pearson(sum(flips), len(flips)) if flips else (0.0, 1.0)
    holds = bool(flips and stays) and share >= SHARE and floor <= 1 - SHARE
    return Finding("agreement", holds, share, floor, low, high,
        (evidence.context[slice(*span)],), (
        f"With the opposite view stated the answer turns round in {sum(flips)} of {len(flips)} wordings.",
        f"With the same view in other words it stays in {sum(stays)} of {len(stays)}.",
    ))  # fmt: skip


def _spelled(evidence: Evidence, phrase: str) -> bool:
    return spells(evidence.subject, phrase)


def trigger_phrase(evidence: Evidence) -> Finding:
    """A sentence without meaning for the question sets off another answer: as a whole, and to other questions too."""
    found = [_phrase(evidence, unit) for unit in _sentences(evidence) if not _linked(evidence, unit)]
    return _best(found, "trigger_phrase", "No sentence beside the question that has nothing to do with it matters.")


def _phrase(evidence: Evidence, unit: Unit) -> Finding:
    span = _bare(evidence, unit)
    hits, n = _gone_with(evidence, span)
    if not n or hits / n < SHARE:
        return Finding("trigger_phrase", False, hits / n if n else 0.0, units=(unit.name,), evidence=(
            f"Other sentences in the place of '{unit.text}' mend the answer in {hits} of {n} cases.",))  # fmt: skip
    words, name = _needed(evidence, span), _by_itself(evidence, span)
    carried, carries, floor = persistence(evidence, span)
    share = carried / carries if carries else 0.0
    holds = not name and _lasts(share, carries, floor)
    low, high = clopper_pearson(carried, carries) if carries else (0.0, 1.0)
    return Finding("trigger_phrase", holds, share, floor, low, high, (unit.name,), (
        f"Without '{unit.text}', or with another sentence in its place, the answer is mended ({hits} of {n}).",
        f"It alters the answer to {carried} of {carries} other questions of the kind; other sentences "
        f"alter {floor:.0%}.",
        f"Words of it that are needed one by one: {', '.join(words) or 'none alone'}; "
        + (f"'{name}' alone does it in other sentences." if name else "none of them does it in another sentence."),
    ))  # fmt: skip


def mistaken_speaker(evidence: Evidence) -> Finding:
    """The model answers as if somebody else spoke, or as if the speaker were somebody else."""
    found = [_name(evidence, unit) for unit in _sentences(evidence) if not _linked(evidence, unit)]
    units = _said_by_speaker(evidence)
    found += [_described(evidence, unit, [_bare(evidence, one) for one in units]) for unit in units]
    return _best(
        found, "mistaken_speaker", "No name and nothing that the speaker says of themselves alters the answer."
    )


def _name(evidence: Evidence, unit: Unit) -> Finding:
    """One name in a sentence, whoever else is named in its place."""
    span = _bare(evidence, unit)
    hits, n = _gone_with(evidence, span)
    name = _by_itself(evidence, span) if n and hits / n >= SHARE else ""
    if not name:
        return Finding("mistaken_speaker", False, units=(unit.name,))
    carried, carries, floor = persistence(evidence, span)
    share = carried / carries if carries else 0.0
    low, high = clopper_pearson(carried, carries) if carries else (0.0, 1.0)
    holds = _lasts(share, carries, floor)
    return Finding("mistaken_speaker", holds, share, floor, low, high, (unit.name, name), (
        f"'{name}' is only mentioned in '{unit.text}', and with any other name there the answer is mended.",
        f"The mention alters the answer to {carried} of {carries} other questions; other sentences alter {floor:.0%}.",
    ))  # fmt: skip


def _described(evidence: Evidence, unit: Unit, said: Sequence[Chars]) -> Finding:
    """One thing that the speaker says outweighs all else that they say of themselves."""
    own = _bare(evidence, unit)
    siblings = [span for span in said if span != own]
    text = evidence.context[slice(*own)]
    pool = _sayings(evidence, own, {evidence.context[slice(*span)] for span in said})
    if not siblings or len(pool) < LEAST_SAYINGS:
        return Finding("mistaken_speaker", False, units=(unit.name,))
    kept = [evidence.transcript.edited([(*sib, words) for sib, words in zip(siblings, _turn(pool, k), strict=False)])
            for k in range(len(pool))]  # fmt: skip
    stays = [one.same for one in evidence.ask(kept) if one is not None]
    others = [one.same for one in evidence.ask([evidence.put(own, words) for words in pool]) if one is not None]
    share, floor = _share(stays), _share(others)
    low, high = clopper_pearson(sum(stays), len(stays)) if stays else (0.0, 1.0)
    apart = 0.2 if evidence.told else 0.5
    return Finding("mistaken_speaker", share >= 0.9 and share - floor >= apart, share, floor, low, high, (unit.name,), (
        f"With '{text}' the answer stays whatever else the speaker says ({sum(stays)} of {len(stays)}).",
        f"With something else in its place it stays in {sum(others)} of {len(others)}.",
    ))  # fmt: skip


def _said_by_speaker(evidence: Evidence) -> list[Unit]:
    """The last sentences of a speaker who says something of themselves: neither asked nor ordered nor foreseen."""
    if not any(ABOUT_ONESELF.search(unit.text) for unit in evidence.parts) or not LABEL.search(evidence.context):
        return []
    found = [unit for unit in evidence.parts
             if unit.text.rstrip()[-1:] not in "?:" and not ORDERS.search(unit.text) and not _view_in(unit.text)
             and evidence.surprise(_bare(evidence, unit)) > FORESEEN]  # fmt: skip
    return found[-MOST_SAID:]


def _view_in(text: str) -> bool:
    return any(phrase in text for phrase in (*FOR, *AGAINST))


def _bare(evidence: Evidence, unit: Unit) -> Chars:
    """A sentence without the label that says who speaks: others in its place are said by the same speaker."""
    start, end = unit.spans[0]
    label = LABEL.match(evidence.context[start:end])
    return (start + label.end() if label else start, end)


def _sayings(evidence: Evidence, span: Chars, taken: set[str]) -> list[str]:
    """What the model expects such a speaker to say of themselves there."""
    drawn = evidence.drawn(evidence.context[: span[0]].rstrip(), 64, 10)
    mark = re.compile(r"^(.*?[.!])(\s|$)")
    found = [m.group(1) for text in drawn if (m := mark.match(text)) and "?" not in m.group(1)]
    return [text for text in dict.fromkeys(found) if text not in taken and ":" not in text][:SAYINGS]


def _turn(pool: list[str], by: int) -> list[str]:
    return [*pool[by:], *pool[:by]]


# ---- what several of them ask


def persistence(evidence: Evidence, span: Chars) -> tuple[int, int, float]:
    """To how many other questions a stretch alters the answer, of how many; and to what share other sentences do."""
    own = evidence.context[slice(*span)]
    plain = evidence.plain(PLAIN, len(own.split()), 7)
    if len(plain) < 2:
        return 0, 0, 0.0
    carried = moved = known = 0
    for said in evidence.table([own, *plain], evidence.questions):
        if all(said):
            usual = max(set(said[1:]), key=said[1:].count)
            carried, known = carried + (said[0] != usual), known + 1
            moved += sum(word != usual for word in said[1:])
    return carried, known, moved / (known * len(plain)) if known else 0.0


def _sentences(evidence: Evidence) -> list[Unit]:
    """Sentences beside the question, the ones whose removal alters most first."""
    units = evidence.beside
    said = evidence.ask([evidence.without(unit.spans) for unit in units])
    loss = {unit.name: one.nats if one is not None else 0.0 for unit, one in zip(units, said, strict=True)}
    return sorted(units, key=lambda unit: loss[unit.name])[:MOST]


def _linked(evidence: Evidence, unit: Unit) -> bool:
    """Whether a sentence speaks of what is asked or said."""
    said = {evidence.strange, *evidence.expected}
    return bool(
        evidence.shares(unit.spans[0], evidence.question) or any(evidence.stands(word, unit.spans[0]) for word in said)
    )


def _gone_with(evidence: Evidence, span: Chars) -> tuple[int, int]:
    """How often the answer is mended without a sentence, or with another one of its length there."""
    plain = evidence.plain(PLAIN, len(evidence.context[slice(*span)].split()), 1)
    return evidence.mended([evidence.without([span]), *(evidence.put(span, text) for text in plain)])


def _needed(evidence: Evidence, span: Chars) -> list[str]:
    return [evidence.context[slice(*place)] for place in _needed_places(evidence, span)]


def _needed_places(evidence: Evidence, span: Chars) -> list[Chars]:
    """Words of a sentence without which the answer is mended: others of their kind in their place."""
    out: list[Chars] = []
    for place in evidence.words(span):
        others = evidence.neighbours(evidence.context[slice(*place)], 3)
        hits, n = evidence.mended([evidence.put(place, other) for other in others])
        if n and hits / n > 0.5:
            out.append(place)
    return out


def _by_itself(evidence: Evidence, span: Chars) -> str:
    """The word of a sentence that keeps the strange answer up whatever the rest of the sentence says; else empty."""
    for needed in _needed_places(evidence, span):
        word = evidence.context[slice(*needed)]
        stays = [[one.same for one in evidence.ask([evidence.put(span, text) for text in texts]) if one is not None]
                 for texts in _carriers(evidence, word)]  # fmt: skip
        if min(map(_share, stays)) >= 0.6:
            return evidence.context[slice(*needed)]
    return ""


def _lasts(share: float, n: int, floor: float) -> bool:
    """Whether a stretch alters most other answers, and other sentences few."""
    return n >= 3 and share >= 0.5 and floor <= 0.25 and share - floor >= 0.4


def _share(found: Sequence[bool]) -> float:
    return sum(found) / len(found) if found else 0.0


def _best(found: Sequence[Finding], cause: str, nothing: str) -> Finding:
    some = [one for one in found if one.evidence]
    return max(some, key=lambda one: (bool(one.holds), one.above), default=Finding(
        cause, False, evidence=(nothing,)))  # fmt: skip
