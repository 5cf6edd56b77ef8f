"""The same call in this process or in many, and taking up work that was killed. Knows only functions; no torch."""

from veriscope.compute.executors import Executor, ItemFailed, Processes, Serial, cores
from veriscope.compute.measure import duration, estimate, free_memory, size
from veriscope.compute.pieces import BadFolder, Pieces
from veriscope.compute.resume import map_resumable

__all__ = [
    "BadFolder",
    "Executor",
    "ItemFailed",
    "Pieces",
    "Processes",
    "Serial",
    "cores",
    "duration",
    "estimate",
    "free_memory",
    "map_resumable",
    "size",
]
