"""One request on its way through the queue.  Its owner, the batcher, holds a lock meanwhile."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from service.admission import Permit
from service.decision import Plan
from service.inputs import Input
from service.loading import LoadedBundle
from service.scoring import Answer, Deadline, Prepared, Scored


@dataclass(frozen=True)
class Asked:
    """What a caller wants to know of which inputs, and until when."""

    bundle: LoadedBundle
    plan: Plan
    inputs: Sequence[Input]
    deadline: Deadline
    work_seconds: float  # what all inputs are going to take
    prepare_seconds: float = 0.0  # of it, before any graph runs


class Job:
    """`on_end` is called once, in some thread, when nobody works on the inputs any more: only
    then is their memory free, whatever became of the caller."""

    def __init__(
        self,
        asked: Asked,
        permit: Permit,
        caller: "asyncio.Future[Scored]",
        on_end: Callable[[], None],
        came_at: float,
    ) -> None:
        """`came_at`: monotonic clock."""
        self.asked = asked
        self.caller = caller
        self.scored = Scored()
        self.failure: Exception | None = None  # where nothing answered
        self.abandoned = False
        self.left = len(asked.inputs)  # that nobody has taken
        self.at_work = 0  # taken, without an answer
        self._on_end = on_end
        self._answers: list[Answer | None] = [None] * len(asked.inputs)
        self._permit = permit
        self._came_at: float | None = came_at
        self._ended = False

    @property
    def work_each(self) -> float:
        return self.asked.work_seconds / max(1, len(self._answers))

    def take(self, count: int, now: float) -> list["Slot"]:
        """The next inputs."""
        if self._came_at is not None:
            self.scored.took("queue", now - self._came_at)
            self._came_at = None
        first = len(self._answers) - self.left
        self.left -= count
        self.at_work += count
        return [
            Slot(self, place, self.asked.inputs[place]) for place in range(first, first + count)
        ]

    def answer(self, place: int, answer: Answer) -> None:
        """One taken input has its answer; `release` follows for all of a batch."""
        self._answers[place] = answer
        self.at_work -= 1

    def release(self, answered: int) -> None:
        """So many inputs are out of the queue, and their memory is free."""
        self._permit.release(answered)

    def give_up(self, slot: "Slot") -> None:
        """A taken input that nobody works on after all."""
        slot.item = slot.prepared = None
        self.at_work -= 1
        self._permit.release(1, done=False)

    def abandon(self) -> None:
        """Nobody waits for it: what is not at work is dropped."""
        self.abandoned = True
        self._permit.release(self.left, done=False)
        self.left = 0

    @property
    def done(self) -> bool:
        return not self.left and not self.at_work

    def end(self) -> bool:
        """Without the batcher's lock.  False if it had ended before."""
        if self._ended:
            return False
        self._ended = True
        self._permit.release()
        self.scored.answers = [answer for answer in self._answers if answer is not None]
        self._on_end()
        return True


class Slot:
    """One input of a job, taken by a thread: raw first, then what the graph reads."""

    __slots__ = ("item", "job", "place", "prepared")

    def __init__(self, job: Job, place: int, item: Input) -> None:
        self.job = job
        self.place = place
        self.item: Input | None = item
        self.prepared: Prepared | None = None
