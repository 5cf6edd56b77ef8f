"""From a strange answer in a chat log to its cause: the log, its outside causes, their way through the network."""

from veriscope.cases.cruxes import Crux, Cruxes, Foretold
from veriscope.cases.flow import FlowMap, SpanPatch
from veriscope.cases.logs import Log, Strange, Turn
from veriscope.cases.outside import Continuation, Effect, Irrelevant, Outside
from veriscope.cases.transcript import Chars, Transcript
from veriscope.cases.units import Unit

__all__ = [
    "Chars",
    "Continuation",
    "Crux",
    "Cruxes",
    "Effect",
    "FlowMap",
    "Foretold",
    "Irrelevant",
    "Log",
    "Outside",
    "SpanPatch",
    "Strange",
    "Transcript",
    "Turn",
    "Unit",
]
