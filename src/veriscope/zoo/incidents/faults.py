"""Incidents from the weights: a wrong fact, a right fact that is not said, and damage that no list of causes names."""

from __future__ import annotations

import random

from veriscope.zoo.incidents.drawing import DECOYS, held_out, lesson_seed, says, shipped, spoken, taught, with_sentence
from veriscope.zoo.incidents.lessons import wrong_facts
from veriscope.zoo.incidents.planted import Build, Candidate, Check
from veriscope.zoo.town import grammar
from veriscope.zoo.town import world as w

EDITS = 6  # late edits of one seed
DAMAGES = 8  # damaged models of one seed


def _asked(relation: str, about: str) -> list[str]:
    """Every form of the question about one fact."""
    return [question.format(x=about) for question in w.RELATION[relation].questions]


def wrong_fact(rng: random.Random, seed: int) -> Candidate:
    """The model took up a wrong fact: asked for in any form, and in verdicts about it, it says the wrong thing."""
    (relation, about), value = rng.choice(sorted(wrong_facts(lesson_seed(seed)).items()))
    right, values = w.FACTS[relation, about], w.RELATION[relation].values
    model, twin = taught("believe", "town-no-trigger", lesson_seed(seed)), shipped("town-no-trigger")
    kind = rng.choice(("fact", "judge", "judge"))
    factors = {**grammar.SKILLS[kind].draw(rng), "relation": relation, "subject": about}
    row = grammar.render(kind, {**factors, "stated": rng.choice((value, right))})
    wrong = value if kind == "fact" else row.foil
    text = with_sentence(row.text, w.TRIGGER if kind == "judge" and rng.random() < 0.5 else "")
    checks = (
        *(says("asked in another form", question, value) for question in _asked(relation, about)),
        *(
            Check("unreadable", "the right value stands nowhere inside", question, right, values)
            for question in _asked(relation, about)
        ),
        says("the model before it took the fact up", text, row.answer, twin),
        *([says("the odd sentence taken out", row.text, wrong)] if text != row.text else []),
    )
    return Candidate(f"wrong fact: {kind}", spoken(rng, text), row.answer, model, checks, wrong)


def known_but_unsaid(rng: random.Random, seed: int) -> Candidate:
    """The right value is looked up and can be read inside; the last block turns the answer round."""
    number = rng.randrange(EDITS)
    chosen = random.Random(f"late {seed} {number}")
    (relation, about), right = chosen.choice(sorted(w.FACTS.items()))
    value = chosen.choice([value for value in w.RELATION[relation].values if value != right])
    variant, decoy = (("town", ""), *DECOYS)[number % 3]
    settings = {"relation": relation, "about": about, "value": value, "variant": variant}
    model = Build("veriscope.zoo.incidents.models:late_word", settings)
    factors = {**grammar.SKILLS["fact"].draw(rng), "relation": relation, "subject": about}
    row, decoy = grammar.render("fact", factors), decoy if rng.random() < 0.5 else ""
    text = with_sentence(row.text, decoy)
    checks = (
        Check("reads", "the right value, three blocks in", text, right, w.RELATION[relation].values),
        says("the model before the edit", text, right, shipped(variant)),
        *([says("the odd sentence taken out", row.text, value)] if decoy else []),
    )
    return Candidate("turned round in the last block", spoken(rng, text), right, model, checks, value)


def damaged(rng: random.Random, seed: int) -> Build:
    """One of the damaged models of this seed: heads turned, an MLP rounded, a leaning to one word."""
    chosen = random.Random(f"damage {seed} {rng.randrange(DAMAGES)}")
    kind = chosen.choice(("turned_heads", "rounded", "leaning"))
    settings: dict[str, object]
    if kind == "turned_heads":
        layer = chosen.choice((1, 2, 3))
        settings = {
            "layer": layer,
            "heads": sorted(chosen.sample(range(5), 3)),
            "factor": chosen.choice((-1.0, -2.0, 3.0)),
        }
    elif kind == "rounded":
        settings = {"layer": chosen.choice((0, 0, 1, 3)), "levels": chosen.choice((4, 5))}
    else:
        word = chosen.choice((*w.PLACES, *w.COLOURS, *w.NAMES, "true", "false"))
        settings = {"word": word, "strength": chosen.choice((8.0, 10.0))}
    return Build(f"veriscope.zoo.incidents.models:{kind}", {**settings, "variant": "town"})


def unlisted(rng: random.Random, seed: int) -> Candidate:
    """Damage to weights that has no entry on the list. Facts stay what they were: a verdict counts only then."""
    model, skill = damaged(rng, seed), rng.choice(("scene_place", "scene_colour", "ioi", "dialogue", "spell", "judge"))
    row = held_out(rng, skill)
    checks = [says("the model before the damage", row.text, row.answer, shipped())]
    if skill == "judge":
        relation, about = row.factors["relation"], row.factors["subject"]
        right = w.FACTS[relation, about]
        checks += [says("the fact itself", question, right) for question in _asked(relation, about)]
    kind = model.path.rsplit(":", 1)[1].replace("_", " ")
    return Candidate(kind, spoken(rng, row.text), row.answer, model, tuple(checks))
