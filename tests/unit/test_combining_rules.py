"""P-value rules against scipy, their tails, their graphs, and what a config may ask of them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from scipy import stats
from torch import Tensor, nn

from service.bundle import ImageInput
from training.combiners import RULES, Ensemble, EnsembleFitError, Rule, learn_weights
from training.combiners.ladder import LEVELS, Ladder
from training.config import CombinerConfig
from training.export.graph import export_graph
from training.export.onnx_network import open_network

P_VALUE_RULES: tuple[Rule, ...] = ("fisher", "stouffer", "harmonic")
MEMBERS = ("a", "b", "c")


def id_scores(count: int = 1000) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "a": rng.normal(-300, 50, count).astype(np.float32),
        "b": rng.exponential(3, count).astype(np.float32),
        "c": rng.standard_t(3, count).astype(np.float32),
    }


def apply(ensemble: Ensemble, scores: dict[str, np.ndarray]) -> np.ndarray:
    tensors = {name: torch.from_numpy(np.float32(values)) for name, values in scores.items()}
    return ensemble(tensors).numpy()


def at_levels(levels: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Scores that leave these shares of ID below them."""
    return {name: np.quantile(id_scores()[name], levels[name]) for name in MEMBERS}


def expected(rule: Rule, p_values: np.ndarray) -> float:
    if rule == "harmonic":
        return -np.log(stats.hmean(p_values))
    statistic = stats.combine_pvalues(p_values, rule).statistic
    return statistic / (2 * len(p_values) if rule == "fisher" else len(p_values) ** 0.5)


@pytest.mark.parametrize("rule", P_VALUE_RULES)
def test_combines_p_values_as_scipy_does(rule: Rule) -> None:
    rng = np.random.default_rng(1)
    levels = {name: rng.choice(LEVELS, 200) for name in MEMBERS}
    found = apply(Ensemble("e", MEMBERS, rule).fit(id_scores()), at_levels(levels))
    p_values = 1 - np.stack([levels[name] for name in MEMBERS], axis=1)
    np.testing.assert_allclose(found, [expected(rule, row) for row in p_values], atol=2e-4)


@pytest.mark.parametrize("rule", P_VALUE_RULES)
def test_between_the_knots_p_is_the_share_of_id_above(rule: Rule) -> None:
    levels = {name: np.random.default_rng(2).uniform(0.05, 0.95, 300) for name in MEMBERS}
    scores = at_levels(levels)
    found = apply(Ensemble("e", MEMBERS, rule).fit(id_scores()), scores)
    shares = [(id_scores()[n][:, None] > scores[n]).mean(axis=0) for n in MEMBERS]
    by_hand = [expected(rule, row) for row in np.stack(shares, axis=1)]
    np.testing.assert_allclose(found, by_hand, atol=0.06)


def test_tails_continue_as_exponential_and_as_normal() -> None:
    rng = np.random.default_rng(3)
    exponential = {"s": rng.exponential(3, 100_000)}
    far = np.array([15.0, 30.0, 300.0])
    log_p = Ladder.fitted(exponential, "log_p")(torch.tensor(far[:, None], dtype=torch.float32))
    np.testing.assert_allclose(log_p[:, 0], far / 3, rtol=0.03)

    normal = {"s": rng.normal(10, 2, 100_000)}
    scores = torch.tensor([[13.6], [6.4]])  # where a straight line and the normal tail are close
    z = Ladder.fitted(normal, "normal")(scores)
    np.testing.assert_allclose(z[:, 0], [1.8, -1.8], atol=0.05)


@pytest.mark.parametrize("rule", P_VALUE_RULES)
def test_far_outliers_rank_by_how_far_and_never_tie(rule: Rule) -> None:
    ensemble = Ensemble("e", MEMBERS, rule).fit(id_scores())
    reach = {name: values.max() + np.geomspace(1, 1e4, 50) for name, values in id_scores().items()}
    assert (np.diff(apply(ensemble, reach)) > 0).all()
    one = {**at_levels({n: np.full(50, 0.5) for n in MEMBERS}), "b": reach["b"]}
    assert (np.diff(apply(ensemble, one)) > 0).all()


def test_the_most_id_fifth_of_ten_per_cent() -> None:
    low = torch.tensor([[-400.0], [-500.0], [-5000.0]])
    values = {"a": id_scores()["a"].astype(np.float64)}
    log_p = Ladder.fitted(values, "log_p")(low)[:, 0]
    np.testing.assert_allclose(log_p, -np.log(0.95), rtol=1e-5)  # being very ID is no credit
    assert (np.diff(Ladder.fitted(values, "normal")(low)[:, 0]) < 0).all()


@pytest.mark.parametrize("rule", P_VALUE_RULES)
def test_repeated_id_scores_keep_the_order(rule: Rule) -> None:
    atoms = {name: np.round(values, -1) for name, values in id_scores().items()}
    atoms["c"] = np.concatenate([np.repeat(np.arange(10), 98), np.linspace(10, 12, 20)])
    ensemble = Ensemble("e", ["c", "a"], rule).fit(atoms)
    scores = apply(ensemble, {"c": np.linspace(-1, 20, 400), "a": np.full(400, -300)})
    assert np.isfinite(scores).all()
    assert (np.diff(scores) > -1e-6).all()
    assert scores[-1] > scores[200] > scores[0]


def test_refuses_scores_that_make_no_p_values() -> None:
    constant = {**id_scores(), "b": np.ones(1000, np.float32)}
    with pytest.raises(EnsembleFitError, match="e: ID scores of b do not vary"):
        Ensemble("e", MEMBERS, "fisher").fit(constant)
    topped = {**id_scores(), "b": np.minimum(id_scores()["b"], 3)}
    with pytest.raises(EnsembleFitError, match="5 % of the ID scores of b share the largest"):
        Ensemble("e", MEMBERS, "fisher").fit(topped)
    with pytest.raises(EnsembleFitError, match="99 ID scores; 100 needed"):
        Ensemble("e", MEMBERS, "fisher").fit(id_scores(99))
    broken = {**id_scores(), "c": np.full(1000, np.nan, np.float32)}
    with pytest.raises(EnsembleFitError, match="of c is NaN"):
        Ensemble("e", MEMBERS, "stouffer").fit(broken)


@pytest.mark.parametrize("rule", P_VALUE_RULES)
def test_unfitted_gives_nan_and_state_restores(rule: Rule) -> None:
    empty = Ensemble("e", MEMBERS, rule)
    assert np.isnan(apply(empty, id_scores(120))).all()
    fitted = Ensemble("e", MEMBERS, rule).fit(id_scores())
    empty.load_state_dict(fitted.state_dict())
    np.testing.assert_array_equal(apply(empty, id_scores(120)), apply(fitted, id_scores(120)))
    assert fitted.hyperparameters()["rule"] == rule
    assert "p-values of a, b, c" in fitted.summary()


def test_fisher_takes_learnt_weights_and_the_largest_none() -> None:
    outliers = {name: values.copy() for name, values in id_scores(400).items()}
    outliers["b"] += 20
    ensemble = Ensemble("e", MEMBERS, "fisher").fit(id_scores())
    learn_weights(ensemble, id_scores(), {"shifted": outliers})
    assert ensemble.weights[1] > 5 * ensemble.weights[[0, 2]].abs().max()
    with pytest.raises(ValueError, match="harmonic takes no learnt weights"):
        learn_weights(Ensemble("e", MEMBERS, "harmonic").fit(id_scores()), id_scores(), {})


class _Three(nn.Module):
    """Pixels -> three scores of very different size -> every rule."""

    def __init__(self) -> None:
        super().__init__()
        rules = [Ensemble(rule, MEMBERS, rule).fit(id_scores()) for rule in RULES]
        self.ensembles = nn.ModuleList(rules)

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        rows = pixels.float().flatten(1)
        scores = {
            "a": rows.mean(1) * 3 - 600,
            "b": rows[:, 0] / 4,
            "c": rows[:, 1] / 16 - 8,
        }
        return {f"score/{e.name}": e(scores) for e in self.ensembles}  # type: ignore[operator]


def test_graphs_give_the_scores_of_torch(tmp_path: Path) -> None:
    spec = ImageInput(height=4, width=4, channels=1, mean=(0.5,), std=(0.5,))
    module = _Three()
    export_graph(module, spec, tmp_path / "rules.onnx")
    pixels = np.random.default_rng(5).integers(0, 256, (300, 4, 4, 1), dtype=np.uint8)
    served = open_network(tmp_path / "rules.onnx")(pixels)
    for name, scores in module(torch.from_numpy(pixels)).items():
        np.testing.assert_allclose(served[name], scores.numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"rule": "max", "weights": "learnt"}, "takes no weights"),
        ({"rule": "harmonic", "weights": "learnt"}, "takes no weights"),
        ({"rule": "fisher", "standardisation": "mad"}, "leave standardisation out"),
        ({"members": ("a", "a")}, "named twice"),
        ({"rule": "cauchy"}, "fisher"),
    ],
)
def test_a_config_that_contradicts_itself_is_refused(
    changes: dict[str, object], named: str
) -> None:
    valid = {"name": "e", "members": ("a", "b")}
    assert CombinerConfig.model_validate(valid | {"rule": "fisher", "weights": "learnt"})
    with pytest.raises(ValidationError, match=named):
        CombinerConfig.model_validate(valid | changes)
