"""A graph on demand: opened once, whatever the threads; a failure rests before the next attempt.
A graph that all processors run is kept for one processor too."""

import logging
import math
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from tiny_bundle import id_images

from service import graphs
from service.bundle import FORWARD, BundleCorrupt, Golden, GoldenTolerance, TextInput
from service.cpus import usable_cpus
from service.errors import DetectorUnavailable
from service.graphs import RETRY_SECONDS, Expected, OnDemandGraph, SessionOptions
from service.onnx_session import OnnxSession
from service.repository import open_repository

FILE = "perturbed-odin.onnx"
FOLDER = Path("models") / "m" / "1"


@pytest.mark.skipif(usable_cpus() < 2, reason="needs two processors")
@pytest.mark.parametrize("kept", [True, False])
def test_a_network_that_is_run_by_all_processors_is_kept_for_one_too(
    models_dir: Path, monkeypatch: pytest.MonkeyPatch, kept: bool
) -> None:
    monkeypatch.setattr(graphs, "SMALL_NETWORK_SECONDS", 0.0)
    monkeypatch.setattr(graphs, "_WORTH_ALL_THREADS", math.inf)
    monkeypatch.setattr(graphs, "_TWICE_IN_MEMORY_BYTES", 2**20 if kept else 1)
    bundle = open_repository(models_dir, SessionOptions("cpu", None)).get("tiny")
    session = bundle.session(FORWARD)
    assert session.threads == usable_cpus()
    if not kept:
        assert session.single is None
        return
    assert session.single is not None
    assert (session.single.threads, session.single.single) == (1, None)
    images, names = id_images(5, 3), bundle.plan().outputs_of(FORWARD)
    wide, single = session.run(images, names), session.single.run(images, names)
    for name in names:
        np.testing.assert_array_equal(wide[name], single[name])


@pytest.mark.skipif(usable_cpus() < 2, reason="needs two processors")
@pytest.mark.parametrize(("alone", "wide", "chosen"), [
    (0.010, 0.0074, usable_cpus()),
    (0.010, 0.0076, 1),  # a quarter sooner would cost a fifth more of the processors
    (0.002, 0.0002, 1),  # too small to be worth a second session
])  # fmt: skip
def test_all_processors_run_one_input_where_that_makes_it_clearly_faster(
    models_dir: Path, monkeypatch: pytest.MonkeyPatch, alone: float, wide: float, chosen: int
) -> None:
    def least_seconds(_: object, session: OnnxSession) -> float:
        return alone if session.threads == 1 else wide

    monkeypatch.setattr(graphs._Stopwatch, "least_seconds", least_seconds)
    bundle = open_repository(models_dir, SessionOptions("cpu", None)).get("tiny")
    assert bundle.session(FORWARD).threads == chosen


def test_what_one_text_takes_is_that_of_median_length_without_padding() -> None:
    padding = TextInput(
        tokenizer="tokenizer.json", max_tokens=6, vocabulary_size=9, pad_id=0, unknown_id=1
    )
    batch = np.array([[5, 4, 3, 2, 2, 2], [2, 0, 0, 0, 0, 0], [7, 8, 7, 0, 0, 0]])
    golden = Golden(np.array(["long", "short", "as most"]), {})
    tolerance = GoldenTolerance(absolute=0, relative=0)
    expected = Expected(padding, [], golden, batch, FOLDER / "golden.npz", tolerance)
    np.testing.assert_array_equal(graphs._typical(expected), [[7, 8, 7]])


class Opener:
    """Counts its calls; raises what `fails` holds."""

    def __init__(self) -> None:
        self.calls = 0
        self.fails: Exception | None = None
        self.session = object()

    def __call__(self) -> Any:
        self.calls += 1
        if self.fails is not None:
            raise self.fails
        return self.session


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def graph_of(opener: Callable[[], Any], sessions: dict[str, Any], clock: Clock) -> OnDemandGraph:
    return OnDemandGraph(FOLDER, FILE, opener, sessions, clock=clock)


def test_the_first_use_opens_it_and_the_others_find_it_open() -> None:
    opener, sessions = Opener(), cast(dict[str, Any], {})
    graph = graph_of(opener, sessions, Clock())
    assert (graph.state, opener.calls, sessions) == ("not_opened", 0, {})
    graph.check()
    assert opener.calls == 0
    assert graph.session() is opener.session
    assert graph.session() is opener.session
    assert (graph.state, opener.calls, sessions) == ("ready", 1, {FILE: opener.session})


def test_many_threads_open_it_once() -> None:
    opener, sessions, gate = Opener(), cast(dict[str, Any], {}), threading.Event()

    def slowly() -> Any:
        gate.wait(10)
        return opener()

    graph = graph_of(slowly, sessions, Clock())
    with ThreadPoolExecutor(8) as pool:
        jobs = [pool.submit(graph.session) for _ in range(8)]
        gate.set()
        assert {id(job.result(10)) for job in jobs} == {id(opener.session)}
    assert opener.calls == 1


def test_many_threads_meet_a_failure_once() -> None:
    opener = Opener()
    opener.fails = MemoryError()
    graph = graph_of(opener, {}, Clock())
    with ThreadPoolExecutor(8) as pool:
        jobs = [pool.submit(graph.session) for _ in range(8)]
        assert all(isinstance(job.exception(10), DetectorUnavailable) for job in jobs)
    assert opener.calls == 1


def test_a_failure_rests_then_is_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    opener, clock, sessions = Opener(), Clock(), cast(dict[str, Any], {})
    graph = graph_of(opener, sessions, clock)
    opener.fails = BundleCorrupt(FOLDER / FILE, "is damaged")
    with (
        caplog.at_level(logging.ERROR),
        pytest.raises(DetectorUnavailable, match=f"{FILE} cannot be served") as caught,
    ):
        graph.session()
    assert caught.value.retry_after_seconds == RETRY_SECONDS
    assert str(FOLDER) not in caught.value.detail  # the caller need not know our folders
    assert [record.getMessage() for record in caplog.records] == [
        f"graph {FOLDER / FILE} cannot be served: {FOLDER / FILE}: is damaged"
    ]
    assert graph.state == "failed"

    clock.now += RETRY_SECONDS - 0.5
    for call in (graph.check, graph.session):
        with pytest.raises(DetectorUnavailable, match="due in 1 s"):
            call()
    assert opener.calls == 1

    clock.now += 1
    opener.fails = None
    graph.check()
    assert graph.session() is opener.session
    assert (graph.state, opener.calls) == ("ready", 2)


def test_a_second_failure_rests_as_long() -> None:
    opener, clock = Opener(), Clock()
    graph = graph_of(opener, {}, clock)
    opener.fails = RuntimeError("no memory on the device")
    for attempt in (1, 2, 3):
        for _ in range(5):
            with pytest.raises(DetectorUnavailable):
                graph.session()
        assert opener.calls == attempt
        clock.now += RETRY_SECONDS
