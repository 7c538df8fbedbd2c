"""Scores made of other scores."""

from training.combiners.ensemble import FEWEST_P_VALUES, Ensemble, EnsembleFitError, learn_weights
from training.combiners.rules import RULES, Rule, Standardisation

__all__ = [
    "FEWEST_P_VALUES",
    "RULES",
    "Ensemble",
    "EnsembleFitError",
    "Rule",
    "Standardisation",
    "learn_weights",
]
