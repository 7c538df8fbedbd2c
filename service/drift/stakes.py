"""What bets hold that get more before every input: A_t = (A_(t-1) + added_t) payoff_t."""

import numpy as np
from numpy.typing import NDArray

_LARGEST_EXPONENT = 600.0


def staked_path(
    start: NDArray[np.float64], gains: NDArray[np.float64], added: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Stakes (..., k) before, log payoffs (..., k, n), what each bet gets before each input
    (..., n) -> stakes after each input (..., k, n).  What is staked may have more axes in front.
    """
    logs = np.cumsum(gains, axis=-1)
    size = gains.shape[-1]
    if size > 1 and max(float(logs.max()), -float(logs.min())) > _LARGEST_EXPONENT:
        half = size // 2
        first = staked_path(start, gains[..., :half], added[..., :half])
        second = staked_path(first[..., -1], gains[..., half:], added[..., half:])
        return np.concatenate([first, second], axis=-1)
    products = np.exp(logs)
    put_in = np.empty((*start.shape, size))  # measured in what each input's product began with
    put_in[..., 0] = start + added[..., :1]
    np.divide(added[..., None, 1:], products[..., :-1], out=put_in[..., 1:])
    path: NDArray[np.float64] = np.cumsum(put_in, axis=-1, out=put_in)
    path *= products
    return path
