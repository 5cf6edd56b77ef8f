"""What the model works on: the right topic, no trap that words fall for, silence where the error is not kept."""

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from scipy.stats import binomtest

from veriscope.cases import Strange, log_of, transcript
from veriscope.cases.kept_topics import (
    BadTopicReadings,
    TopicAt,
    TopicReading,
    Topics,
    TopicsOfAnother,
    unstrange,
    working_on,
)
from veriscope.cases.labelled import Labelled, labelled_of
from veriscope.cases.plain import made, plain
from veriscope.cases.readings import before_reply
from veriscope.cases.topics import TooFewTopics, rate, train_topics
from veriscope.cases.transcript import Transcript
from veriscope.cases.traps import BadTopics, Topic, topic_list, traps
from veriscope.errors import NotRun
from veriscope.subjects import Subject, load
from veriscope.zoo import town
from veriscope.zoo.incidents.labelled import town_labelled

ERROR, TRAPS = 0.15, 30
SOME = ("colours", "places", "moods", "names")  # of the four, "places" and "colours" share most of their words


@pytest.fixture(scope="module")
def model() -> Subject:
    return load(str(town.folder("town")))


def _logs(count: int, seed: int) -> tuple[Labelled, ...]:
    """Single turns of four topics, so that a test takes seconds."""
    out = []
    for one in labelled_of(town_labelled(count, seed, "topic", only=SOME)):
        turn = one.log.turns[one.turn]
        out.append(replace(one, log=replace(one.log, turns=(turn,)), turn=0))
    return tuple(out)


@pytest.fixture(scope="module")
def trained(model: Subject) -> Topics:
    return train_topics(model, _logs(320, 0), error=ERROR, trap_count=TRAPS)


def _seen(model: Subject, *texts: str) -> Transcript:
    roles = ("user", "assistant")
    log = log_of({"messages": [{"role": roles[n % 2], "content": text} for n, text in enumerate(texts)]})
    last = len(texts) - 1 - (len(texts) - 1) % 2
    return transcript(log, Strange(last + 1, 0, len(texts[last + 1])), model)


PLACE = "the ball is in the kitchen . the key is in the attic . where is the ball ? answer :"
COLOUR = "the hat is in the hall . the hat is red . what colour is the hat ? answer :"


def test_the_topic_of_every_turn_of_a_log_is_told(model: Subject, trained: Topics) -> None:
    found = working_on(_seen(model, PLACE, "kitchen .", COLOUR, "red ."), model, trained)

    assert [(one.turn, one.claim) for one in found] == [(0, "places"), (2, "colours")]
    assert all(one.topics == (one.claim,) and not one.why for one in found)


def test_a_task_that_somebody_else_was_set_is_not_what_is_worked_on(model: Subject, trained: Topics) -> None:
    (found,) = working_on(_seen(model, f"anna : {PLACE} . {COLOUR}", "red ."), model, trained)

    assert found.claim != "places" and "colours" in found.topics


def test_words_without_a_task_are_not_told(model: Subject, trained: Topics) -> None:
    (found,) = working_on(_seen(model, "kitchen ball room in attic where the", "x"), model, trained)

    assert not found.claim and found.why.startswith("not told")


def test_held_out_turns_of_another_seed_are_missed_no_more_often_than_stated(model: Subject, trained: Topics) -> None:
    logs = _logs(200, 9)

    sets = trained.sets(trained.fits(model, [before_reply(one, model).text for one in logs]))

    missed = sum(one.labels["topic"] not in found for one, found in zip(logs, sets, strict=True))
    assert binomtest(missed, 200, trained.error, "greater").pvalue > 0.01
    right = sum(found == (one.labels["topic"],) for one, found in zip(logs, sets, strict=True))
    assert right > 160


def test_the_reading_refuses_quotes_and_word_lists_that_the_text_classifier_falls_for(trained: Topics) -> None:
    rates = {
        kind: [one for r in trained.readings for one in r.traps if one.kind == kind] for kind in ("listed", "quoted")
    }

    for kind, some in rates.items():
        inside, text = sum(one.inside.hits for one in some), sum(one.text.hits for one in some)
        assert all(one.inside.n == TRAPS for one in some), kind
        assert inside <= 6 and text >= 14, (kind, inside, text)
    right, text = (sum(getattr(one, who).hits for one in rates["quoted"]) for who in ("right", "text_right"))
    assert right > 30 and right > 2 * text, "a reading that never claims anything would refuse every trap too"


def test_every_topic_that_speaks_is_shown_to_keep_its_error_and_every_other_says_why(trained: Topics) -> None:
    assert {one.name for one in trained.readings} == set(SOME)
    assert len(trained.speaking) >= 2
    for one in trained.readings:
        kept = one.wrong.high <= trained.error and all(trap.inside.high <= trained.error for trap in one.traps)
        assert one.speaks == (kept and one.calibrated_on >= 2 / ERROR)
        assert one.speaks or one.silence.startswith(f"'{one.name}' stays silent: ")
        assert isinstance(one.represented, NotRun)


def test_with_too_few_logs_all_topics_stay_silent(model: Subject) -> None:
    topics = train_topics(model, _logs(120, 0), error=ERROR, trap_count=10)

    (found,) = working_on(_seen(model, PLACE, "kitchen ."), model, topics)

    assert not topics.speaking
    assert not found.claim and "not told" in found.why


def test_shuffled_labels_leave_nothing_that_speaks(model: Subject) -> None:
    logs = _logs(200, 0)
    moved = [replace(one, labels=logs[(n + 7) % 200].labels) for n, one in enumerate(logs)]

    topics = train_topics(model, moved, error=ERROR, trap_count=10)

    assert not topics.speaking
    assert topics.told.hits < 0.25 * topics.told.n


def test_what_is_kept_reads_the_same_and_only_the_same_model(model: Subject, trained: Topics, tmp_path: Path) -> None:
    seen = _seen(model, PLACE, "kitchen .", COLOUR, "red .")

    again = Topics.load(trained.save(tmp_path / "kept"), model)

    assert working_on(seen, model, again) == working_on(seen, model, trained)
    assert again.readings == trained.readings and again.told == trained.told
    other = load(str(town.folder("town-seed2")))
    with pytest.raises(TopicsOfAnother, match="trained on town, and this is town-seed2"):
        Topics.load(tmp_path / "kept", other)
    with pytest.raises(TopicsOfAnother):
        working_on(seen, other, trained)


def test_damaged_files_are_refused_with_what_to_type(model: Subject, trained: Topics, tmp_path: Path) -> None:
    folder = trained.save(tmp_path / "kept")
    record = json.loads((folder / "topics.json").read_text())

    (folder / "topics.json").write_text(json.dumps({**record, "site": None, "names": None}))
    with pytest.raises(BadTopicReadings, match="lacks something"):
        Topics.load(folder, model)
    (folder / "topics.json").write_text(json.dumps({**record, "schema": 0}))
    with pytest.raises(BadTopicReadings, match="not of version"):
        Topics.load(folder, model)
    (folder / "topics.safetensors").write_bytes(b"nothing")
    with pytest.raises(BadTopicReadings, match="missing or damaged"):
        Topics.load(folder, model)


def test_what_is_read_comes_back_from_json(model: Subject, trained: Topics) -> None:
    found = working_on(_seen(model, PLACE, "kitchen ."), model, trained)

    assert made(tuple[TopicAt, ...], json.loads(json.dumps(plain(found)))) == found
    assert made(tuple[TopicReading, ...], json.loads(json.dumps(plain(trained.readings)))) == trained.readings


def test_p_values_count_the_turns_that_are_as_strange() -> None:
    usual = [torch.tensor([1.0, 2.0, 3.0]), torch.tensor([5.0])]

    found = unstrange(torch.tensor([[2.0, 6.0], [9.0, 0.0]]), usual)

    assert found.tolist() == [[0.75, 0.5], [0.25, 1.0]]
    assert rate(0, 0).high == 1.0 and rate(0, 59).high == pytest.approx(0.0495, abs=1e-3)


def test_traps_speak_of_the_topic_and_work_on_another(model: Subject) -> None:
    logs = _logs(80, 3)
    words = ("kitchen", "attic", "hall", "garden", "room", "cellar")

    named, listed, quoted = (
        traps(kind, "places", words, logs, 10, model, random.Random(0)) for kind in ("named", "listed", "quoted")
    )

    assert len(named) == len(listed) == len(quoted) == 10
    for one in (*named, *quoted):
        assert one.works_on != "places" and one.turn.labels["topic"] == one.works_on
    own = [log.log.turns[0].text for log in logs if log.labels["topic"] == "places"]
    assert all(any(text in one.turn.log.turns[-1].text for text in own) for one in quoted)
    assert all(not one.works_on and set(one.turn.log.turns[0].text.split()) <= set(words) for one in listed)
    assert not traps("named", "places", ("unspellable-word",) * 3, logs, 10, model, random.Random(0))


def test_logs_of_one_topic_and_lists_that_cant_be_read_are_refused(model: Subject, tmp_path: Path) -> None:
    with pytest.raises(TooFewTopics, match=r"colours \(\d+\)"):
        train_topics(model, [one for one in _logs(80, 0) if one.labels["topic"] == "colours"])
    with pytest.raises(TooFewTopics, match="Declared topics: cooking"):
        train_topics(model, _logs(80, 0), [Topic("cooking", "preparing food")])
    own = tmp_path / "own.yaml"
    own.write_text("topics:\n  cooking: {words: preparing food, naming: [salt, 3]}\n")
    with pytest.raises(BadTopics, match="'cooking' is not a name"):
        topic_list(own)
    own.write_text("topics:\n  cooking: {words: preparing food, naming: [salt, oven, pan]}\n")
    assert topic_list(own) == (Topic("cooking", "preparing food", ("salt", "oven", "pan")),)
