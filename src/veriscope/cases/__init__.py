"""From a strange answer in a chat log to its cause: the log, its outside causes, their way through the network.

log = read_logs("chat.json")[0]
seen = transcript(log, mark(log, "the strange words", subject), subject)
changes = Changes(seen, units(seen), subject)
flow = Flow(changes)
causes = outside(changes, recorder=flow)
map = flow.map(causes)
sets = cruxes(changes, causes)
shares = shapley(changes, passes=16)
"""

from veriscope.cases.changes import Changes
from veriscope.cases.cruxes import Crux, Cruxes, Foretold, cruxes
from veriscope.cases.flow import Flow, FlowMap, SpanPatch
from veriscope.cases.logs import BadLog, Log, NoAssistant, NoSuchSpan, Strange, Turn, find, log_of, read_logs
from veriscope.cases.neutral import Neutral, neutral_text
from veriscope.cases.outside import Continuation, Depth, Effect, Irrelevant, Outside, matched, outside
from veriscope.cases.shapley import Shapley, Share, shapley
from veriscope.cases.transcript import Chars, Transcript, least_expected, mark, transcript
from veriscope.cases.units import Unit, units

__all__ = [
    "BadLog",
    "Changes",
    "Chars",
    "Continuation",
    "Crux",
    "Cruxes",
    "Depth",
    "Effect",
    "Flow",
    "FlowMap",
    "Foretold",
    "Irrelevant",
    "Log",
    "Neutral",
    "NoAssistant",
    "NoSuchSpan",
    "Outside",
    "Shapley",
    "Share",
    "SpanPatch",
    "Strange",
    "Transcript",
    "Turn",
    "Unit",
    "cruxes",
    "find",
    "least_expected",
    "log_of",
    "mark",
    "matched",
    "neutral_text",
    "outside",
    "read_logs",
    "shapley",
    "transcript",
    "units",
]
