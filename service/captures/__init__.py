"""Capture for review: the most OOD inputs of each predicted label, kept on disk within limits.

Off unless a folder is named.  docs/captures.md says what is kept and what that means for privacy.
"""

from service.captures.folder import CaptureFolder, CaptureFolderUnusable
from service.captures.record import CapturedInput, CaptureList, CaptureRecord
from service.captures.redaction import keep_as_sent, without_metadata
from service.captures.reservoir import CaptureLimits
from service.captures.store import OUTCOMES, CaptureStore, Outcome

__all__ = [
    "OUTCOMES",
    "CaptureFolder",
    "CaptureFolderUnusable",
    "CaptureLimits",
    "CaptureList",
    "CaptureRecord",
    "CaptureStore",
    "CapturedInput",
    "Outcome",
    "keep_as_sent",
    "without_metadata",
]
