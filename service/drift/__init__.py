"""Drift: do the inputs still look like those the bundle was calibrated on?

Scores go in by detector and model version; out come distances of a sliding window from the
calibration, sequential alarms and plain words.  docs/drift.md says what each number means.
"""

from service.drift.collector import DriftCollector
from service.drift.report import DriftReport, ModelReport
from service.drift.tracker import DriftOptions, DriftTracker
from service.drift.window import WindowSize

__all__ = [
    "DriftCollector",
    "DriftOptions",
    "DriftReport",
    "DriftTracker",
    "ModelReport",
    "WindowSize",
]
