"""What one would do without looking inside the model: the rivals that every claim is held against by default."""

from veriscope.rivals.ask_model import AskModel
from veriscope.rivals.common import (
    Budget,
    LabelRival,
    Predictor,
    SteeringRival,
    SteeringRule,
    SteeringTask,
    propensity,
    text_costs,
)
from veriscope.rivals.edits import random_changes, shuffled_changes
from veriscope.rivals.embedding_probe import EmbeddingProbe
from veriscope.rivals.fine_tune import FineTune
from veriscope.rivals.length_position import LengthPosition
from veriscope.rivals.logit_bias import LogitBias
from veriscope.rivals.majority import Majority
from veriscope.rivals.ngram_bayes import NgramBayes
from veriscope.rivals.ngrams import BagOfNgrams
from veriscope.rivals.prompt_prefix import PromptPrefix
from veriscope.rivals.token_pairs import TokenPairs

__all__ = [
    "AskModel",
    "BagOfNgrams",
    "Budget",
    "EmbeddingProbe",
    "FineTune",
    "LabelRival",
    "LengthPosition",
    "LogitBias",
    "Majority",
    "NgramBayes",
    "Predictor",
    "PromptPrefix",
    "SteeringRival",
    "SteeringRule",
    "SteeringTask",
    "TokenPairs",
    "propensity",
    "random_changes",
    "shuffled_changes",
    "text_costs",
]
