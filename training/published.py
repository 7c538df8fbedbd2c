"""Numbers of the literature, to stand beside ours: config name -> (OOD set, detector) -> records.

A figure of another network or another OOD set says so in its source; a difference of more than
3 points has its explanation.
"""

from collections.abc import Mapping

from training.evaluation.records import Published

PublishedTable = Mapping[tuple[str, str], tuple[Published, ...]]

_FSSD_TABLE = "FSSD, arXiv:2012.12682, Fashion-MNIST against MNIST, LeNet"
_TUNED = "The published layer weights were fitted on 500 samples of the OOD set that is reported; "


def _fssd_row(
    auroc: float, aupr_in: float, fpr80: float, explanation: str
) -> tuple[Published, ...]:
    """Per cent, as printed -> records; `explanation` for every difference over 3 points."""
    values = {"auroc": auroc, "aupr_in": aupr_in, "fpr80_id_side": fpr80}
    return tuple(
        Published(metric, value / 100, _FSSD_TABLE, explanation) for metric, value in values.items()
    )


_MAHALANOBIS = (99.6, 99.7, 0.0)
_FSSD = (99.6, 99.7, 0.0)

_FASHION_MNIST: PublishedTable = {
    ("mnist", "msp"): _fssd_row(
        77.3,
        79.2,
        43.5,
        "One published network; softmax confidence on MNIST moves by several points from "
        "seed to seed (see the spread over seeds).",
    ),
    ("mnist", "odin"): _fssd_row(
        96.9,
        93.0,
        2.5,
        "The published step and temperature were chosen on the OOD set that is reported, and the "
        "released code's own README gives 87.9; ours are fixed.",
    ),
    ("mnist", "odin_star"): _fssd_row(
        96.9,
        93.0,
        2.5,
        "The published step was chosen on the OOD set that is reported; this one on ID data.",
    ),
    ("mnist", "mc_dropout"): _fssd_row(
        81.7,
        85.3,
        36.8,
        "The published code averages each pass's largest probability and lets batch "
        "normalisation run in training mode; the entropy of the mean is another score, and one "
        "published network moves by several points with the seed.",
    ),
    ("mnist", "mahalanobis_ensemble"): _fssd_row(
        *_MAHALANOBIS, _TUNED + "ours are equal and see no OOD sample."
    ),
    ("mnist", "mahalanobis_ensemble_learnt"): _fssd_row(
        *_MAHALANOBIS, _TUNED + "ours are fitted on proxy outliers made of ID images."
    ),
    ("mnist", "mahalanobis_perturbed_ensemble_learnt"): _fssd_row(
        *_MAHALANOBIS,
        _TUNED + "so was the step. Ours is fixed, the weights are fitted on proxy outliers.",
    ),
    ("mnist", "fssd_ensemble"): _fssd_row(
        *_FSSD,
        _TUNED + "they may be negative. Ours are equal and positive; where OOD lies farther from "
        "the noise centre than ID, as in early layers (see fssd_conv1, fssd_conv2), such a sum "
        "ranks it as ID.",
    ),
    ("mnist", "fssd_ensemble_learnt"): _fssd_row(
        *_FSSD,
        _TUNED + "ours are fitted on proxy outliers made of ID images, which lie elsewhere in the "
        "four distances than digits do: signs learnt on one kind of outlier do not carry over "
        "in full.",
    ),
    ("mnist", "fssd_perturbed_ensemble_learnt"): _fssd_row(
        *_FSSD,
        _TUNED + "so was the step, which in the released code goes the other way than in the "
        "paper. Ours is the paper's, the weights are fitted on proxy outliers.",
    ),
    ("mnist", "fssd_density"): _fssd_row(
        *_FSSD,
        "Another reading of the same distances: a class-conditional Gaussian over their "
        "logarithms, fitted on ID alone; no OOD sample shapes it.",
    ),
}

# OpenOOD v1.5, post-hoc detectors on plain cross-entropy networks: AUROC near, far.
_OPENOOD = {
    "ash_s": (75.27, 78.49),
    "energy": (87.58, 91.21),
    "fdbd": (90.42, 93.16),
    "gen": (88.20, 91.35),
    "gradnorm": (54.90, 57.55),
    "knn": (90.64, 92.96),
    "mahalanobis": (84.20, 89.72),
    "max_logit": (87.52, 91.10),
    "msp": (88.03, 90.73),
    "nci": (88.86, 91.27),
    "odin": (82.87, 87.96),
    "react": (87.11, 90.42),
    "rmds": (89.80, 92.20),
    "scale": (82.55, 86.39),
    "she": (81.54, 85.32),
    "vim": (88.68, 93.48),
}
_OPENOOD_SETS = {
    "tinyimagenet": ("near-OOD (CIFAR-100 and Tiny-ImageNet)", 0),
    "gtsrb": ("far-OOD (MNIST, SVHN, Textures, Places365)", 1),
}
_OTHER_NETWORK = (
    "Published: ResNet-18 trained in full on lossless images, means over the named sets; ours: "
    "one WRN-40-2 after a short schedule, every set at JPEG quality 75, so data, network and its "
    "accuracy differ at once; how much of a gap is due to which was not measured."
)
_ASH_B = (
    " Published is the variant B at 90 %, ours S at 65 %; some published rows chose "
    "hyperparameters on an OOD validation set."
)

_CIFAR10: PublishedTable = {
    (ood_set, detector): (
        Published(
            "auroc",
            values[column] / 100,
            f"OpenOOD v1.5, arXiv:2306.09301, CIFAR-10, ResNet-18, {where}",
            _OTHER_NETWORK + (_ASH_B if detector == "ash_s" else ""),
        ),
    )
    for ood_set, (where, column) in _OPENOOD_SETS.items()
    for detector, values in _OPENOOD.items()
}

# Generative outlier exposure, its rows without outliers: means over Reuters-52, Multi30k and WMT16.
NEWSGROUPS_MEANS: Mapping[str, Mapping[str, float]] = {
    "msp": {"auroc": 0.8206, "aupr_in": 0.6208, "aupr_out": 0.8874, "fpr95_ood_side": 0.5202},
    "energy": {"auroc": 0.8935, "aupr_in": 0.6995, "aupr_out": 0.9456, "fpr95_ood_side": 0.3193},
}
_NEWSGROUPS: PublishedTable = {
    (ood_set, detector): tuple(
        Published(
            metric,
            value,
            "Generative outlier exposure, 20 Newsgroups, GRU, no outliers, mean over three sets",
            "Published is the mean over three sets of which this is one. There, posts and "
            "Reuters-52 are without stop words while Multi30k and WMT keep theirs, and the recipe "
            "is another; docs/text.md has our mean beside it and what each change alone does. "
            "Areas under precision and recall also depend on how many texts each set has.",
        )
        for metric, value in values.items()
    )
    for ood_set in ("reuters52", "multi30k", "wmt")
    for detector, values in NEWSGROUPS_MEANS.items()
}

PUBLISHED: dict[str, PublishedTable] = {
    "cifar10": _CIFAR10,
    "fashion-mnist": _FASHION_MNIST,
    "newsgroups": _NEWSGROUPS,
}
