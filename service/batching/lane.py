"""One model version and set of graphs: who waits for it, and what its next batch is."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from service.batches import BatchLimits
from service.batching.costs import limits_of
from service.batching.job import Asked, Job, Slot
from service.bundle import FORWARD
from service.scoring import Network
from service.tuning import LONGEST_RUN_SECONDS

_WORTH_A_THREAD_SECONDS = 0.001


@dataclass
class Round:
    """What a thread does next: prepare what is raw, and then, if `runs`, run all of it."""

    lane: "Lane"
    network: Network
    slots: list[Slot]
    runs: bool
    reason: str

    @property
    def work_seconds(self) -> float:
        """As estimated."""
        return sum(slot.job.work_each for slot in self.slots)


class Lane:
    """Under the batcher's lock throughout."""

    def __init__(self, asked: Asked, workers: int, limits: BatchLimits) -> None:
        bundle, plan = asked.bundle, asked.plan
        self.bundle = bundle
        self.limits = limits_of(bundle, plan, limits)
        session = bundle.session(FORWARD)
        self._network = Network(bundle, plan.graphs, limits.on_demand_rows)
        # one batch at a time where a session has many threads of its own or a device; while more
        # than a batch waits, one for each processor leaves none idle when the others are late
        alone = session.threads > 1 or session.provider != "cpu"
        self._workers = workers
        self._most_running = 1 if alone else workers
        self._threads = session.threads
        self._one_batch = min(self.limits.rows, session.tuning.rows)
        self._single: Network | None = None
        if session.single is not None and plan.graphs == (FORWARD,):
            self._single = Network(bundle, plan.graphs, limits.on_demand_rows, single_threads=True)
        # where batches pay, further threads wait for one: they would take what comes one by one
        self._worth_another = min(session.tuning.enough, self.limits.rows)
        self.running = 0
        self.virtual_seconds = 0.0  # of work it was given; the lane with least is next
        self._jobs: deque[Job] = deque()
        self._ready: deque[Slot] = deque()
        self._preparing = 0

    @property
    def waiting(self) -> list[Job]:
        """Of which some input is neither answered nor at work."""
        return list({*self._jobs, *(slot.job for slot in self._ready)})

    def add(self, job: Job) -> None:
        self._jobs.append(job)

    def remove(self, job: Job) -> None:
        """What waits of it, prepared or not."""
        if job in self._jobs:
            self._jobs.remove(job)
        if any(slot.job is job for slot in self._ready):
            for slot in self._ready:
                if slot.job is job:
                    job.give_up(slot)
            self._ready = deque(slot for slot in self._ready if slot.job is not job)

    @property
    def idle(self) -> bool:
        return not (self._jobs or self._ready or self.running or self._preparing)

    @property
    def can_run(self) -> bool:
        if self.running >= self._most_running:
            return False
        return self._holds(1 if self.running == 0 else self._worth_another)

    def _network_now(self) -> Network:
        """For the next batch; and how many may run beside it."""
        if self._single is None:
            return self._network
        if self.running == 0:
            self._most_running = self._workers if self._holds(self._one_batch + 1) else 1
        return self._network if self._most_running == 1 else self._single

    def _holds(self, inputs: int) -> bool:
        """Whether so many wait; every job has one at least."""
        waiting = len(self._ready)
        for job in self._jobs:
            if waiting >= inputs:
                break
            waiting += job.left
        return waiting >= inputs

    @property
    def can_prepare(self) -> bool:
        """Its next batch, while others run; what takes no time is left to them."""
        return self._slow_to_prepare and len(self._ready) + self._preparing < self.limits.rows

    @property
    def _slow_to_prepare(self) -> bool:
        """What is next."""
        return bool(self._jobs) and self._jobs[0].asked.prepare_seconds > _WORTH_A_THREAD_SECONDS

    def take(self, now: float, *, runs: bool, reason: str, expired: Callable[[Job], None]) -> Round:
        """The next batch: from every job its share.  `expired` hears of jobs that are too late."""
        round_ = Round(self, self._network_now() if runs else self._network, [], runs, reason)
        if runs:
            self._add_ready(round_)
            self._add_raw(round_, self.limits.rows, now, expired)
            self.running += 1
        else:
            room = self.limits.rows - len(self._ready) - self._preparing
            self._add_raw(round_, room, now, expired)
            self._preparing += len(round_.slots)
        if self._jobs or self._ready:
            round_.reason = "full"
        return round_

    def join(self, round_: Round, now: float, expired: Callable[[Job], None]) -> list[Slot]:
        """What came while a batch was prepared and no other thread is going to take; prepared
        itself next, unless that takes time.
        """
        if self.can_run:
            return []
        before = len(round_.slots)
        self._add_ready(round_)
        if not self._slow_to_prepare:
            self._add_raw(round_, self.limits.rows, now, expired)
        return round_.slots[before:]

    def _add_ready(self, round_: Round) -> None:
        slots, pace = round_.slots, self._pace(round_)
        seconds = round_.work_seconds * pace
        while self._ready and len(slots) < self.limits.rows:
            seconds += self._ready[0].job.work_each * pace
            if slots and seconds > LONGEST_RUN_SECONDS:
                break
            slots.append(self._ready.popleft())

    def _add_raw(
        self, round_: Round, most: int, now: float, expired: Callable[[Job], None]
    ) -> None:
        slots, pace = round_.slots, self._pace(round_)
        seconds = round_.work_seconds * pace
        while self._jobs and len(slots) < most:
            job = self._jobs.popleft()
            if job.asked.deadline.at <= now:
                expired(job)
                continue
            share = max(1, (most - len(slots)) // (len(self._jobs) + 1))
            each = job.work_each * pace
            if each > 0:
                affordable = int((LONGEST_RUN_SECONDS - seconds) / each)
                if affordable < 1 and slots:
                    self._jobs.appendleft(job)
                    break
                share = min(share, max(1, affordable))
            taken = job.take(min(share, job.left), now)
            slots += taken
            seconds += each * len(taken)
            if job.left:
                self._jobs.append(job)

    def _pace(self, round_: Round) -> int:
        """Estimates are those of all threads."""
        return self._threads if round_.network is self._single else 1

    def prepared(self, round_: Round, good: list[Slot]) -> None:
        self._preparing -= len(round_.slots)
        self._ready.extend(good)
