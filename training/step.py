"""One training step as one module call: inputs in, weighted loss out.

A single call, because what sums gradients over processes has to see every parameter's use in it.
"""

import contextlib
from collections.abc import Mapping
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.classifier import Classifier
from training.objectives import Batch, Objective, weighted
from training.outputs import Outputs


class Step(nn.Module):
    """ID inputs and outliers in one forward pass -> loss, terms."""

    classifier: Classifier
    objective: Objective

    def __init__(
        self,
        classifier: Classifier,
        objective: Objective,
        weights: Mapping[str, float],
        *,
        mixed_precision: bool = False,
    ) -> None:
        super().__init__()
        self.classifier = classifier
        self.objective = objective
        self.weights = dict(weights)
        self.mixed_precision = mixed_precision

    def forward(
        self, inputs: Tensor, labels: Tensor, side: int | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Inputs (B + M, ...), the M outliers last; labels (B,) -> the loss, the unweighted terms.

        `side`: images are resized to it first.
        """
        terms = self.objective(self.outputs(inputs, len(labels), labels, side), self.classifier)
        return weighted(terms, self.weights), {n: t.detach() for n, t in terms.items()}

    def outputs(self, inputs: Tensor, id_count: int, labels: Tensor, side: int | None) -> Batch:
        """One pass over everything, parted again."""
        precision = (
            torch.autocast(inputs.device.type, torch.bfloat16)
            if self.mixed_precision
            else contextlib.nullcontext()
        )
        with precision:
            point = _resized(self.classifier.continuous(inputs), side)
            outputs = self.classifier.from_continuous(point, inputs)
        if self.mixed_precision:
            outputs = _part(outputs, slice(None), torch.float32)
        if len(inputs) == id_count:
            return Batch(outputs, labels)
        of_id, of_outliers = slice(0, id_count), slice(id_count, None)
        return Batch(_part(outputs, of_id), labels, _part(outputs, of_outliers))


def _part(outputs: Outputs, rows: slice, kind: torch.dtype | None = None) -> Outputs:
    taps = {name: tap[rows].to(kind or tap.dtype) for name, tap in outputs.taps.items()}
    return replace(outputs, taps=taps, logits=outputs.logits[rows].to(kind or outputs.logits.dtype))


def _resized(images: Tensor, side: int | None) -> Tensor:
    """(B, C, H, W) at another side; None: as given."""
    if side is None or side == images.shape[2]:
        return images
    return F.interpolate(images, (side, side), mode="bilinear", antialias=True, align_corners=False)


def beside(inputs: Tensor, outliers: Tensor, pad_id: int | None) -> Tensor:
    """(B, ...) and (M, ...) -> (B + M, ...); of texts, the shorter rows are padded."""
    if pad_id is not None:
        width = max(inputs.shape[1], outliers.shape[1])
        inputs, outliers = (
            F.pad(rows, (0, width - rows.shape[1]), value=pad_id) for rows in (inputs, outliers)
        )
    return torch.cat([inputs, outliers])
