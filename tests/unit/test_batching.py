"""What goes into a batch, whose turn it is, and what becomes of callers that leave or fail.

A session stands at a gate, so that the order of things is the test's and not the machine's.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from pictures import id_png
from prometheus_client import CollectorRegistry
from tiny_bundle import id_images

from service.batching.batcher import WorkerFailed
from service.bundle import FORWARD
from service.cpus import usable_cpus
from service.decision import Verdict
from service.decoding import ImageUnreadable
from service.errors import (
    DeadlinePassed,
    InferenceFailed,
    Overloaded,
    ServiceError,
    ShuttingDown,
)
from service.graphs import SessionOptions
from service.inputs import EncodedImage, Input, PixelImage
from service.loading import LoadedBundle
from service.metrics import Metrics
from service.repository import open_repository
from service.runtime import Runtime
from service.scoring import Deadline, Scored, Scorer
from service.settings import Settings
from service.tuning import Tuning, tune

POISON = 255  # an image of nothing else makes the session throw


class Gate:
    """At the session seam: every run waits for the gate, and is written down."""

    provider = "cpu"

    def __init__(self, real: Any, rows: int) -> None:
        self.real = real
        self.threads = usable_cpus() + 1  # more than one: one run at a time
        self.tuning = Tuning(rows=rows, seconds_per_row=1e-4)
        self.single: Gate | None = None
        self.open = threading.Event()
        self.entered = threading.Semaphore(0)
        self.batches: list[list[int]] = []
        self.die: BaseException | None = None

    def run(self, pixels: Any, outputs: Sequence[str]) -> Any:
        self.batches.append(pixels[:, 0, 0, 0].tolist())
        self.entered.release()
        assert self.open.wait(20)
        if self.die is not None:
            exc, self.die = self.die, None
            raise exc
        if (pixels == POISON).all(axis=(1, 2, 3)).any():
            raise RuntimeError("poisoned")
        return self.real.run(pixels, outputs)


class World:
    """One runtime with gated models, and callers on an event loop of their own."""

    def __init__(self, models_dir: Path, rows: int) -> None:
        settings = Settings(models_dir=models_dir, default_image_model="tiny", max_npy_inputs=64)
        self.runtime = Runtime(settings, Metrics(CollectorRegistry()))
        repository = open_repository(models_dir, SessionOptions("cpu", 1))
        self.runtime.serve(repository)
        self.bundles = {name: repository.get(name) for name in ("tiny", "other")}
        self.gates: dict[str, Gate] = {}
        for name, bundle in self.bundles.items():
            sessions = cast(dict[str, Any], bundle.sessions)
            self.gates[name] = sessions[FORWARD] = Gate(sessions[FORWARD], rows)
        self._callers = ThreadPoolExecutor(64)
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever)
        self._thread.start()

    @property
    def gate(self) -> Gate:
        return self.gates["tiny"]

    def ask(self, inputs: Sequence[Input], model: str = "tiny", seconds: float = 30.0) -> Any:
        """A future of Scored; the inputs are in the queue when this returns."""
        before = self.runtime.admission.queued
        bundle = self.bundles[model]
        call = self.runtime.score(bundle, inputs, bundle.plan(), Deadline.after(seconds))
        asked = asyncio.run_coroutine_threadsafe(call, self.loop)
        until(lambda: self.runtime.admission.queued > before or asked.done())
        return asked

    def hold(self) -> Any:
        """One input in the model, at the gate: what comes now has to wait."""
        first = self.ask(pixels(1))
        assert self.gate.entered.acquire(timeout=20)
        return first

    def open(self) -> None:
        for gate in self.gates.values():
            gate.open.set()

    def close(self) -> None:
        self.open()
        self.runtime.close()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(20)
        self.loop.close()


def until(condition: Callable[[], bool]) -> None:
    give_up = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.002)


def pixels(count: int, mark: int = 1) -> list[Input]:
    """Images whose first pixel is `mark`."""
    images = id_images(count, 3)
    images[:, 0, 0, 0] = mark
    return [PixelImage(image) for image in images]


def poison() -> Input:
    return PixelImage(np.full((8, 8, 1), POISON, np.uint8))


def kinds(scored: Scored) -> list[type]:
    return [type(answer) for answer in scored.answers]


@pytest.fixture
def world(models_dir: Path) -> Generator[World]:
    made = World(models_dir, rows=8)
    yield made
    made.close()
    assert made.runtime.admission.queued == 0


def test_what_arrives_while_the_model_works_is_the_next_batch(world: World) -> None:
    first = world.hold()
    others = [world.ask(pixels(1, mark)) for mark in range(2, 7)]
    world.open()
    for asked in (first, *others):
        assert kinds(asked.result(20)) == [Verdict]
    assert [sorted(batch) for batch in world.gate.batches] == [[1], [2, 3, 4, 5, 6]]


def test_nobody_waits_for_company(world: World) -> None:
    world.open()
    for _ in range(3):
        assert kinds(world.ask(pixels(1)).result(20)) == [Verdict]
    assert world.gate.batches == [[1]] * 3
    value = world.runtime.metrics.registry.get_sample_value

    def released(reason: str) -> float:
        return value("oodscore_batch_release_total", {"model": "tiny", "reason": reason}) or 0

    # free: the thread had answered and was not back at the queue yet
    until(lambda: released("idle") + released("free") == 3)
    assert released("idle") >= 1


def test_small_requests_share_every_batch_with_a_large_one(world: World) -> None:
    first = world.hold()
    large = world.ask(pixels(60, 9))
    small = [world.ask(pixels(1, mark)) for mark in range(2, 6)]
    world.open()
    for asked in (first, large, *small):
        asked.result(20)
    turn = {mark: n for n, batch in enumerate(world.gate.batches) for mark in batch if mark != 9}
    # two batches may have been made of the large one before the small ones came
    assert max(turn.values()) <= 3
    assert len(world.gate.batches) >= 8
    assert max(map(len, world.gate.batches)) == 8


def test_models_take_turns(models_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long queue of one model does not hold up another."""
    world = World(models_dir, rows=1)
    behind: list[int] = []  # batches of the first model when the other one had its turn
    run = world.gates["other"].run

    def noted(pixels: Any, outputs: Sequence[str]) -> Any:
        behind.append(len(world.gate.batches))
        return run(pixels, outputs)

    monkeypatch.setattr(world.gates["other"], "run", noted)
    try:
        holds = world.hold()
        many = [world.ask(pixels(8)) for _ in range(8)]
        one = world.ask(pixels(1), "other")
        world.open()
        assert kinds(one.result(20)) == [Verdict]
        for asked in (holds, *many):
            asked.result(20)
        assert behind[0] < 40  # of 65
    finally:
        world.close()


def test_an_input_that_fails_fails_alone(world: World) -> None:
    first = world.hold()
    good = [world.ask(pixels(1, mark)) for mark in (2, 3)]
    bad = world.ask([poison()])
    cut = world.ask([EncodedImage(id_png()[:40])])
    mixed = world.ask([*pixels(1, 4), EncodedImage(b"no image"), poison(), *pixels(1, 5)])
    world.open()
    assert [kinds(asked.result(20)) for asked in (first, *good)] == [[Verdict]] * 3
    assert kinds(bad.result(20)) == [InferenceFailed]
    assert kinds(cut.result(20)) == [ImageUnreadable]
    assert kinds(mixed.result(20)) == [Verdict, ImageUnreadable, InferenceFailed, Verdict]
    value = world.runtime.metrics.registry.get_sample_value
    alone = value("oodscore_batch_release_total", {"model": "tiny", "reason": "alone"}) or 0
    assert alone >= 6


def test_scores_do_not_depend_on_the_batch(world: World) -> None:
    images = id_images(20, 5)
    first = world.hold()
    together = world.ask([PixelImage(image) for image in images])
    world.open()
    first.result(20)
    for image, answer in zip(images, together.result(20).answers, strict=True):
        (alone,) = world.ask([PixelImage(image)]).result(20).answers
        assert isinstance(alone, Verdict)
        assert answer.label == alone.label
        # float32, another order of sums
        assert answer.detectors.scores == pytest.approx(alone.detectors.scores, abs=1e-5)


def test_who_leaves_costs_nothing_and_frees_nothing_early(world: World) -> None:
    admission = world.runtime.admission
    first = world.hold()
    waiting = world.ask(pixels(5, 2))
    stays = world.ask(pixels(2, 3))
    assert admission.queued == 8
    first.cancel()
    waiting.cancel()
    until(lambda: admission.queued == 3)  # the model still works on the first
    world.open()
    assert kinds(stays.result(20)) == [Verdict] * 2
    until(lambda: admission.queued == 0)
    assert sorted(mark for batch in world.gate.batches for mark in batch) == [1, 3, 3]


def test_deadlines_are_seen_before_work_is_spent(world: World) -> None:
    first = world.hold()
    late = world.ask(pixels(1, 2), seconds=0.05)
    with pytest.raises(DeadlinePassed):
        late.result(20)
    with pytest.raises(DeadlinePassed):
        world.ask(pixels(1, 2), seconds=-1).result(20)
    world.open()
    first.result(20)
    assert world.gate.batches == [[1]]


def test_work_that_comes_too_late_is_refused_at_once(world: World) -> None:
    world.gate.tuning = Tuning(rows=1, seconds_per_row=1.0)
    first = world.hold()
    with pytest.raises(Overloaded) as caught:
        world.ask(pixels(1), seconds=0.5).result(20)
    assert caught.value.retry_after_seconds >= 1
    world.open()
    first.result(20)
    assert kinds(world.ask(pixels(1), seconds=20).result(20)) == [Verdict]


def test_large_work_is_run_in_short_pieces(models_dir: Path) -> None:
    world = World(models_dir, rows=64)
    try:
        world.gate.tuning = Tuning(rows=64, seconds_per_row=0.03)  # three fit into 0.1 s
        world.open()
        world.ask(pixels(20)).result(20)
        assert max(map(len, world.gate.batches)) == 3
    finally:
        world.close()


def test_a_worker_goes_on_after_anything(world: World) -> None:
    """What the batcher does not expect fails the requests of that batch, and nobody else."""
    first = world.hold()
    unlucky = [world.ask(pixels(1, mark)) for mark in (2, 3)]
    world.gate.die = SystemExit(1)
    world.open()
    with pytest.raises(WorkerFailed):
        first.result(20)
    assert [kinds(asked.result(20)) for asked in unlucky] == [[Verdict]] * 2
    assert kinds(world.ask(pixels(1)).result(20)) == [Verdict]
    names = [t.name for t in threading.enumerate() if t.name.startswith("score_")]
    assert len(names) >= usable_cpus()


@pytest.mark.skipif(usable_cpus() < 2, reason="needs two processors: one thread each")
def test_where_batches_pay_another_thread_waits_for_one(world: World) -> None:
    world.gate.threads = 1
    world.gate.tuning = Tuning(rows=8, seconds_per_row=1e-4, enough=4)
    first = world.hold()
    asked = [world.ask(pixels(3, 2))]
    assert not world.gate.entered.acquire(timeout=0.2)
    asked.append(world.ask(pixels(1, 9)))
    assert world.gate.entered.acquire(timeout=20)
    assert [sorted(batch) for batch in world.gate.batches] == [[1], [2, 2, 2, 9]]
    world.open()
    for each in (first, *asked):
        assert set(kinds(each.result(20))) == {Verdict}


@pytest.mark.parametrize(
    ("threads", "batches"), [(usable_cpus() + 1, [[1, 2, 2]]), (1, [[1], [2, 2]])]
)
def test_what_comes_while_a_batch_is_prepared_joins_it_unless_another_thread_is_free(
    world: World, monkeypatch: pytest.MonkeyPatch, threads: int, batches: list[list[int]]
) -> None:
    if usable_cpus() < 2:
        pytest.skip("needs two processors: one thread each")
    world.gate.threads = threads
    preparing, go = threading.Event(), threading.Event()
    prepare = Scorer.prepare

    def slowly(self: Scorer, bundle: LoadedBundle, item: Any, *more: Any) -> Any:
        if item.pixels[0, 0, 0] == 1:
            preparing.set()
            assert go.wait(20)
        return prepare(self, bundle, item, *more)

    monkeypatch.setattr(Scorer, "prepare", slowly)
    first = world.ask(pixels(1, 1))
    assert preparing.wait(20)
    second = world.ask(pixels(2, 2))
    if threads == 1:
        assert world.gate.entered.acquire(timeout=20)  # while the first is still being prepared
    go.set()
    world.open()
    assert kinds(first.result(20)) + kinds(second.result(20)) == [Verdict] * 3
    assert sorted(world.gate.batches) == batches


@pytest.mark.skipif(usable_cpus() < 2, reason="needs two processors: one thread each")
def test_while_more_than_a_batch_waits_processors_run_batches_of_their_own(
    models_dir: Path,
) -> None:
    world = World(models_dir, rows=2)
    wide = world.gate
    single = wide.single = Gate(wide.real, rows=2)
    world.gates["single"] = single
    alone = world.hold()
    waiting = [world.ask(pixels(1, mark)) for mark in (2, 3, 4, 5)]
    assert not single.entered.acquire(timeout=0.2)  # the wide one has all processors
    wide.open.set()
    for _ in range(2):
        assert single.entered.acquire(timeout=20)
    assert sorted(map(sorted, single.batches)) == [[2, 3], [4, 5]]
    world.open()
    for asked in (alone, *waiting):
        assert kinds(asked.result(20)) == [Verdict]
    until(lambda: world.runtime.batcher.lanes == 0)
    both = world.ask(pixels(2, 6))
    assert kinds(both.result(20)) == [Verdict] * 2
    assert wide.batches == [[1], [6, 6]]
    world.close()


def test_an_error_while_counting_takes_no_answer_away(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    world.open()

    def broken(*_: Any) -> None:
        raise RuntimeError("no more metrics")

    monkeypatch.setattr(world.runtime, "_count", broken)
    assert kinds(world.ask(pixels(1)).result(20)) == [Verdict]
    assert "no more metrics" in caplog.text


def test_closing_finishes_what_runs_and_refuses_the_rest(models_dir: Path) -> None:
    world = World(models_dir, rows=8)
    first = world.hold()
    waiting = world.ask(pixels(3, 2))
    closing = threading.Thread(target=world.runtime.close)
    closing.start()
    until(lambda: world.runtime.batcher.closed)
    world.open()
    closing.join(20)
    assert kinds(first.result(20)) == [Verdict]
    with pytest.raises(ShuttingDown):
        waiting.result(20)
    with pytest.raises(ShuttingDown):
        world.ask(pixels(1)).result(20)
    world.close()


def test_an_idle_batcher_holds_no_bundle(world: World) -> None:
    """A version that is not served any more can leave memory."""
    world.open()
    world.ask(pixels(3)).result(20)
    until(lambda: world.runtime.batcher.lanes == 0)


def test_many_callers_of_all_kinds(world: World) -> None:
    """Nothing is lost, nothing is left."""
    world.open()
    rng = np.random.default_rng(0)
    asked: list[tuple[LoadedBundle | None, Any]] = []
    for number in range(200):
        name = ("tiny", "other")[number % 2]
        inputs = pixels(int(rng.integers(1, 12)), 1 + number % 200)
        bundle = world.bundles[name]
        call = world.runtime.score(bundle, inputs, bundle.plan(), Deadline.after(60))
        future = asyncio.run_coroutine_threadsafe(call, world.loop)
        if number % 5 == 0:
            future.cancel()
        else:
            asked.append((bundle, future))
    for _, future in asked:
        answers = future.result(60).answers
        assert not any(isinstance(answer, ServiceError) for answer in answers)
    until(lambda: world.runtime.admission.queued == 0)
    until(lambda: world.runtime.batcher.lanes == 0)


@pytest.mark.parametrize(
    ("seconds", "rows", "enough"),
    [
        (lambda rows: 0.02 * rows, 4, 1),  # longer than 0.1 s it may not take
        (lambda rows: 0.02 + 0.001 * rows, 32, 32),  # the larger the better
        (lambda rows: 0.0004 + 0.0002 * rows, 64, 8),  # much better, then little
        (lambda rows: 0.0002 + 0.0005 * rows, 64, 1),  # not worth waiting for
        (lambda rows: 0.0001 * rows, 64, 1),  # all the same
        (lambda rows: 0.01 * rows if rows < 4 else 0.02 * rows, 2, 1),  # larger ones are slower
    ],
)
def test_the_batch_is_the_largest_that_is_as_fast_as_any(
    seconds: Callable[[int], float], rows: int, enough: int
) -> None:
    tuning = tune(seconds, 64, tokens_per_row=10)
    assert (tuning.rows, tuning.enough) == (rows, enough)
    assert tuning.seconds_per_row == pytest.approx(seconds(rows) / rows)
    assert tuning.tokens == 10 * rows
