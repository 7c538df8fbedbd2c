"""Networks with a fully connected layer over the map take one size of image only."""

from torch import Tensor


def check_side(backbone: str, images: Tensor, side: int) -> None:
    """ValueError unless images are (B, C, side, side)."""
    height, width = images.shape[2:]
    if (height, width) != (side, side):
        raise ValueError(
            f"{backbone} reads {side}x{side} images, not {height}x{width}: set [input] to that "
            "size and use no training stages, or choose a backbone that takes any size"
        )
