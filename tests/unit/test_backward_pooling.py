"""Pooling and resizing against autograd; what ties get."""

import numpy as np
import pytest
import torch
from test_backward_harness import (
    LOWERINGS,
    assert_as_autograd,
    differentiated,
    normal,
    one_node,
    run,
)
from torch.nn import functional as F

from training.export.backward import Lowering

# kernel, stride, padding, dilation, image
MAXIMA = {
    "tiles": (2, 2, 0, 1, (8, 6)),
    "tiles of 3": (3, 3, 0, 1, (6, 9)),
    "rest": (2, 2, 0, 1, (7, 5)),
    "overlapping": (3, 2, 1, 1, (8, 8)),
    "overlapping, odd": (3, 2, 0, 1, (9, 7)),
    "stride 1": (3, 1, 1, 1, (5, 6)),
    "padded tiles": (2, 2, 1, 1, (6, 6)),
    "dilated": (2, 1, 0, 2, (6, 5)),
}


@pytest.mark.parametrize("case", MAXIMA)
def test_max_pool(case: str) -> None:
    kernel, stride, padding, dilation, image = MAXIMA[case]
    model = one_node(
        "MaxPool", [3, *image],
        kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[padding] * 4,
        dilations=[dilation] * 2,
    )  # fmt: skip
    assert_as_autograd(
        model,
        lambda x: F.max_pool2d(x, kernel, stride, padding, dilation),
        lambda n: normal(n, 3, *image),
    )


def test_max_pool_of_a_symbolic_image() -> None:
    model = one_node("MaxPool", [3, "H", "W"], kernel_shape=[2, 2], strides=[2, 2])
    assert_as_autograd(model, lambda x: F.max_pool2d(x, 2), lambda n: normal(n, 3, 8, 6))


@pytest.mark.parametrize("lowering", LOWERINGS)
def test_tiles_give_ties_to_the_first_as_torch(lowering: Lowering) -> None:
    x = np.array([[1, 1, 2, 0], [1, 0, 0, 2], [3, 0, 4, 4], [0, 0, 4, 4]], np.float32)[None, None]
    model = one_node("MaxPool", [1, 4, 4], kernel_shape=[2, 2], strides=[2, 2])
    y, dx = run(differentiated(model, lowering), {"x": x})
    leaf = torch.from_numpy(x).requires_grad_()
    seed = np.tanh(y) + 0.5
    F.max_pool2d(leaf, 2).backward(torch.from_numpy(seed))
    (a, b), (c, d) = seed[0, 0]
    first = [[a, 0, b, 0], [0, 0, 0, 0], [c, 0, d, 0], [0, 0, 0, 0]]
    np.testing.assert_allclose(dx[0, 0], first, rtol=1e-6)
    assert leaf.grad is not None
    np.testing.assert_allclose(leaf.grad[0, 0], first, rtol=1e-6)


@pytest.mark.parametrize("lowering", LOWERINGS)
def test_overlapping_windows_give_ties_to_the_first_as_torch(lowering: Lowering) -> None:
    x = np.random.default_rng(0).integers(0, 3, (3, 2, 7, 7)).astype(np.float32)
    model = one_node("MaxPool", [2, 7, 7], kernel_shape=[3, 3], strides=[2, 2])
    y, dx = run(differentiated(model, lowering), {"x": x})
    leaf = torch.from_numpy(x).requires_grad_()
    F.max_pool2d(leaf, 3, 2).backward(torch.from_numpy(np.tanh(y) + 0.5))
    assert leaf.grad is not None
    np.testing.assert_allclose(dx, leaf.grad, rtol=1e-5)


# kernel, stride, padding, count_include_pad, ceil_mode, image
MEANS = {
    "tiles": (2, 2, 0, 0, 0, (8, 6)),
    "rest": (2, 2, 0, 0, 0, (7, 5)),
    "overlapping": (3, 2, 0, 0, 0, (9, 8)),
    "stride 1": (3, 1, 1, 1, 0, (5, 6)),
    "padding counted": (3, 2, 1, 1, 0, (8, 7)),
    "padding not counted": (3, 2, 1, 0, 0, (8, 7)),
    "rounded up": (3, 2, 0, 0, 1, (8, 7)),
    "rounded up, padding counted": (3, 2, 1, 1, 1, (8, 6)),
    "rounded up, padding not counted": (3, 2, 1, 0, 1, (8, 6)),
}


@pytest.mark.parametrize("case", MEANS)
def test_average_pool(case: str) -> None:
    kernel, stride, padding, counted, ceil, image = MEANS[case]
    model = one_node(
        "AveragePool", [3, *image],
        kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[padding] * 4,
        count_include_pad=counted, ceil_mode=ceil,
    )  # fmt: skip
    assert_as_autograd(
        model,
        lambda x: F.avg_pool2d(x, kernel, stride, padding, bool(ceil), bool(counted)),
        lambda n: normal(n, 3, *image),
    )


@pytest.mark.parametrize(
    ("op_type", "name"), [("GlobalAveragePool", "mean"), ("GlobalMaxPool", "amax")]
)
@pytest.mark.parametrize("image", [(4, 5), ("H", "W")])
def test_global_pooling(op_type: str, name: str, image: tuple[int | str, ...]) -> None:
    assert_as_autograd(
        one_node(op_type, [3, *image]),
        lambda x: getattr(x, name)((2, 3), keepdim=True),
        lambda n: normal(n, 3, 4, 5),
    )


@pytest.mark.parametrize("factors", [(2, 2), (3, 1), (4, 3)])
@pytest.mark.parametrize(
    "how", [("asymmetric", "floor"), ("half_pixel", "round_prefer_floor")], ids=lambda h: h[0]
)
def test_nearest_magnification(factors: tuple[int, int], how: tuple[str, str]) -> None:
    scales = np.array([1, 1, *factors], np.float32)
    model = one_node(
        "Resize", [2, 3, 4], None, scales,
        mode="nearest", coordinate_transformation_mode=how[0], nearest_mode=how[1],
    )  # fmt: skip
    assert_as_autograd(
        model, lambda x: F.interpolate(x, scale_factor=factors), lambda n: normal(n, 2, 3, 4)
    )
