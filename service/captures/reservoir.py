"""Which captures are held: of each predicted label the most OOD ones, within all limits."""

from bisect import bisect_left, insort_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from service.captures.record import CaptureRecord

Group = tuple[str, str, str]  # model, version, predicted label


@dataclass(frozen=True)
class CaptureLimits:
    """Inputs of one label of one model version; inputs and bytes of all together; age."""

    per_label: int
    inputs: int
    size_bytes: int
    age: timedelta

    @property
    def largest_bytes(self) -> int:
        """Of one input: a tenth of everything."""
        return self.size_bytes // 10


def group_of(record: CaptureRecord) -> Group:
    return record.model, record.version, record.label


class Reservoir:
    """Knows records, not files.  `wants` may be asked by any thread at any time; everything else
    by one at a time.
    """

    def __init__(self, limits: CaptureLimits) -> None:
        self._limits = limits
        self._groups: dict[Group, list[CaptureRecord]] = {}  # ascending score
        self._by_id: dict[str, CaptureRecord] = {}
        self._pushed_out: dict[Group, float] = {}  # by the limits of all groups together
        self._floors: dict[Group, float] = {}
        self.size_bytes = 0

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[CaptureRecord]:
        return iter(self._by_id.values())

    def get(self, identity: str) -> CaptureRecord | None:
        return self._by_id.get(identity)

    def wants(self, group: Group, score: float) -> bool:
        """Whether so high a score could find a place now."""
        floor = self._floors.get(group)
        return floor is None or score > floor

    def add(self, record: CaptureRecord) -> list[CaptureRecord]:
        """Take it in -> what must go for it, which may be the record itself."""
        group = group_of(record)
        members = self._groups.setdefault(group, [])
        insort_left(members, record, key=lambda held: held.score)
        self._by_id[record.id] = record
        self.size_bytes += record.size_bytes
        gone: list[CaptureRecord] = []
        if len(members) > self._limits.per_label:
            gone.append(self._drop_lowest(group))
        while len(self) > self._limits.inputs or self.size_bytes > self._limits.size_bytes:
            fullest = self._fullest()
            gone.append(self._drop_lowest(fullest))
            self._pushed_out[fullest] = gone[-1].score
            self._note_floor(fullest)
        self._note_floor(group)
        return gone

    def remove(self, record: CaptureRecord) -> None:
        """Of its own: whoever was pushed out for want of room may come again."""
        members = self._groups[group_of(record)]
        place = bisect_left(members, record.score, key=lambda held: held.score)
        del members[members.index(record, place)]
        self._forget(record)
        self._pushed_out.clear()
        for group in list(self._floors):
            self._note_floor(group)

    def expired(self, now: datetime) -> list[CaptureRecord]:
        """What is older than allowed, still held."""
        return [record for record in self if is_older(record, now, self._limits.age)]

    def _fullest(self) -> Group:
        """The group with the most inputs, or bytes, whichever limit is passed."""
        if len(self) > self._limits.inputs:
            return max(self._groups, key=lambda group: len(self._groups[group]))
        return max(self._groups, key=lambda group: _bytes(self._groups[group]))

    def _drop_lowest(self, group: Group) -> CaptureRecord:
        record = self._groups[group].pop(0)
        self._forget(record)
        return record

    def _forget(self, record: CaptureRecord) -> None:
        del self._by_id[record.id]
        self.size_bytes -= record.size_bytes

    def _note_floor(self, group: Group) -> None:
        members = self._groups[group]
        floors: list[float] = []
        if len(members) >= self._limits.per_label:
            floors.append(members[0].score)
        if group in self._pushed_out:
            floors.append(self._pushed_out[group])
        if floors:
            self._floors[group] = max(floors)
        else:
            self._floors.pop(group, None)


def is_older(record: CaptureRecord, now: datetime, age: timedelta) -> bool:
    return now - record.captured > age


def _bytes(members: Iterable[CaptureRecord]) -> int:
    return sum(record.size_bytes for record in members)
