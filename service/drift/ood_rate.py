"""How often OOD is found, and how sure one can be of that rate."""

import math
from statistics import NormalDist


def wilson_interval(successes: int, trials: int, coverage: float = 0.95) -> tuple[float, float]:
    """Interval of the rate behind `successes` of `trials` >= 1.

    Source: Wilson 1927; Brown, Cai & DasGupta 2001, Interval estimation for a proportion.
    """
    z = NormalDist().inv_cdf((1 + coverage) / 2)
    rate, share = successes / trials, z * z / trials
    centre = (rate + share / 2) / (1 + share)
    half = z / (1 + share) * math.sqrt(rate * (1 - rate) / trials + share / (4 * trials))
    return max(0.0, centre - half), min(1.0, centre + half)
