"""What one running service holds, and the way a request goes through it off the event loop."""

import asyncio
import time
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TypeVar

from service.admission import Admission, PixelBudget
from service.batches import BatchLimits
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
from service.metrics import Metrics, ModelMetrics
from service.reloading import ModelsFolder, Reloader, SessionSetup, VersionState
from service.repository import Repository
from service.request_bodies import BodyLimits
from service.scoring import Answer, Deadline, Scored, Scorer
from service.served import ServedVersions
from service.settings import Settings
from service.versions import VersionPolicy

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
        self.admission = Admission(settings.max_queued_inputs)
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
        self._pool = ThreadPoolExecutor(usable_cpus(), thread_name_prefix="score")
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
    def body_slot(self) -> Generator[None]:
        """Held while a request's body is in memory.  Raises Overloaded.  Event loop only."""
        limit = self.settings.max_open_requests
        if self.open_bodies >= limit:
            wait = self.admission.retry_after_seconds()
            raise Overloaded(self.open_bodies, "requests", limit, wait)
        self.open_bodies += 1
        try:
            yield
        finally:
            self.open_bodies -= 1

    async def score(
        self, bundle: LoadedBundle, inputs: Sequence[Input], plan: Plan, deadline: Deadline
    ) -> Scored:
        """Admit, wait for a worker thread, score, count.

        The permit lives as long as the work: a caller that leaves frees nothing early.
        Raises DetectorUnavailable, Overloaded, DeadlinePassed.
        """
        queued_at = time.perf_counter()
        for graph in bundle.unopened(plan):
            await _result(self._opening.submit(bundle.session, graph), deadline)
        permit = self.admission.admit(len(inputs))

        def work() -> Scored:
            waited = time.perf_counter() - queued_at
            deadline.check()
            scored = self.scorer.score(bundle, inputs, plan, deadline)
            scored.stage_seconds = {"queue": waited, **scored.stage_seconds}
            self._count(bundle, scored)
            if self.captures is not None:
                self.captures.offer(bundle.manifest, inputs, scored.answers)
            return scored

        try:
            job = self._pool.submit(work)
        except BaseException:
            permit.release()
            raise
        job.add_done_callback(lambda _: permit.release())
        return await _result(job, deadline)

    def close(self) -> None:
        """Waits for running work; drops what has not begun."""
        self._opening.shutdown(cancel_futures=True)
        self._pool.shutdown(cancel_futures=True)
        if self.drift is not None:
            self.drift.close()
        if self.captures is not None:
            self.captures.close()

    def _count(self, bundle: LoadedBundle, scored: Scored) -> None:
        for stage, seconds in scored.stage_seconds.items():
            self.metrics.stages[stage].observe(seconds)
        model = self.served.metrics_of(bundle)
        if model is None:
            return
        for size in scored.batch_sizes:
            model.batch_size.observe(size)
        for answer in scored.answers:
            self._count_answer(answer, model)
        if self.drift is not None:
            verdicts = [answer for answer in scored.answers if isinstance(answer, Verdict)]
            self.drift.add(bundle.name, bundle.version, verdicts)

    def _count_answer(self, answer: Answer, model: ModelMetrics) -> None:
        if isinstance(answer, ServiceError):
            self.metrics.rejected_inputs.labels(answer.code).inc()
            return
        model.decisions[answer.deciding.decision].inc()
        model.labels[answer.label_index].inc()
        if answer.truncated:
            model.truncated.inc()
        model.add_p_values(answer.detectors.names, answer.detectors.p_values)


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
        SessionSetup(SessionOptions(settings.provider, settings.threads), settings.int8_models),
        VersionPolicy(settings.loaded_versions, settings.default_versions),
        settings.default_models,
        metrics,
    )
