"""Detectors with a graph of their own, by name.  A new one is one file and one line here."""

from collections.abc import Callable
from functools import partial

from training.graph_detectors.deep_ensemble import DeepEnsemble
from training.graph_detectors.fssd import PerturbedFssd
from training.graph_detectors.gradient import GradientDetector
from training.graph_detectors.mahalanobis import PerturbedMahalanobis
from training.graph_detectors.mc_dropout import McDropout
from training.graph_detectors.odin import Odin
from training.graph_detectors.protocol import FitContext, GraphDetector
from training.graph_detectors.vmdls import Vmdls

GRAPH_DETECTORS: dict[str, Callable[..., GraphDetector]] = {
    "deep_ensemble": DeepEnsemble,
    "fssd_perturbed": PerturbedFssd,
    "fssd_official_perturbed": partial(
        PerturbedFssd, name="fssd_official_perturbed", variant="official", epsilon=0.01
    ),
    "mahalanobis_perturbed": PerturbedMahalanobis,
    "mahalanobis_star": partial(PerturbedMahalanobis, name="mahalanobis_star", epsilon=None),
    "mc_dropout": McDropout,
    "odin": Odin,
    "odin_star": partial(Odin, name="odin_star", epsilon=None),
    "vmdls": Vmdls,
}

__all__ = ["GRAPH_DETECTORS", "FitContext", "GradientDetector", "GraphDetector"]
