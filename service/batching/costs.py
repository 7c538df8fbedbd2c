"""Seconds that inputs are going to take on an idle machine, estimated without decoding them."""

from collections.abc import Sequence

from service.batches import BatchLimits
from service.bundle import FORWARD, TextInput
from service.decision import Plan
from service.decoding import announced_pixels
from service.inputs import EncodedImage, Input, PixelImage, Text
from service.loading import LoadedBundle

# decoding, changing channels, resizing: measured on photographs of 2 to 16 million pixels
_SECONDS_PER_PIXEL = 15e-9
_PIXELS_PER_BYTE = 3  # of a JPEG, where its header does not say
_CHARACTERS_PER_TOKEN = 4
_SPECIAL_TOKENS = 2


def seconds_of(bundle: LoadedBundle, plan: Plan, inputs: Sequence[Input]) -> tuple[float, float]:
    """Of all inputs together, by the speed of the plan's graphs, which have to be open; and what
    of it passes before any graph runs.
    """
    sessions = [bundle.session(graph) for graph in plan.graphs]
    spec = bundle.manifest.input
    if isinstance(spec, TextInput):
        each = sum(session.tuning.seconds_per_token for session in sessions)
        return each * sum(_tokens(item, spec.max_tokens) for item in inputs), 0.0
    each = sum(session.tuning.seconds_per_row for session in sessions)
    prepare = sum(_pixels(item, spec.shape) for item in inputs) * _SECONDS_PER_PIXEL
    return each * len(inputs) + prepare, prepare


def limits_of(bundle: LoadedBundle, plan: Plan, limits: BatchLimits) -> BatchLimits:
    """Of one batch of the plan's graphs: the settings', and what was found fastest."""
    tunings = {graph: bundle.session(graph).tuning for graph in plan.graphs}
    tokens = min(tuning.tokens for tuning in tunings.values())
    rows = limits.rows  # of texts, tokens are the bound
    if bundle.encoder is None:
        rows = min(tuning.rows for tuning in tunings.values())
    if set(tunings) != {FORWARD}:
        rows = min(rows, limits.on_demand_rows)
    return limits.at_most(rows, tokens)


def _tokens(item: Input, longest: int) -> int:
    characters = len(item.text) if isinstance(item, Text) else 0
    return min(longest, _SPECIAL_TOKENS + characters // _CHARACTERS_PER_TOKEN)


def _pixels(item: Input, shape: tuple[int, int, int]) -> int:
    if isinstance(item, PixelImage):
        height, width, _ = item.pixels.shape
        return 0 if item.pixels.shape == shape else height * width
    if isinstance(item, EncodedImage):
        return announced_pixels(item.data) or len(item.data) * _PIXELS_PER_BYTE
    return 0
