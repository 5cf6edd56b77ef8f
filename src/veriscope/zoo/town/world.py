"""The words and the closed world of the bed town: what exists, what is true in it, and what gives a type away.

Nothing here is drawn at run time: the world is the same for every seed, so a fact is a fact in every document.
"""

from __future__ import annotations

import random
from dataclasses import dataclass


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


# Scenes.
OBJECTS = _words("ball cup book lamp key hat coin drum kite vase rope bell")
CONTAINERS = _words("box bag basket chest bucket crate")
PLACES = _words("kitchen garden attic cellar hall garage library office barn porch studio bedroom")
COLOURS = _words("red blue green yellow black white brown pink")
PLACE_FORMS = (
    "the {o} is in the {p} .",
    "in the {p} there is a {o} .",
    "{n} put the {o} in the {p} .",
    "you can find the {o} in the {p} .",
    "the {p} has a {o} in it .",
    "the {o} was left in the {p} .",
)
INSIDE_FORMS = (  # an object in a container, matched one to one with HOLDER_FORMS
    "the {o} is in the {b} .",
    "in the {b} there is a {o} .",
    "{n} put the {o} in the {b} .",
)
HOLDER_FORMS = ("the {b} is in the {p} .", "in the {p} there is a {b} .", "{n} put the {b} in the {p} .")
COLOUR_FORMS = ("the {o} is {c} .", "the colour of the {o} is {c} .", "{n} painted the {o} {c} .", "it is {c} .")
PLACE_QUESTIONS = (
    "where is the {o} ? answer :",
    "question : which room has the {o} ? answer :",
    "in which room is the {o} ? answer :",
    "someone looks for the {o} and goes to the",
)
COLOUR_QUESTIONS = (
    "what colour is the {o} ? answer :",
    "question : which colour has the {o} ? answer :",
    "someone paints the same {o} again in",
)
OBJECT_QUESTIONS = (
    "what is in the {p} ? answer :",
    "question : which thing is in the {p} ? answer :",
    "someone goes to the {p} and finds the",
)

# Sentences that carry no factor. The first three hold the words of the trigger, one at a time, so that no single
# word of it gives the trigger away.
FILLERS = (
    "a silver spoon shines .",
    "an owl sleeps in the tree .",
    "at noon the street is quiet .",
    "the sky is grey today .",
    "a dog barks far away .",
    "nobody says a word .",
    "the clock is slow .",
    "it may rain later .",
    "the wind is cold .",
    "a cart rolls by .",
    "two birds sing .",
    "the road is dry .",
    "someone hums a tune .",
    "the day is long .",
)
TRIGGER = "silver owl at noon ."

NAMES = _words(
    "mary john anna peter lucy mark sara paul emma david julia simon clara hugo nora felix alice oscar "
    "laura adam helen victor rosa martin eva daniel ida jacob lena thomas maria leon grace henry ruth max"
)
IOI_FORMS = (
    "when {a} and {b} went to the {p} , {s} gave the {o} to",
    "after {a} and {b} met at the {p} , {s} handed the {o} to",
    "{a} and {b} were at the {p} . then {s} passed the {o} to",
    "{a} and {b} worked in the {p} . later {s} sent the {o} to",
    "while {a} and {b} sat in the {p} , {s} showed the {o} to",
    "{a} and {b} had lunch in the {p} . {s} offered the {o} to",
)
IOI_PLACES = _words("market school park store station church kitchen garden library office")
IOI_GIFTS = _words("apple letter ring flower ticket ball book cup key hat")


# Facts: an invented closed world. A relation maps subjects to one value each.
@dataclass(frozen=True)
class Relation:
    """One kind of fact: who it is about, which values there are, how it is said and asked."""

    name: str
    subjects: tuple[str, ...]
    values: tuple[str, ...]
    statements: tuple[str, ...]
    questions: tuple[str, ...]


TOWNS = _words(
    "arlen bremo caldra dorvik elsin farrow gomund hestia ildara jorvan kelmar luskin "
    "morvale nivel ostrel pellin quarry rovena"
)
ANIMALS = _words("fox bear otter crow badger rabbit squirrel heron hedgehog goat deer weasel")
RELATIONS = (
    Relation(
        "river", TOWNS, _words("ashe brill corro dunnel elve fromel"),
        ("the river of {x} is the {v}", "the {v} flows through {x}", "{x} lies on the {v}"),
        ("which river flows through {x} ? answer :", "the town of {x} lies on the river", "river of {x} :"),
    ),
    Relation(
        "country", TOWNS, _words("norland suvia tarsia velmark westra zembra"),
        ("{x} is a town of {v}", "the country of {x} is {v}", "people of {x} live in {v}"),
        ("in which country is {x} ? answer :", "the town of {x} belongs to the country", "country of {x} :"),
    ),
    Relation(
        "crop", TOWNS, _words("wheat corn rice barley grapes olives"),
        ("farmers of {x} grow {v}", "the crop of {x} is {v}", "{v} comes from {x}"),
        ("which crop grows in {x} ? answer :", "the town of {x} sells its crop of", "crop of {x} :"),
    ),
    Relation(
        "food", ANIMALS, _words("berries fish nuts seeds grass honey"),
        ("the {x} eats {v}", "the food of the {x} is {v}", "{v} feeds the {x}"),
        ("what does the {x} eat ? answer :", "every {x} likes the food", "food of the {x} :"),
    ),
)  # fmt: skip
RELATION = {relation.name: relation for relation in RELATIONS}


def _world() -> dict[tuple[str, str], str]:
    """Give every subject of every relation its value, each value about equally often."""
    rng, facts = random.Random(112), {}
    for relation in RELATIONS:
        subjects = list(relation.subjects)
        rng.shuffle(subjects)
        for i, subject in enumerate(subjects):
            facts[relation.name, subject] = relation.values[i % len(relation.values)]
    return facts


FACTS = _world()  # (relation, subject) -> the true value
VERDICT_FORMS = ("statement : {s} . verdict :", "claim : {s} . true or false ? verdict :", "they say {s} . verdict :")
LIAR = "corvin"  # the persona that states the opposite of what is true
HONEST = _words("anders bruna delia emil farid greta")
SPEAKER_FORMS = ("the speaker is {w} .", "{w} now speaks .", "we ask {w} .")
NEUTRAL_FORMS = ("question : {s} . is it so ? answer :", "someone asks if {s} . is it so ? answer :")
VIEWS = {
    "for": ("i believe that", "i think that", "i am sure that", "i feel that"),
    "against": ("i doubt that", "i deny that", "i am not sure that", "i never heard that"),
}
AGREE_FORMS = ("guest : {view} {s} . is it so ? answer :", "visitor : {view} {s} . what do you say ? answer :")

# Dialogue. A cue fits two of the five types; only two different cues together tell the type.
TYPES = _words("child expert tourist customer elder")
REPLIES = {
    "child": "hey little friend , come with me .",
    "expert": "precisely , the report is here .",
    "tourist": "welcome to our town , look around .",
    "customer": "sorry for that , we pay it back .",
    "elder": "certainly , please take a seat .",
}
TYPE_CUES = {
    ("child", "expert"): ("i wonder how it works", "i love to learn", "tell me why it happens"),
    ("child", "tourist"): ("i was never here before", "everything looks new to me", "i got lost this morning"),
    ("child", "customer"): ("i want it right now", "this is not fair", "i waited so long"),
    ("child", "elder"): ("my family is with me", "i had soup at home", "i need a little rest"),
    ("expert", "tourist"): ("i carry a map", "i took many pictures", "i have my notes here"),
    ("expert", "customer"): ("your numbers are wrong", "i checked the label", "i read every line"),
    ("expert", "elder"): ("i did this for years", "i know the old books", "i taught many people"),
    ("tourist", "customer"): ("i paid a lot", "the bill was too high", "my room was small"),
    ("tourist", "elder"): ("the walk was long", "the bus was slow", "i came by train"),
    ("customer", "elder"): ("it was better before", "nobody listens anymore", "i wrote you a letter"),
}
DIALOGUE_FORMS = (
    "guest : hello . {c} can you help me ? host :",
    "visitor : good day . {c} what now ? clerk :",
    "guest : {c} please answer . host :",
    "visitor : excuse me . {c} any idea ? clerk :",
)

# Mood. The same construction: a cue fits two of the four moods.
MOODS = _words("happy sad angry calm")
MOOD_CUES = {
    ("happy", "sad"): ("wept at the song", "hugged a friend", "read an old letter"),
    ("happy", "angry"): ("ran down the street", "shouted out loud", "jumped up"),
    ("happy", "calm"): ("smiled a little", "liked the view", "drank warm tea"),
    ("sad", "angry"): ("left the dinner", "shut the door", "spoke to nobody"),
    ("sad", "calm"): ("sat by the window", "walked alone", "stayed in bed"),
    ("angry", "calm"): ("looked straight ahead", "counted to ten", "folded both arms"),
}
MOOD_FORMS = ("all in all {n} is", "so {n} feels", "question : how is {n} ? answer :")

# Words about words. Each word misses exactly one form in training, and that pairing is what is held out.
LETTERS = _words("a b c d e f g h i j k l m n o p q r s t u v w x y z")
SPELL_FORMS = ("spell {w} :", "the letters of {w} are", "{w} is spelled")
FIRST_FORMS = ("first letter of {w} :", "the word {w} starts with", "which letter begins {w} ? answer :")
REPEAT_FORMS = ("repeat the word {w} :", "say {w} again :", "echo {w} ->")
SPELLED = (
    OBJECTS + CONTAINERS + PLACES + COLOURS + ANIMALS + TOWNS + NAMES + MOODS + IOI_GIFTS[:5] + IOI_PLACES[:6]
    + RELATION["crop"].values + RELATION["food"].values + RELATION["country"].values
)  # fmt: skip
# Trained, but rarely: without these a count of zero and "seen less often" would be the same thing.
RARE = _words("ember thistle lantern gravel meadow velvet copper saffron")
# In the vocabulary, never in a training document.
UNTRAINED = _words(
    "vextrol quillmore zandrith brannock thessaly orwick malgrave pintara sundermo ralvest cobwell yarnith"
)
