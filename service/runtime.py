"""What one running service holds, and the way a request goes through it off the event loop."""

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TypeVar

from service.admission import Admission, PixelBudget
from service.batches import BatchLimits
from service.batching import Asked, Batch, Batcher, Job, Watch, deliver, seconds_of
from service.captures import (
    OUTCOMES,
    CaptureFolder,
    CaptureLimits,
    CaptureStore,
    keep_as_sent,
)
from service.cpus import usable_cpus
from service.decision import Plan, Verdict
from service.decoding import ImageLimits
from service.drift import DriftCollector, DriftOptions, DriftTracker, WindowSize
from service.errors import DeadlinePassed, NotReady, Overloaded, ServiceError, ShuttingDown
from service.graphs import SessionOptions
from service.inputs import Input
from service.loading import LoadedBundle
from service.metrics import Metrics
from service.reloading import ModelsFolder, Reloader, SessionSetup, VersionState
from service.repository import Repository
from service.request_bodies import BodyLimits
from service.scoring import Deadline, Scored, Scorer
from service.served import ServedVersions
from service.settings import Settings
from service.versions import VersionPolicy

logger = logging.getLogger(__name__)

_T = TypeVar("_T")


@dataclass
class Runtime:
    """Made by create_app; `repository` is set once all bundles are verified."""

    settings: Settings
    metrics: Metrics
    repository: Repository | None = None
    draining: bool = False

    def __post_init__(self) -> None:
        settings = self.settings
        self.admission = Admission(settings.max_queued_inputs, settings.max_queued_seconds)
        self.metrics.queue_seconds.set_function(lambda: self.admission.queued_seconds)
        self.metrics.queue_items.set_function(lambda: self.admission.queued)
        self.scorer = Scorer(
            ImageLimits(settings.max_image_bytes, settings.max_pixels),
            PixelBudget(settings.max_decoded_pixels),
            BatchLimits(
                settings.inference_batch, settings.on_demand_batch, settings.inference_tokens
            ),
        )
        self.body_limits = BodyLimits(
            settings.max_body_bytes,
            settings.max_inputs,
            settings.max_npy_inputs,
            settings.max_pixels,
            settings.max_text_characters,
        )
        self.drift = _drift_tracker(settings)
        if self.drift is not None:
            self.metrics.registry.register(DriftCollector(self.drift))
        self.captures = _capture_store(settings, self.metrics)
        self.served = ServedVersions(self.metrics, self.drift)
        self.reloader = Reloader(
            _models_folder(settings, self.metrics), settings.reload_seconds, self.served.tidy
        )
        self.open_bodies = 0
        self._bodies_lock = threading.Lock()
        self.batcher = Batcher(self.scorer, usable_cpus(), self._batch_ran, self._jobs_ended)
        # one: who waits for a graph to be opened keeps no thread from those who need none
        self._opening = ThreadPoolExecutor(1, thread_name_prefix="open")

    def serve(self, repository: Repository) -> None:
        """From now on requests are answered by these bundles.  Those that have one keep it."""
        before = [] if self.repository is None else self.repository.all()
        now = repository.all()
        for bundle in now:
            if not any(bundle is other for other in before):
                self.served.begin(bundle)
        self.repository = repository
        places = {(bundle.name, bundle.version) for bundle in now}
        for bundle in before:
            if (bundle.name, bundle.version) not in places:
                self.served.end(bundle)

    def versions(self) -> list[VersionState]:
        """Every version that lies in the models folder or is being used."""
        draining = set(self.served.draining)
        states = [
            replace(state, state="draining")
            if (state.name, state.version) in draining and state.state == "not_loaded"
            else state
            for state in self.reloader.folder.states
        ]
        return states

    def require_repository(self) -> Repository:
        """Raises NotReady."""
        if self.repository is None:
            raise NotReady
        return self.repository

    def check_ready(self) -> None:
        """Raises NotReady, ShuttingDown.  Draining, requests are still answered."""
        self.require_repository()
        if self.draining:
            raise ShuttingDown

    @contextmanager
    def body_slot(self) -> Generator["BodySlot"]:
        """Held while a request's body is in memory.  Raises Overloaded."""
        if (full := self._full_of_bodies()) is not None:
            raise full
        slot = BodySlot(self._count_body)
        try:
            yield slot
        finally:
            slot.release()

    def overloaded(self) -> Overloaded | None:
        """Why a request would be refused whatever it held, None where it would not."""
        return self._full_of_bodies() or self.admission.overloaded()

    def _full_of_bodies(self) -> Overloaded | None:
        limit = self.settings.max_open_requests
        if self.open_bodies < limit:
            return None
        wait = self.admission.retry_after_seconds()
        return Overloaded(self.open_bodies, "requests", limit, wait)

    def _count_body(self, more: int) -> None:
        with self._bodies_lock:
            self.open_bodies += more

    async def score(
        self,
        bundle: LoadedBundle,
        inputs: Sequence[Input],
        plan: Plan,
        deadline: Deadline,
        *,
        body: "BodySlot | None" = None,
        gone: Callable[[], Awaitable[Exception]] | None = None,
    ) -> Scored:
        """Admit, wait for the batches that hold the inputs.

        The permit, and `body` with it, live as long as the work: a caller that leaves frees
        nothing early.  `gone` returns when the caller has left, with what is then to be raised;
        inputs that still wait are dropped.
        Raises DetectorUnavailable, Overloaded, DeadlinePassed, ShuttingDown.
        """
        came_at = time.monotonic()
        for graph in bundle.unopened(plan):
            await _result(self._opening.submit(bundle.session, graph), deadline)
        asked = Asked(bundle, plan, inputs, deadline, *seconds_of(bundle, plan, inputs))
        patience = deadline.remaining_seconds
        if patience <= 0:
            raise DeadlinePassed(deadline.seconds)
        permit = self.admission.admit(len(inputs), asked.work_seconds, patience)
        loop = asyncio.get_running_loop()
        caller: asyncio.Future[Scored] = loop.create_future()
        release = _nothing if body is None else body.hold()
        job = Job(asked, permit, caller, release, came_at)
        try:
            self.batcher.submit(job)
        except BaseException:
            job.end()
            raise
        watch = Watch(loop, caller, deadline, gone)
        try:
            return await caller
        finally:
            watch.stop()
            self.batcher.abandon(job)  # whatever ended the waiting; nothing if it is done

    def close(self) -> None:
        """Waits for running work; drops what has not begun."""
        self._opening.shutdown(cancel_futures=True)
        self.batcher.close()
        if self.drift is not None:
            self.drift.close()
        if self.captures is not None:
            self.captures.close()

    def _batch_ran(self, batch: Batch) -> None:
        model = self.served.metrics_of(batch.bundle)
        if model is not None:
            model.batch_size.observe(batch.size)
            model.releases[batch.reason].inc()

    def _jobs_ended(self, jobs: Sequence[Job]) -> None:
        """In a worker thread; those that were abandoned may end in the event loop's."""
        answered = [job for job in jobs if job.failure is None and not job.abandoned]
        for job in answered:
            try:
                self._count(job.asked.bundle, job.scored)
                if self.captures is not None:
                    asked = job.asked
                    self.captures.offer(asked.bundle.manifest, asked.inputs, job.scored.answers)
            except Exception:
                # the answer stands, whatever keeps it from being counted or captured
                logger.exception("an answer was given and not counted")
        deliver(jobs)
        if answered and self.drift is not None:
            try:
                self.drift.catch_up()
            except Exception:
                logger.exception("answers were not tracked for drift")

    def _count(self, bundle: LoadedBundle, scored: Scored) -> None:
        for stage, seconds in scored.stage_seconds.items():
            self.metrics.stages[stage].observe(seconds)
        model = self.served.metrics_of(bundle)
        if model is None:
            return
        for answer in scored.answers:
            if isinstance(answer, ServiceError):
                self.metrics.rejected_inputs.labels(answer.code).inc()
        verdicts = [answer for answer in scored.answers if isinstance(answer, Verdict)]
        model.count(verdicts)
        if self.drift is not None:
            self.drift.add(bundle.name, bundle.version, verdicts)


class BodySlot:
    """One body in memory: counted until everybody who holds it has let go."""

    def __init__(self, count: Callable[[int], None]) -> None:
        self._count = count
        self._holders = 0
        self._lock = threading.Lock()
        self.hold()

    def hold(self) -> Callable[[], None]:
        """Returns how to let go, to be called once, in any thread."""
        with self._lock:
            self._holders += 1
            first = self._holders == 1
        if first:
            self._count(1)
        return self.release

    def release(self) -> None:
        with self._lock:
            self._holders -= 1
            last = self._holders == 0
        if last:
            self._count(-1)


def _nothing() -> None:
    return


async def _result(job: Future[_T], deadline: Deadline) -> _T:
    """Raises DeadlinePassed, and what the job raises."""
    waiter = asyncio.wrap_future(job)
    done, _ = await asyncio.wait({waiter}, timeout=max(0.0, deadline.remaining_seconds))
    if not done:
        # cancels what has not begun; what has begun stops at its next deadline check
        waiter.cancel()
        raise DeadlinePassed(deadline.seconds)
    return waiter.result()


def _drift_tracker(settings: Settings) -> DriftTracker | None:
    if not settings.drift_tracking:
        return None
    window = WindowSize(settings.drift_window, settings.drift_window_seconds)
    options = DriftOptions(window, settings.drift_run_length, settings.drift_state_file)
    return DriftTracker(options)


def _capture_store(settings: Settings, metrics: Metrics) -> CaptureStore | None:
    """Raises CaptureFolderUnusable."""
    if settings.capture_dir is None:
        return None
    limits = CaptureLimits(
        settings.capture_per_label,
        settings.capture_max_inputs,
        settings.capture_max_bytes,
        timedelta(days=settings.capture_retention_days),
    )
    outcomes = {outcome: metrics.captures.labels(outcome) for outcome in OUTCOMES}
    store = CaptureStore(
        CaptureFolder(settings.capture_dir),
        limits,
        lambda outcome: outcomes[outcome].inc(),
        settings.capture_redaction or keep_as_sent,
    )
    metrics.watch_captures(lambda: store.stored, lambda: store.stored_bytes)
    return store


def _models_folder(settings: Settings, metrics: Metrics) -> ModelsFolder:
    return ModelsFolder(
        settings.models_dir,
        SessionSetup(
            SessionOptions(settings.provider, settings.threads, settings.inference_batch),
            settings.int8_models,
        ),
        VersionPolicy(settings.loaded_versions, settings.default_versions),
        settings.default_models,
        metrics,
    )
