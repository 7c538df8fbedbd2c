"""The same features and logits through pytorch-ood; where it differs, the reason is shown.

Each difference is tested twice: its variant, written out here, gives its numbers; ours, by the
formula, is checked in test_detectors_logits.py and test_detectors_features.py.
"""

import numpy as np
import pytest
import torch
from linear_world import Array, World, far, fit, score, world
from scipy.special import expit, softmax
from scipy.stats import exponweib, spearmanr
from torch import Tensor, nn

from training.detectors import DETECTORS
from training.detectors.msp_temperature import MspTemperature
from training.detectors.nci import Nci

QUERIES = np.concatenate([far(3), world(seed=7, count=60).features])


@pytest.fixture(scope="module")
def train() -> World:
    return world(seed=1)


@pytest.fixture(scope="module")
def held_out() -> World:
    return world(seed=2, count=400)


def tensor(values: Array) -> Tensor:
    return torch.from_numpy(values).float()


def head_of(source: World) -> nn.Linear:
    return source.classifier.head


def agree(ours: Array, theirs: Tensor, atol: float = 1e-5) -> None:
    np.testing.assert_allclose(ours, theirs.detach().double().numpy(), rtol=1e-4, atol=atol)


def query(name: str, train: World, held_out: World) -> Array:
    return score(fit(DETECTORS[name](), train, held_out), train.outputs(QUERIES))


def test_msp_max_logit_and_energy(train: World, held_out: World) -> None:
    from pytorch_ood.detector import EnergyBased, MaxLogit, MaxSoftmax

    logits = tensor(train.logits_of(QUERIES))
    agree(-expit(-query("msp", train, held_out)), MaxSoftmax.score(logits))
    agree(query("max_logit", train, held_out), MaxLogit.score(logits))
    for temperature in (1.0, 5.0):
        ours = score(DETECTORS["energy"](temperature), train.outputs(QUERIES))
        agree(ours, EnergyBased.score(logits, temperature))


def test_entropy_but_for_their_clipping(train: World) -> None:
    from pytorch_ood.detector import Entropy

    mild = train.scaled(0.3).outputs(0.3 * QUERIES)
    assert torch.softmax(mild.logits, 1).min() > 1e-7
    agree(np.exp(score(DETECTORS["entropy"](), mild)), Entropy.score(mild.logits))

    sharp = train.outputs(4 * QUERIES)
    p = softmax(sharp.logits.double().numpy(), axis=1)
    clipped = p.clip(1e-7, 1)
    variant = -(clipped * np.log(clipped)).sum(1)
    agree(variant, Entropy.score(sharp.logits), atol=1e-6)
    # an input that is certain to one part in 1e9 has an entropy far below what clipping adds
    certain = p.max(1) > 1 - 1e-9
    assert certain.sum() > 10
    ours = np.exp(score(DETECTORS["entropy"](), sharp))
    assert (ours[certain] < 0.1 * variant[certain]).all()


def test_gen_is_their_mean_times_the_classes_but_for_clipping(train: World) -> None:
    from pytorch_ood.detector import GEN

    mild = train.scaled(0.3).outputs(0.3 * QUERIES)
    assert torch.softmax(mild.logits, 1).min() > 1e-7
    ours = np.exp(score(DETECTORS["gen"](), mild))
    agree(ours, 6 * GEN.score(mild.logits))
    top = np.exp(score(DETECTORS["gen"](gamma=0.5, top=3), mild))
    agree(top, 3 * GEN.score(mild.logits, gamma=0.5, M=3))

    sharp = train.outputs(4 * QUERIES)
    p = softmax(sharp.logits.double().numpy(), axis=1).clip(1e-7, 1 - 1e-7)
    # in float32 their bound 1 - 1e-7 is 1 - 1.2e-7, which moves a score of 0.2 by 6e-4
    agree((p**0.1 * (1 - p) ** 0.1).sum(1) / 6, GEN.score(sharp.logits), atol=1e-3)
    # 1e-7 ** 0.1 is 0.2: clipping lifts every certain input to the same score, ours ranks them
    certain = p.max(1) == 1 - 1e-7
    assert GEN.score(sharp.logits)[torch.from_numpy(certain)].unique().numel() < certain.sum()
    ours = score(DETECTORS["gen"](), sharp)
    assert len(np.unique(ours[certain])) == certain.sum() > 10


def test_kl_matching(train: World, held_out: World) -> None:
    from pytorch_ood.detector import KLMatching

    theirs = KLMatching(None).fit_logits(tensor(held_out.logits))
    logits = tensor(train.logits_of(QUERIES))
    agree(query("kl_matching", train, held_out), theirs.predict_logits(logits), atol=1e-6)


def test_kl_matching_where_a_class_is_never_predicted(train: World, held_out: World) -> None:
    """Theirs leaves the class out, so its inputs look far from everything; ours borrows it."""
    from pytorch_ood.detector import KLMatching

    partial = held_out.without_predictions([2])
    logits = tensor(train.logits_of(QUERIES))
    theirs = KLMatching(None).fit_logits(tensor(partial.logits)).predict_logits(logits)
    agree(query("kl_matching", train.without_predictions([2]), partial), theirs, atol=1e-6)
    borrowed = query("kl_matching", train, partial)
    of_class = train.logits_of(QUERIES).argmax(1) == 2
    assert of_class.sum() > 10
    assert np.median(borrowed[of_class]) < 0.1 * np.median(theirs.numpy()[of_class])


def test_temperature_scaling_stops_before_its_optimum(train: World, held_out: World) -> None:
    from pytorch_ood.detector import TemperatureScaling

    theirs = TemperatureScaling(None)
    theirs.fit_logits(tensor(held_out.logits), torch.from_numpy(held_out.labels))
    ours = fit(MspTemperature(), train, held_out)

    def loss(temperature: float) -> float:
        logits = torch.from_numpy(held_out.logits) / temperature
        return nn.functional.cross_entropy(logits, torch.from_numpy(held_out.labels)).item()

    stopped = theirs.t.item()
    assert loss(ours.fitted("temperature").item()) <= loss(stopped)
    # at the same temperature the scores are the same
    ours.register_buffer("temperature", torch.tensor(stopped))
    logits = tensor(train.logits_of(QUERIES))
    agree(-expit(-score(ours, train.outputs(QUERIES))), theirs.predict_logits(logits))


def test_react(train: World, held_out: World) -> None:
    from pytorch_ood.detector import ReAct

    theirs = ReAct(lambda x: x, head_of(train), percentile=0.9)
    theirs.fit_feature_maps(tensor(train.features), torch.from_numpy(train.labels))
    agree(query("react", train, held_out), theirs.predict_feature_maps(tensor(QUERIES)))


@pytest.mark.parametrize(("name", "percentile"), [("ash_s", 0.65), ("scale", 0.85)])
def test_activation_shaping(name: str, percentile: float, train: World, held_out: World) -> None:
    from pytorch_ood.detector import ASH, SCALE

    method = ASH if name == "ash_s" else SCALE
    head = nn.Sequential(nn.Flatten(), head_of(train))
    theirs = method(lambda x: x, head, percentile=percentile)
    maps = tensor(QUERIES)[:, :, None, None]
    agree(query(name, train, held_out), theirs.predict_feature_maps(maps), atol=1e-4)


def test_she(train: World, held_out: World) -> None:
    from pytorch_ood.detector import SHE

    theirs = SHE(lambda x: x, head_of(train))
    theirs.fit_features(tensor(train.features), torch.from_numpy(train.labels))
    agree(query("she", train, held_out), theirs.predict_features(tensor(QUERIES)))


def test_fdbd_is_their_mean_times_the_boundaries(train: World, held_out: World) -> None:
    from pytorch_ood.detector import fDBD

    theirs = fDBD(nn.Identity(), head_of(train)).fit_features(tensor(train.features))
    agree(query("fdbd", train, held_out), 5 * theirs.predict_features(tensor(QUERIES)))


@pytest.mark.parametrize("alpha", [0.0, 0.05])
def test_nci(train: World, held_out: World, alpha: float) -> None:
    from pytorch_ood.detector import NCI

    theirs = NCI(nn.Identity(), head_of(train), alpha=alpha).fit_features(tensor(train.features))
    ours = score(fit(Nci(norm_weight=alpha), train, held_out), train.outputs(QUERIES))
    agree(ours, theirs.predict_features(tensor(QUERIES)))


def test_dice(train: World, held_out: World) -> None:
    from pytorch_ood.detector import DICE

    theirs = DICE(None, tensor(train.weight), tensor(train.bias), p=0.9)
    theirs.fit_features(tensor(train.features), torch.from_numpy(train.labels))
    agree(query("dice", train, held_out), theirs.predict_features(tensor(QUERIES)))


def test_gradnorm_is_their_gradient_times_the_classes(train: World, held_out: World) -> None:
    from pytorch_ood.detector import GradNorm

    theirs = GradNorm(head_of(train), param_filter=lambda name: name == "weight")
    agree(query("gradnorm", train, held_out), 6 * theirs.predict(tensor(QUERIES)))


def their_openmax(train: World, logits: Array, tail: int, revised: int) -> Array:
    """Centres and tails of all inputs, right or wrong; Weibulls of distances moved by 10,000
    less the tail's smallest; logits as they are; distances to classes that are predicted for no
    input of the batch read as 0.
    """
    centers, fits = [], []
    for c in range(6):
        rows = train.logits[train.labels == c].astype(np.float32)
        centers.append(rows.mean(0))
        distances = np.sort(np.linalg.norm(rows - centers[-1], axis=1))[-tail:]
        shift = 10_000 - distances.min()
        _, shape, _, scale = exponweib.fit((distances + shift).tolist(), floc=0, f0=1)
        fits.append((shift, exponweib(1, shape, loc=0, scale=scale)))
    predicted = set(logits.argmax(1))
    found = []
    for row in logits:
        revision, unknown = row.copy(), 0.0
        for rank, c in enumerate(np.argsort(-row)[:revised], start=1):
            shift, fitted = fits[c]
            distance = np.linalg.norm(row - centers[c]) if c in predicted else 0.0
            given = row[c] * (revised + 1 - rank) / revised * fitted.cdf(distance + shift)
            revision[c] -= given
            unknown += given
        found.append(softmax(np.append(unknown, revision))[0])
    return np.array(found)


def test_openmax_by_their_choices(train: World, held_out: World) -> None:
    from pytorch_ood.detector import OpenMax

    theirs = OpenMax(None, tailsize=25, alpha=6)
    theirs.fit_logits(tensor(train.logits), torch.from_numpy(train.labels))
    logits = train.logits_of(QUERIES)
    together = theirs.predict_logits(tensor(logits))
    agree(their_openmax(train, logits, tail=25, revised=6), together, atol=1e-3)
    # their score of an input depends on its neighbours, which none of ours may
    alone = torch.cat([theirs.predict_logits(tensor(row[None])) for row in logits[:20]])
    assert (alone - together[:20]).abs().max() > 0.01
    # other centres, another location, another zero, yet the same idea
    assert spearmanr(query("openmax", train, held_out), together.numpy()).statistic > 0.6
