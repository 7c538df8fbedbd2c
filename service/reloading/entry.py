"""What is known of one version's folder, between two looks at it."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

from service.bundle import BundleRef
from service.loading import LoadedBundle
from service.reloading.fingerprint import Fingerprint

# settling: may still be copied; draining: requests that came before its end are being answered
State = Literal["serving", "loading", "settling", "refused", "not_loaded", "draining"]

# a folder that is gone for one look only was being exchanged
_LOOKS_UNTIL_GONE = 2


@dataclass(frozen=True)
class VersionState:
    """As it is shown; `error` is what kept the folder's content from being served, if anything."""

    name: str
    version: str
    state: State
    error: str | None
    since: datetime


@dataclass
class Entry:
    """`tried`: what the folder looked like when its bundle was last verified, None: never."""

    ref: BundleRef
    seen: Fingerprint = frozenset()
    tried: Fingerprint | None = None
    bundle: LoadedBundle | None = None
    error: str | None = None
    loading: bool = False
    settled: bool = False
    _missing: int = 0
    _since: datetime = field(default_factory=lambda: datetime.now(UTC))
    _shown: State = "settling"

    def look(self, seen: Fingerprint, *, at_once: bool) -> None:
        """The folder is there; it has settled if it looks as it did the last time."""
        self.settled = at_once or seen == self.seen
        self.seen = seen
        if self.gone:  # and came back
            self.tried = self.error = None
        self._missing = 0

    def miss(self, *, at_once: bool) -> None:
        """The folder is not there."""
        self._missing = _LOOKS_UNTIL_GONE if at_once else self._missing + 1
        self.settled = False

    @property
    def gone(self) -> bool:
        return self._missing >= _LOOKS_UNTIL_GONE

    def to_be_tried(self, *, again: bool) -> bool:
        """`again`: also what was refused, though the folder is as it was."""
        if not self.settled:
            return False
        closed = self.bundle is None and self.error is None
        return closed or self.tried != self.seen or (again and self.error is not None)

    def show(self) -> VersionState:
        state = self._state()
        if state != self._shown:
            self._shown, self._since = state, datetime.now(UTC)
        return VersionState(self.ref.name, self.ref.version, state, self.error, self._since)

    def _state(self) -> State:
        if self.bundle is not None:
            return "serving"
        if self.loading:
            return "loading"
        if self.error is not None:
            return "refused"
        return "not_loaded" if self.settled else "settling"
