"""Sequences of different lengths, padded on the right; mask (B, L) is True at their own steps."""

import torch
from torch import Tensor, nn


def last_valid(states: Tensor, mask: Tensor) -> Tensor:
    """(B, L, D) -> (B, D), the state at each row's last own step."""
    last = mask.sum(dim=1).clamp(min=1) - 1
    index = last[:, None, None].expand(-1, 1, states.shape[2])
    return states.gather(1, index).squeeze(1)


def mean_of_valid(states: Tensor, mask: Tensor) -> Tensor:
    """(B, L, D) -> (B, D), the mean over each row's own steps."""
    weights = mask.to(states.dtype).unsqueeze(2)
    return (states * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)


def reversed_within(states: Tensor, mask: Tensor) -> Tensor:
    """(B, L, D) -> (B, L, D), each row's own steps in reverse order; pads stay behind them.

    Done twice, it changes nothing.
    """
    position = torch.arange(mask.shape[1], device=mask.device)
    opposite = mask.sum(dim=1, keepdim=True) - 1 - position  # negative at pads
    index = torch.where(opposite < 0, position, opposite)
    return states.gather(1, index.unsqueeze(2).expand(-1, -1, states.shape[2]))


class StepDropout(nn.Module):
    """Dropout of the same units at every step of a sequence (B, L, D).

    A mask of D numbers fits sequences of any length, so that sub-networks can be drawn once and
    exported.  Source: Gal & Ghahramani 2016, arXiv:1512.05287.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.units = nn.Dropout1d(p)

    def forward(self, states: Tensor) -> Tensor:
        return self.units(states.transpose(1, 2)).transpose(1, 2)
