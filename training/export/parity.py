"""Two ways to compute the same outputs must agree."""

import numpy as np
from numpy.typing import NDArray

# torch and ONNX reorder float32 sums; measured differences stay under 2e-5
RELATIVE_TOLERANCE = 1e-4
# where a gradient is zero but for rounding, its sign is chance and the step differs in a pixel
GRADIENT_TOLERANCE = 1e-2

Values = dict[str, NDArray[np.float32]]


class ParityError(Exception):
    """The exported graph does not compute what torch computes."""


def relative_gap(expected: NDArray[np.float32], actual: NDArray[np.float32]) -> float:
    """Largest |actual - expected|, relative to max(|expected|, spread of expected, tiny).

    The spread (standard deviation over the inputs) is the scale on which a score that
    crosses zero means anything.
    """
    wanted = expected.astype(np.float64)
    spread = float(wanted.std())
    scale = np.maximum(np.abs(wanted), max(spread, 1e-12))
    return float((np.abs(actual - wanted) / scale).max())


def check_parity(
    expected: Values, actual: Values, tolerance: float = RELATIVE_TOLERANCE
) -> dict[str, float]:
    """Relative gap of every output; ParityError names the first beyond the tolerance."""
    if set(expected) != set(actual):
        raise ParityError(f"outputs differ: {sorted(set(expected) ^ set(actual))}")
    gaps = {name: relative_gap(expected[name], actual[name]) for name in expected}
    for name, gap in gaps.items():
        if not gap <= tolerance:
            raise ParityError(
                f"{name}: the exported graph is off by {gap:.2e} relative to torch, "
                f"limit {tolerance:.0e}"
            )
    return gaps
