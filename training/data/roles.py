"""Which data plays which part.  The ID roles are disjoint; test-OOD tunes nothing.

train-ID   weights and class statistics
dev-ID     standardisation of ensembles; proxy outliers are made from it
cal-ID     thresholds and p-values, nothing else
test-ID    reported; the data set's own test part
test-OOD   reported
"""

from dataclasses import dataclass

import numpy as np

from service.bundle import ImageInput
from training.config import DataConfig, Sources, expand_variables
from training.data.derived import proxy_outliers, reencode_jpeg
from training.data.image_set import DataError, DataUnavailable, ImageSet
from training.data.readers import SOURCES
from training.progress import say

_SPLIT_STREAM = 1  # the split's own random stream, apart from weights and shuffling
_REPORT_SEED = 0
CONTROL = "id_reencoded"


@dataclass(frozen=True)
class Roles:
    """Every set of one run.  `missing`: test-OOD set -> why it is not here."""

    train_id: ImageSet
    dev_id: ImageSet
    cal_id: ImageSet
    test_id: ImageSet
    test_ood: dict[str, ImageSet]
    controls: dict[str, ImageSet]
    proxies: dict[str, ImageSet]
    missing: dict[str, str]

    def fingerprints(self) -> dict[str, str]:
        id_sets = {
            "train_id": self.train_id,
            "dev_id": self.dev_id,
            "cal_id": self.cal_id,
            "test_id": self.test_id,
        }
        sets = id_sets | {f"test_ood/{name}": s for name, s in self.test_ood.items()}
        return {role: images.fingerprint() for role, images in sets.items()}

    def duplicates(self) -> int:
        """Test-ID images whose exact pixels also occur in train-ID."""
        seen = {image.tobytes() for image in self.train_id.images}
        return sum(image.tobytes() in seen for image in self.test_id.images)

    def counts(self) -> dict[str, int]:
        """Images of every set, by role or name."""
        id_sets = (self.train_id, self.dev_id, self.cal_id)
        sets = {s.name: len(s) for s in id_sets} | {"test_id": len(self.test_id)}
        return sets | {name: len(s) for name, s in (self.test_ood | self.controls).items()}


def load_roles(config: DataConfig, spec: ImageInput, seed: int) -> Roles:
    """Read and cut.  DataUnavailable if ID data is absent, DataError if its labels do not fit; an
    absent OOD set is noted."""
    whole = load_first("train", config.train, spec)
    test = load_first("test_id", config.test, spec)
    held_out = config.dev_count + config.cal_count
    if len(whole) <= 2 * held_out:
        raise DataUnavailable(
            f"train has {len(whole)} images; dev_count + cal_count = {held_out} would leave "
            "less than half of them for training"
        )
    if whole.class_names != test.class_names:
        raise DataError(
            f"train has the classes {whole.class_names}, test {test.class_names}: a label would "
            "mean two things"
        )
    for part in (whole, test):
        if (part.labels < 0).any() or part.labels.max() >= len(part.class_names):
            raise DataError(f"{part.name}: an image has no label among {part.class_names}")
    order = np.random.default_rng([seed, _SPLIT_STREAM]).permutation(len(whole))
    dev, cal, train = np.split(order, [config.dev_count, held_out])
    dev_id = whole.take(dev, "dev_id")
    test_ood: dict[str, ImageSet] = {}
    missing: dict[str, str] = {}
    for name, sources in config.test_ood.items():
        try:
            test_ood[name] = load_first(name, sources, spec)
        except DataUnavailable as exc:
            missing[name] = str(exc)
            say(f"not evaluated: {exc}")
    return Roles(
        train_id=whole.take(train, "train_id"),
        dev_id=dev_id,
        cal_id=whole.take(cal, "cal_id"),
        test_id=test,
        test_ood=test_ood,
        controls={CONTROL: reencode_jpeg(test)},
        proxies=proxy_outliers(dev_id, config.proxy_ood, _REPORT_SEED),
        missing=missing,
    )


def load_first(name: str, sources: Sources, spec: ImageInput) -> ImageSet:
    """The first source that is on this machine; DataUnavailable lists why none is."""
    reasons = []
    for source in sources:
        if source.source not in SOURCES:
            raise ValueError(f"{name}: no source {source.source!r}; choose of {sorted(SOURCES)}")
        arguments = source.arguments
        if "path" in arguments:
            path = expand_variables(arguments["path"])
            if path is None:
                reasons.append(f"{arguments['path']}: the environment variable is not set")
                continue
            arguments["path"] = path
        try:
            found = SOURCES[source.source](name, spec, **arguments)
        except DataUnavailable as exc:
            reasons.append(str(exc))
            continue
        except TypeError as exc:
            raise ValueError(f"{name}: source {source.source}: {exc}") from exc
        say(f"{name}: {len(found)} images from {found.origin}")
        return found
    raise DataUnavailable(f"{name}: no source is available: " + "; ".join(reasons))
