"""Versions come and go while requests are being answered."""

import shutil
import threading
import time
import weakref
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import httpx
import numpy as np
import pytest
from damaged_bundles import DAMAGE
from live_server import LiveServer, live_server
from numpy.typing import NDArray
from pictures import encode, id_png, npy
from tiny_bundle import id_images, ood_images
from versioned_bundle import publish_versioned, scores_of

from service.api_keys import entry_of, new_secret, parse_entries
from service.bundle import FORWARD, BundleRef
from service.loading import LoadedBundle
from service.onnx_session import OnnxSession
from service.reloading import opening
from service.served import SERIES_KEPT_SECONDS

SWAPS = 50
PNG = {"Content-Type": "image/png"}
NPY = {"Content-Type": "application/x-npy"}
_SECRET = new_secret()
KEY = {"X-API-Key": _SECRET}


@contextmanager
def serving(models: Path, **settings: Any) -> Generator[LiveServer]:
    """With one key for everything, which the client carries."""
    keys = parse_entries([entry_of("all", "score+metrics+admin", _SECRET)])
    with live_server(models, api_keys=keys, **settings) as running:
        running.client.headers.update(KEY)
        yield running


def versions(client: httpx.Client) -> dict[str, dict[str, Any]]:
    return {v["version"]: v for v in client.get("/models").json()["versions"]}


def reload(client: httpx.Client) -> dict[str, dict[str, Any]]:
    response = client.post("/models/reload")
    assert response.status_code == 200, response.text
    return {v["version"]: v for v in response.json()["versions"]}


def check(answer: Any, images: NDArray[np.uint8], low: int, high: int) -> None:
    """Every number of the answer belongs to the version it names, and to those served then."""
    version = int(answer["model"]["version"])
    assert low <= version <= high
    expected = scores_of(version, images)
    assert len(answer["results"]) == len(images)
    for index, result in enumerate(answer["results"]):
        for name, scores in expected.items():
            entry = result["detectors"][name]
            assert entry["score"] == pytest.approx(scores[index], abs=1e-4)
            assert (entry["decision"] == "OOD") == (entry["score"] > entry["threshold"])
            assert (entry["p_value"] <= 0.05 + 1e-9) == (entry["decision"] == "OOD")


@dataclass
class Progress:
    """The default version that surely answers, and the one that may do so already."""

    served: int = 1
    published: int = 1


class Traffic:
    """Callers that never pause, each with a client of its own, until `stop`."""

    def __init__(self, url: str, progress: Progress) -> None:
        self.answers = 0
        self.seen: set[str] = set()
        self._url = url
        self._progress = progress
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._callers = ThreadPoolExecutor(2)
        sorts = [self._one_image, self._many_rows]
        self._jobs = [self._callers.submit(self._call, sort, n) for n, sort in enumerate(sorts)]

    def stop(self) -> None:
        """Raises whatever one of them met."""
        self._stop.set()
        for job in self._jobs:
            job.result(timeout=30)
        self._callers.shutdown()

    @property
    def broken(self) -> bool:
        return any(job.done() for job in self._jobs)

    def _call(
        self, sort: Callable[[httpx.Client, int], tuple[NDArray[np.uint8], Any]], seed: int
    ) -> None:
        with httpx.Client(base_url=self._url, headers=KEY, trust_env=False, timeout=30) as client:
            while not self._stop.is_set():
                low = self._progress.served
                images, response = sort(client, seed)
                assert response.status_code == 200, response.text
                check(response.json(), images, low, self._progress.published)
                with self._lock:
                    self.answers += 1
                    self.seen.add(response.json()["model"]["version"])

    def _one_image(self, client: httpx.Client, seed: int) -> tuple[Any, httpx.Response]:
        images = ood_images(1, seed)
        return images, client.post("/score", content=encode(images[0]), headers=PNG)

    def _many_rows(self, client: httpx.Client, seed: int) -> tuple[Any, httpx.Response]:
        images = np.concatenate([id_images(12, seed), ood_images(4, seed)])
        return images, client.post("/score", content=npy(images), headers=NPY)


def spoil(models: Path, client: httpx.Client, version: int, kind: str) -> None:
    """A bad bundle that would be the default were it good; then it is taken away."""
    damage, message = DAMAGE[kind]
    number = 1000 + version
    damage(publish_versioned(models, number, gradient=True).path)
    states = reload(client)
    assert states[str(number)]["state"] == "refused", kind
    assert message in states[str(number)]["error"]
    assert states[str(version)]["state"] == "serving"
    assert client.get("/models/tiny").json()["version"] == str(version)
    shutil.rmtree(models / "tiny" / str(number))
    assert str(number) not in reload(client)


def test_fifty_swaps_and_two_dozen_bad_bundles_under_traffic(tmp_path: Path) -> None:
    """No request fails, no answer mixes two versions, nothing old is kept."""
    publish_versioned(tmp_path, 1)
    kinds = iter(DAMAGE)
    with serving(tmp_path, reload_seconds="off") as running:
        progress = Progress()
        traffic = Traffic(running.url, progress)
        try:
            for version in range(2, SWAPS + 2):
                publish_versioned(tmp_path, version)
                progress.published = version
                assert reload(running.client)[str(version)]["state"] == "serving"
                progress.served = version
                if kind := next(kinds, None):
                    spoil(tmp_path, running.client, version, kind)
                assert not traffic.broken
        finally:
            traffic.stop()
        assert next(kinds, None) is None
        assert len(traffic.seen) > 10
        counted = running.runtime.metrics.registry.get_sample_value
        for outcome, count in (("loaded", SWAPS), ("refused", len(DAMAGE)), ("retired", SWAPS - 1)):
            labels = {"model": "tiny", "outcome": outcome}
            assert counted("oodscore_bundle_reloads_total", labels) == count
        assert running.runtime.require_repository().versions("tiny") == [str(SWAPS), str(SWAPS + 1)]
        drift = running.runtime.drift
        put_away(running)
        assert drift is not None
        assert {report.version for report in drift.reports()} == {str(SWAPS), str(SWAPS + 1)}
        ready = running.client.get("/metrics").text.count("oodscore_model_ready{")
        assert ready == 2


def test_the_folder_is_watched(tmp_path: Path) -> None:
    publish_versioned(tmp_path, 1)
    with serving(tmp_path, reload_seconds=0.1) as running:
        publish_versioned(tmp_path, 2)
        wait(lambda: running.client.get("/models/tiny").json()["version"] == "2")
        shutil.rmtree(tmp_path / "tiny" / "2")
        wait(lambda: running.client.get("/models/tiny").json()["version"] == "1")


def put_away(running: LiveServer) -> None:
    """An answer is there a moment before its request has let go of the bundle."""
    wait(lambda: running.runtime.served.draining == [])
    running.runtime.served.tidy()


def wait(condition: Callable[[], bool]) -> None:
    give_up = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.02)


class HeldSession:
    """At the session seam: the real session, which waits for `go` first."""

    def __init__(self, real: OnnxSession) -> None:
        self.provider = real.provider
        self.threads = real.threads
        self.tuning = real.tuning
        self.single = None
        self.entered, self.go = threading.Event(), threading.Event()
        self._real = real

    def run(self, *arguments: Any) -> Any:
        self.entered.set()
        assert self.go.wait(20)
        return self._real.run(*arguments)


def test_a_request_in_flight_ends_on_the_version_it_began_with(tmp_path: Path) -> None:
    publish_versioned(tmp_path, 1)
    with serving(tmp_path, reload_seconds="off", loaded_versions=1) as running:
        old = running.runtime.require_repository().get("tiny")
        held = HeldSession(old.sessions[FORWARD])
        cast(dict[str, Any], old.sessions)[FORWARD] = held
        released = weakref.ref(old)
        del old
        with ThreadPoolExecutor(1) as caller:
            post = lambda: httpx.post(  # noqa: E731
                f"{running.url}/score",
                content=id_png(),
                headers=PNG | KEY,
                trust_env=False,
                timeout=30,
            )
            waiting = caller.submit(post)
            assert held.entered.wait(20)
            publish_versioned(tmp_path, 2)
            states = reload(running.client)
            assert (states["1"]["state"], states["2"]["state"]) == ("draining", "serving")
            images = id_images(1, 50)
            check(post().json(), images, 2, 2)
            held.go.set()
            check(waiting.result(20).json(), images, 1, 1)
        del waiting, held
        wait(lambda: released() is None)
        assert reload(running.client)["1"]["state"] == "not_loaded"
        count = running.runtime.metrics.registry.get_sample_value
        for version in ("1", "2"):  # the late answer is counted where it belongs
            bound = {"model": "tiny", "version": version}
            assert (
                sum(
                    count("oodscore_decisions_total", bound | {"decision": d}) or 0
                    for d in ("ID", "OOD")
                )
                == 1
            )


def test_a_late_answer_of_an_exchanged_bundle_is_given_and_counts_nowhere(tmp_path: Path) -> None:
    publish_versioned(tmp_path, 1)
    with serving(tmp_path, reload_seconds="off") as running:
        old = running.runtime.require_repository().get("tiny")
        held = HeldSession(old.sessions[FORWARD])
        cast(dict[str, Any], old.sessions)[FORWARD] = held
        del old
        with ThreadPoolExecutor(1) as caller:
            waiting = caller.submit(
                running.client.post, "/score", content=id_png(), headers=PNG | KEY
            )
            assert held.entered.wait(20)
            shutil.rmtree(tmp_path / "tiny" / "1")
            folder = publish_versioned(tmp_path, 1, gradient=True).path  # a detector more
            assert reload(running.client)["1"]["state"] == "serving"
            held.go.set()
            check(waiting.result(20).json(), id_images(1, 50), 1, 1)
        assert folder.exists()
        bound = {"model": "tiny", "version": "1"}
        count = running.runtime.metrics.registry.get_sample_value
        for decision in ("ID", "OOD"):
            assert not count("oodscore_decisions_total", bound | {"decision": decision})


@contextmanager
def held_opening(monkeypatch: pytest.MonkeyPatch) -> Generator[tuple[threading.Event, ...]]:
    entered, go = threading.Event(), threading.Event()
    real = opening.open_bundle

    def held(ref: BundleRef, *arguments: Any, **named: Any) -> LoadedBundle:
        entered.set()
        assert go.wait(20)
        return real(ref, *arguments, **named)

    monkeypatch.setattr(opening, "open_bundle", held)
    try:
        yield entered, go
    finally:
        go.set()


def test_loading_keeps_nobody_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish_versioned(tmp_path, 1)
    with (
        serving(tmp_path, reload_seconds="off") as running,
        held_opening(monkeypatch) as (entered, go),
        ThreadPoolExecutor(1) as caller,
    ):
        publish_versioned(tmp_path, 2)
        asking = caller.submit(
            httpx.post, f"{running.url}/models/reload", headers=KEY, trust_env=False, timeout=30
        )
        assert entered.wait(20)
        assert versions(running.client)["2"]["state"] == "loading"
        assert running.client.get("/livez").status_code == 200
        assert running.client.get("/readyz").status_code == 200
        answer = running.client.post("/score", content=id_png(), headers=PNG).json()
        check(answer, id_images(1, 50), 1, 1)
        go.set()
        assert asking.result(20).status_code == 200
        assert versions(running.client)["2"]["state"] == "serving"


def test_the_end_waits_for_a_bundle_that_is_being_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_versioned(tmp_path, 1)
    with held_opening(monkeypatch) as (entered, go):
        with serving(tmp_path, reload_seconds=0.1):
            publish_versioned(tmp_path, 2)
            assert entered.wait(20)
            threading.Timer(0.1, go.set).start()
        assert go.is_set()


def test_series_of_a_version_go_some_time_after_it(tmp_path: Path) -> None:
    publish_versioned(tmp_path, 1)
    with serving(tmp_path, reload_seconds="off", loaded_versions=1) as running:
        now = 0.0
        served = running.runtime.served
        served._clock = lambda: now  # type: ignore[method-assign]
        running.client.post("/score", content=id_png(), headers=PNG)
        publish_versioned(tmp_path, 2)
        reload(running.client)
        put_away(running)

        def series() -> set[str]:
            lines = running.client.get("/metrics").text.splitlines()
            return {line.partition("{")[0] for line in lines if 'version="1"' in line}

        assert not {name for name in series() if "model_" in name or "calibration" in name}
        assert "oodscore_decisions_total" in series()
        now = SERIES_KEPT_SECONDS - 1
        served.tidy()
        assert "oodscore_decisions_total" in series()
        now += 2
        served.tidy()
        assert series() == set()


def test_evidence_of_drift_waits_for_the_version_to_come_back(tmp_path: Path) -> None:
    publish_versioned(tmp_path, 1)
    with serving(tmp_path, reload_seconds="off", loaded_versions=1) as running:
        body = npy(ood_images(300, 5))
        assert running.client.post("/score", content=body, headers=NPY).status_code == 200

        def alarms() -> dict[str, float]:
            """Of `combined`, by version; the service caches a report for a moment."""
            assert running.runtime.drift is not None
            running.runtime.drift._reported_at = -1e9
            reports = running.runtime.drift.reports()
            return {
                r.version: d.shiryaev_roberts.alarms
                for r in reports
                for d in r.detectors
                if d.name == "combined"
            }

        before = alarms()
        assert before["1"] > 0
        publish_versioned(tmp_path, 2)
        reload(running.client)
        put_away(running)
        assert alarms() == {"2": 0}
        shutil.rmtree(tmp_path / "tiny" / "2")
        reload(running.client)
        put_away(running)
        assert alarms() == before
