"""Weights to start a training from: those of a bundle, or of another run's checkpoint."""

import hashlib
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from training.classifier import Classifier
from training.config import expand_variables

_PREFIX = "backbone."


def load_starting_weights(classifier: Classifier, path: str) -> str:
    """Load the network's weights -> SHA-256 of the file.

    ValueError where there is no such file, or it holds the weights of another network.
    """
    expanded = expand_variables(path)
    if expanded is None or not Path(expanded).is_file():
        raise ValueError(
            f"start_from: no file {path}; name checkpoint.safetensors of a bundle or checkpoint.pt "
            "of a run"
        )
    file = Path(expanded)
    try:
        classifier.backbone.load_state_dict(_weights(file))
    except (KeyError, RuntimeError, SafetensorError) as exc:
        raise ValueError(f"start_from: {path} does not fit this network: {exc}") from exc
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _weights(file: Path) -> dict[str, Tensor]:
    if file.suffix == ".safetensors":
        return load_file(file)
    state = torch.load(file, weights_only=True, map_location="cpu")["classifier"]
    return {n.removeprefix(_PREFIX): v for n, v in state.items() if n.startswith(_PREFIX)}
