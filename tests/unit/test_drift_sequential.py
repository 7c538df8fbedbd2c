"""The sequential alarms against step-by-step definitions, their guarantees by simulation."""

import math
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from service.drift import side_by_side
from service.drift.bets import BETS, CONFIDENCE, Bets
from service.drift.martingale import SIGNIFICANCE, Martingale, unspent
from service.drift.sequential import Sequential
from service.drift.shiryaev_roberts import REST, ShiryaevRoberts
from service.drift.side_by_side import update_all
from service.drift.stakes import staked_path
from service.settings import Settings

Array = NDArray[np.float64]
CALIBRATION = 5000
RUN_LENGTH: float = Settings.model_fields["drift_run_length"].default


def calibration(seed: int, size: int = CALIBRATION) -> Array:
    return np.sort(np.random.default_rng(seed).random(size))


def stream(seed: int, size: int, ood: float = 0.0, start: int = 0) -> Array:
    """Uniform scores; from `start` on a share `ood` of 2, beyond any calibration score."""
    rng = np.random.default_rng(seed)
    scores = rng.random(size)
    scores[start:][rng.random(size - start) < ood] = 2.0
    return scores


def alarms_of(bets: Bets, scores: Array, run_length: float = RUN_LENGTH) -> list[int]:
    change = ShiryaevRoberts(bets.count, run_length)
    times = np.arange(len(scores)) * 1.0
    return [alarm.index for alarm in change.update(bets.log_payoffs_of(scores), times)]


@pytest.mark.parametrize("size", [19, 200, 5000])
def test_no_bet_wins_while_nothing_drifts(size: int) -> None:
    """Given the calibration, the mean payoff of every bet is at most 1 (a true share of scores
    beyond each watched one, known here because scores are uniform) with the promised confidence."""
    fair = 0
    for seed in range(300):
        bets = Bets.against(calibration(seed, size))
        shares = np.diff(np.concatenate([[0.0], bets.watched, [1.0]]))  # of inputs between them
        fair += bool((np.exp(bets.log_payoffs) @ shares <= 1 + 1e-12).all())
    # the bound adds up the levels' risks, so it is kept with room to spare
    assert fair / 300 >= CONFIDENCE - 2 * math.sqrt(CONFIDENCE * (1 - CONFIDENCE) / 300)


def test_payoffs_by_hand() -> None:
    scores = calibration(0)
    bets = Bets.against(scores)
    ranks = [int(CALIBRATION * share) for share in sorted({s for s, _ in BETS}, reverse=True)]
    assert bets.watched.tolist() == [scores[CALIBRATION - 1 - rank] for rank in ranks]
    share, strange = BETS[4]
    rank = int(CALIBRATION * share)
    miss = (1 - CONFIDENCE) / len(ranks)
    most = stats.beta.ppf(1 - miss, rank + 1, CALIBRATION - rank)
    bet = most + strange * (1 - most)
    watched = scores[CALIBRATION - 1 - rank]
    gains = np.exp(bets.log_payoffs_of(np.array([watched, watched + 1e-9])))[4]
    assert gains == pytest.approx([(1 - bet) / (1 - most), bet / most])


def test_it_is_the_sum_over_every_beginning() -> None:
    """Against the definition: all products of payoffs that end at the last input."""
    bets = Bets.against(calibration(1))
    scores = stream(2, 60, ood=0.02)
    payoffs = np.exp(bets.log_payoffs_of(scores))
    times = 1.7e9 + np.arange(60)
    grown = np.stack([payoffs[:, begin:].prod(axis=1) for begin in range(60)])  # (beginnings, k)
    change = ShiryaevRoberts(bets.count, 1e9)
    assert change.update(np.log(payoffs), times) == []
    assert change.held == pytest.approx(grown.sum(axis=0))
    assert change.held_times == pytest.approx(times @ grown)
    assert change.share_of_alarm == pytest.approx(
        math.log(grown.sum(axis=0).mean()) / math.log(1e9)
    )


def test_alarms_and_rests_are_those_of_the_recursion() -> None:
    """Input by input, as the formula is printed."""
    bets = Bets.against(calibration(15))
    scores = stream(16, 2000, ood=0.15, start=300)
    times = 1.7e9 + np.arange(2000)
    held, held_times = np.zeros(bets.count), np.zeros(bets.count)
    resting, expected = 0, []
    for index, payoffs in enumerate(np.exp(bets.log_payoffs_of(scores)).T):
        if resting:
            resting -= 1
            continue
        held = (held + 1) * payoffs
        held_times = (held_times + times[index]) * payoffs
        if held.mean() >= 5000:
            since = held_times[held.argmax()] / held.max()
            expected.append((index, pytest.approx(since, rel=1e-12)))
            held, held_times = np.zeros(bets.count), np.zeros(bets.count)
            resting = REST
    change = ShiryaevRoberts(bets.count, 5000)
    found = change.update(bets.log_payoffs_of(scores), times)
    assert [(alarm.index, alarm.since) for alarm in found] == expected
    assert len(expected) > 5
    assert change.held == pytest.approx(held)
    assert change.resting == resting


def test_batches_change_nothing() -> None:
    bets = Bets.against(calibration(2))
    scores = stream(3, 3000, ood=0.05, start=1000)
    gains, times = bets.log_payoffs_of(scores), np.arange(3000) * 1.0
    whole, parts = ShiryaevRoberts(bets.count, 1000), ShiryaevRoberts(bets.count, 1000)
    alarms = whole.update(gains, times)
    cuts = [0, 1, 7, 400, 1313, 1314, 2500, 3000]
    in_parts = [
        (low + alarm.index, pytest.approx(alarm.since))
        for low, high in pairwise(cuts)
        for alarm in parts.update(gains[:, low:high], times[low:high])
    ]
    assert in_parts == [(alarm.index, alarm.since) for alarm in alarms]
    assert len(alarms) > 3
    assert parts.held == pytest.approx(whole.held)
    assert parts.held_times == pytest.approx(whole.held_times)
    assert parts.resting == whole.resting


def test_alarms_rest_and_begin_again_from_nothing() -> None:
    bets = Bets.against(calibration(4))
    alarms = alarms_of(bets, np.full(1000, 2.0))
    gaps = np.diff(alarms)
    assert alarms[0] < 5
    assert (gaps == gaps[0]).all()
    assert gaps[0] == REST + 1 + alarms[0]


def test_the_beginning_of_a_drift_is_found() -> None:
    bets = Bets.against(calibration(5))
    begins = []
    for seed in range(40):
        change = ShiryaevRoberts(bets.count, RUN_LENGTH)
        scores = stream(seed, 3000, ood=0.2, start=2000)
        alarm = change.update(bets.log_payoffs_of(scores), np.arange(3000) * 1.0)[0]
        assert alarm.index >= 2000
        begins.append(alarm.since)
    assert abs(np.median(begins) - 2000) < 20


def test_false_alarms_are_rare() -> None:
    """At most 1 % of streams of 20,000 ID inputs, each with a calibration of its own."""
    streams = 100
    alarmed = sum(
        bool(alarms_of(Bets.against(calibration(seed)), stream(seed + 10_000, 20_000)))
        for seed in range(streams)
    )
    assert alarmed <= 3  # of 100 at a rate of 1 %: exceeded with probability 0.02


@pytest.mark.parametrize(("ood", "delay"), [(0.01, 10_000), (0.1, 100)])
def test_added_ood_is_found(ood: float, delay: int) -> None:
    """Inputs beyond every calibration score; benchmarks/drift_detection.py has real ones."""
    bets = Bets.against(calibration(6))
    delays = [alarms_of(bets, stream(seed, 2 * delay, ood=ood))[:1] for seed in range(15)]
    assert np.median([found[0] if found else 2 * delay for found in delays]) < delay


def test_staked_path_step_by_step() -> None:
    rng = np.random.default_rng(7)
    gains, added = rng.normal(-0.1, 0.5, (2, 300)), rng.random(300) / 300
    stakes = start = np.array([0.0, 0.3])
    path = staked_path(start, gains, added)
    for step in range(300):
        stakes = (stakes + added[step]) * np.exp(gains[:, step])
        assert path[:, step] == pytest.approx(stakes, rel=1e-9)


def test_staked_path_of_losses_no_float_holds() -> None:
    gains = np.full((1, 4000), -1.0)
    path = staked_path(np.array([1.0]), gains, np.full(4000, 0.5))
    assert path[0, -1] == pytest.approx(0.5 * math.exp(-1) / (1 - math.exp(-1)))


def test_capital_is_spent_but_never_made() -> None:
    martingale = Martingale(3)
    assert martingale.log_capital == 0
    martingale.update(np.zeros((3, 1000)))  # bets that pay back what was staked
    assert martingale.log_capital == pytest.approx(0, abs=1e-12)
    assert unspent(1000, 1)[0] == pytest.approx(1 / (1 + math.log(1001)))


def test_batches_change_no_capital() -> None:
    bets = Bets.against(calibration(8))
    gains = bets.log_payoffs_of(stream(9, 2000, ood=0.001))
    whole, parts = Martingale(bets.count), Martingale(bets.count)
    assert whole.update(gains) == []
    for low, high in pairwise([0, 1, 500, 501, 2000]):
        parts.update(gains[:, low:high])
    assert parts.log_capital == pytest.approx(whole.log_capital)


def test_martingale_keeps_its_promise_for_ever_and_finds_drift() -> None:
    alarmed = 0
    for seed in range(50):
        bets = Bets.against(calibration(seed))
        alarmed += bool(Martingale(bets.count).update(bets.log_payoffs_of(stream(seed, 20_000))))
    # SIGNIFICANCE for CONFIDENCE of the calibrations, nothing is promised for the others
    assert alarmed <= 2
    drifting = bets.log_payoffs_of(stream(1, 3000, ood=0.1, start=1000))
    (found,) = Martingale(bets.count).update(drifting)
    assert 1000 <= found < 1400
    martingale = Martingale(bets.count)
    martingale.update(drifting)
    assert martingale.log_capital == 0  # it began again
    assert SIGNIFICANCE == 0.01


def test_state_goes_through_json() -> None:
    bets = Bets.against(calibration(10))
    scores, times = stream(11, 4000, ood=0.05), np.arange(4000) * 1.0
    straight = Sequential(bets, 30_000, 0.0, "first_seen")
    straight.update(scores, times, window=2000)
    before = Sequential(bets, 30_000, 0.0, "first_seen")
    before.update(scores[:1500], times[:1500], window=2000)
    text = before.state().model_dump_json()
    after = Sequential(bets, 30_000, 99.0, "first_seen")
    assert after.restore(type(before.state()).model_validate_json(text))
    after.update(scores[1500:], times[1500:], window=2000)
    assert after.alarms == straight.alarms > 1
    reports = [s.change_report(4000.0, 2000, 3600.0) for s in (straight, after)]
    assert reports[0] == reports[1]
    fewer = Bets.against(calibration(12, 19))
    other = Sequential(fewer, 30_000, 0.0, "first_seen")
    assert not other.restore(before.state())
    assert other.alarms == 0


def test_a_drift_is_over_when_the_window_holds_no_alarm() -> None:
    bets = Bets.against(calibration(13))
    sequential = Sequential(bets, 30_000, 0.0, "first_seen")
    sequential.update(np.full(300, 2.0), np.arange(300) * 1.0, window=500)
    assert sequential.drifting(300.0, 500, 3600.0)
    assert not sequential.drifting(300.0 + 3600.0, 500, 3600.0)
    sequential.update(stream(14, 600), 300 + np.arange(600) * 1.0, window=500)
    assert not sequential.drifting(900.0, 500, 3600.0)
    first_since = sequential.change_report(300.0, 10_000, 3600.0).since
    sequential.update(np.full(300, 2.0), 900 + np.arange(300) * 1.0, window=500)
    second_since = sequential.change_report(1200.0, 500, 3600.0).since
    assert first_since is not None
    assert second_since is not None
    assert second_since.timestamp() == pytest.approx(900, abs=40) != first_since.timestamp()


def test_side_by_side_is_as_each_alone() -> None:
    """Of unlike calibrations, one with fewer bets; some drift, alarm and rest on the way."""
    sizes = [CALIBRATION, CALIBRATION, 19, 3000, 4000, 2000, CALIBRATION]
    bets = [Bets.against(calibration(20 + place, size)) for place, size in enumerate(sizes)]
    assert len({b.log_payoffs.shape for b in bets}) == 2
    scores = np.stack(
        [
            stream(40 + place, 3000, ood=ood, start=start)
            for place, (ood, start) in enumerate(
                [(0, 0), (0.1, 500), (0.1, 0), (0.02, 0), (0.5, 2900), (0.005, 0), (0, 0)]
            )
        ],
        axis=1,
    )
    times = np.arange(3000) * 1.0
    alone = [Sequential(b, 2_000, 0.0, "first_seen") for b in bets]
    joint = [Sequential(b, 2_000, 0.0, "first_seen") for b in bets]
    for low, high in pairwise([0, 1, 3, 500, 1012, 1013, 1500, 2999, 3000]):
        if low == 1013:  # the second one was left out of some requests
            alone[1].update(scores[:77, 1], times[:77], window=200)
            joint[1].update(scores[:77, 1], times[:77], window=200)
        update_all(joint, scores[low:high], times[low:high], window=200)
        for place, one in enumerate(alone):
            one.update(scores[low:high, place], times[low:high], window=200)
        for one, other in zip(joint, alone, strict=True):
            found, expected = one.state().model_dump(), other.state().model_dump()
            for name in ("held", "held_times", "stakes", "drifting_since"):
                values = [each.pop(name) or 0.0 for each in (found, expected)]
                assert values[0] == pytest.approx(values[1], rel=1e-9, abs=1e-9)
            assert found == expected
    alarms = [one.alarms for one in alone]
    assert alarms[0] == alarms[6] == 0
    assert min(alarms[1], alarms[4]) >= 1
    assert any(one.martingale_report().alarms for one in alone)


def test_a_certain_drift_exceeds_what_a_float_holds() -> None:
    """Without a warning: each of them is an error here."""
    bets = [Bets.against(calibration(60 + place)) for place in range(3)]
    alarms = [Sequential(b, 30_000, 0.0, "first_seen") for b in bets]
    for _ in range(3):
        update_all(alarms, np.full((1000, 3), 2.0), np.arange(1000) * 1.0, window=200)
    assert min(one.alarms for one in alarms) > 25
    assert all(np.isfinite(one.change.held).all() for one in alarms)


def test_side_by_side_goes_no_way_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """While nothing happens nobody goes input by input: that is what makes it cheap."""
    bets = [Bets.against(calibration(30 + place)) for place in range(3)]
    alarms = [Sequential(b, 30_000, 0.0, "first_seen") for b in bets]
    monkeypatch.setattr(side_by_side, "update_each", lambda *_: pytest.fail("went alone"))
    scores = np.stack([stream(50 + place, 600) for place in range(3)], axis=1)
    update_all(alarms, scores, np.arange(600) * 1.0, window=200)
    assert [one.inputs for one in alarms] == [600] * 3
    scores[300:] = 2.0
    with pytest.raises(pytest.fail.Exception, match="went alone"):
        update_all(alarms, scores, np.arange(600) * 1.0, window=200)
