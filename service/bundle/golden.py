"""Golden inputs with the outputs the bundle must reproduce before it answers anyone."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.bundle.errors import GoldenMismatch
from service.bundle.manifest import GoldenTolerance


@dataclass(frozen=True)
class Golden:
    """inputs: uint8 (N, H, W, C), or N texts (str_); outputs: output name -> float32 (N, ...)."""

    inputs: NDArray[np.uint8] | NDArray[np.str_]
    outputs: dict[str, NDArray[np.float32]]


def check_golden(
    path: Path,
    golden: Golden,
    outputs: dict[str, NDArray[np.float32]],
    tolerance: GoldenTolerance,
) -> None:
    """Compare a graph's outputs with the recorded ones.

    `path` is the golden file, for the message.  Raises GoldenMismatch on a missing output,
    another shape, a non-finite value, or a difference beyond the tolerance.
    """
    for name, recorded in golden.outputs.items():
        if name not in outputs:
            raise GoldenMismatch(path, f"the graph has no output {name!r}")
        served = outputs[name]
        if served.shape != recorded.shape:
            raise GoldenMismatch(path, f"{name}: shape {served.shape}, recorded {recorded.shape}")
        if not np.isfinite(served).all():
            raise GoldenMismatch(path, f"{name}: the graph gives NaN or infinity")
        gap = np.abs(served.astype(np.float64) - recorded)
        allowed = tolerance.absolute + tolerance.relative * np.abs(recorded.astype(np.float64))
        if not (gap <= allowed).all():
            raise GoldenMismatch(
                path,
                f"{name}: differs from the recorded output by {gap.max():.3g}, tolerance "
                f"{tolerance.absolute:.3g} + {tolerance.relative:.3g} * |recorded|; "
                "restore the bundle or export it again",
            )
