"""A classifier of your own and ID data of your own -> a run config, and with it a bundle."""

from training.fit.build import FitRequest, describe_layers, run_config
from training.fit.needs import NEEDS, Sizes, need_of
from training.fit.written import write_config

__all__ = [
    "NEEDS",
    "FitRequest",
    "Sizes",
    "describe_layers",
    "need_of",
    "run_config",
    "write_config",
]
