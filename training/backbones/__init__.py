"""Networks by name.  A new backbone is one file and one line here."""

from collections.abc import Callable

from training.backbones.lenet import LeNet
from training.classifier import Backbone

BACKBONES: dict[str, Callable[[int, int], Backbone]] = {"lenet": LeNet}

__all__ = ["BACKBONES"]
