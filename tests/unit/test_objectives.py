"""Every training objective against an independent computation, its direction, its extremes."""

import copy
import math

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from torch import Tensor, nn
from toy import TOY_SPEC, toy_classifier

from training.backbones import LatentNetwork
from training.classifier import Classifier, ImageClassifier
from training.objectives import OBJECTIVES, Batch, Objective, weighted
from training.objectives.vmdls import SPREAD_HEAD, mean_of_positive
from training.outputs import Outputs

K, D = 4, 16
SHARES = torch.tensor([0.4, 0.3, 0.2, 0.1])
EXPOSED = sorted(name for name, make in OBJECTIVES.items() if make().reads_outliers)
# Options under which an untrained network is a valid start.
OPTIONS = {"energy_bounded": {"id_margin": -5.0, "outlier_margin": -1.0}}


def classifier(name: str) -> Classifier:
    if name != "vmdls":
        return copy.deepcopy(toy_classifier())
    from toy import ToyNet

    class Small(ToyNet):
        def __init__(self, channels: int, classes: int) -> None:
            super().__init__()
            self.head = nn.Linear(16, classes)

    torch.manual_seed(3)
    return ImageClassifier(LatentNetwork(Small, 1, K, D), TOY_SPEC)


def made(name: str, **options) -> tuple[Objective, Classifier]:
    network = classifier(name)
    objective = OBJECTIVES[name](**{**OPTIONS.get(name, {}), **options})
    torch.manual_seed(1)
    objective.prepare(network, SHARES)
    return objective, network


def outputs(features: Tensor, network: Classifier) -> Outputs:
    taps = {network.generator: features, "mu": features} if network.generator else {}
    return Outputs({"hidden": features, **taps}, network.head(features), "hidden")


def features(count: int, seed: int, scale: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(count, D, generator=generator) * scale).requires_grad_()


def batch(network: Classifier, of_id: Tensor, of_outliers: Tensor | None) -> Batch:
    labels = torch.arange(len(of_id)) % K
    exposed = outputs(of_outliers, network) if of_outliers is not None else None
    return Batch(outputs(of_id, network), labels, exposed)


def terms(name: str, of_id: Tensor, of_outliers: Tensor | None = None, **options):
    objective, network = made(name, **options)
    objective.start(batch(network, of_id, of_outliers))
    objective.begin_epoch(0, network)
    return objective(batch(network, of_id, of_outliers), network)


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def numbers(tensor: Tensor) -> np.ndarray:
    return tensor.detach().double().numpy()


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_terms_are_finite_scalars_with_a_weight_each(name: str) -> None:
    of_outliers = features(6, 2) if name in EXPOSED else None
    found = terms(name, features(8, 1), of_outliers)
    objective = OBJECTIVES[name](**OPTIONS.get(name, {}))
    assert list(found) == list(objective.weights)
    for term, value in found.items():
        assert value.shape == (), term
        assert torch.isfinite(value), term


@pytest.mark.parametrize("scale", [0.0, 1e-6, 1e4])
@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_gradients_are_finite_at_extremes(name: str, scale: float) -> None:
    """Coinciding, vanishing and huge features."""
    objective, network = made(name)
    if hasattr(objective, "momentum"):
        objective.squared_bandwidth = torch.tensor(0.5)  # as after earlier batches
    of_id, of_outliers = features(8, 1, scale), features(8, 1, scale)
    objective.begin_epoch(0, network)
    given = batch(network, of_id, of_outliers if name in EXPOSED else None)
    weighted(objective(given, network), objective.weights).backward()
    assert of_id.grad is not None
    assert torch.isfinite(of_id.grad).all()


@pytest.mark.parametrize("name", EXPOSED)
def test_a_repeated_outlier_changes_no_term(name: str) -> None:
    """Means over ID and over outliers apart: the mixture moves no weight."""
    of_id, of_outliers = features(8, 1), features(6, 2)
    once = terms(name, of_id, of_outliers)
    thrice = terms(name, of_id, of_outliers.repeat(3, 1))
    for term, value in once.items():
        torch.testing.assert_close(thrice[term], value, msg=term)


def test_uniform_and_prior_targets_against_numpy() -> None:
    of_id, of_outliers = features(8, 1), features(6, 2)
    logits = numbers(outputs(of_outliers, made("outlier_exposure")[1]).logits)
    logs = np.log(softmax(logits))
    for target, share in (("uniform", np.full(K, 1 / K)), ("prior", SHARES.double().numpy())):
        found = terms("outlier_exposure", of_id, of_outliers, target=target)["outliers"]
        assert found.item() == pytest.approx(-(logs @ share).mean(), rel=1e-5)


def test_logit_adjustment_against_numpy() -> None:
    of_id = features(8, 1)
    logits = numbers(outputs(of_id, made("cross_entropy")[1]).logits)
    adjusted = np.log(softmax(logits + 1.5 * np.log(SHARES.double().numpy())))
    found = terms("cross_entropy", of_id, logit_adjustment=1.5)["cross_entropy"]
    expected = -adjusted[np.arange(8), np.arange(8) % K].mean()
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_energy_margins_against_numpy() -> None:
    of_id, of_outliers = features(8, 1, 3.0), features(6, 2, 3.0)
    network = made("energy_bounded")[1]
    id_energy, outlier_energy = (
        -np.log(np.exp(numbers(outputs(f, network).logits)).sum(1)) for f in (of_id, of_outliers)
    )
    found = terms("energy_bounded", of_id, of_outliers)
    expected = np.maximum(0, id_energy + 5) ** 2
    assert found["id_energy"].item() == pytest.approx(expected.mean(), rel=1e-4)
    expected = np.maximum(0, -1 - outlier_energy) ** 2
    assert found["outlier_energy"].item() == pytest.approx(expected.mean(), rel=1e-4)


def test_energy_margins_are_measured_or_the_start_is_refused() -> None:
    network = made("energy_bounded")[1]
    objective = OBJECTIVES["energy_bounded"]()
    objective.prepare(network, SHARES)
    direction = network.head.weight[0].detach()
    near, far = direction.repeat(8, 1) * 5, torch.zeros(6, D)
    objective.start(batch(network, near, far))
    given = batch(network, near, far)
    energies = [-given_.logits.logsumexp(1).mean() for given_ in (given.id_outputs, given.exposed)]
    torch.testing.assert_close(objective.margins, torch.stack(energies).detach())
    with pytest.raises(ValueError, match="start from a trained network"):
        objective.start(batch(network, far[[0] * 8], near))


def test_objectosphere_against_numpy() -> None:
    of_id, of_outliers = features(8, 1, 2.0), features(6, 2)
    found = terms("objectosphere", of_id, of_outliers, radius=8.0)
    norms = np.linalg.norm(numbers(of_id), axis=1)
    assert 0 < (norms < 8).sum() < 8, "both sides of the radius"
    expected = (np.maximum(0, 8 - norms) ** 2).mean()
    assert found["id_radius"].item() == pytest.approx(expected, rel=1e-5)
    expected = (numbers(of_outliers) ** 2).sum(1).mean()
    assert found["outlier_radius"].item() == pytest.approx(expected, rel=1e-5)


def test_logit_norm_against_numpy_and_ignores_the_length() -> None:
    objective, network = made("logit_norm", temperature=0.1)
    logits = torch.randn(8, K, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(8) % K

    def loss(scaled: Tensor) -> float:
        given = Batch(Outputs({}, scaled, "hidden"), labels)
        return objective(given, network)["cross_entropy"].item()

    values = logits.double().numpy()
    unit = values / (0.1 * np.linalg.norm(values, axis=1, keepdims=True))
    expected = -np.log(softmax(unit))[np.arange(8), np.arange(8) % K].mean()
    assert loss(logits) == pytest.approx(expected, rel=1e-5)
    assert loss(logits * 100) == pytest.approx(expected, rel=1e-5)


def parzen(of_id: np.ndarray, of_outliers: np.ndarray, square: float, odds: float) -> float:
    """mean softplus(log mean_i exp(-||z - z_i||^2 / 2 rho^2) + b), by the kernel itself."""
    distances = ((of_outliers[:, None] - of_id[None]) ** 2).sum(2)
    density = np.log(np.exp(-distances / (2 * square)).mean(1))
    return float(np.log1p(np.exp(density + odds)).mean())


@pytest.mark.parametrize("normalise", [True, False])
def test_parzen_repulsion_against_numpy(normalise: bool) -> None:
    of_id, of_outliers = features(12, 1), features(6, 2)
    found = terms("parzen_repulsion", of_id, of_outliers, normalise=normalise, bandwidth=0.7)
    points = [numbers(of_id), numbers(of_outliers)]
    if normalise:
        points = [p / np.linalg.norm(p, axis=1, keepdims=True) for p in points]
    assert found["repulsion"].item() == pytest.approx(parzen(*points, 0.49, 3.0), rel=1e-4)


def test_the_bandwidth_follows_same_class_distances() -> None:
    of_id = features(12, 1)
    objective, network = made("parzen_repulsion", normalise=False, momentum=0.5)
    objective.start(batch(network, of_id, features(6, 2)))
    values, labels = numbers(of_id), np.arange(12) % K
    pairs = [
        ((values[i] - values[j]) ** 2).sum()
        for i in range(12)
        for j in range(12)
        if i != j and labels[i] == labels[j]
    ]
    middle = np.sort(pairs)[(len(pairs) - 1) // 2]
    assert objective.squared_bandwidth.item() == pytest.approx(middle / 2, rel=1e-4)
    objective.train()
    objective(batch(network, of_id * 3, features(6, 2)), network)
    assert objective.squared_bandwidth.item() == pytest.approx(
        0.5 * middle / 2 + 0.5 * 9 * middle / 2, rel=1e-4
    )


def test_the_bounded_form_pushes_and_vanishes_far_away() -> None:
    of_id = torch.zeros(8, D)
    gradients = {}
    for distance in (0.0, 0.5, 1.0, 2.0, 6.0):
        of_outlier = torch.zeros(1, D)
        of_outlier[0, 0] = distance
        of_outlier.requires_grad_()
        loss = terms(
            "parzen_repulsion", of_id, of_outlier, normalise=False, bandwidth=1.0, push_id=False
        )["repulsion"]
        (gradient,) = torch.autograd.grad(loss, of_outlier)
        gradients[distance] = -gradient[0, 0].item()  # where descent moves it
        assert loss.item() > 0
    assert gradients[0.0] == pytest.approx(0, abs=1e-6)
    assert min(gradients[0.5], gradients[1.0], gradients[2.0]) > 0.1, "away from ID"
    assert abs(gradients[6.0]) < 1e-4


def test_the_printed_form_attracts() -> None:
    of_outlier = torch.full((1, D), 0.5, requires_grad=True)
    given = {"normalise": False, "bandwidth": 2.0, "form": "printed_attracts"}
    loss = terms("parzen_repulsion", torch.zeros(8, D), of_outlier, **given)["repulsion"]
    assert loss.item() == pytest.approx(D * 0.25 / 4, rel=1e-5)
    (gradient,) = torch.autograd.grad(loss, of_outlier)
    assert (gradient > 0).all(), "descent moves the outlier towards ID"


def test_the_queue_keeps_the_latest_id_features() -> None:
    objective, network = made("parzen_repulsion", queue=10, normalise=False)
    objective.train()
    for seed in (1, 2):
        objective(batch(network, features(8, seed), features(4, 9)), network)
    expected = torch.cat([features(8, 1)[-2:], features(8, 2)]).detach()
    torch.testing.assert_close(objective.kept, expected)


@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_the_binary_term_against_numpy(head: str) -> None:
    of_id, of_outliers = features(8, 1), features(6, 2)
    objective, network = made("binary_head", head=head)
    found = objective(batch(network, of_id, of_outliers), network)["binary"]
    layer = network.heads["outliers"]

    def probability(points: Tensor) -> np.ndarray:
        values = numbers(points)
        linear = [m for m in layer if isinstance(m, nn.Linear)]
        for number, one in enumerate(linear):
            values = np.maximum(values, 0) if number else values
            values = values @ numbers(one.weight).T + numbers(one.bias)
        return 1 / (1 + np.exp(-values[:, 0]))

    expected = -np.log(1 - probability(of_id)).mean() - np.log(probability(of_outliers)).mean()
    assert found.item() == pytest.approx(expected / 2, rel=1e-5)


def test_the_bottleneck_is_half_the_mean_log_variance() -> None:
    of_id = features(13, 1)
    found = terms("binary_head", of_id, features(4, 2))["bottleneck"]
    values, labels = numbers(of_id), np.arange(13) % K
    logs = [np.log(values[labels == c].var(0) + 1e-6) for c in range(K)]
    assert found.item() == pytest.approx(np.mean(logs) / 2, rel=1e-4)


@pytest.mark.parametrize("name", ["energy_bounded", "objectosphere", "outlier_exposure"])
def test_descent_makes_outliers_look_less_like_id(name: str) -> None:
    """A step of the outliers alone along the weighted loss, without the head's."""
    objective, network = made(name)
    of_id = network.head.weight.detach()[torch.arange(8) % K] * 0.3
    of_outliers = (of_id[:6] * 0.9 + features(6, 2, 0.02).detach()).requires_grad_()
    objective.begin_epoch(0, network)
    given = batch(network, of_id, of_outliers)
    loss = weighted(objective(given, network), objective.weights)
    (gradient,) = torch.autograd.grad(loss, of_outliers)
    moved = (of_outliers - 1e-2 * gradient / gradient.norm(dim=1, keepdim=True)).detach()
    before, after = (network.head(points) for points in (of_outliers.detach(), moved))
    if name == "energy_bounded":
        assert (after.logsumexp(1) < before.logsumexp(1)).all()
    else:
        assert (after.softmax(1).amax(1) < before.softmax(1).amax(1)).all()


def vmdls_by_hand(z: np.ndarray, labels: np.ndarray, triplet: float, margin: float, unit: bool):
    """Triplet and distancing terms, pair by pair."""
    if unit:
        z = z / np.linalg.norm(z, axis=1, keepdims=True)
    squares = ((z[:, None] - z[None]) ** 2).sum(2)
    distances = np.sqrt(np.maximum(squares, 1e-12)) if unit else squares
    count = range(len(z))
    gaps = [
        triplet + distances[a, p] - distances[a, n]
        for a in count
        for p in count
        for n in count
        if a != p and labels[a] == labels[p] and labels[a] != labels[n]
    ]
    far = [margin - distances[a, n] for a in count for n in count if labels[a] != labels[n]]
    means = []
    for values in (gaps, far):
        kept = [value for value in values if value > 0]
        means.append(np.mean(kept) if kept else 0.0)
    return means


@pytest.mark.parametrize("distance", ["unit", "square"])
def test_the_margins_of_vmdls_against_loops(distance: str) -> None:
    objective, network = made("vmdls", distance=distance, distancing_margin=3.0)
    with torch.no_grad():  # hardly any noise
        network.heads[SPREAD_HEAD].weight.zero_()
        network.heads[SPREAD_HEAD].bias.fill_(-40.0)
    of_id = features(10, 1)
    for epoch, margin in ((0, 0.15), (1, 1.15), (2, 2.15), (5, 3.0)):
        objective.begin_epoch(epoch, network)
        found = objective(batch(network, of_id, None), network)
        labels = np.arange(10) % K
        wanted = vmdls_by_hand(numbers(of_id), labels, 0.1, margin, distance == "unit")
        assert found["triplet"].item() == pytest.approx(wanted[0], rel=1e-4)
        assert found["distancing"].item() == pytest.approx(wanted[1], rel=1e-4)


def test_margins_above_two_all_have_the_same_gradients_on_unit_vectors() -> None:
    gradients = []
    for margin in (3.0, 64.0):
        objective, network = made("vmdls", distancing_margin=margin)
        objective.begin_epoch(100, network)
        of_id = features(10, 1)
        torch.manual_seed(0)
        objective(batch(network, of_id, None), network)["distancing"].backward()
        gradients.append(of_id.grad)
    torch.testing.assert_close(*gradients)


def test_the_kl_term_against_torch_distributions_from_the_second_epoch_on() -> None:
    objective, network = made("vmdls", prior_std=0.5)
    objective.train()
    of_id = features(10, 1)
    spread = (network.heads[SPREAD_HEAD](of_id) / 2).exp()
    torch.testing.assert_close(spread, torch.full_like(spread, 0.5))
    torch.manual_seed(2)
    nn.init.normal_(network.heads[SPREAD_HEAD].weight, std=0.1)
    given = batch(network, of_id, None)
    objective.begin_epoch(0, network)
    torch.manual_seed(0)
    assert objective(given, network)["kl"].item() == 0
    log_variance = network.heads[SPREAD_HEAD](of_id)
    torch.manual_seed(0)
    z = of_id + (log_variance / 2).exp() * torch.randn_like(of_id)
    labels = torch.arange(10) % K
    means = torch.stack([z[labels == c].mean(0) for c in range(K)]).detach()
    objective.begin_epoch(1, network)
    torch.testing.assert_close(objective.class_means, means)
    normal = torch.distributions.Normal
    divergence = torch.distributions.kl_divergence(
        normal(of_id, (log_variance / 2).exp()), normal(means[labels], 0.5)
    ).mean(1)
    expected = torch.stack([divergence[labels == c].mean() for c in range(K)]).mean()
    torch.testing.assert_close(objective(given, network)["kl"], expected, rtol=1e-4, atol=1e-5)


def test_vmdls_ends_with_the_head_of_the_gaussian_posterior() -> None:
    """Against scipy's densities with the classes' frequencies, and LDA of scikit-learn."""
    objective, network = made("vmdls")
    rng = np.random.default_rng(0)
    labels = rng.choice(K, 400, p=[0.4, 0.3, 0.2, 0.1])
    spread = rng.normal(size=(D, D)) / 4
    mu = 3 * rng.normal(size=(K, D))[labels] + rng.normal(size=(400, D)) @ spread
    parts = torch.from_numpy(mu).float().split(150)
    given = torch.from_numpy(labels).split(150)
    seen = [Batch(outputs(z, network), y) for z, y in zip(parts, given, strict=True)]
    objective.finish(network, iter(seen))
    points = 3 * rng.normal(size=(50, D))
    means = np.stack([mu[labels == c].mean(0) for c in range(K)])
    gaps = mu - means[labels]
    covariance = gaps.T @ gaps / 400
    covariance += 1e-3 * covariance.trace() / D * np.eye(D)
    densities = np.stack([multivariate_normal(m, covariance).logpdf(points) for m in means], 1)
    background = multivariate_normal(mu.mean(0), covariance).logpdf(points)
    wanted = densities - background[:, None] + np.log(np.bincount(labels) / 400)
    found = network.head(torch.from_numpy(points).float()).detach().numpy()
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-2)
    reference = LinearDiscriminantAnalysis().fit(mu, labels)
    assert (found.argmax(1) == reference.predict(points)).mean() > 0.95


def test_vmdls_without_a_latent_layer_says_what_to_do() -> None:
    with pytest.raises(ValueError, match="set latent_dim in backbone_options"):
        OBJECTIVES["vmdls"]().prepare(classifier("cross_entropy"), SHARES)


def test_the_mean_of_positive_values_of_none_is_zero() -> None:
    assert mean_of_positive(torch.tensor([-1.0, -2.0])).item() == 0
    assert mean_of_positive(torch.tensor([-1.0, 2.0, 4.0])).item() == 3


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("outlier_exposure", {"target": "flat"}),
        ("outlier_exposure", {"logit_adjustment": -1}),
        ("energy_bounded", {"id_margin": -1}),
        ("energy_bounded", {"id_margin": -1, "outlier_margin": -5}),
        ("objectosphere", {"radius": 0}),
        ("parzen_repulsion", {"form": "printed"}),
        ("parzen_repulsion", {"bandwidth": -1}),
        ("parzen_repulsion", {"queue": -1}),
        ("binary_head", {"head": "deep"}),
        ("binary_head", {"hidden": 0}),
        ("logit_norm", {"temperature": 0}),
        ("vmdls", {"distance": "cosine"}),
        ("vmdls", {"prior_std": 0}),
        ("vmdls", {"distancing_margin": -1}),
    ],
)
def test_impossible_options_are_refused(name: str, options: dict) -> None:
    with pytest.raises(ValueError, match=r"choose|must|give both|at least|positive"):
        OBJECTIVES[name](**options)


def test_a_term_of_weight_zero_is_left_out_whatever_it_is() -> None:
    given = {"a": torch.tensor(2.0), "b": torch.tensor(math.nan)}
    assert weighted(given, {"a": 0.5, "b": 0.0}).item() == 1
