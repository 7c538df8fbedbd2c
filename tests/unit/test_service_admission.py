"""Permits and the promised waiting time."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.admission import Admission
from service.errors import Overloaded


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
    for _ in range(50):  # 20 inputs a second
        permit = admission.admit(10)
        clock.now += 0.5
        permit.release()
    clock.now += 1000  # idle time says nothing about the rate
    admission.admit(100)
    with pytest.raises(Overloaded) as caught:
        admission.admit(1)
    assert caught.value.retry_after_seconds in (5, 6)


def test_a_stalled_queue_promises_ever_less() -> None:
    clock = Clock()
    admission = Admission(10, clock=clock)
    permit = admission.admit(10)
    clock.now += 1
    permit.release()
    admission.admit(10)
    promised = []
    for _ in range(4):
        promised.append(admission.retry_after_seconds())
        clock.now += 20
    assert promised == sorted(set(promised))
    clock.now += 5000
    assert admission.retry_after_seconds() == 600


def test_without_history_a_second_is_promised() -> None:
    assert Admission(1).retry_after_seconds() == 1


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
