"""What several corruptions share: batches of pictures filtered, zoomed, sampled elsewhere.

Pictures are floats (N, H, W, C) in 0..1, float32 where it costs nothing.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
_CALIBRATED_SIDE = 32


def scale_of(images: Floats) -> float:
    """Lengths are given in pixels of a 32 x 32 picture; multiply them by this.

    At least 1: below one pixel a blur would be none at all.
    """
    return max(1.0, min(images.shape[1:3]) / _CALIBRATED_SIDE)


def luma(images: Floats) -> Floats:
    """Rec. 601 brightness, (N, H, W, 1)."""
    if images.shape[3] == 1:
        return images
    weights = np.array([0.299, 0.587, 0.114], np.float32)
    return (images @ weights)[..., None]


def convolve(images: Floats, kernel: NDArray[np.floating]) -> Floats:
    """Filter with one kernel (odd, odd); beyond the edge the picture is mirrored."""
    up, left = kernel.shape[0] // 2, kernel.shape[1] // 2
    _, height, width, _ = images.shape
    padded = np.pad(images, np.array([(0, 0), (up, up), (left, left), (0, 0)]), mode="reflect")
    result = np.zeros_like(images)
    for row, column in np.argwhere(kernel):
        part = padded[:, row : row + height, column : column + width]
        result += np.float32(kernel[row, column]) * part
    return result


def smear(images: Floats, reach: int, sigma: float, angles: NDArray[np.floating]) -> Floats:
    """Half a Gaussian laid along one direction a picture, `reach` pixels long.

    Angles (N,) in radians, 0 = along the rows.  Beyond the edge its last pixel goes on.
    """
    weights = np.exp(-0.5 * (np.arange(reach + 1) / sigma) ** 2)
    weights /= weights.sum()
    count, height, width, _ = images.shape
    which = np.arange(count)[:, None, None]
    result = np.zeros_like(images)
    for step, weight in enumerate(weights.astype(np.float32)):
        down = np.rint(step * np.sin(angles)).astype(np.intp)[:, None]
        along = np.rint(step * np.cos(angles)).astype(np.intp)[:, None]
        rows = np.clip(np.arange(height) + down, 0, height - 1)  # (N, H)
        columns = np.clip(np.arange(width) + along, 0, width - 1)  # (N, W)
        result += weight * images[which, rows[:, :, None], columns[:, None, :]]
    return result


def zoom(images: Floats, factor: float) -> Floats:
    """Enlarge about the centre, the size kept; linear interpolation."""
    rows = _zoom_matrix(images.shape[1], factor)
    columns = _zoom_matrix(images.shape[2], factor)
    return np.einsum("pi,nijc,qj->npqc", rows, images, columns, optimize=True)


def sample(images: Floats, rows: NDArray[np.floating], columns: NDArray[np.floating]) -> Floats:
    """The pictures at positions (N, H, W), linear interpolation, mirrored beyond the edge."""
    above, down = _split(rows, images.shape[1])
    left, along = _split(columns, images.shape[2])
    below = np.minimum(above + 1, images.shape[1] - 1)
    right = np.minimum(left + 1, images.shape[2] - 1)
    which = np.arange(len(images))[:, None, None]
    upper = images[which, above, left] * (1 - along) + images[which, above, right] * along
    lower = images[which, below, left] * (1 - along) + images[which, below, right] * along
    return upper * (1 - down) + lower * down


def _split(positions: NDArray[np.floating], side: int) -> tuple[NDArray[np.intp], Floats]:
    """Mirror into 0..side-1; whole part (N, H, W) and remainder (N, H, W, 1)."""
    around = 2 * (side - 1)
    mirrored = np.mod(positions, around)
    mirrored = np.minimum(mirrored, around - mirrored)
    whole = np.floor(mirrored).astype(np.intp)
    return whole, (mirrored - whole)[..., None].astype(np.float32)


def _zoom_matrix(side: int, factor: float) -> Floats:
    """(side, side): row p holds the weights of the source pixels of pixel p."""
    centre = (side - 1) / 2
    source = (np.arange(side) - centre) / factor + centre
    whole = np.minimum(np.floor(source).astype(np.intp), side - 2)
    share = source - whole
    matrix = np.zeros((side, side), np.float32)
    matrix[np.arange(side), whole] = 1 - share
    matrix[np.arange(side), whole + 1] += share
    return matrix
