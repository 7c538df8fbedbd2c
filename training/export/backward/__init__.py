"""Reverse-mode differentiation of ONNX inference graphs.

An exported network gains the nodes that compute a gradient with respect to one of its tensors,
with a symbolic batch, in operators every engine has.
"""

from training.export.backward.errors import UnsupportedOperator
from training.export.backward.graph import Graph
from training.export.backward.rules import RULES
from training.export.backward.step import Lowering

__all__ = ["RULES", "Graph", "Lowering", "UnsupportedOperator"]
