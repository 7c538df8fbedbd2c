"""A caller waits on the event loop; jobs end in other threads."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from service.batching.job import Job
from service.errors import DeadlinePassed
from service.scoring import Deadline, Scored

# who is answered sooner has not been left waiting, and a look at the connection costs something
_LOOK_AFTER_SECONDS = 0.02

Gone = Callable[[], Awaitable[Exception]]


def deliver(jobs: Sequence[Job]) -> None:
    """Wakes each event loop once, however many of its callers are answered."""
    by_loop: dict[asyncio.AbstractEventLoop, list[Job]] = {}
    for job in jobs:
        by_loop.setdefault(job.caller.get_loop(), []).append(job)
    for loop, some in by_loop.items():
        try:
            loop.call_soon_threadsafe(_settle, some)
        except RuntimeError:
            continue  # the loop is closed: nobody waits there


def _settle(jobs: Sequence[Job]) -> None:
    for job in jobs:
        if job.caller.done():
            continue
        if job.failure is not None:
            job.caller.set_exception(job.failure)
        else:
            job.caller.set_result(job.scored)


class Watch:
    """Ends the waiting when the deadline passes, or when the caller has gone."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        caller: "asyncio.Future[Scored]",
        deadline: Deadline,
        gone: Gone | None,
    ) -> None:
        self._loop = loop
        self._caller = caller
        self._deadline = deadline
        self._gone = gone
        self._looking: asyncio.Task[None] | None = None  # kept here: a loop's own hold is weak
        remaining = max(0.0, deadline.remaining_seconds)
        if gone is not None and remaining > _LOOK_AFTER_SECONDS:
            self._timer = loop.call_later(_LOOK_AFTER_SECONDS, self._look)
        else:
            self._timer = loop.call_later(remaining, self._expire)

    def stop(self) -> None:
        """A look that has begun ends with the response, which ends the connection's reading too:
        a cancelled one would leave its frames, and all that they hold, to the garbage collector.
        """
        self._timer.cancel()

    def _expire(self) -> None:
        self._fail(DeadlinePassed(self._deadline.seconds))

    def _look(self) -> None:
        self._timer = self._loop.call_later(
            max(0.0, self._deadline.remaining_seconds), self._expire
        )
        self._looking = self._loop.create_task(self._wait_until_gone())

    async def _wait_until_gone(self) -> None:
        if self._gone is not None:
            self._fail(await self._gone())

    def _fail(self, exc: Exception) -> None:
        if not self._caller.done():
            self._caller.set_exception(exc)
