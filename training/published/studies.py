"""Published figures of studies: of an arm and a detector, a mean over OOD sets.  Per cent."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class PublishedMean:
    """`metrics`: field of OodMetrics, or macro_f1 -> per cent, a mean over `sets`."""

    arm: str
    detector: str
    sets: tuple[str, ...]
    metrics: Mapping[str, float]
    source: str


_GOE_SETS = ("textures", "lsun_crop", "lsun_resize", "tinyimagenet_crop", "tinyimagenet_resize")
_ENERGY_SETS = ("textures", "svhn", "places365", "lsun_crop", "lsun_resize", "isun")
_GOE_METRICS = ("auroc", "aupr_in", "aupr_out", "fpr95_ood_side")
_ENERGY_METRICS = ("fpr95_id_side", "auroc", "aupr_in")

_Rows = Mapping[tuple[str, str], tuple[float, ...]]  # (arm, detector) -> figures


def _goe(rows: _Rows) -> tuple[PublishedMean, ...]:
    return tuple(
        PublishedMean(
            arm,
            detector,
            _GOE_SETS,
            dict(zip(_GOE_METRICS, values, strict=True)),
            "generative outlier exposure, WRN-40-2, 25 further epochs",
        )
        for (arm, detector), values in rows.items()
    )


def _energy(rows: _Rows) -> tuple[PublishedMean, ...]:
    return tuple(
        PublishedMean(
            arm,
            detector,
            _ENERGY_SETS,
            dict(zip(_ENERGY_METRICS, values, strict=True)),
            "arXiv:2010.03759, WRN-40-2, 10 further epochs",
        )
        for (arm, detector), values in rows.items()
    )


def _losses(rows: Mapping[str, float]) -> tuple[PublishedMean, ...]:
    return tuple(
        PublishedMean(
            arm, "vmdls_b", ("omniglot",), {"macro_f1": value}, "VMDLS, table 4, 60,000 images"
        )
        for arm, value in rows.items()
    )


def _texts(rows: _Rows) -> tuple[PublishedMean, ...]:
    return tuple(
        PublishedMean(
            arm,
            detector,
            ("reuters52", "multi30k", "wmt"),
            dict(zip(_GOE_METRICS, values, strict=True)),
            "generative outlier exposure, GRU, 10 epochs",
        )
        for (arm, detector), values in rows.items()
    )


def _open_set(rows: _Rows, sets: Sequence[str], source: str) -> tuple[PublishedMean, ...]:
    return tuple(
        PublishedMean(arm, detector, (ood_set,), {"macro_f1": value}, source)
        for (arm, detector), values in rows.items()
        for ood_set, value in zip(sets, values, strict=True)
    )


# name of the study -> what is published of its arms
PUBLISHED_MEANS: dict[str, tuple[PublishedMean, ...]] = {
    "cifar10-open-set": _open_set(
        {
            ("vmdls", "vmdls_b"): (88.9, 87.5, 88.8, 88.2),
            ("vmdls", "vmdls"): (92.6, 90.6, 90.4, 92.4),
        },
        ("tinyimagenet_crop", "tinyimagenet_resize", "lsun_crop", "lsun_resize"),
        "VMDLS, table 2, 500 epochs",
    ),
    "cifar10-outliers": _goe(
        {
            ("none", "msp"): (91.74, 88.42, 93.47, 28.94),
            ("none", "energy"): (93.03, 91.43, 93.70, 31.57),
            ("noise", "msp"): (94.49, 91.75, 96.11, 17.83),
            ("noise", "energy"): (97.36, 96.32, 97.95, 11.54),
            ("generated", "msp"): (95.54, 94.20, 96.54, 18.31),
            ("generated", "energy"): (95.51, 94.04, 96.52, 18.50),
            ("tiny_images", "msp"): (98.56, 97.86, 98.92, 6.12),
            ("tiny_images", "energy"): (98.63, 97.91, 98.99, 5.88),
        }
    )
    + _energy(
        {
            ("none", "msp"): (51.04, 90.90, 97.92),
            ("none", "energy"): (33.01, 91.88, 97.83),
            ("none", "mahalanobis"): (37.08, 93.27, 98.49),
            ("tiny_images", "msp"): (8.53, 98.30, 99.63),
            ("energy_bounded", "energy"): (3.32, 98.92, 99.75),
        }
    ),
    "cifar100-outliers": _goe(
        {
            ("none", "msp"): (78.71, 73.35, 82.58, 58.58),
            ("none", "energy"): (84.41, 79.72, 86.85, 48.55),
            ("noise", "msp"): (80.75, 76.22, 84.69, 53.76),
            ("noise", "energy"): (91.57, 89.20, 93.17, 33.05),
            ("generated", "msp"): (91.61, 89.05, 93.33, 33.43),
            ("generated", "energy"): (92.68, 89.72, 94.48, 26.26),
            ("tiny_images", "msp"): (87.13, 81.49, 89.97, 37.91),
            ("tiny_images", "energy"): (86.29, 78.60, 89.69, 37.18),
        }
    )
    + _energy(
        {
            ("none", "msp"): (80.41, 75.53, 93.93),
            ("none", "energy"): (73.60, 79.56, 94.87),
            ("none", "mahalanobis"): (54.04, 84.12, 95.88),
            ("tiny_images", "msp"): (58.10, 85.19, 96.40),
            ("energy_bounded", "energy"): (47.55, 88.46, 97.10),
        }
    ),
    "newsgroups-outliers": _texts(
        {
            ("none", "msp"): (82.06, 62.08, 88.74, 52.02),
            ("none", "energy"): (89.35, 69.95, 94.56, 31.93),
            ("noise", "msp"): (93.22, 77.65, 96.42, 23.11),
            ("noise", "energy"): (93.93, 78.20, 97.02, 18.94),
            ("generated", "msp"): (93.02, 84.92, 96.89, 22.55),
            ("generated", "energy"): (95.11, 87.12, 98.03, 17.50),
            ("wikitext2", "msp"): (93.84, 86.34, 97.56, 19.55),
            ("wikitext2", "energy"): (94.41, 86.23, 97.87, 16.85),
        }
    ),
    "open-set": _open_set(
        {
            ("vmdls", "vmdls_b"): (96.9, 96.1, 96.3),
            ("vmdls", "vmdls"): (97.4, 98.4, 98.4),
        },
        ("omniglot", "mnist_noise", "noise"),
        "VMDLS, table 3, 60,000 images, at least 100 epochs",
    ),
    "open-set-losses": _losses(
        {
            "all": 96.9,
            "margin_1": 94.1,
            "without_distancing": 86.0,
            "without_kl": 93.5,
            "triplet": 85.8,
            "triplet_margin_1": 82.9,
        }
    ),
}
