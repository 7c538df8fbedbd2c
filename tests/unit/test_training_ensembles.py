"""Ensembles: standardisation by hand, learnt weights against their purpose."""

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from training.combiners import Ensemble, EnsembleFitError, learn_weights

RNG = np.random.default_rng(0)


def id_scores(count: int = 2000) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    return {
        "a": rng.normal(5, 2, count).astype(np.float32),
        "b": rng.normal(-300, 50, count).astype(np.float32),
    }


def apply(ensemble: Ensemble, scores: dict[str, np.ndarray]) -> np.ndarray:
    return ensemble({name: torch.from_numpy(values) for name, values in scores.items()}).numpy()


def by_hand(scores: dict[str, np.ndarray], reference: dict[str, np.ndarray]) -> np.ndarray:
    columns = []
    for name, values in scores.items():
        median = np.median(reference[name])
        columns.append((values - median) / (1.4826 * np.median(np.abs(reference[name] - median))))
    return np.stack(columns, 1)


@pytest.mark.parametrize(("rule", "reduce"), [("mean", np.mean), ("max", np.max)])
def test_standardise_then_reduce(rule: str, reduce: object) -> None:
    ensemble = Ensemble("e", ["a", "b"], rule=rule).fit(id_scores())  # type: ignore[arg-type]
    test = id_scores(50)
    expected = reduce(by_hand(test, id_scores()), axis=1)  # type: ignore[operator]
    np.testing.assert_allclose(apply(ensemble, test), expected, rtol=1e-4, atol=1e-4)


def test_median_standardisation_keeps_the_sign_of_a_negated_distance() -> None:
    ensemble = Ensemble("e", ["b"], standardisation="median").fit(id_scores())
    near = apply(ensemble, {"b": np.array([-10.0], np.float32)})
    usual = apply(ensemble, {"b": np.array([-300.0], np.float32)})
    assert near > usual
    assert usual == pytest.approx(-1, abs=0.02)


def test_learnt_weights_separate_what_equal_weights_cannot() -> None:
    rng = np.random.default_rng(2)
    # outliers are high in b and low in a: equal weights cancel
    outliers = {
        "a": rng.normal(-1, 2, 500).astype(np.float32),
        "b": rng.normal(-150, 50, 500).astype(np.float32),
    }
    fresh_id, fresh_out = id_scores(1000), {n: v[:250] for n, v in outliers.items()}
    proxies = {"proxy": {n: v[250:] for n, v in outliers.items()}}

    def area(ensemble: Ensemble) -> float:
        truth = np.repeat([0, 1], [1000, 250])
        return roc_auc_score(
            truth, np.concatenate([apply(ensemble, fresh_id), apply(ensemble, fresh_out)])
        )

    equal = Ensemble("e", ["a", "b"]).fit(id_scores())
    learnt = Ensemble("e", ["a", "b"]).fit(id_scores())
    learn_weights(learnt, id_scores(), proxies)
    assert area(equal) < 0.7
    assert area(learnt) > 0.97
    assert learnt.weights[0] < 0 < learnt.weights[1]
    assert learnt.hyperparameters()["learnt_on_proxy_outliers"] == "proxy"
    assert "proxy" in learnt.summary()
    learnt.fit(id_scores())
    assert learnt.hyperparameters()["learnt_on_proxy_outliers"] == "none"


def test_members_that_do_not_vary_or_are_few_are_refused_by_name() -> None:
    constant = {"a": np.ones(100, np.float32), "b": id_scores(100)["b"]}
    with pytest.raises(EnsembleFitError, match="of a do not vary"):
        Ensemble("e", ["a", "b"]).fit(constant)
    with pytest.raises(EnsembleFitError, match="19 needed"):
        Ensemble("e", ["a", "b"]).fit(id_scores(18))


def test_unfitted_ensemble_gives_nan_not_a_number_that_looks_right() -> None:
    assert np.isnan(apply(Ensemble("e", ["a", "b"]), id_scores(5))).all()
