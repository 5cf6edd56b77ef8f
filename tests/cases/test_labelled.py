"""Labelled logs and the list of attributes: what is read, and what is refused with what to type."""

import json
from pathlib import Path

import pytest

from veriscope.cases.labelled import BadLabels, BadTaxonomy, attributes_of, labelled_of, read_labelled, taxonomy

CHAT = [
    {"role": "user", "content": "hello"},
    {"role": "assistant", "content": "yes ?"},
    {"role": "user", "content": "why is the sky blue ?"},
    {"role": "assistant", "content": "because"},
]


def _file(folder: Path, *entries: object) -> Path:
    path = folder / "labelled.jsonl"
    path.write_text("\n".join(json.dumps(entry) for entry in entries) + "\n\n")
    return path


def test_a_log_is_read_up_to_its_last_user_turn_unless_a_turn_is_given(tmp_path: Path) -> None:
    path = _file(
        tmp_path,
        {"messages": CHAT, "labels": {"age": "child"}},
        {"messages": CHAT, "labels": {"age": "child"}, "turn": 0},
        {"messages": CHAT[:1], "labels": {"age": "adult"}, "id": "another"},
    )

    whole, first, another = read_labelled(path)

    assert (whole.turn, first.turn, another.turn) == (2, 0, 0)
    assert whole.text == "user: hello\nassistant: yes ?\nuser: why is the sky blue ?"
    assert first.text == "user: hello"
    assert whole.log.name == first.log.name != another.log.name, "the same conversation is one log for splits"
    assert another.log.name == "another"


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("no object", "line 2: it is not an object"),
        ({"messages": CHAT}, 'line 2: it has no "labels"'),
        ({"messages": CHAT, "labels": {}}, 'line 2: it has no "labels"'),
        ({"messages": CHAT, "labels": {"age": ["child"]}}, "line 2: the label 'age' is not a word"),
        ({"messages": CHAT, "labels": {"age": " "}}, "line 2: the label 'age' is not a word"),
        ({"messages": CHAT, "labels": {"age": "child"}, "turn": 4}, "line 2: there is no turn 4. Turns are counted"),
        ({"messages": CHAT, "labels": {"age": "child"}, "turn": True}, "line 2: there is no turn True"),
        ({"messages": CHAT[1:2], "labels": {"age": "child"}}, "line 2: it has no user turn"),
    ],
)
def test_what_is_no_labelled_log_is_named_with_its_line(tmp_path: Path, entry: object, said: str) -> None:
    path = _file(tmp_path, {"messages": CHAT, "labels": {"age": "child"}}, entry)

    with pytest.raises(BadLabels) as error:
        read_labelled(path)

    assert said in str(error.value)


def test_a_line_that_is_no_json_and_a_file_that_is_not_there_say_so(tmp_path: Path) -> None:
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"messages": [')

    with pytest.raises(BadLabels, match="line 1: it is not one object of JSON"):
        read_labelled(broken)
    with pytest.raises(BadLabels, match="there is no such file"):
        read_labelled(tmp_path / "nowhere.jsonl")


def test_the_built_in_list_asks_for_each_attribute_in_words() -> None:
    known = {attribute.name: attribute for attribute in taxonomy()}

    assert {"age", "gender", "education", "status", "expertise", "mood", "view"} <= set(known)
    assert {"speaker", "trust", "guest", "truth"} <= set(known)
    assert known["age"].question == (
        "What is the user's age? Answer with one of: child, adolescent, adult, older adult."
    )
    assert all(attribute.source and len(set(attribute.values)) > 1 for attribute in known.values())


def test_ones_own_list_is_a_yaml_or_the_labels_of_a_file(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("hurry:\n  values: [much, little]\n  words: how much of a hurry the user is in\n")
    labels = _file(
        tmp_path,
        {"messages": CHAT, "labels": {"age": "child", "team": "red", "same": "x"}},
        {"messages": CHAT[:1], "labels": {"age": "adult", "team": "blue", "same": "x"}},
    )

    (hurry,) = taxonomy(own)
    age, team = taxonomy(labels)

    assert hurry.question == "What is how much of a hurry the user is in? Answer with one of: much, little."
    assert hurry.source == str(own)
    assert age.values == ("child", "adult") and age.words == "the user's age"
    assert team.values == ("blue", "red") and team.words == "the user's team"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[a, b]", "it names no attributes"),
        ("hurry: [much, little]", "'hurry' has no list of two values or more"),
        ("hurry: {values: [much]}", "'hurry' has no list of two values or more"),
        ("hurry: {values: [yes, no]}", "a value of 'hurry' reads as True and not as text: put it into quotes"),
        ("hurry: {values: [", "it is not valid YAML"),
    ],
)
def test_a_list_that_cant_be_read_says_what_to_write(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(text)

    with pytest.raises(BadTaxonomy) as error:
        taxonomy(path)

    assert said in str(error.value) and "Write for each" in str(error.value)


def test_values_that_the_built_in_list_does_not_have_stay_as_they_are() -> None:
    entries = [{"messages": CHAT, "labels": {"age": age}} for age in ("over 40", "under 40")]

    (age,) = attributes_of(labelled_of(entries))

    assert age.values == ("over 40", "under 40") and age.source == "labels of the logs given"
