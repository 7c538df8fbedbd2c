"""Softmax cross-entropy: the plain classifier."""

import torch.nn.functional as F
from torch import Tensor

from training.outputs import Outputs


def cross_entropy(outputs: Outputs, labels: Tensor) -> Tensor:
    """Logits (B, K), labels (B,) -> mean loss, nats."""
    return F.cross_entropy(outputs.logits, labels)
