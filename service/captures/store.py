"""Captures of a running service: offered by the threads that score, written by one of its own."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service.bundle import Manifest
from service.captures.folder import CaptureFolder
from service.captures.record import TEXT, CapturedInput, CaptureRecord, image_type_of, record_of
from service.captures.redaction import Redaction, RedactionFailed, keep_as_sent, png_of, redacted
from service.captures.reservoir import CaptureLimits, Group, Reservoir
from service.decision import Verdict, ood_up_to
from service.inputs import BadInput, EncodedImage, Input, PixelImage, Text
from service.logs import fields

logger = logging.getLogger(__name__)

Outcome = Literal[
    "kept", "duplicate", "dropped", "too_large", "withheld", "failed", "pushed_out", "expired"
]
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
# what may wait for the disk; beyond it captures are dropped, never requests delayed
_WAITING_INPUTS = 256
_WAITING_BYTES = 32 * 1024 * 1024
_LOOK_FOR_EXPIRED_SECONDS = 60.0
_LOG_EVERY_SECONDS = 60.0


@dataclass(frozen=True)
class _Offered:
    content: bytes | NDArray[np.uint8]  # encoded image or text, or pixels (H, W, C)
    media_type: str | None  # None: of an image, to be found out
    group: Group
    detector: str
    score: float
    p_value: float

    @property
    def size_bytes(self) -> int:
        return len(self.content) if isinstance(self.content, bytes) else self.content.nbytes


class CaptureStore:
    """`counted` hears of every outcome, from any thread."""

    def __init__(
        self,
        folder: CaptureFolder,
        limits: CaptureLimits,
        counted: Callable[[Outcome], None] = lambda _: None,
        redaction: Redaction = keep_as_sent,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """What lies in the folder is taken up.  Raises CaptureFolderUnusable."""
        self._folder = folder
        self._limits = limits
        self._counted = counted
        self._redaction = redaction
        self._clock = clock
        self._lock = threading.Lock()  # of the reservoir
        self._reservoir = Reservoir(limits)
        self._arrived = threading.Condition()  # of everything that waits
        self._waiting: deque[_Offered] = deque()
        self._waiting_bytes = 0
        self._busy = False
        self._closed = False
        self._logged_at = -_LOG_EVERY_SECONDS
        folder.prepare()
        self._take_up()
        self._writer = threading.Thread(target=self._write, name="captures", daemon=True)
        self._writer.start()

    def offer(self, manifest: Manifest, inputs: Sequence[Input], answers: Sequence[object]) -> None:
        """Inputs of one request with their answers; keeps those that its primary detector finds
        OOD at the bundle's own acceptance.  Never waits for the disk.
        """
        primary = manifest.policy.primary
        spec = next(spec for spec in manifest.detectors if spec.name == primary)
        most = ood_up_to(spec.id_acceptance)
        for item, answer in zip(inputs, answers, strict=True):
            if not isinstance(answer, Verdict) or primary not in answer.detectors:
                continue
            verdict = answer.detectors[primary]
            if verdict.p_value > most:
                continue
            group = (manifest.name, manifest.version, answer.label)
            if self._reservoir.wants(group, verdict.score):
                content, media_type = _content(item)
                self._enqueue(
                    _Offered(content, media_type, group, primary, verdict.score, verdict.p_value)
                )

    @property
    def stored(self) -> int:
        return len(self._reservoir)

    @property
    def stored_bytes(self) -> int:
        return self._reservoir.size_bytes

    def records(self) -> list[CaptureRecord]:
        """By model and version, the most OOD first."""
        with self._lock:
            expired = {record.id for record in self._reservoir.expired(self._now())}
            held = [record for record in self._reservoir if record.id not in expired]
        return sorted(held, key=lambda record: record.place)

    def read(self, identity: str) -> tuple[CaptureRecord, bytes] | None:
        """None where there is no such capture (any more).  Raises OSError."""
        with self._lock:
            record = self._reservoir.get(identity)
        data = None if record is None else self._folder.read(record)
        return None if record is None or data is None else (record, data)

    def remove(self, identity: str) -> bool:
        """False where there is no such capture.  Raises OSError."""
        with self._lock:
            record = self._reservoir.get(identity)
            if record is None:
                return False
            self._folder.remove(record)
            self._reservoir.remove(record)
        return True

    def wait_until_written(self) -> None:
        """Returns when nothing waits any more."""
        with self._arrived:
            self._arrived.wait_for(lambda: not self._waiting and not self._busy)

    def close(self) -> None:
        """Writes what waits; to be called when no thread offers any more."""
        with self._arrived:
            self._closed = True
            self._arrived.notify_all()
        self._writer.join()

    def _enqueue(self, offered: _Offered) -> None:
        if offered.size_bytes > self._limits.largest_bytes:
            self._counted("too_large")
            return
        with self._arrived:
            room = _WAITING_BYTES - self._waiting_bytes
            accepted = len(self._waiting) < _WAITING_INPUTS and offered.size_bytes <= room
            if accepted:
                self._waiting.append(offered)
                self._waiting_bytes += offered.size_bytes
                self._arrived.notify_all()
        if not accepted:
            self._counted("dropped")

    def _write(self) -> None:
        """The writer's thread: until closed and nothing waits."""
        look_at = time.monotonic()
        while (offered := self._next()) is not None or not self._closed:
            try:
                if offered is not None:
                    self._keep(offered)
                if time.monotonic() >= look_at:
                    look_at = time.monotonic() + _LOOK_FOR_EXPIRED_SECONDS
                    self._drop_expired()
            except Exception as exc:  # of the disk or the hook; the next input may go through
                self._counted("failed")
                self._log(exc)

    def _next(self) -> _Offered | None:
        """None after a while without one."""
        with self._arrived:
            self._busy = False
            self._arrived.notify_all()
            self._arrived.wait_for(
                lambda: bool(self._waiting) or self._closed, _LOOK_FOR_EXPIRED_SECONDS
            )
            if not self._waiting:
                return None
            self._busy = True
            offered = self._waiting.popleft()
            self._waiting_bytes -= offered.size_bytes
            return offered

    def _keep(self, offered: _Offered) -> None:
        """Raises RedactionFailed, OSError."""
        if not self._reservoir.wants(offered.group, offered.score):
            return  # a more OOD one came first
        item = redacted(_as_file(offered), self._redaction)
        if item is None:
            self._counted("withheld")
            return
        if len(item.data) > self._limits.largest_bytes:
            self._counted("too_large")
            return
        record = record_of(item, self._now())
        with self._lock:
            if self._reservoir.get(record.id) is not None:
                self._counted("duplicate")
                return
            gone = self._reservoir.add(record)
            try:
                if record not in gone:
                    self._folder.write(record, item.data)
            except OSError:
                self._reservoir.remove(record)
                raise
            finally:
                for other in gone:
                    if other is not record:
                        self._folder.remove(other)
                        self._counted("pushed_out")
        if record not in gone:
            self._counted("kept")

    def _drop_expired(self) -> None:
        """Raises OSError."""
        with self._lock:
            for record in self._reservoir.expired(self._now()):
                self._folder.remove(record)
                self._reservoir.remove(record)
                self._counted("expired")

    def _take_up(self) -> None:
        """What an earlier process left, within the limits of this one.  Raises OSError."""
        self._folder.clear_rests()
        for record in list(self._folder.records()):
            for gone in self._reservoir.add(record):
                self._folder.remove(gone)
                self._counted("pushed_out")
        self._drop_expired()

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock(), UTC)

    def _log(self, exc: Exception) -> None:
        """Nothing of the input, and not for every one of them."""
        if time.monotonic() - self._logged_at >= _LOG_EVERY_SECONDS:
            self._logged_at = time.monotonic()
            told = isinstance(exc, OSError | RedactionFailed)
            why = str(exc) if told else type(exc).__name__
            logger.error("an input could not be captured", extra=fields(why=why))


def _content(item: Input) -> tuple[bytes | NDArray[np.uint8], str | None]:
    match item:
        case EncodedImage(data):
            return data, None
        case PixelImage(pixels):
            return pixels.copy(), None  # a view would keep the whole body in memory
        case Text(text):
            return text.encode(), TEXT
        case BadInput():
            raise AssertionError("an unreadable input has no verdict")


def _as_file(offered: _Offered) -> CapturedInput:
    content, media_type = offered.content, offered.media_type
    if isinstance(content, np.ndarray):
        pixels = content[:, :, 0] if content.shape[2] == 1 else content
        content, media_type = png_of(Image.fromarray(pixels)), "image/png"
    model, version, label = offered.group
    return CapturedInput(
        data=content,
        media_type=media_type or image_type_of(content),
        model=model,
        version=version,
        label=label,
        detector=offered.detector,
        score=offered.score,
        p_value=offered.p_value,
    )
