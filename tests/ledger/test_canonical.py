"""The same data is written the same way everywhere, and what has no one spelling is refused."""

from __future__ import annotations

import json
import math
from collections import OrderedDict
from types import MappingProxyType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from veriscope.ledger import canonical, digest

Texts = st.text(st.characters(exclude_categories=("Cs",)))
Plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | Texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(Texts, inner, max_size=4),
    max_leaves=12,
)


@settings(deadline=None, derandomize=True)
@given(Plain)
def test_reading_and_writing_again_gives_the_same_text(value: object) -> None:
    text = canonical(value)

    assert canonical(json.loads(text)) == text
    assert json.loads(text) == value


@settings(deadline=None, derandomize=True)
@given(st.dictionaries(Texts, st.integers(), min_size=2), st.randoms())
def test_the_order_of_keys_does_not_matter(value: dict[str, int], random: object) -> None:
    keys = list(value)
    random.shuffle(keys)  # type: ignore[attr-defined]

    assert canonical(OrderedDict((k, value[k]) for k in keys)) == canonical(value)


def test_a_known_text_and_hash() -> None:
    body = {"b": [1, 1.0, 0.1, 1e-7, True, None], "a": "Zürich\n", "c": ()}

    assert canonical(body) == '{"a":"Zürich\\n","b":[1,1.0,0.1,1e-07,true,null],"c":[]}'
    # printf '{"a":1}' | sha256sum
    assert digest(MappingProxyType({"a": 1})) == "015abd7f5cc57a2dd94b7590f04ad8084273905ee33ec5cebeae62276a97f862"


@pytest.mark.parametrize(
    "bad, error, where",
    [
        ({"gates": [{"value": math.nan}]}, ValueError, r"body\.gates\[0\]\.value is nan"),
        ({"x": math.inf}, ValueError, r"body\.x is inf"),
        ({"x": {1: 2}}, TypeError, r"body\.x has the key 1"),
        ({"x": {1, 2}}, TypeError, r"body\.x is a set"),
        ({"x": b"a"}, TypeError, r"body\.x is a bytes"),
        ({"x": "\ud83d"}, ValueError, r"body\.x holds half a surrogate pair"),
    ],
)
def test_what_has_no_one_spelling_is_refused_with_its_place(bad: object, error: type[Exception], where: str) -> None:
    with pytest.raises(error, match=where):
        canonical(bad)
