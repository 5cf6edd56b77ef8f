"""Examples, their factors and clusters, and the pools that they are split into. No torch."""

from veriscope.examples.load import examples
from veriscope.examples.pairs import pairs
from veriscope.examples.pools import Examples, Pool, Record, place, pool_of
from veriscope.examples.sample import Example, Sample, make_example, text_cluster

__all__ = [
    "Example",
    "Examples",
    "Pool",
    "Record",
    "Sample",
    "examples",
    "make_example",
    "pairs",
    "place",
    "pool_of",
    "text_cluster",
]
