"""Fewer nodes for the same values: a small node costs its call, not its arithmetic.

torch writes in two or three operators what ONNX has one for.  Each rule leaves every value as it
is, up to rounding.
"""

import math
from typing import Any

import onnx_ir as ir
from onnxscript.rewriter import RewriteRule, rewrite

# onnxruntime sums the squares of a long run much faster when they are made first
_SHORT = 4096
# beyond it x + log(1 + e^-x) is x in float32, with or without torch's case distinction
_FLAT_SOFTPLUS = 17.0


def fuse(model: ir.Model) -> None:
    """Apply every rule wherever it fits, in place."""
    rewrite(model, _SUMS)
    rewrite(model, _SINGLE)  # squares whose sum took them are gone by now


def _squares_then_sum(op: Any, x: Any, exponent: Any, axes: Any) -> Any:
    return op.ReduceSum(op.Pow(x, exponent), axes, _outputs=["total"])


def _sum_of_squares(op: Any, x: Any, axes: Any, total: ir.Value, **_: Any) -> Any:
    return op.ReduceSumSquare(x, axes, **_how(total))


def _few_squares(_context: Any, x: ir.Value, exponent: ir.Value, **_: Any) -> bool:
    return _number(exponent) == 2.0 and _values_an_input(x) <= _SHORT


def _square(op: Any, x: Any, exponent: Any) -> Any:
    return op.Pow(x, exponent)


def _product(op: Any, x: Any, **_: Any) -> Any:
    return op.Mul(x, x)


def _squared(_context: Any, exponent: ir.Value, **_: Any) -> bool:
    return _number(exponent) == 2.0


def _magnitudes_then_sum(op: Any, x: Any, axes: Any) -> Any:
    return op.ReduceSum(op.Abs(x), axes, _outputs=["total"])


def _sum_of_magnitudes(op: Any, x: Any, axes: Any, total: ir.Value, **_: Any) -> Any:
    return op.ReduceL1(x, axes, **_how(total))


def _few_magnitudes(_context: Any, x: ir.Value, **_: Any) -> bool:
    return _values_an_input(x) <= _SHORT


def _softplus_by_cases(op: Any, x: Any, threshold: Any) -> Any:
    return op.Where(op.Greater(x, threshold), x, op.Softplus(x))


def _softplus(op: Any, x: Any, **_: Any) -> Any:
    return op.Softplus(x)


def _only_for_rounding(_context: Any, threshold: ir.Value, **_: Any) -> bool:
    value = _number(threshold)
    return value is not None and value >= _FLAT_SOFTPLUS


def _rows_by_tuples(op: Any, table: Any, rows: Any, axes: Any) -> Any:
    return op.GatherND(table, op.Unsqueeze(rows, axes), batch_dims=0)


def _rows(op: Any, table: Any, rows: Any, **_: Any) -> Any:
    return op.Gather(table, rows, axis=0)


def _tuples_of_one(_context: Any, rows: ir.Value, axes: ir.Value, **_: Any) -> bool:
    axis = _number(axes)
    return axis == -1 or (rows.shape is not None and axis == len(rows.shape))


def _how(total: ir.Value) -> dict[str, Any]:
    """The attributes of the ReduceSum that made the value."""
    node = total.producer()
    assert node is not None  # noqa: S101  (the pattern matched it)
    return {name: attribute.value for name, attribute in node.attributes.items()}


def _number(value: ir.Value) -> float | None:
    """A constant of one element; None for anything else."""
    constant = ir.convenience.get_const_tensor(value)
    return float(constant.numpy().item()) if constant is not None and constant.size == 1 else None


def _values_an_input(value: ir.Value) -> float:
    """Elements beside the batch dimension, the one without a size; infinite where the shape is
    not known."""
    if value.shape is None or sum(not isinstance(size, int) for size in value.shape) > 1:
        return math.inf
    return math.prod(size for size in value.shape if isinstance(size, int))


_SUMS = (
    RewriteRule(_squares_then_sum, _sum_of_squares, _few_squares),
    RewriteRule(_magnitudes_then_sum, _sum_of_magnitudes, _few_magnitudes),
)
_SINGLE = (
    RewriteRule(_square, _product, _squared),
    RewriteRule(_softplus_by_cases, _softplus, _only_for_rounding),
    # several lookups may share the Unsqueeze: it goes with the last of them
    RewriteRule(_rows_by_tuples, _rows, _tuples_of_one, remove_nodes=False),
)
