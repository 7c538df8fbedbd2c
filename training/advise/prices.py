"""What a bundle's detectors cost: cuts of its own graphs, timed beside the classifier alone."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx.utils import Extractor

from service.bundle import FORWARD, DetectorSpec
from training.advise.records import Cost
from training.evaluation.timing import FEWEST_PAIRS, Limits, Timed, compare
from training.export import open_network
from training.progress import say, track
from training.scorer import LOGITS

WHOLE, LEAN = "whole", "lean"
_SECONDS = 10.0  # of wall time, for all detectors of the forward graph together
_LIMITS = Limits(_SECONDS, FEWEST_PAIRS, tolerance=0.02)


class Prices:
    """The graphs of one bundle, opened once; `example`: one input (1, ...)."""

    def __init__(self, folder: Path, example: NDArray[Any]) -> None:
        self._folder = folder
        self._example = example
        self._cuts = Extractor(onnx.load(folder / FORWARD))
        self._plain = self._network([])

    def of_detectors(self, detectors: Sequence[DetectorSpec]) -> dict[str, Cost]:
        """Each alone; scores of one graph beside the forward one cost what that graph costs."""
        say(f"timing {len(detectors)} detectors")
        forward = {
            spec.name: self._network([spec.output])
            for spec in track(
                [spec for spec in detectors if not spec.on_demand], "cutting the graph"
            )
        }
        timed = _timed(self._plain, forward)
        graphs = sorted({spec.graph for spec in detectors if spec.on_demand})
        beside = {
            graph: partial(open_network(self._folder / graph, threads=1), self._example)
            for graph in graphs
        }
        # such a graph computes no logits: what it costs comes on top of the classifier
        dear = {
            graph: Cost(1 + one.ratio, 1 + one.low, 1 + one.high, one.microseconds)
            for graph, one in _timed(self._plain, beside, alone=True).items()
        }
        return {
            spec.name: dear[spec.graph] if spec.on_demand else timed[spec.name]
            for spec in detectors
        }

    def together(self, sets: Mapping[str, Sequence[DetectorSpec]]) -> dict[str, Cost]:
        """Several detectors of the forward graph at once, by the name of the set."""
        calls = {
            name: self._network([spec.output for spec in specs]) for name, specs in sets.items()
        }
        return _timed(self._plain, calls)

    def _network(self, scores: Sequence[str]) -> partial[dict[str, NDArray[np.float32]]]:
        """The classifier with some scores and nothing else, on the example."""
        names = [given.name for given in self._cuts.graph.input]
        cut = self._cuts.extract_model(names, [LOGITS, *scores])
        return partial(open_network(cut.SerializeToString(), threads=1), self._example)


def _timed(plain: Any, calls: Mapping[str, Any], *, alone: bool = False) -> dict[str, Cost]:
    found: dict[str, Timed] = compare(plain, calls, _LIMITS) if calls else {}
    return {
        name: Cost(
            ratio=one.ratio.median,
            low=one.ratio.low,
            high=one.ratio.high,
            microseconds=1e6 * (one.seconds if alone else one.added),
        )
        for name, one in found.items()
    }
