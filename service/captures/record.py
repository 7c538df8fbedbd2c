"""What is kept of one input, and what a redaction hook sees of it."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from service.bundle import Modality

TEXT = "text/plain"
SUFFIXES: Mapping[str, str] = {
    "image/png": ".png",
    "image/jpeg": ".jpg",
    "image/webp": ".webp",
    "image/bmp": ".bmp",
    "image/gif": ".gif",
    TEXT: ".txt",
}
_BEGINNINGS = {b"\x89PNG": "image/png", b"\xff\xd8": "image/jpeg", b"BM": "image/bmp"}


@dataclass(frozen=True)
class CapturedInput:
    """One input before it is written.  `data`: the encoded image as it was sent (pixels of an
    npy body as PNG), or a text in UTF-8.  `score` is the primary detector's, higher = more OOD.
    """

    data: bytes
    media_type: str  # one of SUFFIXES
    model: str
    version: str
    label: str  # predicted
    detector: str
    score: float
    p_value: float


class CaptureRecord(BaseModel):
    """`label` is the predicted one; `score` and `p_value` are `detector`'s, the primary one."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    id: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    model: str
    version: str
    label: str
    detector: str
    score: float
    p_value: float
    media_type: str
    size_bytes: Annotated[int, Field(ge=1)]
    captured: datetime

    @property
    def modality(self) -> Modality:
        return "text" if self.media_type == TEXT else "image"

    @property
    def place(self) -> tuple[str, int, float, str]:
        """Sorts by model and version, the most OOD first."""
        return self.model, int(self.version), -self.score, self.id

    @property
    def file_name(self) -> str:
        return self.id + SUFFIXES[self.media_type]


class CaptureList(BaseModel):
    """`captures`: those asked for, by model and version, the most OOD first; `total` counts all
    that match, `stored` and `stored_bytes` everything kept.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    captures: list[CaptureRecord]
    total: int
    stored: int
    stored_bytes: int


def record_of(item: CapturedInput, captured: datetime) -> CaptureRecord:
    """The id follows from model, version and content: the same input is kept once."""
    digest = hashlib.sha256(f"{item.model}/{item.version}\n".encode() + item.data)
    return CaptureRecord(
        id=digest.hexdigest()[:32],
        model=item.model,
        version=item.version,
        label=item.label,
        detector=item.detector,
        score=item.score,
        p_value=item.p_value,
        media_type=item.media_type,
        size_bytes=len(item.data),
        captured=captured,
    )


def image_type_of(data: bytes) -> str:
    """Media type of an image that the service has decoded."""
    for beginning, media_type in _BEGINNINGS.items():
        if data.startswith(beginning):
            return media_type
    return "image/webp" if data.startswith(b"RIFF") else "image/gif"
