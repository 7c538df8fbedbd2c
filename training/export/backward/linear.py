"""Cotangents of matrix products."""

from training.export.backward.extents import unbroadcast
from training.export.backward.step import Cotangents, Step


def gemm(step: Step) -> Cotangents:
    """Y = alpha A' B' + beta C, A' and B' transposed at choice.

    dA' = alpha g B'^T, dB' = alpha A'^T g, and the transposes of these where A or B is
    transposed; dC = beta g, summed over what C was broadcast along.
    """
    a, b, g = step.input(0), step.input(1), step.g
    alpha = step.attribute("alpha", 1.0)
    turned_a, turned_b = step.attribute("transA", 0), step.attribute("transB", 0)
    cotangents: dict[int, str] = {}
    if 0 in step.wanted:
        cotangents[0] = (
            step.add("Gemm", [b, g], alpha=alpha, transA=turned_b, transB=1)
            if turned_a
            else step.add("Gemm", [g, b], alpha=alpha, transB=1 - turned_b)
        )
    if 1 in step.wanted:
        cotangents[1] = (
            step.add("Gemm", [g, a], alpha=alpha, transA=1, transB=turned_a)
            if turned_b
            else step.add("Gemm", [a, g], alpha=alpha, transA=1 - turned_a)
        )
    if 2 in step.wanted:
        beta = step.attribute("beta", 1.0)
        scaled = g if beta == 1 else step.add("Mul", [g, step.number(beta)])
        cotangents[2] = unbroadcast(step, scaled, step.input(2), step.y)
    return cotangents


def matmul(step: Step) -> Cotangents:
    """Y = A B over the last two axes: dA = g B^T, dB = A^T g, summed over broadcast batches.

    A constant vector B of length K: Y[...] = sum_k A[..., k] B[k], dA = g[..., None] B.
    """
    a, b, g = step.input(0), step.input(1), step.g
    if step.rank(b) == 1 and step.wanted == {0}:
        return {0: step.add("Mul", [step.add("Unsqueeze", [g, step.integers([-1])]), b])}
    if min(step.rank(a), step.rank(b)) < 2:
        raise step.refusal("of its vectors only a constant right one is known; reshape to matrices")
    cotangents: dict[int, str] = {}
    if 0 in step.wanted:
        product = step.add("MatMul", [g, _transposed(step, b)])
        cotangents[0] = _summed_batches(step, product, a)
    if 1 in step.wanted:
        product = step.add("MatMul", [_transposed(step, a), g])
        cotangents[1] = _summed_batches(step, product, b)
    return cotangents


def _transposed(step: Step, matrices: str) -> str:
    rank = step.rank(matrices)
    return step.add("Transpose", [matrices], perm=[*range(rank - 2), rank - 1, rank - 2])


def _summed_batches(step: Step, product: str, factor: str) -> str:
    """Undo the broadcasting of the batch axes; the last two are the factor's own already."""
    batches, own = step.dims(step.y)[:-2], step.dims(factor)
    step.graph.declare_type(product, like=factor, shape=(*batches, *own[-2:]))
    return unbroadcast(step, product, factor, product)
