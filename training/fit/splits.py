"""Which of the given inputs play which part: train-ID, dev-ID, cal-ID and test-ID."""

import math
from collections.abc import Mapping
from typing import Any

from training.config import DataConfig, SourceConfig, TextConfig
from training.data import DataUnavailable, source_of
from training.data.loaders import loader_of
from training.data.roles import load_first
from training.fit.networks import Network

_FEWEST = 19  # for an acceptance of 95 %, and for a scale
_MOST_DEV, _MOST_CAL, _MOST_TEST = 1000, 5000, 2000
_NOISE_INPUTS = 200


def data_config(
    network: Network,
    train: str,
    *,
    held_out: str | None,
    test: str | None,
    ood: Mapping[str, str],
    columns: Mapping[str, str],
    id_acceptance: float,
) -> DataConfig:
    """A tenth of the data for dev-ID, a fifth for cal-ID, a tenth for test-ID, the rest for
    train-ID; from `held_out` one third and two thirds.  DataUnavailable where that is too few."""
    sources = (source_of(train, columns),)
    loader: Any = loader_of(network.form)
    whole = loader.cleaned(load_first("train", sources, loader))
    fewest_cal = max(_FEWEST, math.ceil(id_acceptance / (1 - id_acceptance) - 1e-6))
    count = len(whole)
    if held_out is None:
        dev = max(_FEWEST, min(_MOST_DEV, count // 10))
        cal = max(fewest_cal, min(_MOST_CAL, count // 5))
        beside = dev + cal
    else:
        apart = loader.cleaned(load_first("held_out", (source_of(held_out, columns),), loader))
        dev = max(_FEWEST, min(_MOST_DEV, len(apart) // 3))
        cal = max(fewest_cal, min(_MOST_CAL, len(apart) - dev))
        if len(apart) < dev + cal:
            raise DataUnavailable(
                f"{held_out} has {len(apart)} {loader.kind}; dev-ID needs {_FEWEST} and cal-ID, "
                f"for an acceptance of {id_acceptance:g}, {fewest_cal} of them"
            )
        beside = 0
    test_count = None if test else max(_FEWEST, min(_MOST_TEST, count // 10))
    beside += test_count or 0
    if count <= 2 * beside:
        raise DataUnavailable(
            f"{train} has {count} {loader.kind}; at least {2 * beside + 1} are needed: dev-ID "
            f"{0 if held_out else dev}, cal-ID {0 if held_out else cal} (for an acceptance of "
            f"{id_acceptance:g}), test-ID {test_count or 0}, and more than as many again for "
            "the statistics"
        )
    return DataConfig(
        train=sources,
        held_out=() if held_out is None else (source_of(held_out, columns),),
        test=() if test is None else (source_of(test, columns),),
        test_count=test_count,
        dev_count=dev,
        cal_count=cal,
        class_names=network.class_names,
        test_ood=_ood(network, ood, columns),
    )


def _ood(
    network: Network, given: Mapping[str, str], columns: Mapping[str, str]
) -> dict[str, tuple[SourceConfig, ...]]:
    """What was named, and noise: the report shows that much in any case."""
    if isinstance(network.form, TextConfig):
        tokens = min(16, network.form.max_tokens)
        noise = {"source": "noise_tokens", "tokens": tokens, "count": _NOISE_INPUTS}
    else:
        noise = {"source": "noise", "kind": "uniform", "count": _NOISE_INPUTS}
    unlabelled = {name: column for name, column in columns.items() if name != "label"}
    sets = {name: (source_of(path, unlabelled),) for name, path in given.items()}
    return {**sets, "noise": (SourceConfig.model_validate(noise),)}
