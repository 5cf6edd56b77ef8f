"""The cause list and its detecting tests.

found = judge(changes, expected=["barley"])
found.word, found.causes, found.sentence, found.finding("wrong_fact").evidence
catalogue(), measured("wrong_fact")
"""

from veriscope.cases.causes.catalogue import Entry, catalogue, measured, results, version
from veriscope.cases.causes.findings import Diagnosis, Finding
from veriscope.cases.causes.judging import TESTS, judge

__all__ = ["TESTS", "Diagnosis", "Entry", "Finding", "catalogue", "judge", "measured", "results", "version"]
