"""Tail probabilities of the distributions the drift statistics follow while nothing drifts.

numpy and the standard library only: the service carries no scipy.
"""

import math
from functools import lru_cache

import numpy as np

_ROUNDS = 200  # of a bisection: far below the resolution of a float
_TERMS = 10_000
_ENOUGH = 1e-15


def gamma_tail(shape: float, x: float) -> float:
    """P(G > x), G gamma distributed with that shape and scale 1.

    Power series below shape + 1, Legendre's continued fraction (Lentz) above.
    Source: DLMF 8.11.4 and 8.9.2; Numerical Recipes, section 6.2.
    """
    if x <= 0:
        return 1.0
    front = math.exp(shape * math.log(x) - x - math.lgamma(shape))
    if x < shape + 1:
        term = total = 1 / shape
        for step in range(1, _TERMS):
            term *= x / (shape + step)
            total += term
            if term < total * _ENOUGH:
                break
        return max(0.0, 1 - front * total)
    tiny = 1e-300
    b = x + 1 - shape
    c, d = 1 / tiny, 1 / b
    fraction = d
    for step in range(1, _TERMS):
        a = -step * (step - shape)
        b += 2
        d = 1 / _away_from_zero(a * d + b, tiny)
        c = _away_from_zero(b + a / c, tiny)
        factor = c * d
        fraction *= factor
        if abs(factor - 1) < _ENOUGH:
            break
    return min(1.0, front * fraction)


def gamma_quantile(shape: float, tail: float) -> float:
    """The x with P(G > x) = tail, G gamma distributed with that shape and scale 1; 0 < tail < 1."""
    high = shape + 1.0
    while gamma_tail(shape, high) > tail:
        high *= 2
    low = 0.0
    for _ in range(_ROUNDS):
        middle = (low + high) / 2
        if gamma_tail(shape, middle) > tail:
            low = middle
        else:
            high = middle
    return high


def chi_square_tail(x: float, degrees: int) -> float:
    """P(X > x), X chi-square distributed."""
    return gamma_tail(degrees / 2, x / 2)


@lru_cache(maxsize=256)
def chi_square_quantile(tail: float, degrees: int) -> float:
    """The x with P(X > x) = tail, X chi-square distributed; 0 < tail < 1."""
    return 2 * gamma_quantile(degrees / 2, tail)


def kolmogorov_tail(x: float) -> float:
    """P(K > x), K the largest distance of a Brownian bridge from 0.

    Kolmogorov's alternating series; below 0.3 it differs from 1 by less than 1e-5.
    """
    if x < 0.3:
        return 1.0
    terms = (2 * (-1) ** (k - 1) * math.exp(-2 * (k * x) ** 2) for k in range(1, 20))
    return min(1.0, max(0.0, sum(terms)))


@lru_cache(maxsize=1024)
def largest_share(successes: int, trials: int, miss: float) -> float:
    """Upper end of the one-sided Clopper-Pearson interval: the share p of which as few as
    `successes` of `trials`, or fewer, are seen with probability `miss`; 1 where all succeed.
    """
    if successes >= trials:
        return 1.0
    counts = np.arange(successes + 1)
    ways = np.zeros(successes + 1)  # logarithm of trials over count
    ways[1:] = np.cumsum(np.log((trials - counts[:-1]) / counts[1:]))
    low, high = successes / trials, 1.0
    for _ in range(60):
        share = (low + high) / 2
        logs = ways + counts * math.log(share) + (trials - counts) * math.log1p(-share)
        if float(np.exp(logs).sum()) > miss:
            low = share
        else:
            high = share
    return high


def _away_from_zero(value: float, tiny: float) -> float:
    return tiny if abs(value) < tiny else value
