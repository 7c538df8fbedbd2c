"""Detectors by the literature's name.  A new detector is one file and one line here."""

from collections.abc import Callable
from functools import partial

from training.detectors.ash_s import AshS
from training.detectors.binary_head import BinaryHeadScore
from training.detectors.cop import Cop
from training.detectors.corp import Corp
from training.detectors.dice import Dice
from training.detectors.energy import Energy
from training.detectors.entropy import Entropy
from training.detectors.fdbd import Fdbd
from training.detectors.fssd import Fssd
from training.detectors.gda import Gda
from training.detectors.gen import Gen
from training.detectors.gradnorm import GradNorm
from training.detectors.kde import Kde
from training.detectors.kl_matching import KlMatching
from training.detectors.knn import Knn
from training.detectors.mahalanobis import Mahalanobis
from training.detectors.mahalanobis_normalised import MahalanobisNormalised
from training.detectors.max_logit import MaxLogit
from training.detectors.msp import Msp
from training.detectors.msp_temperature import MspTemperature
from training.detectors.nci import Nci
from training.detectors.nnguide import NNGuide
from training.detectors.openmax import OpenMax
from training.detectors.outlier_head import OUTLIER_HEAD
from training.detectors.overall_density import OverallDensity
from training.detectors.protocol import Detector, FitError, NotFitted
from training.detectors.react import ReAct
from training.detectors.rmds import Rmds
from training.detectors.scale import Scale
from training.detectors.she import She
from training.detectors.vim import Vim
from training.detectors.vmdls_b import VmdlsB

DETECTORS: dict[str, Callable[..., Detector]] = {
    "ash_s": AshS,
    "binary_head": BinaryHeadScore,
    "cop": Cop,
    "corp": Corp,
    "dice": Dice,
    "energy": Energy,
    "entropy": Entropy,
    "fdbd": Fdbd,
    "fssd": Fssd,
    "gda": Gda,
    "gen": Gen,
    "gradnorm": GradNorm,
    "kde": Kde,
    "kde_all": partial(Kde, name="kde_all"),
    "kl_matching": KlMatching,
    "knn": Knn,
    "mahalanobis": Mahalanobis,
    "mahalanobis_normalised": MahalanobisNormalised,
    "max_logit": MaxLogit,
    "msp": Msp,
    "msp_temperature": MspTemperature,
    "nci": Nci,
    "nnguide": NNGuide,
    "openmax": OpenMax,
    "overall_density": OverallDensity,
    "react": ReAct,
    "rmds": Rmds,
    "scale": Scale,
    "she": She,
    "vim": Vim,
    "vmdls_b": VmdlsB,
}

# The head of Classifier.heads that a detector reads.
HEAD_OF = {"binary_head": OUTLIER_HEAD, "overall_density": OUTLIER_HEAD}
# Detectors that are fitted on the training outliers, too.
READS_OUTLIERS = frozenset({"kde_all"})

__all__ = ["DETECTORS", "HEAD_OF", "READS_OUTLIERS", "Detector", "FitError", "NotFitted"]
