"""Convolutions and matrix products against autograd."""

import pytest
import torch
from test_backward_harness import assert_as_autograd, normal, one_node
from torch.nn import functional as F

# in, out, kernel, stride, padding (begin, end a side), dilation, group, image
CONVOLUTIONS = {
    "3x3": (4, 6, (3, 3), 1, (1, 1, 1, 1), 1, 1, (8, 8)),
    "1x1": (4, 6, (1, 1), 1, (0, 0, 0, 0), 1, 1, (5, 7)),
    "valid 3x2": (3, 5, (3, 2), 1, (0, 0, 0, 0), 1, 1, (7, 6)),
    "uneven padding": (3, 5, (4, 3), 1, (1, 0, 2, 1), 1, 1, (7, 6)),
    "dilated": (3, 5, (3, 3), 1, (2, 2, 2, 2), 2, 1, (9, 8)),
    "wide padding": (3, 4, (3, 3), 1, (3, 3, 3, 3), 1, 1, (6, 6)),
    "grouped": (6, 9, (3, 3), 1, (1, 1, 1, 1), 1, 3, (6, 6)),
    "depthwise": (6, 6, (3, 3), 1, (1, 1, 1, 1), 1, 6, (6, 5)),
    "stride 2": (4, 6, (3, 3), 2, (1, 1, 1, 1), 1, 1, (8, 8)),
    "stride 2, odd image": (4, 6, (3, 3), 2, (1, 1, 1, 1), 1, 1, (9, 7)),
    "stride 2, 1x1": (4, 6, (1, 1), 2, (0, 0, 0, 0), 1, 1, (8, 7)),
    "stride 2, 7x7": (3, 8, (7, 7), 2, (3, 3, 3, 3), 1, 1, (14, 15)),
    "stride 3, 2x2": (3, 4, (2, 2), 3, (0, 0, 0, 0), 1, 1, (10, 11)),
    "stride 2, uneven": (3, 4, (3, 4), 2, (0, 1, 1, 2), 1, 1, (8, 9)),
    "stride 2, grouped": (6, 9, (3, 3), 2, (1, 1, 1, 1), 1, 3, (8, 8)),
    "stride 2, depthwise": (6, 6, (5, 5), 2, (2, 2, 2, 2), 1, 6, (9, 8)),
    "stride 2, dilated": (3, 4, (3, 3), 2, (2, 2, 2, 2), 2, 1, (9, 8)),
    "stride 4, patches": (3, 8, (4, 4), 4, (0, 0, 0, 0), 1, 1, (8, 12)),
    "stride (2, 1)": (3, 4, (3, 3), (2, 1), (1, 1, 1, 1), 1, 1, (8, 7)),
    "one axis": (3, 4, (3,), 1, (1, 1), 1, 1, (9,)),
    "one axis, stride 2": (3, 4, (4,), 2, (1, 1), 1, 1, (9,)),
    "three axes": (2, 3, (3, 2, 3), 1, (1, 0, 1, 1, 1, 1), 1, 1, (4, 5, 4)),
}


@pytest.mark.parametrize("symbolic", [False, True], ids=["known image", "symbolic image"])
@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_convolution(case: str, symbolic: bool) -> None:
    incoming, outgoing, kernel, stride, pads, dilation, group, image = CONVOLUTIONS[case]
    axes = len(kernel)
    strides = [stride] * axes if isinstance(stride, int) else list(stride)
    weights = normal(outgoing, incoming // group, *kernel)
    bias = normal(outgoing)
    shape = [incoming, *("HWD"[:axes] if symbolic else image)]
    model = one_node(
        "Conv", shape, weights, bias,
        strides=strides, pads=pads, dilations=[dilation] * axes, group=group,
    )  # fmt: skip
    sides = [side for a in reversed(range(axes)) for side in (pads[a], pads[axes + a])]
    function = (F.conv1d, F.conv2d, F.conv3d)[axes - 1]

    def reference(x: torch.Tensor) -> torch.Tensor:
        w, b = torch.from_numpy(weights).double(), torch.from_numpy(bias).double()
        return function(F.pad(x, sides), w, b, strides, 0, dilation, group)

    assert_as_autograd(model, reference, lambda n: normal(n, incoming, *image))
