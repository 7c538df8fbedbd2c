"""What detectors share that read the head of training.objectives.binary_head."""

import torch
from torch import Tensor, nn

from training.classifier import Classifier
from training.detectors.protocol import FitError

OUTLIER_HEAD = "outliers"  # in Classifier.heads


def copied_head(who: str, classifier: Classifier) -> dict[str, Tensor]:
    """weight_i, bias_i of each linear layer, CPU; FitError where the network has no such head."""
    if OUTLIER_HEAD not in classifier.heads:
        raise FitError(
            f"{who} reads a head that tells outliers from ID, and this network has none; train it "
            "with the objective binary_head"
        )
    layers = [m for m in classifier.heads[OUTLIER_HEAD].modules() if isinstance(m, nn.Linear)]
    found: dict[str, Tensor] = {}
    for number, layer in enumerate(layers):
        found[f"weight_{number}"] = layer.weight.detach().float().cpu().clone()
        found[f"bias_{number}"] = layer.bias.detach().float().cpu().clone()
    return found


def outlier_logit(features: Tensor, fitted: nn.Module) -> Tensor:
    """Features (B, D), a module with the buffers -> logit of being an outlier (B,)."""
    names = [name for name, _ in fitted.named_buffers() if name.startswith("weight_")]
    values = features
    for number in range(len(names)):
        if number:
            values = torch.relu(values)
        weight, bias = fitted.get_buffer(f"weight_{number}"), fitted.get_buffer(f"bias_{number}")
        values = nn.functional.linear(values, weight, bias)
    return values[:, 0]
