"""Permits, the promised waiting time, and the budget of decoded pixels."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pictures import encode, id_png

from service.admission import Admission, PixelBudget
from service.batches import BatchLimits
from service.decision import Verdict, make_plan
from service.decoding import ImageLimits
from service.errors import DeadlinePassed, Overloaded
from service.graphs import SessionOptions
from service.inputs import EncodedImage, PixelImage
from service.repository import open_repository
from service.scoring import Deadline, Scorer

MEGA = 1_000_000


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_limit_counts_inputs_not_requests() -> None:
    admission = Admission(10)
    permit = admission.admit(9)
    admission.admit(1)
    with pytest.raises(Overloaded):
        admission.admit(1)
    permit.release()
    permit.release()  # a second release gives nothing back
    assert admission.queued == 1
    admission.admit(9)


def test_retry_after_is_queue_over_recent_rate() -> None:
    clock = Clock()
    admission = Admission(100, clock=clock)
    for _ in range(50):  # work is estimated at twice what it takes
        permit = admission.admit(10, work=1.0)
        clock.now += 0.5
        permit.release()
    clock.now += 1000  # idle time says nothing about the rate
    admission.admit(100, work=10.0)
    with pytest.raises(Overloaded) as caught:
        admission.admit(1)
    assert caught.value.retry_after_seconds in (5, 6)


def test_a_stalled_queue_promises_ever_less() -> None:
    clock = Clock()
    admission = Admission(10, clock=clock)
    permit = admission.admit(10, work=1.0)
    clock.now += 1
    permit.release()
    admission.admit(10, work=1.0)
    promised = []
    for _ in range(4):
        promised.append(admission.retry_after_seconds())
        clock.now += 20
    assert promised == sorted(set(promised))
    clock.now += 5000
    assert admission.retry_after_seconds() == 600


def test_without_history_a_second_is_promised() -> None:
    assert Admission(1).retry_after_seconds() == 1


def test_who_comes_back_when_told_is_admitted() -> None:
    clock = Clock()
    admission = Admission(100, max_queued_seconds=2.0, clock=clock)
    queue = [admission.admit(1, work=0.5) for _ in range(5)]
    with pytest.raises(Overloaded) as caught:
        admission.admit(1, work=0.5)
    assert caught.value.retry_after_seconds == 3  # 2.5 s of work
    come_back = clock.now + caught.value.retry_after_seconds
    for permit in queue:
        clock.now += 0.5
        permit.release()
    assert clock.now <= come_back
    admission.admit(1, work=0.5)


def test_work_that_cannot_be_had_in_time_is_refused_and_not_begun() -> None:
    clock = Clock()
    admission = Admission(100, clock=clock)
    admission.admit(1, work=5.0)
    with pytest.raises(Overloaded):
        admission.admit(1, work=0.1, patience=4.0)
    admission.admit(1, work=0.1, patience=6.0)


def test_an_empty_queue_admits_work_of_any_length() -> None:
    admission = Admission(100, max_queued_seconds=1.0, clock=Clock())
    admission.admit(10, work=60.0).release()
    assert admission.queued_seconds == 0.0


def test_dropped_work_says_nothing_about_the_rate() -> None:
    clock = Clock()
    admission = Admission(100, clock=clock)
    for _ in range(20):
        permit = admission.admit(2, work=1.0)
        clock.now += 0.5
        permit.release(1, done=False)
        permit.release(1)
    admission.admit(10, work=10.0)
    assert admission.queued_seconds == pytest.approx(10.0, rel=0.05)


@given(st.lists(st.integers(1, 20)))
def test_never_more_than_the_limit(sizes: list[int]) -> None:
    admission = Admission(30)
    held = []
    for size in sizes:
        try:
            held.append(admission.admit(size))
        except Overloaded:
            assert admission.queued + size > 30
            held and held.pop().release()
        assert 0 <= admission.queued <= 30
    for permit in held:
        permit.release()
    assert admission.queued == 0


def test_permits_are_returned_from_any_thread() -> None:
    admission = Admission(1000)
    permits = [admission.admit(1) for _ in range(1000)]
    threads = [
        threading.Thread(target=lambda part: [p.release() for p in part], args=(permits[i::4],))
        for i in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert admission.queued == 0


def test_decoded_pixels_stay_within_the_budget() -> None:
    budget = PixelBudget(10 * MEGA)
    lock = threading.Lock()
    held = most = 0

    def decode(pixels: int) -> None:
        nonlocal held, most
        with budget.claim(seconds=20) as claim:
            assert claim.fill(pixels)
            with lock:
                held += pixels
                most = max(most, held)
            time.sleep(0.001)
            with lock:
                held -= pixels

    with ThreadPoolExecutor(8) as threads:
        sizes = [(1 + index % 10) * MEGA for index in range(100)]
        list(threads.map(decode, sizes))
    assert 5 * MEGA < most <= 10 * MEGA


def test_a_claim_waits_no_longer_than_its_time() -> None:
    budget = PixelBudget(10 * MEGA)
    with budget.claim(1) as first, budget.claim(0.05) as second, budget.claim(0.05) as small:
        assert first.fill(6 * MEGA)
        assert not second.fill(5 * MEGA)
        assert small.fill(64)  # is not counted
    with budget.claim(float("inf")) as all_of_it:
        assert all_of_it.fill(10 * MEGA)


def test_a_large_image_is_not_overtaken_for_ever() -> None:
    budget = PixelBudget(10 * MEGA)
    order: list[str] = []

    def decode(name: str, pixels: int) -> None:
        with budget.claim(20) as claim:
            assert claim.fill(pixels)
            order.append(name)

    with ThreadPoolExecutor(2) as threads, budget.claim(1) as held:
        assert held.fill(6 * MEGA)
        large = threads.submit(decode, "large", 10 * MEGA)
        while not budget.waiting:
            time.sleep(0.001)
        later = threads.submit(decode, "later", 1 * MEGA)
        while budget.waiting < 2:
            time.sleep(0.001)
        assert not order
        held.release()
        large.result(20)
        later.result(20)
    assert order == ["large", "later"]


def test_an_image_waits_for_the_budget_until_its_deadline(models_dir: Path) -> None:
    bundle = open_repository(models_dir, SessionOptions("cpu")).get("tiny")
    plan = make_plan(bundle.manifest, bundle.calibration)
    budget = PixelBudget(2 * MEGA)
    scorer = Scorer(ImageLimits(10 * MEGA, MEGA), budget, BatchLimits(4, 4, 1024))
    large, wide = np.zeros((1000, 1000, 1), np.uint8), np.zeros((1000, 1000, 3), np.uint8)
    inputs = [EncodedImage(encode(wide, name)) for name in ("PNG", "WEBP", "JPEG")]
    with budget.claim(1) as claim:
        assert claim.fill(3 * MEGA // 2)
        for item in [PixelImage(large), *inputs]:
            with pytest.raises(DeadlinePassed):
                scorer.score(bundle, [item], plan, Deadline.after(0.05))
        small = scorer.score(bundle, [EncodedImage(id_png())], plan, Deadline.after(5))
        assert isinstance(small.answers[0], Verdict)
    answers = scorer.score(bundle, inputs * 3, plan, Deadline.after(20)).answers
    assert all(isinstance(answer, Verdict) for answer in answers)
