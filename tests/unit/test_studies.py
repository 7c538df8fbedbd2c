"""Studies: arms that differ in named sections, measured one by one, resumed where they stopped."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import f1_score
from toy import SPEC, write_digits

from service.bundle import threshold_at
from training import studies
from training.config_checks import check_config
from training.data.roles import long_tailed
from training.evaluation.by_class import class_thresholds, false_alarms
from training.evaluation.open_set import best_macro_f1, macro_f1
from training.studies import METRICS, STUDIES, Study, load_study, measure_study, merged


def study(folder: Path) -> Study:
    write_digits(folder)
    noise = [{"source": "noise", "kind": "uniform", "count": 150, "seed": 9}]
    return Study.model_validate(
        {
            "title": "digits",
            "limit": 150,
            "base": {
                "description": "digits",
                "backbone": "lenet",
                "primary": "msp",
                "input": SPEC.model_dump(),
                "optimiser": {"name": "adam", "lr": 0.001, "epochs": 1, "batch_size": 50},
                "data": {
                    "train": [{"source": "npz", "path": str(folder / "train.npz")}],
                    "test": [{"source": "npz", "path": str(folder / "test.npz")}],
                    "dev_count": 50,
                    "cal_count": 200,
                    "train_count": 400,
                    "test_ood": {"gaussian": [noise[0] | {"kind": "gaussian"}]},
                },
                "detectors": [{"name": "msp"}, {"name": "energy"}],
            },
            "arms": [
                {"name": "plain", "what": "none"},
                {
                    "name": "exposed",
                    "what": "noise",
                    "changes": {
                        "objective": {"name": "outlier_exposure"},
                        "outliers": {"sources": {"noise": noise}},
                    },
                },
            ],
        }
    )  # fmt: skip


def test_every_arm_and_seed_is_measured_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = measure_study(study(tmp_path), (0,), tmp_path / "runs", tmp_path / "out")
    assert set(found["arms"]) == {"plain", "exposed"}
    for arm in found["arms"].values():
        measured = arm["by_seed"]["0"]
        assert set(measured["metrics"]["gaussian"]["energy"]) == set(METRICS)
        assert len(measured["recalls"]) == 10
        assert np.mean(measured["recalls"]) == pytest.approx(measured["accuracy"], abs=0.1)
        for sources in measured["open_set"]["gaussian"].values():
            assert all(0 <= value <= 1 for value in sources.values())
    counts = found["arms"]["exposed"]["by_seed"]["0"]["counts"]
    assert counts["train_id"] == 400
    assert counts["outliers"] == 150
    before = (tmp_path / "out" / "study.json").read_text()

    def never(*_: object) -> None:
        raise AssertionError("measured already")

    monkeypatch.setattr(studies, "train_and_fit", never)
    measure_study(study(tmp_path), (0,), tmp_path / "runs", tmp_path / "out")
    assert (tmp_path / "out" / "study.json").read_text() == before


@pytest.mark.parametrize("name", sorted(STUDIES))
def test_shipped_studies_are_whole_and_their_arms_matched(name: str) -> None:
    loaded = load_study(name)
    for arm in loaded.arms:
        config = loaded.config(arm, 0)
        check_config(config)
        assert "data" not in arm.changes, "every arm sees the same data"
        recipe = arm.changes.get("optimiser", {})
        assert "epochs" not in recipe, "and as often"
    if name.startswith("dose-"):
        return  # their arms differ in the number of outliers, not in how many a step takes
    counts = {
        source.get("limit", source.get("count"))
        for arm in loaded.arms
        for sources in arm.changes.get("outliers", {}).get("sources", {}).values()
        for source in sources
    } | {arm.changes["outliers"].get("count") for arm in loaded.arms if "outliers" in arm.changes}
    assert len(counts - {None}) <= 1, "as many outliers in every arm"


def test_measures_are_taken_of_every_arm_and_unknown_ones_refused(tmp_path: Path) -> None:
    wanted = study(tmp_path).model_copy(update={"measures": ("plane",)})
    found = measure_study(wanted, (0,), tmp_path / "runs", tmp_path / "out")
    for arm in found["arms"].values():
        assert len(arm["by_seed"]["0"]["plane"]["id"]) > 0
    wrong = wanted.model_copy(update={"measures": ("shape",)})
    with pytest.raises(ValueError, match=r"no measures \['shape'\]; choose of \['latent_shape'"):
        measure_study(wrong, (0,), tmp_path / "runs", tmp_path / "out")


@pytest.mark.parametrize("text", ["{", "[]", '{"arms": 3}'])
def test_a_damaged_result_is_named_and_left_alone(tmp_path: Path, text: str) -> None:
    file = tmp_path / "out" / "study.json"
    file.parent.mkdir()
    file.write_text(text)
    with pytest.raises(
        ValueError, match=r"study\.json is not the result of a study .*take it away"
    ):
        measure_study(study(tmp_path), (0,), tmp_path / "runs", tmp_path / "out")
    assert file.read_text() == text


def test_an_unknown_study_is_refused() -> None:
    with pytest.raises(ValueError, match="no study 'x'; choose of"):
        load_study("x")


def test_a_path_may_name_the_seed() -> None:
    """A generator's outliers are of the seed whose train-ID it was trained on."""
    loaded = load_study("newsgroups-outliers")
    arm = next(arm for arm in loaded.arms if arm.name == "generated")
    for seed in (0, 3):
        outliers = loaded.config(arm, seed).outliers
        assert outliers is not None
        (source,) = outliers.sources["generated"]
        assert f"/posts-2-seed{seed}" in str(source.model_dump(mode="json"))


def test_changes_are_merged_key_by_key() -> None:
    base = {"a": {"x": 1, "y": 2}, "b": [1]}
    assert merged(base, {"a": {"y": 3}, "b": [2]}) == {"a": {"x": 1, "y": 3}, "b": [2]}
    assert base == {"a": {"x": 1, "y": 2}, "b": [1]}


def test_macro_f1_against_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    labels, predictions = rng.integers(0, 5, 300), rng.integers(0, 5, 300)
    rejected = rng.random(300) < 0.2
    ood_predictions, ood_rejected = rng.integers(0, 5, 100), rng.random(100) < 0.7
    wanted = np.concatenate([labels, np.full(100, 5)])
    given = np.concatenate(
        [np.where(rejected, 5, predictions), np.where(ood_rejected, 5, ood_predictions)]
    )
    expected = f1_score(wanted, given, average="macro", labels=range(6), zero_division=0)
    found = macro_f1(labels, predictions, rejected, ood_predictions, ood_rejected, 5)
    assert found == pytest.approx(expected)


def test_the_best_macro_f1_is_that_of_a_search_over_all_thresholds() -> None:
    rng = np.random.default_rng(1)
    labels, predictions = rng.integers(0, 5, 200), rng.integers(0, 5, 200)
    predictions[:170] = labels[:170]
    scores, ood_predictions = rng.normal(0, 1, 200), rng.integers(0, 5, 120)
    ood_scores = rng.normal(2.5, 1, 120)
    given = (labels, predictions, scores, ood_predictions, ood_scores, 5)
    wanted = np.concatenate([labels, np.full(120, 5)])
    found = []
    for threshold in np.sort(scores):
        unknown = np.concatenate([scores, ood_scores]) > threshold
        answers = np.where(unknown, 5, np.concatenate([predictions, ood_predictions]))
        found.append(f1_score(wanted, answers, average="macro", labels=range(6)))
    assert best_macro_f1(*given) == pytest.approx(max(found), abs=0.01)
    # perfect scores: nothing needs to be rejected wrongly
    perfect = best_macro_f1(labels, labels, scores, ood_predictions, ood_scores + 100, 5)
    assert perfect == 1.0


def test_a_rare_class_without_enough_scores_gets_the_pooled_threshold() -> None:
    rng = np.random.default_rng(1)
    scores = np.concatenate([rng.normal(0, 1, 500), rng.normal(5, 1, 40), rng.normal(9, 1, 10)])
    predictions = np.repeat([0, 1, 2], [500, 40, 10])
    found = class_thresholds(scores, predictions, 4, 0.95)
    pooled = threshold_at(np.sort(scores), 0.95)
    assert found[0] == threshold_at(np.sort(scores[:500]), 0.95) < pooled
    assert found[1] == threshold_at(np.sort(scores[500:540]), 0.95) > 5
    assert found[2] == found[3] == pooled
    alarms = false_alarms(scores, predictions, predictions, np.full(4, pooled))
    assert alarms[0] == 0
    assert alarms[1] == pytest.approx((scores[500:540] > pooled).mean())
    assert alarms[3] == 0


def test_a_long_tail_falls_exponentially_and_is_seeded() -> None:
    labels = np.repeat(np.arange(5), 200)
    kept = long_tailed(labels, 16.0, seed=0)
    assert np.bincount(labels[kept]).tolist() == [200, 100, 50, 25, 12]
    assert kept.tolist() == sorted(set(kept.tolist()))
    assert (long_tailed(labels, 16.0, seed=0) == kept).all()
    assert set(long_tailed(labels, 16.0, seed=1).tolist()) != set(kept.tolist())
