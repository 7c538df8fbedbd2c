"""Scores made of other scores."""

from training.combiners.ensemble import Ensemble, EnsembleFitError, learn_weights

__all__ = ["Ensemble", "EnsembleFitError", "learn_weights"]
