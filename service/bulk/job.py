"""Everything a worker has to know to score a partition, as plain values that travel."""

from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any

from service.bundle import BundleRef, Modality

# another version of these may give other bits; two packages are onnxruntime, one is installed
_LIBRARIES = ("numpy", "onnxruntime", "onnxruntime-gpu", "pillow", "tokenizers")


@dataclass(frozen=True)
class InputLimits:
    """Of one input, as the service's settings name them."""

    max_image_bytes: int
    max_pixels: int
    max_text_characters: int


@dataclass(frozen=True)
class Job:
    """What every partition of a run is scored with."""

    folder: str  # where relative paths of inputs start
    bundle: BundleRef
    digest: str  # SHA-256 of the bundle's manifest
    modality: Modality
    detectors: tuple[str, ...] | None
    id_acceptance: float | None
    int8: bool
    provider: str
    batch: int  # inputs given to the model at once
    limits: InputLimits

    @property
    def settings(self) -> dict[str, Any]:
        """What a score depends on besides its input: one table is made with one set of these."""
        return {
            "model": self.bundle.name,
            "version": self.bundle.version,
            "digest": self.digest,
            "variant": "int8" if self.int8 else "fp32",
            "detectors": None if self.detectors is None else list(self.detectors),
            "id_acceptance": self.id_acceptance,
            "provider": self.provider,
            "batch": self.batch,
            **asdict(self.limits),
            "libraries": _libraries(),
        }

    def path(self, name: str) -> Path:
        """Of an input file."""
        return Path(self.folder, name)


def _libraries() -> dict[str, str]:
    found: dict[str, str] = {}
    for name in _LIBRARIES:
        try:
            found[name] = installed_version(name)
        except PackageNotFoundError:
            continue
    return found
