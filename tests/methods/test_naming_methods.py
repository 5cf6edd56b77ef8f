"""A method is named by a word or an import path, its own or someone else's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from veriscope.errors import UnknownMethod, UnknownSetting
from veriscope.methods import BUILT_IN, LogisticProbe, MeanDifference, method, path_of, settings_of


@dataclass(frozen=True)
class Mine:
    """Someone else's method."""

    site: str
    width: tuple[int, ...] = (1, 2)

    def fit(self, subject: Any, sample: Any) -> str:
        return self.site


def test_a_bare_name_and_a_path_lead_to_the_same_method() -> None:
    one, two = method("MeanDifference", site="x"), method("veriscope.methods.mean_difference:MeanDifference", site="x")

    assert one == two == MeanDifference("x")
    assert all(method(path_of(kind("x")), site="x") == kind("x") for kind in BUILT_IN.values())


def test_someone_elses_method_needs_no_registry() -> None:
    found = method(f"{__name__}:Mine", site="x", width=[3, 4])

    assert found == Mine("x", (3, 4))
    assert method(path_of(found), **settings_of(found)) == found
    assert settings_of(found) == {"site": "x", "width": [3, 4]}


def test_lists_from_json_become_what_a_frozen_method_holds() -> None:
    assert method("LogisticProbe", site=["a", "b"], l2=[1.0, 10.0]) == LogisticProbe(("a", "b"), l2=(1.0, 10.0))


@pytest.mark.parametrize(
    "path, message",
    [
        ("MeanDiference", "no method 'MeanDiference'. Did you mean 'MeanDifference'"),
        ("no_such_package.file:Mine", "No module named"),
        ("veriscope.methods.linear:Missing", "has no attribute 'Missing'"),
        ("veriscope.methods.linear:fit_reading", "not a dataclass with a fit"),
        ("json:JSONDecoder", "not a dataclass with a fit"),
    ],
)
def test_a_name_that_leads_nowhere_says_so(path: str, message: str) -> None:
    with pytest.raises(UnknownMethod, match=message.replace("(", r"\(")):
        method(path)


def test_unknown_and_missing_settings_say_which_there_are() -> None:
    with pytest.raises(UnknownSetting, match=r"no setting 'whitten'. Did you mean 'whiten'\? Its settings: site, pos"):
        method("MeanDifference", site="x", whitten=True)
    with pytest.raises(UnknownSetting, match="needs the setting 'site'"):
        method("MeanDifference")
