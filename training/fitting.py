"""Fit every detector in one streaming pass, then the ensembles on held-out ID scores."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from training.batches import BATCH, batch_rows
from training.classifier import Classifier
from training.combiners import Ensemble, learn_weights
from training.config import CombinerConfig
from training.data import InputSet
from training.detectors import Detector
from training.graph_detectors import FitContext, GraphDetector
from training.outputs import Outputs, pooled
from training.progress import track
from training.scorer import LOGITS, SCORE_PREFIX, Scorer
from training.side_scorer import Scorers, SideScorer

# A processor's caches hold the maps of so many: twice as fast as 256 of them.
_CPU_BATCH = 64
_SMALLEST_PART = 20  # of a class, where a detector asks for a part of the set
_AVERAGED = 1024  # inputs whose averages go to the detectors together
SIDE_BATCH = 32  # several passes at once, each with its gradients, have to fit into memory
_SIDE_INPUTS = 200  # enough for medians, and several passes each

# inputs (N, ...) -> outputs by name
Network = Callable[[NDArray[Any]], dict[str, NDArray[np.float32]]]


@dataclass(frozen=True)
class SetScores:
    """logits (N, K), (n, 0) from a graph without; scores: detector name -> (n,).

    Scores of a graph that costs several passes may be those of a part of the set.
    """

    logits: NDArray[np.float32]
    scores: dict[str, NDArray[np.float32]]


@torch.no_grad()
def fit_detectors(
    classifier: Classifier,
    detectors: Sequence[Detector],
    train: InputSet,
    held_out: InputSet,
    outliers: InputSet | None = None,
) -> None:
    """One pass over un-augmented train-ID, one over training outliers where a detector reads
    them, one over dev-ID, in evaluation mode.

    Maps reach a detector averaged over space unless it `reads_maps`; then it may ask for a part
    of the inputs alone (`enough`).  Memory is independent of the sets' sizes.
    """
    classifier.eval()
    for detector in detectors:
        detector.prepare(classifier)
    for detector, outputs, labels in _shown(classifier, detectors, train):
        detector.observe(outputs, labels)
    readers = [detector for detector in detectors if detector.reads_outliers]
    if outliers is not None and readers:
        for detector, outputs, _ in _shown(classifier, readers, outliers):
            detector.observe_outliers(outputs)
    for detector, outputs, labels in _shown(classifier, detectors, held_out):
        detector.observe_held_out(outputs, labels)
    for detector in detectors:
        detector.finish()


def _shown(
    classifier: Classifier, detectors: Sequence[Detector], data: InputSet
) -> Iterator[tuple[Detector, Outputs, Tensor]]:
    """To whom, what and its labels: maps a batch at once, averages of many batches."""
    batch = _batch(classifier, data)
    of_maps = [
        (detector, evenly_chosen(data.labels, detector.enough), _Gathered(batch))
        for detector in detectors
        if detector.reads_maps
    ]
    of_averages = [detector for detector in detectors if not detector.reads_maps]
    averages = _Gathered(_AVERAGED)
    for part, outputs, labels in _outputs_of(classifier, data, batch):
        last = part.stop >= len(data)
        for detector, chosen, maps in of_maps:
            rows = torch.from_numpy(chosen[part])
            maps.add(_rows(outputs, rows), labels[rows])
            for joined in maps.given(last):
                yield detector, *joined
        averages.add(_averaged(outputs), labels)
        for joined in averages.given(last):
            for detector in of_averages:
                yield detector, *joined


class _Gathered:
    """Outputs and labels of several batches, until there are `count` inputs."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._parts: list[tuple[Outputs, Tensor]] = []

    def add(self, outputs: Outputs, labels: Tensor) -> None:
        if len(labels):
            self._parts.append((outputs, labels))

    def given(self, last: bool) -> Iterator[tuple[Outputs, Tensor]]:
        """All there is, once it is enough or the `last`; it is forgotten."""
        parts = self._parts
        if parts and (last or sum(len(labels) for _, labels in parts) >= self._count):
            self._parts = []
            yield parts[0] if len(parts) == 1 else _joined(parts)


def evenly_chosen(labels: NDArray[np.int64], most: int | None) -> NDArray[np.bool_]:
    """Labels (N,) -> which inputs (N,): of each class the same share, at equal steps through the
    set, `most` together; but of no class fewer than 20, where it has them."""
    chosen = np.ones(len(labels), bool)
    if most is None or len(labels) <= most:
        return chosen
    for label in np.unique(labels):
        own = np.flatnonzero(labels == label)
        count = min(len(own), max(_SMALLEST_PART, len(own) * most // len(labels)))
        chosen[own] = False
        chosen[own[np.linspace(0, len(own) - 1, count).astype(np.int64)]] = True
    return chosen


def _rows(outputs: Outputs, rows: Tensor) -> Outputs:
    """Some of a batch, `rows` (B,) bool."""
    if rows.all():
        return outputs
    taps = {layer: tap[rows] for layer, tap in outputs.taps.items()}
    return Outputs(taps, outputs.logits[rows], outputs.penultimate)


def _averaged(outputs: Outputs) -> Outputs:
    """With taps (B, D), which keep no larger tensor in memory."""
    taps = {layer: pooled(tap).clone() for layer, tap in outputs.taps.items()}
    return Outputs(taps, outputs.logits, outputs.penultimate)


def _joined(parts: Sequence[tuple[Outputs, Tensor]]) -> tuple[Outputs, Tensor]:
    given, labels = zip(*parts, strict=True)
    taps = {layer: torch.cat([outputs.taps[layer] for outputs in given]) for layer in given[0].taps}
    logits = torch.cat([outputs.logits for outputs in given])
    return Outputs(taps, logits, given[0].penultimate), torch.cat(labels)


def _batch(classifier: Classifier, data: InputSet) -> int:
    most = _CPU_BATCH if classifier.device.type == "cpu" else BATCH
    return batch_rows(data.inputs.shape[1:], most)


def _outputs_of(
    classifier: Classifier, data: InputSet, batch: int
) -> Iterator[tuple[slice, Outputs, Tensor]]:
    device = classifier.device
    for start in track(range(0, len(data), batch), f"fitting detectors on {data.name}"):
        part = slice(start, start + batch)
        inputs = torch.from_numpy(data.batch(part)).to(device)
        labels = torch.from_numpy(data.labels[part]).to(device)
        yield part, classifier(inputs), labels


def fit_graph_detectors(
    classifier: Classifier,
    graph_detectors: Sequence[GraphDetector],
    detectors: Sequence[Detector],
    train: InputSet,
    held_out: InputSet,
    members: Sequence[Classifier],
) -> None:
    """After the other detectors, whose statistics they may take over."""
    inputs = torch.from_numpy(np.asarray(held_out.inputs))
    context = FitContext(classifier, detectors, inputs, members, train)
    for detector in track(graph_detectors, "fitting detectors that need several passes"):
        detector.fit(context)


def fit_ensembles(
    forward: Scorer,
    sides: Sequence[SideScorer],
    configs: Sequence[CombinerConfig],
    dev_id: InputSet,
    proxies: dict[str, InputSet],
) -> Scorers:
    """Standardise on dev-ID; learnt weights also see the proxy outliers, nothing else does.

    An ensemble belongs to the one graph that gives all its members.
    """
    described = [set(part.describe()) for part in (forward, *sides)]
    shares: list[list[CombinerConfig]] = [[] for _ in described]
    for config in configs:
        homes = [i for i, names in enumerate(described) if set(config.members) <= names]
        if not homes:
            known = sorted(set().union(*described))
            raise ValueError(
                f"{config.name}: no graph gives all of {sorted(config.members)}; there are {known}"
            )
        shares[homes[0]].append(config)
        described[homes[0]].add(config.name)
    ensembles = [
        _fit_share(part, share, dev_id, proxies)
        for part, share in zip((forward, *sides), shares, strict=True)
    ]
    device = forward.classifier.device
    return Scorers(
        Scorer(forward.classifier, list(_detectors(forward)), ensembles[0]).eval().to(device),
        tuple(
            SideScorer(side.classifier, side.detector, share).eval().to(device)
            for side, share in zip(sides, ensembles[1:], strict=True)
        ),
    )


def _detectors(scorer: Scorer) -> Iterator[Detector]:
    for detector in scorer.detectors:
        assert isinstance(detector, Detector)  # noqa: S101
        yield detector


def _fit_share(
    part: nn.Module,
    configs: Sequence[CombinerConfig],
    dev_id: InputSet,
    proxies: dict[str, InputSet],
) -> list[Ensemble]:
    """The ensembles of one graph."""
    if not configs:
        return []
    network = torch_network(part)
    side = isinstance(part, SideScorer)

    def scored(data: InputSet) -> dict[str, NDArray[np.float32]]:
        found = score_side(network, data, _SIDE_INPUTS) if side else score_set(network, data)
        return found.scores

    id_scores = scored(dev_id)
    learnt = any(config.weights == "learnt" for config in configs)
    proxy_scores = {name: scored(proxy) for name, proxy in proxies.items()} if learnt else {}
    ensembles: list[Ensemble] = []
    for config in configs:
        ensemble = Ensemble(
            config.name, config.members, config.rule, config.standardisation or "mad"
        )
        ensemble.fit(id_scores)
        if config.weights == "learnt":
            if not proxies:
                raise ValueError(f"{config.name}: learnt weights need data.proxy_ood")
            learn_weights(ensemble, id_scores, proxy_scores)
        ensembles.append(ensemble.eval())
        id_scores[config.name] = _apply(ensemble, id_scores)
        for scores in proxy_scores.values():
            scores[config.name] = _apply(ensemble, scores)
    return ensembles


def torch_network(scorer: nn.Module) -> Network:
    """A scorer as a function of arrays."""
    device = next(scorer.parameters()).device

    @torch.no_grad()
    def network(inputs: NDArray[Any]) -> dict[str, NDArray[np.float32]]:
        outputs = scorer(torch.from_numpy(inputs).to(device))
        return {name: value.cpu().numpy() for name, value in outputs.items()}

    return network


def score_side(network: Network, data: InputSet, limit: int | None) -> SetScores:
    """`score_set` for a graph of several passes, in batches that fit into memory."""
    return score_set(network, data, limit, batch=SIDE_BATCH)


def score_set(
    network: Network, data: InputSet, limit: int | None = None, *, batch: int = BATCH
) -> SetScores:
    """Score a set in batches; more than `limit` inputs are thinned out evenly."""
    if limit is not None and len(data) > limit:
        kept = np.linspace(0, len(data) - 1, limit).astype(np.int64)
        data = data.take(kept, data.name)
    batch = batch_rows(data.inputs.shape[1:], batch)
    parts = [
        network(data.batch(slice(start, start + batch)))
        for start in track(range(0, len(data), batch), f"scoring {data.name}")
    ]
    values = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    logits = values.pop(LOGITS, np.zeros((len(data), 0), np.float32))
    return SetScores(logits, {n.removeprefix(SCORE_PREFIX): v for n, v in values.items()})


def _apply(ensemble: Ensemble, scores: dict[str, NDArray[np.float32]]) -> NDArray[np.float32]:
    tensors = {member: torch.from_numpy(scores[member]) for member in ensemble.members}
    return ensemble(tensors).numpy()
