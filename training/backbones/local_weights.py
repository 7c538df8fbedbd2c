"""Weights from a file on this machine.  Nothing is downloaded, nothing is unpickled."""

import pickle
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from training.config import expand_variables

_SHOWN = 5


def load_weights(
    network: nn.Module,
    path: str,
    *,
    head: str,
    fresh_head: bool = False,
    rename: Callable[[str], str] = str,
) -> None:
    """A state dict (.safetensors, or a file of torch.save with tensors only) into the network.

    `path` may use ${VARIABLES}.  `fresh_head` leaves out the entries of the layer `head`, for
    a network that was trained on other classes.  `rename` maps outdated keys to present ones.
    ValueError names the file and the keys that do not fit.
    """
    state = _read(path)
    own_head = {f"{head}.weight", f"{head}.bias"} if fresh_head else set[str]()
    state = with_versions(network, state, {key: rename(key) for key in state.keys() - own_head})
    try:
        missing, unknown = network.load_state_dict(state, strict=False)
    except RuntimeError as exc:  # of other shapes
        found = "; ".join(line.strip() for line in str(exc).splitlines()[1 : 1 + _SHOWN])
        raise ValueError(
            f"{path} does not fit {type(network).__name__}: {found} "
            "(where the network is to be trained, fresh_head = true takes weights of other "
            "classes without their head)"
        ) from exc
    # files from before batch norms counted their batches lack the counts; nothing reads them
    missing = [
        key for key in missing if key not in own_head and not key.endswith("num_batches_tracked")
    ]
    if missing or unknown:
        raise ValueError(
            f"{path} does not fit {type(network).__name__}: "
            f"lacks {missing[:_SHOWN] or 'nothing'}, has unknown {unknown[:_SHOWN] or 'nothing'}"
        )


def classes_in(path: str, head: str, rename: Callable[[str], str] = str) -> int:
    """Rows of the layer `head` in a file of weights; ValueError where it has no such layer."""
    wanted = f"{head}.weight"
    found = [value for key, value in _read(path).items() if rename(key) == wanted]
    if not found:
        raise ValueError(f"{path} has no {wanted}, so it is no state dict of that network")
    return len(found[0])


def with_versions(
    network: nn.Module, state: Mapping[str, Tensor], keys: Mapping[str, str] | None = None
) -> OrderedDict[str, Tensor]:
    """The entries named by `keys` (old -> new; all if None) with the versions of the layers.

    Some layers refuse a state dict that does not say which version wrote it; safetensors files
    cannot, and are taken as written by the present one.
    """
    names = {key: key for key in state} if keys is None else keys
    kept = OrderedDict((names[key], value) for key, value in state.items() if key in names)
    versions = getattr(state, "_metadata", None) or getattr(network.state_dict(), "_metadata", {})
    kept._metadata = versions  # pyright: ignore[reportAttributeAccessIssue]
    return kept


def _read(path: str) -> Mapping[str, Tensor]:
    expanded = expand_variables(path)
    if expanded is None:
        raise ValueError(f"weights {path}: a variable in it is not set")
    file = Path(expanded)
    if not file.is_file():
        raise ValueError(f"weights {path}: no such file; nothing is downloaded, so fetch it first")
    try:
        loaded: Any = (
            load_file(file)
            if file.suffix == ".safetensors"
            else torch.load(file, map_location="cpu", weights_only=True)
        )
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as exc:
        # torch's own words advise to unpickle whatever it is
        raise ValueError(
            f"weights {path}: is no safetensors file and no state dict of tensors saved with "
            "torch.save; nothing else is unpickled, because it could run code (weights_only=True); "
            "of a whole network write torch.save(network.state_dict(), file) where it was trained"
        ) from exc
    if not isinstance(loaded, dict) or not all(isinstance(v, Tensor) for v in loaded.values()):
        holds = f"keys {list(loaded)[:_SHOWN]}" if isinstance(loaded, dict) else type(loaded)
        raise ValueError(
            f"weights {path}: holds {holds}, not a state dict of tensors; save the state dict alone"
        )
    return loaded
