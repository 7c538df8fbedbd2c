"""The labels one model version predicts: their window and its report."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from service.drift.label_shift import (
    homogeneity,
    jensen_shannon,
    jensen_shannon_threshold,
    residuals,
)
from service.drift.report import (
    SIGNIFICANCE,
    SMALLEST_WINDOW,
    Distance,
    LabelReport,
    LabelShare,
)
from service.drift.window import SlidingWindow, WindowSize

_MOST_CHANGED = 10


class LabelDrift:
    """`expected`: how often each label was predicted for the calibration inputs, (k,)."""

    def __init__(
        self, labels: Sequence[str], expected: NDArray[np.int64], size: WindowSize
    ) -> None:
        self._labels = labels
        self._expected = expected
        self._window = SlidingWindow(size)

    def add(self, label_indices: Sequence[int], times: NDArray[np.float64]) -> None:
        self._window.add(np.array(label_indices, np.float32), times)

    def report(self, now: float) -> LabelReport | None:
        """None without inputs."""
        seen, oldest = self._window.read(now)
        if oldest is None:
            return None
        counts = np.bincount(seen.astype(np.int64), minlength=len(self._labels))
        chi_square, p_value = homogeneity(counts, self._expected)
        judged = len(seen) >= SMALLEST_WINDOW
        divergence = jensen_shannon(counts, self._expected)
        threshold = jensen_shannon_threshold(
            len(seen), int(self._expected.sum()), len(self._labels), SIGNIFICANCE
        )
        return LabelReport(
            size=len(seen),
            chi_square=chi_square,
            p_value=p_value,
            jensen_shannon=Distance(
                value=divergence, threshold=threshold, beyond=judged and divergence > threshold
            ),
            beyond=judged and p_value < SIGNIFICANCE,
            most_changed=self._most_changed(counts),
        )

    def _most_changed(self, counts: NDArray[np.int64]) -> list[LabelShare]:
        errors = residuals(counts, self._expected)
        shares = counts / counts.sum()
        expected = self._expected / self._expected.sum()
        order: list[int] = np.argsort(-np.abs(errors), kind="stable")[:_MOST_CHANGED].tolist()
        return [
            LabelShare(
                label=self._labels[index],
                share=float(shares[index]),
                expected=float(expected[index]),
                standard_errors=float(errors[index]),
            )
            for index in order
        ]
