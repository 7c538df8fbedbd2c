"""The corruption suite: shapes, seeds, severities, and simple kinds against plain formulas."""

import colorsys
import io
import re
from dataclasses import astuple
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from training.data.corruptions import (
    CORRUPTIONS,
    EXTRA_CORRUPTIONS,
    SEVERITIES,
    blur,
    corrupt,
    digital,
    noise,
    weather,
)
from training.data.corruptions.textures import frost_textures, plasma

ALL = sorted(CORRUPTIONS | EXTRA_CORRUPTIONS)
# The others change what they do as they grow (elastic, glass), or move the picture towards
# and away from itself (snow, frost and fog brighten some and darken others).
GROWING = (
    *("gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise", "gaussian_blur"),
    *("defocus_blur", "motion_blur", "zoom_blur", "brightness", "contrast", "pixelate"),
    "jpeg_compression",
)


def smooth_pictures(
    count: int, height: int = 32, width: int = 32, channels: int = 3, seed: int = 0
) -> NDArray[np.uint8]:
    """Soft blobs that fill 20..220, like small photographs."""
    rng = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(
        rng.normal(size=(count, height, width, channels)), (0, 2.5, 2.5, 0), mode="wrap"
    )
    low, high = noise.min(axis=(1, 2), keepdims=True), noise.max(axis=(1, 2), keepdims=True)
    return np.rint(20 + 200 * (noise - low) / (high - low)).astype(np.uint8)


def flat(value: int, count: int = 50) -> NDArray[np.uint8]:
    return np.full((count, 32, 32, 3), value, np.uint8)


def distance(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> float:
    """Mean squared error in squared grey levels."""
    return float(np.mean((first.astype(float) - second.astype(float)) ** 2))


def test_the_suite_has_sixteen_kinds_and_five_severities() -> None:
    assert len(CORRUPTIONS) == 16
    assert SEVERITIES == (1, 2, 3, 4, 5)
    assert not set(CORRUPTIONS) & set(EXTRA_CORRUPTIONS)


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("shape", [(32, 32, 3), (28, 28, 1), (8, 8, 1), (20, 45, 3), (70, 9, 1)])
def test_any_size_keeps_its_shape_and_the_input(kind: str, shape: tuple[int, int, int]) -> None:
    images = smooth_pictures(3, *shape)
    before = images.copy()
    for severity in SEVERITIES:
        changed = corrupt(images, kind, severity)
        assert changed.shape == images.shape
        assert changed.dtype == np.uint8
    np.testing.assert_array_equal(images, before)


@pytest.mark.parametrize("kind", ALL)
def test_every_kind_changes_colour_pictures_at_every_severity(kind: str) -> None:
    images = smooth_pictures(4)
    seen = [corrupt(images, kind, severity) for severity in SEVERITIES]
    assert all((changed != images).any() for changed in seen)
    assert all((one != other).any() for one, other in pairwise(seen))


@pytest.mark.parametrize("kind", sorted(CORRUPTIONS))
def test_every_kind_of_the_suite_changes_grey_pictures(kind: str) -> None:
    images = smooth_pictures(4, 28, 28, 1)
    assert all((corrupt(images, kind, s) != images).any() for s in SEVERITIES)


@pytest.mark.parametrize("kind", ALL)
def test_the_seed_decides(kind: str) -> None:
    images = smooth_pictures(6)
    first = corrupt(images, kind, 3, seed=5)
    np.testing.assert_array_equal(first, corrupt(images, kind, 3, seed=5))
    drawn = {"defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate"}
    drawn |= {"jpeg_compression", "gaussian_blur", "saturate"}  # nothing random in these
    assert (first != corrupt(images, kind, 3, seed=6)).any() == (kind not in drawn)


@pytest.mark.parametrize("kind", ["glass_blur", "motion_blur", "snow", "frost", "fog"])
def test_every_picture_gets_its_own_draw(kind: str) -> None:
    images = np.repeat(smooth_pictures(1), 8, axis=0)
    changed = corrupt(images, kind, 5)
    assert len({picture.tobytes() for picture in changed}) == 8


def test_large_pictures_are_worked_on_in_parts() -> None:
    images = np.repeat(smooth_pictures(1, 600, 500, 1), 5, axis=0)  # three fit at once
    changed = corrupt(images, "gaussian_noise", 1)
    assert len({picture.tobytes() for picture in changed}) == 5


@pytest.mark.parametrize("kind", GROWING)
def test_the_distance_from_clean_grows_with_the_severity(kind: str) -> None:
    images = smooth_pictures(60)
    # motion: 3 and 4 share their deviation, the longer reach holds next to nothing
    compared = (1, 2, 3, 5) if kind == "motion_blur" else SEVERITIES
    distances = [distance(images, corrupt(images, kind, severity)) for severity in compared]
    assert distances == sorted(distances)
    assert distances[-1] > 1.5 * distances[0]


@pytest.mark.parametrize(
    ("severity", "deviation"), [(1, 0.04), (2, 0.06), (3, 0.08), (4, 0.09), (5, 0.10)]
)
def test_gaussian_noise_has_the_published_deviation(severity: int, deviation: float) -> None:
    change = corrupt(flat(128), "gaussian_noise", severity) / 255 - 128 / 255
    # 153,600 values: the estimate is good to 0.2 %; rounding to levels adds 0.3 levels
    assert change.std() == pytest.approx(np.hypot(deviation, 0.29 / 255), rel=0.01)
    assert abs(change.mean()) < 0.001


@pytest.mark.parametrize("value", [40, 120])
def test_noises_grow_with_the_value_as_they_should(value: int) -> None:
    level = value / 255
    shot = corrupt(flat(value), "shot_noise", 5) / 255
    speckle = corrupt(flat(value), "speckle_noise", 3) / 255
    rounding = 0.29 / 255
    assert shot.std() == pytest.approx(np.hypot(np.sqrt(level / 50), rounding), rel=0.02)
    assert speckle.std() == pytest.approx(np.hypot(0.12 * level, rounding), rel=0.02)
    assert shot.mean() == pytest.approx(level, rel=0.01)
    assert speckle.mean() == pytest.approx(level, rel=0.01)


@pytest.mark.parametrize(("severity", "share"), [(1, 0.01), (3, 0.03), (5, 0.07)])
def test_impulse_noise_loses_the_published_share(severity: int, share: float) -> None:
    changed = corrupt(flat(128), "impulse_noise", severity)
    assert set(np.unique(changed)) == {0, 128, 255}
    for extreme in (0, 255):
        assert np.mean(changed == extreme) == pytest.approx(share / 2, rel=0.1)


@pytest.mark.parametrize(("severity", "added"), [(1, 0.05), (3, 0.15), (5, 0.30)])
def test_brightness_raises_v_of_hsv(severity: int, added: float) -> None:
    images = np.random.default_rng(0).integers(0, 256, (1, 8, 8, 3), dtype=np.uint8)
    images[0, 0, :2] = [[0, 0, 0], [255, 255, 255]]
    changed = corrupt(images, "brightness", severity)
    for before, after in zip(images.reshape(-1, 3), changed.reshape(-1, 3), strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*(before / 255))
        wanted = np.array(colorsys.hsv_to_rgb(hue, saturation, min(1.0, value + added)))
        assert np.abs(after - 255 * wanted).max() <= 0.51, (before, after)


@pytest.mark.parametrize(("severity", "times", "plus"), [(1, 0.3, 0), (3, 1.5, 0), (5, 2.5, 0.2)])
def test_saturate_changes_s_of_hsv_and_leaves_grey(
    severity: int, times: float, plus: float
) -> None:
    images = np.random.default_rng(1).integers(0, 256, (1, 8, 8, 3), dtype=np.uint8)
    images[0, 0] = images[0, 0, :, :1]
    changed = corrupt(images, "saturate", severity)
    np.testing.assert_array_equal(changed[0, 0], images[0, 0])
    for before, after in zip(
        *(part[0, 1:].reshape(-1, 3) for part in (images, changed)), strict=True
    ):
        hue, saturation, value = colorsys.rgb_to_hsv(*(before / 255))
        wanted = colorsys.hsv_to_rgb(hue, min(1.0, saturation * times + plus), value)
        assert np.abs(after - 255 * np.array(wanted)).max() <= 0.51, (before, after)


@pytest.mark.parametrize(("severity", "factor"), [(1, 0.75), (2, 0.5), (5, 0.15)])
def test_contrast_shrinks_the_distance_from_the_mean(severity: int, factor: float) -> None:
    images = smooth_pictures(3)
    mean = images.mean(axis=(1, 2), keepdims=True)
    wanted = mean + factor * (images - mean)
    assert np.abs(corrupt(images, "contrast", severity) - wanted).max() <= 0.51


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("severity", "quality"), [(1, 80), (3, 58), (5, 40)])
def test_jpeg_is_pillows(channels: int, severity: int, quality: int) -> None:
    images = smooth_pictures(2, channels=channels)
    changed = corrupt(images, "jpeg_compression", severity)
    for before, after in zip(images, changed, strict=True):
        buffer = io.BytesIO()
        Image.fromarray(before.squeeze()).save(buffer, "JPEG", quality=quality)
        decoded = np.asarray(Image.open(buffer)).reshape(before.shape)
        np.testing.assert_array_equal(after, decoded)


def test_pixelate_leaves_as_few_levels_as_small_pixels() -> None:
    images = np.arange(32, dtype=np.uint8)[None, :, None, None].repeat(32, 2) * 8
    changed = corrupt(images, "pixelate", 5)  # 65 % of 32 rows
    assert len(np.unique(changed)) == 20
    assert (changed == changed[:, :, :1]).all()


@pytest.mark.parametrize("kind", ["defocus_blur", "gaussian_blur", "motion_blur", "zoom_blur"])
def test_blurs_leave_flat_pictures_and_lower_the_contrast_of_others(kind: str) -> None:
    np.testing.assert_array_equal(corrupt(flat(77, 2), kind, 5), flat(77, 2))
    images = smooth_pictures(20)
    assert corrupt(images, kind, 5).std(axis=(1, 2)).mean() < images.std(axis=(1, 2)).mean()


def test_defocus_spreads_a_point_over_its_disc() -> None:
    """Severity 5: radius 1.5 covers 3 x 3 pixels, its edge hardly softened."""
    point = np.zeros((1, 32, 32, 1), np.uint8)
    point[0, 16, 16] = 255
    changed = corrupt(point, "defocus_blur", 5)[0, :, :, 0]
    assert (changed[15:18, 15:18] == round(255 / 9)).all()
    assert changed.sum() == 9 * round(255 / 9)


def test_gaussian_blur_of_a_point_is_a_gaussian() -> None:
    point = np.zeros((1, 32, 32, 1), np.uint8)
    point[0, 16, 16] = 255
    steps = np.arange(32) - 16
    profile = np.exp(-0.5 * steps**2)  # severity 5: deviation 1
    wanted = 255 * np.outer(profile, profile) / profile.sum() ** 2
    assert np.abs(corrupt(point, "gaussian_blur", 5)[0, :, :, 0] - wanted).max() <= 0.52


def test_motion_blur_draws_a_line_at_most_45_degrees_from_the_horizontal() -> None:
    points = np.zeros((40, 41, 41, 1), np.uint8)
    points[:, 20, 20] = 255
    for trace in corrupt(points, "motion_blur", 5)[..., 0]:
        rows, columns = np.nonzero(trace)
        assert np.ptp(columns) >= np.ptp(rows)
        assert 3 <= len(rows) <= 15  # a line, not a spot


def test_glass_moves_pixels_by_at_most_one_in_each_pass() -> None:
    """Severity 1 shuffles once and hardly blurs: a step edge moves by one column at most."""
    images = np.zeros((30, 32, 32, 1), np.uint8)
    images[:, :, 16:] = 200
    changed = corrupt(images, "glass_blur", 1)[..., 0]
    assert (changed[:, :, :16] == 0).all()
    assert (changed[:, :, 17:] == 200).all()
    assert np.mean(changed[:, :, 16] == 0) == pytest.approx(0.5, abs=0.06)


def test_zoom_blur_keeps_the_centre_and_smears_the_rim() -> None:
    rings = np.hypot(*(np.mgrid[:65, :65] - 32))
    images = np.where(np.floor(rings / 2) % 2, 200, 50).astype(np.uint8)[None, :, :, None]
    change = np.abs(corrupt(images, "zoom_blur", 2).astype(int) - images)[0, :, :, 0]
    assert change[rings < 5].mean() < 0.5 * change[rings > 25].mean()


def test_fog_keeps_the_brightest_level_and_lifts_the_dark() -> None:
    images = np.zeros((20, 32, 32, 1), np.uint8)
    images[:, 12:20, 12:20] = 200
    changed = corrupt(images, "fog", 5)
    assert changed.max() <= 200
    assert changed[:, :10].mean() > 40


@pytest.mark.parametrize("kind", ["snow", "frost"])
def test_ice_only_adds_light_to_black(kind: str) -> None:
    dark = flat(0, 20)
    levels = [corrupt(dark, kind, severity).mean() for severity in SEVERITIES]
    assert levels[0] > 0
    assert levels[-1] > levels[0]


def test_snow_is_white_and_falls_steeply() -> None:
    changed = corrupt(flat(0, 200), "snow", 2).astype(float)
    np.testing.assert_array_equal(changed[..., 0], changed[..., 2])
    grey = changed[..., 0]
    # along a flake neighbours are alike: more so from row to row than from column to column
    assert np.abs(np.diff(grey, axis=1)).mean() < np.abs(np.diff(grey, axis=2)).mean()


def test_frost_textures_are_icy_and_differ() -> None:
    textures = frost_textures(96, 1.0)
    assert textures.shape == (5, 96, 96, 3)
    assert textures.min() >= 0
    assert textures.max() <= 1
    red, _, blue = textures.mean(axis=(0, 1, 2))
    assert blue > red
    assert all(0.3 < mean < 0.6 for mean in textures.mean(axis=(1, 2, 3)))
    assert len({texture.tobytes() for texture in textures}) == 5


def test_elastic_keeps_flat_pictures_and_moves_others() -> None:
    np.testing.assert_array_equal(corrupt(flat(90, 3), "elastic_transform", 5), flat(90, 3))
    images = smooth_pictures(30)
    changed = corrupt(images, "elastic_transform", 1)
    # moved, not recoloured: the levels of a picture stay within its own
    assert (changed.max(axis=(1, 2)) <= images.max(axis=(1, 2))).all()
    assert distance(images, changed) > 50


def test_plasma_fills_the_unit_interval_and_is_smoother_for_a_larger_decay() -> None:
    def roughness(decay: float) -> float:
        clouds = plasma(50, 30, decay, np.random.default_rng(0))
        assert clouds.shape == (50, 32, 32)
        np.testing.assert_array_equal(clouds.min(axis=(1, 2)), 0)
        np.testing.assert_array_equal(clouds.max(axis=(1, 2)), 1)
        return float(np.abs(np.diff(clouds, axis=2)).mean())

    assert roughness(3.0) < roughness(2.0) < roughness(1.5)


@pytest.mark.parametrize(
    ("shape", "dtype", "kind", "severity", "named"),
    [
        ((2, 32, 32, 3), np.uint8, "rain", 1, "no corruption 'rain'.*gaussian_noise"),
        ((2, 32, 32, 3), np.uint8, "snow", 0, "severity is 0"),
        ((2, 32, 32, 3), np.uint8, "snow", 6, "severity is 6"),
        ((2, 32, 32, 3), np.float32, "snow", 1, "float32"),
        ((32, 32, 3), np.uint8, "snow", 1, r"\(32, 32, 3\)"),
        ((2, 32, 32, 4), np.uint8, "snow", 1, r"\(2, 32, 32, 4\)"),
        ((2, 7, 32, 3), np.uint8, "snow", 1, "7 x 32.*at least 8"),
    ],
)
def test_what_does_not_fit_is_named(
    shape: tuple[int, ...], dtype: type, kind: str, severity: int, named: str
) -> None:
    with pytest.raises(ValueError, match=named):
        corrupt(np.zeros(shape, dtype), kind, severity)


CONSTANTS = {
    "gaussian_noise": noise._GAUSSIAN,
    "shot_noise": noise._SHOT,
    "impulse_noise": noise._IMPULSE,
    "speckle_noise": noise._SPECKLE,
    "defocus_blur": blur._DEFOCUS,
    "glass_blur": blur._GLASS,
    "motion_blur": blur._MOTION,
    "zoom_blur": blur._ZOOM,
    "snow": tuple(astuple(at) for at in weather._SNOW),
    "frost": weather._FROST,
    "fog": weather._FOG,
    "brightness": weather._BRIGHTNESS,
    "contrast": digital._CONTRAST,
    "elastic_transform": digital._ELASTIC,
    "pixelate": digital._PIXELATE,
    "jpeg_compression": digital._JPEG,
}


def test_the_constants_in_the_documentation_are_those_in_use() -> None:
    page = (Path(__file__).parents[2] / "docs" / "corruptions.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \| .* \| (.*) \|$", page, re.MULTILINE))
    assert list(rows) == list(CORRUPTIONS)
    for kind, used in CONSTANTS.items():
        printed = [tuple(map(float, part.split(","))) for part in rows[kind].split(";")]
        assert printed == [tuple(np.atleast_1d(at).tolist()) for at in used], kind
