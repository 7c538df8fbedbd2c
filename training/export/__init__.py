"""Scorer -> bundle: graph, verification, files, atomic publication."""

from training.export.bundle import (
    BundleParts,
    library_versions,
    next_version,
    publish_bundle,
    write_graph,
)
from training.export.graph import export_graph
from training.export.onnx_network import open_network
from training.export.parity import ParityError, check_parity, relative_gap

__all__ = [
    "BundleParts",
    "ParityError",
    "check_parity",
    "export_graph",
    "library_versions",
    "next_version",
    "open_network",
    "publish_bundle",
    "relative_gap",
    "write_graph",
]
