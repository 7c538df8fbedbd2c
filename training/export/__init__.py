"""Scorer -> bundle: graph, verification, files, atomic publication."""

from training.export.bundle import (
    BundleParts,
    GoldenInputs,
    library_versions,
    next_version,
    publish_bundle,
    write_graphs,
)
from training.export.graph import export_graph
from training.export.int8 import describe_int8, write_int8_graph
from training.export.int8_price import Judged, measure_speed, price_of
from training.export.onnx_network import open_network
from training.export.parity import ParityError, check_parity, relative_gap

__all__ = [
    "BundleParts",
    "GoldenInputs",
    "Judged",
    "ParityError",
    "check_parity",
    "describe_int8",
    "export_graph",
    "library_versions",
    "measure_speed",
    "next_version",
    "open_network",
    "price_of",
    "publish_bundle",
    "relative_gap",
    "write_graphs",
    "write_int8_graph",
]
