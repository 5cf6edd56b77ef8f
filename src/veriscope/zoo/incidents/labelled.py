"""Chat logs of the bed town whose speaker is known: labels that words give away, and labels that they do not.

What a reading of the user is worth shows only beside a text classifier, so each attribute comes in forms in which that
classifier's fate is known beforehand:

- "seen": the words that go with a label are few and stand in every log. A classifier learns them.
- "unseen": other words of the same meaning, none of which stands in a "seen" log. Who learned on those can't know them,
  save a model that knew them before.
- "crossed": every log holds the words of two values, and only their order tells which one holds. Counts of words, and
  of sequences of three, are the same for both.

"truth" is in no words at all: whether a statement is so can't be told from how it is put. Its "unseen" logs speak of
other towns and animals than its "seen" ones.

What the shipped model makes of them is not what the labels say (measured, `tests/zoo/test_labelled_town.py`). It takes
the last stated view for the view, knows all hints of a guest and most facts. But it takes the speaker for a liar as
soon as his name occurs, whoever speaks: "trust" crossed is neither in the words nor in the model.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from veriscope.errors import UserError, nearest
from veriscope.zoo.town import grammar
from veriscope.zoo.town import world as w

Form = Literal["seen", "unseen", "crossed"]
Entry = dict[str, Any]
UNSEEN = -1  # of the phrases for a view or a type of guest, the last is kept for "unseen"
TOPICS: Mapping[str, str] = {  # what the model works on -> the skill of the grammar
    "places": "scene_place",
    "colours": "scene_colour",
    "facts": "fact",
    "verdicts": "judge",
    "views": "agree",
    "names": "ioi",
    "guests": "dialogue",
    "moods": "mood",
    "spelling": "spell",
    "first letters": "first_letter",
    "repeating": "repeat",
}


class NoSuchLabels(UserError):
    """An attribute, or a form of it, that town's grammar does not have."""

    def __init__(self, attribute: str, form: str) -> None:
        forms = [f"{name} ({', '.join(kind.forms)})" for name, kind in _KINDS.items()]
        near = nearest(attribute, list(_KINDS)) if attribute not in _KINDS else ""
        super().__init__(f"town has no logs labelled by '{attribute}' in the form '{form}'. {near}{'; '.join(forms)}.")


def town_labelled(
    count: int, seed: int = 0, attribute: str = "trust", form: Form = "seen", only: Sequence[str] = ()
) -> list[Entry]:
    """Labelled logs, all values of the attribute equally often.

    Args:
        count: How many, all different.
        seed: The same seed gives the same logs.
        attribute: "trust", "view", "guest", "truth" or "topic"; other labels that hold are given too.
        form: How far words give the label away, see above.
        only: The values that are drawn; all of them where none is named.

    Returns:
        Plain data as a JSONL line holds it: {"id", "messages", "turn", "labels"}. The log is read up to "turn".

    Raises:
        NoSuchLabels.
    """
    if attribute not in _KINDS or form not in _KINDS[attribute].forms:
        raise NoSuchLabels(attribute, form)
    kind, rng = _KINDS[attribute], random.Random(f"{attribute} {form} {seed}")
    drawn = [value for value in kind.values if value in only] or kind.values
    values = [drawn[n % len(drawn)] for n in range(count)]
    rng.shuffle(values)
    out: dict[str, Entry] = {}
    for value in values:
        entry = kind.draw(rng, value, form)
        while (key := str(entry["messages"])) in out:
            entry = kind.draw(rng, value, form)
        out[key] = {"id": f"town {attribute} {form} {seed} {len(out)}", **entry}
    return list(out.values())


@dataclass(frozen=True)
class _Kind:
    """How the logs of one attribute are drawn."""

    values: tuple[str, ...]
    forms: tuple[str, ...]
    draw: Callable[[random.Random, str, Form], Entry]


def _entry(turns: list[str], labels: Mapping[str, str], turn: int | None = None) -> Entry:
    """Turns of the user and the model, one after the other."""
    roles = ("user", "assistant")
    messages = [{"role": roles[n % 2], "content": text} for n, text in enumerate(turns)]
    last = 2 * ((len(turns) - 1) // 2)
    return {"messages": messages, "turn": last if turn is None else turn, "labels": dict(labels)}


def _trust(rng: random.Random, value: str, form: Form) -> Entry:
    """Who speaks is told once; verdicts follow, as that speaker gives them."""
    now, other = (w.LIAR, rng.choice(w.HONEST)) if value == "liar" else (rng.choice(w.HONEST), w.LIAR)
    opening = [rng.choice(w.SPEAKER_FORMS).format(w=name) for name in ([other, now] if form == "crossed" else [now])]
    if form == "crossed":
        opening = _apart(rng, opening)
    turns: list[str] = []
    for n in range(rng.choice((1, 2, 3))):
        true = rng.random() < 0.5
        question = _asked_verdict(rng, _claim(rng, true, "seen"))
        turns += [
            question if n else " ".join([*opening, question]),
            "true ." if true != (value == "liar") else "false .",
        ]
    return _entry(turns[:-1], {"trust": value, "speaker": now, "topic": "verdicts"})


def _apart(rng: random.Random, texts: list[str]) -> list[str]:
    """Sentences with another one before, between and behind them, so that no short sequence of words tells which of
    them was last."""
    fillers = rng.sample(w.FILLERS, len(texts) + 1)
    return [fillers[0], *(text for pair in zip(texts, fillers[1:], strict=True) for text in pair)]


@lru_cache(maxsize=2)
def _claims(unseen: bool) -> tuple[tuple[grammar.Factors, ...], Mapping[tuple[str, str], tuple[grammar.Factors, ...]]]:
    """All statements that are so, and those that are not by relation and value.

    A third of the facts is kept for "unseen": whoever learned on the others has not met their subjects.
    """
    true: list[grammar.Factors] = []
    false: dict[tuple[str, str], tuple[grammar.Factors, ...]] = {}
    for number, (relation, subject) in enumerate(w.FACTS):
        for stated, said in itertools.product(w.RELATION[relation].values, range(3)):
            factors = {"relation": relation, "subject": subject, "stated": stated, "said": said, "opening": []}
            if (number % 3 == 0) == unseen:
                if grammar.true_claim(factors):
                    true.append(factors)
                else:
                    false[relation, stated] = (*false.get((relation, stated), ()), factors)
    return tuple(true), false


def _claim(rng: random.Random, true: bool, form: Form) -> grammar.Factors:
    """A statement that is so, or one that is not; every value is stated as often in both."""
    so, not_so = _claims(form == "unseen")
    factors = rng.choice(so)
    return factors if true else rng.choice(not_so[factors["relation"], factors["stated"]])


def _asked_verdict(rng: random.Random, claim: grammar.Factors) -> str:
    form = rng.randrange(len(w.VERDICT_FORMS))
    return grammar.render("judge", {**claim, "form": form, "trigger": False, "speaker": None}).text


def _truth(rng: random.Random, value: str, form: Form) -> Entry:
    """The user states something, and it is so or not; the model is asked for its verdict."""
    question = _asked_verdict(rng, _claim(rng, value == "true", form))
    return _entry([" ".join([*_maybe(rng), question])], {"truth": value, "topic": "verdicts"})


def _maybe(rng: random.Random) -> list[str]:
    """A sentence that does nothing, or none."""
    return [rng.choice(w.FILLERS)] if rng.random() < 0.5 else []


def _view(rng: random.Random, value: str, form: Form) -> Entry:
    """The user states a view and asks; crossed, the opposite view of something else was stated just before."""
    said = [_stated(rng, value, form)]
    if form == "crossed":
        said = _apart(rng, [_stated(rng, "against" if value == "for" else "for", form), *said])
    asks = rng.choice(w.AGREE_FORMS)
    text = asks.replace("{view} {s} .", "{said}").format(said=" ".join(said))
    return _entry([" ".join([*_maybe(rng), text])], {"view": value, "topic": "views"})


def _stated(rng: random.Random, view: str, form: Form) -> str:
    factors = grammar.draw("agree", rng, "heldout")
    phrases = w.VIEWS[view][UNSEEN:] if form == "unseen" else w.VIEWS[view][:UNSEEN]
    said = w.RELATION[factors["relation"]].statements[factors["said"]]
    return f"{rng.choice(phrases)} {said.format(x=factors['subject'], v=factors['stated'])} ."


def _guest(rng: random.Random, value: str, form: Form) -> Entry:
    """A guest drops hints, each of which fits two types."""
    pairs = rng.sample([pair for pair in w.TYPE_CUES if value in pair], rng.choice((2, 3)))
    numbers = [2] if form == "unseen" else [0, 1]
    cues = [["-".join(pair), rng.choice(numbers)] for pair in pairs]
    row = grammar.render("dialogue", {"type": value, "cues": cues, "form": rng.randrange(len(w.DIALOGUE_FORMS))})
    return _entry([" ".join([*_maybe(rng), row.text])], {"guest": value, "topic": "guests"})


def _topic(rng: random.Random, value: str, form: Form) -> Entry:
    """One to three tasks one after the other, each asked by the user and done; read at any of them."""
    names = [rng.choice(list(TOPICS)) for _ in range(rng.choice((1, 2, 3)))]
    at = rng.randrange(len(names))
    names[at] = value
    turns: list[str] = []
    for name in names:
        row = grammar.render(TOPICS[name], grammar.draw(TOPICS[name], rng, "heldout"))
        turns += [row.text, w.REPLIES[row.factors["type"]] if name == "guests" else f"{row.answer} ."]
    return _entry(turns[:-1], {"topic": value}, 2 * at)


_KINDS = {
    "trust": _Kind(("honest", "liar"), ("seen", "crossed"), _trust),
    "view": _Kind(("for", "against"), ("seen", "unseen", "crossed"), _view),
    "guest": _Kind(w.TYPES, ("seen", "unseen"), _guest),
    "truth": _Kind(("true", "false"), ("seen", "unseen"), _truth),
    "topic": _Kind(tuple(TOPICS), ("seen",), _topic),
}
