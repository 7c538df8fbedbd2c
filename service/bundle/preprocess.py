"""Decoded image -> the pixels the graph reads.  The only definition, training and serving.

The graph itself turns uint8 into normalised float; here only geometry and channels change.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from service.bundle.manifest import ImageInput

_INTERPOLATION = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}


def to_model_pixels(image: Image.Image, spec: ImageInput) -> NDArray[np.uint8]:
    """Decoded image of any mode and size -> uint8 (height, width, channels).

    EXIF orientation is applied, transparency is laid over black, 16-bit greyscale is
    scaled to 8 bits, colour becomes grey by Rec. 601 luma where the model is grey.
    An image that already has the model's size keeps its pixels exactly.
    """
    image = ImageOps.exif_transpose(image)
    image = _to_channels(image, spec.channels)
    size = (spec.width, spec.height)
    method = _INTERPOLATION[spec.interpolation]
    if image.size != size:
        if spec.resize == "stretch":
            image = image.resize(size, method)
        elif spec.resize == "center_crop":
            image = ImageOps.fit(image, size, method)
        else:
            image = ImageOps.pad(image, size, method)
    return np.asarray(image, dtype=np.uint8).reshape(spec.height, spec.width, spec.channels)


def resize_pixels(pixels: NDArray[np.uint8], spec: ImageInput) -> NDArray[np.uint8]:
    """uint8 (H, W, C), C 1 or 3 -> uint8 (height, width, channels) by the same rule."""
    if pixels.shape == (spec.height, spec.width, spec.channels):
        return pixels
    image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    return to_model_pixels(image, spec)


def _to_channels(image: Image.Image, channels: int) -> Image.Image:
    mode = "L" if channels == 1 else "RGB"
    if image.mode == mode:
        return image
    if image.mode.startswith("I;16") or image.mode == "I":
        wide = np.asarray(image)
        image = Image.fromarray((np.clip(wide, 0, 65535) // 257).astype(np.uint8))
    elif image.mode == "F":
        image = Image.fromarray(np.clip(np.asarray(image), 0, 255).astype(np.uint8))
    elif image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, (0, 0, 0, 255)), rgba)
    return image.convert(mode)
