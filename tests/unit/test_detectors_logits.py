"""Detectors that read logits alone, against independent float64 readings of their formulas."""

import numpy as np
import pytest
import torch
from linear_world import Array, World, far, fit, score, world
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp, rel_entr, softmax
from scipy.stats import entropy, weibull_min

from training.detectors import DETECTORS, FitError, openmax
from training.detectors.energy import Energy
from training.detectors.entropy import Entropy
from training.detectors.gen import Gen
from training.detectors.kl_matching import KlMatching
from training.detectors.msp import Msp
from training.detectors.msp_temperature import MspTemperature
from training.detectors.openmax import OpenMax
from training.outputs import Outputs

LOGIT_DETECTORS = ("energy", "entropy", "gen", "kl_matching", "msp_temperature", "openmax")


def of_logits(logits: Array) -> Outputs:
    tensor = torch.from_numpy(logits).float()
    return Outputs({"logits": tensor}, tensor, "logits")


def exact(logits: Array) -> Array:
    return logits.astype(np.float32).astype(np.float64)


@pytest.fixture
def train() -> World:
    return world(seed=1)


@pytest.fixture
def held_out() -> World:
    return world(seed=2, count=400)


@pytest.fixture
def logits() -> Array:
    return exact(np.random.default_rng(0).normal(0, 4, (300, 10)))


@pytest.mark.parametrize("size", [0.01, 1.0, 5.0])
def test_entropy_is_the_logarithm_of_the_entropy(logits: Array, size: float) -> None:
    values = exact(logits * size)
    gaps = values.max(1, keepdims=True) - values  # one of them 0
    normaliser = np.log1p(np.sort(np.exp(-gaps), axis=1)[:, :-1].sum(1))
    expected = np.log(normaliser + (softmax(values, axis=1) * gaps).sum(1))
    textbook = entropy(softmax(values, axis=1), axis=1)
    np.testing.assert_allclose(np.exp(expected), textbook, rtol=1e-9, atol=1e-15)
    np.testing.assert_allclose(
        score(Entropy(), of_logits(logits * size)), expected, rtol=1e-5, atol=2e-6
    )


@pytest.mark.parametrize("name", ["entropy", "gen"])
def test_confident_inputs_do_not_tie(name: str) -> None:
    gaps = np.array([0.0, 1.0, 20.0, 90.0, 130.0, 300.0, 600.0])
    confident = np.stack([gaps, 0 * gaps, -3 + 0 * gaps], axis=1)
    assert (np.diff(score(DETECTORS[name](), of_logits(confident))) < 0).all()


def test_equal_logits_have_the_entropy_of_the_uniform_distribution() -> None:
    flat = score(Entropy(), of_logits(np.full((2, 7), [[3.0], [-500.0]])))
    np.testing.assert_allclose(flat, np.log(np.log(7)), rtol=1e-6)


@pytest.mark.parametrize(("gamma", "top"), [(0.1, 100), (0.1, 4), (0.7, 10), (2.0, 2)])
def test_gen_is_the_logarithm_of_the_sum(logits: Array, gamma: float, top: int) -> None:
    descending = -np.sort(-logits, axis=1)
    p = softmax(descending, axis=1)
    # 1 - p of the largest, without rounding: the sum of the others
    rest = np.array([[np.delete(row, j).sum() for j in range(10)] for row in p])
    expected = np.log(((p * rest) ** gamma)[:, :top].sum(1))
    np.testing.assert_allclose(
        score(Gen(gamma, top), of_logits(logits)), expected, rtol=1e-5, atol=2e-6
    )


@pytest.mark.parametrize("temperature", [0.5, 1.0, 10.0, 1000.0])
def test_energy_with_a_temperature(logits: Array, temperature: float) -> None:
    expected = -temperature * logsumexp(logits / temperature, axis=1)
    np.testing.assert_allclose(
        score(Energy(temperature), of_logits(logits)), expected, rtol=1e-5, atol=1e-5
    )


def likelihood_loss(source: World, temperature: float) -> float:
    scaled = source.logits.astype(np.float32).astype(np.float64) / temperature
    losses = logsumexp(scaled, axis=1) - scaled[np.arange(len(scaled)), source.labels]
    return losses.mean()


def test_temperature_maximises_the_likelihood_of_held_out_labels(
    train: World, held_out: World
) -> None:
    detector = fit(MspTemperature(), train, held_out)
    best = minimize_scalar(
        lambda log: likelihood_loss(held_out, np.exp(log)), bounds=(-3, 3), method="bounded"
    )
    fitted = detector.fitted("temperature").item()
    assert fitted == pytest.approx(np.exp(best.x), rel=1e-3)
    assert abs(fitted - 1) > 0.02  # the data do ask for another temperature than 1
    assert likelihood_loss(held_out, fitted) <= best.fun + 1e-12
    assert detector.remarks() == ()
    outputs = train.outputs(far(3))
    top = softmax(outputs.logits.double().numpy() / fitted, axis=1).max(1)
    np.testing.assert_allclose(
        score(detector, outputs), np.log((1 - top) / top), rtol=1e-4, atol=1e-5
    )


def test_temperature_of_one_is_msp(train: World, held_out: World) -> None:
    detector = fit(MspTemperature(), train, held_out)
    detector.register_buffer("temperature", torch.tensor(1.0))
    outputs = train.outputs(far(3))
    np.testing.assert_array_equal(score(detector, outputs), score(Msp(), outputs))


@pytest.mark.parametrize(("always_right", "bound"), [(True, 0.01), (False, 100.0)])
def test_a_likelihood_without_maximum_is_remarked(
    train: World, held_out: World, always_right: bool, bound: float
) -> None:
    extreme = held_out.logits.argmax(1) if always_right else held_out.logits.argmin(1)
    unbounded = World(held_out.weight, held_out.bias, held_out.features, extreme)
    detector = fit(MspTemperature(), train, unbounded)
    assert detector.fitted("temperature").item() == pytest.approx(bound)
    (remark,) = detector.remarks()
    assert f"T is {bound:g}" in remark


def typical(source: World, classes: int = 6) -> dict[int, Array]:
    logits = exact(source.logits)
    probabilities, predicted = softmax(logits, axis=1), logits.argmax(1)
    present = [c for c in range(classes) if (predicted == c).any()]
    return {c: probabilities[predicted == c].mean(0) for c in present}


def least_divergence(logits: Array, templates: dict[int, Array]) -> Array:
    p = softmax(exact(logits), axis=1)
    return np.stack([rel_entr(p, d).sum(1) for d in templates.values()]).min(0)


def test_kl_matching_reads_held_out_inputs_only(train: World, held_out: World) -> None:
    detector = fit(KlMatching(), train, held_out)
    outputs = train.outputs(far(3))
    expected = least_divergence(train.logits_of(far(3)), typical(held_out))
    np.testing.assert_allclose(score(detector, outputs), expected, rtol=1e-4, atol=1e-6)
    assert detector.remarks() == ()


def test_kl_matching_borrows_a_class_from_training_inputs(train: World, held_out: World) -> None:
    detector = fit(KlMatching(), train, held_out.without_predictions([2]))
    templates = typical(held_out) | {2: typical(train)[2]}
    outputs = train.outputs(far(3))
    expected = least_divergence(train.logits_of(far(3)), templates)
    np.testing.assert_allclose(score(detector, outputs), expected, rtol=1e-4, atol=1e-6)
    (remark,) = detector.remarks()
    assert "[2]; training inputs stand in" in remark


def test_kl_matching_leaves_out_a_class_never_predicted(train: World, held_out: World) -> None:
    gone = [2, 5]
    detector = fit(
        KlMatching(), train.without_predictions(gone), held_out.without_predictions(gone)
    )
    templates = {c: d for c, d in typical(held_out).items() if c not in gone}
    expected = least_divergence(train.logits_of(far(3)), templates)
    np.testing.assert_allclose(
        score(detector, train.outputs(far(3))), expected, rtol=1e-4, atol=1e-6
    )
    (remark,) = detector.remarks()
    assert "[2, 5]; they take no part" in remark


def test_kl_matching_stays_finite_where_a_typical_probability_underflows(
    train: World, held_out: World
) -> None:
    sharp = train.scaled(1e4), held_out.scaled(1e4)
    values = score(fit(KlMatching(), *sharp), sharp[0].outputs(far(3) * 1e4))
    assert np.isfinite(values).all()


@pytest.mark.parametrize("name", ["kl_matching", "msp_temperature"])
def test_held_out_inputs_are_needed(name: str, train: World, held_out: World) -> None:
    nothing = World(held_out.weight, held_out.bias, held_out.features[:0], held_out.labels[:0])
    with pytest.raises(FitError, match="no held-out inputs"):
        fit(DETECTORS[name](), train, nothing)


def unknown_log_odds(
    source: World, logits: Array, tail: int, revised: int, location: float = 0.0
) -> Array:
    """The method step by step, one input at a time; Weibulls by scipy's own optimiser."""
    correct = source.correct
    centers, fits = [], []
    for c in range(source.logits.shape[1]):
        rows = source.logits[correct & (source.labels == c)]
        centers.append(rows.mean(0))
        distances = np.sort(np.linalg.norm(rows - centers[-1], axis=1))[-tail:]
        shape, _, scale = weibull_min.fit(distances, floc=location)
        fits.append(weibull_min(shape, loc=location, scale=scale))
    found = []
    for row in logits:
        revision, unknown = row.copy(), 0.0
        for rank, c in enumerate(np.argsort(-row)[:revised], start=1):
            weight = (revised + 1 - rank) / revised
            given = max(row[c], 0) * weight * fits[c].cdf(np.linalg.norm(row - centers[c]))
            revision[c] -= given
            unknown += given
        p = softmax(np.append(unknown, revision))
        found.append(np.log(p[0]) - np.log(p[1:].sum()))
    return np.array(found)


@pytest.mark.parametrize(("tail", "revised"), [(25, 10), (20, 3)])
def test_openmax_step_by_step(train: World, held_out: World, tail: int, revised: int) -> None:
    assert 0.7 < train.correct.mean() < 0.98  # centres of correct inputs differ from all inputs'
    queries = np.concatenate([far(3), held_out.features[:40]])
    detector = fit(OpenMax(tail, revised), train, held_out)
    expected = unknown_log_odds(train, train.logits_of(queries), tail, min(revised, 6))
    np.testing.assert_allclose(
        score(detector, train.outputs(queries)), expected, rtol=1e-3, atol=1e-3
    )


def test_openmax_by_hand() -> None:
    """Two classes on a line; all numbers can be followed on paper but the Weibull's."""
    step = np.array([1.0, 2.0, 3.0, 6.0])
    first = np.stack([10 + step, np.zeros(4)], axis=1)  # mean (13, 0): distances 2, 1, 0, 3
    second = np.stack([np.zeros(4), 20 + step], axis=1)
    features = np.concatenate([first, second])
    line = World(np.eye(2), np.zeros(2), features, np.repeat([0, 1], 4))
    detector = fit(OpenMax(tail=3, revised=2), line, line)
    np.testing.assert_allclose(detector.fitted("means").numpy(), [[13, 0], [0, 23]])
    shape, _, scale = weibull_min.fit([1.0, 2.0, 3.0], floc=0)
    np.testing.assert_allclose(detector.fitted("shapes").numpy(), shape, rtol=1e-3)
    np.testing.assert_allclose(detector.fitted("log_scales").exp().numpy(), scale, rtol=1e-3)
    # logits (13, 4) lie 4 from the first mean and far beyond all distances from the second,
    # whose logit, second of two, gives half of itself
    w = weibull_min.cdf(4, shape, scale=scale)
    expected = 13 * w + 2 - np.logaddexp(13 - 13 * w, 2)
    # logits (13, -4) are as far from the first mean, but the second logit has nothing to give
    negative = 13 * w - np.logaddexp(13 - 13 * w, -4)
    found = score(detector, line.outputs(np.array([[13.0, 4.0], [13.0, -4.0]])))
    np.testing.assert_allclose(found, [expected, negative], rtol=1e-4)


def test_openmax_of_negative_logits_is_energy(train: World, held_out: World) -> None:
    detector = fit(OpenMax(), train, held_out)
    outputs = of_logits(-np.abs(train.logits_of(far(3))))
    # the energy crosses zero here, and openmax adds the logits up in another order
    expected = score(Energy(), outputs)
    np.testing.assert_allclose(score(detector, outputs), expected, rtol=1e-6, atol=1e-6)


def test_openmax_exports_the_fits_and_no_sample(train: World, held_out: World) -> None:
    state = fit(OpenMax(), train, held_out).state_dict()
    assert {name: tuple(value.shape) for name, value in state.items()} == {
        "means": (6, 6),
        "shapes": (6,),
        "log_scales": (6,),
        "class_counts": (6,),
    }


def test_openmax_means_of_all_tails_of_a_sample(
    train: World, held_out: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = fit(OpenMax(tail=10), train, held_out)
    monkeypatch.setattr(openmax, "_SAMPLE", 150)
    sampled = OpenMax(tail=10)
    fit(sampled, train, held_out)
    torch.testing.assert_close(sampled.fitted("means"), whole.fitted("means"))
    assert not torch.allclose(sampled.fitted("shapes"), whole.fitted("shapes"))
    assert whole.remarks() == ()
    few = OpenMax(tail=100)
    fit(few, train, held_out)
    (remark,) = few.remarks()
    assert "hardly a tail" in remark


@pytest.mark.parametrize("size", [1e-6, 1.0, 1e6])
def test_the_weibull_fit_follows_the_unit(size: float) -> None:
    values = weibull_min.rvs(3.0, scale=2.0, size=4000, random_state=5)
    shape, scale = openmax.weibull(torch.from_numpy(values * size))
    expected, _, expected_scale = weibull_min.fit(values, floc=0)
    assert shape == pytest.approx(expected, rel=1e-3)
    assert scale / size == pytest.approx(expected_scale, rel=1e-3)
    assert shape == pytest.approx(3.0, rel=0.05)  # and finds what made the values


def test_openmax_refuses_classes_it_cannot_fit(train: World, held_out: World) -> None:
    kept = ~((train.labels == 4) & train.correct)
    wrong = World(train.weight, train.bias, train.features[kept], train.labels[kept])
    with pytest.raises(FitError, match=r"classes \[4\] have fewer than 3 correctly"):
        fit(OpenMax(), wrong, held_out)
    same = train.features.copy()
    rows = np.flatnonzero((train.labels == 1) & train.correct)
    same[rows] = same[rows[0]]
    with pytest.raises(FitError, match=r"largest distances of classes \[1\] are all the same"):
        fit(OpenMax(), World(train.weight, train.bias, same.round(2), train.labels), held_out)


@pytest.mark.parametrize("name", LOGIT_DETECTORS)
@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
def test_every_magnitude_gives_finite_scores_that_differ(
    name: str, size: float, train: World, held_out: World
) -> None:
    """KL matching of huge logits is 0 for every confident input; close to the uniform
    distribution functions of softmax vary less than float32 resolves.
    """
    detector = fit(DETECTORS[name](), train.scaled(size), held_out.scaled(size))
    values = score(detector, train.scaled(size).outputs(far(3) * size))
    assert np.isfinite(values).all()
    flat = name in ("entropy", "gen", "kl_matching") and size == 1e-3
    if not flat and (name, size) != ("kl_matching", 1e3):
        assert len(np.unique(values)) > 0.9 * len(values)


@pytest.mark.parametrize("name", ["kl_matching", "msp_temperature", "openmax"])
def test_the_cut_into_batches_changes_nothing(name: str, train: World, held_out: World) -> None:
    whole = fit(DETECTORS[name](), train, held_out, batch=1000).state_dict()
    cut = fit(DETECTORS[name](), train, held_out, batch=7).state_dict()
    for key, value in whole.items():
        torch.testing.assert_close(cut[key], value, rtol=1e-5, atol=1e-6, msg=key)


@pytest.mark.parametrize("name", ["kl_matching", "msp_temperature", "openmax"])
def test_broken_logits_are_refused(name: str, train: World, held_out: World) -> None:
    for spoilt in (0, 1):
        worlds = [train, held_out]
        features = worlds[spoilt].features.copy()
        features[5, 3] = np.nan
        source = worlds[spoilt]
        worlds[spoilt] = World(source.weight, source.bias, features, source.labels)
        reads = {"msp_temperature": (1,), "openmax": (0,)}.get(name, (0, 1))
        if spoilt in reads:
            with pytest.raises(FitError, match="NaN or infinite"):
                fit(DETECTORS[name](), *worlds)
        else:
            fit(DETECTORS[name](), *worlds)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("gen", {"gamma": 0.0}),
        ("gen", {"top": 1}),
        ("openmax", {"tail": 2}),
        ("openmax", {"revised": 0}),
    ],
)
def test_impossible_hyperparameters_are_refused_by_name(name: str, options: dict) -> None:
    with pytest.raises(ValueError, match=f"{name}: {next(iter(options))}"):
        DETECTORS[name](**options)
