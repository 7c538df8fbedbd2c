"""Inputs -> verdicts: decode, batch, infer, decide.  Runs in a worker thread; no HTTP."""

import logging
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from service.admission import PixelBudget
from service.bundle import FORWARD, resize_pixels
from service.decision import LOGITS, Plan, Verdict, decide
from service.decoding import ImageLimits, decode_image, image_to_pixels
from service.errors import (
    DeadlinePassed,
    InferenceFailed,
    InputFailed,
    InputRejected,
    WrongModality,
)
from service.inputs import BadInput, EncodedImage, Input, PixelImage
from service.onnx_session import Outputs
from service.repository import LoadedBundle

logger = logging.getLogger(__name__)

Answer = Verdict | InputRejected | InputFailed


@dataclass(frozen=True)
class Deadline:
    """When an answer is worth nothing any more.  `at` is on the monotonic clock."""

    at: float
    seconds: float

    @classmethod
    def after(cls, seconds: float) -> "Deadline":
        return cls(time.monotonic() + seconds, seconds)

    @property
    def remaining_seconds(self) -> float:
        return self.at - time.monotonic()

    def check(self) -> None:
        """Raises DeadlinePassed."""
        if self.remaining_seconds <= 0:
            raise DeadlinePassed(self.seconds)


@dataclass
class Scored:
    """One answer per input, in order; seconds per stage; sizes of the batches run."""

    answers: list[Answer] = field(default_factory=list[Answer])
    stage_seconds: dict[str, float] = field(default_factory=dict[str, float])
    batch_sizes: list[int] = field(default_factory=list[int])

    @contextmanager
    def clock(self, stage: str) -> Generator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            passed = time.perf_counter() - started
            self.stage_seconds[stage] = self.stage_seconds.get(stage, 0.0) + passed


@dataclass(frozen=True)
class Scorer:
    """How inputs are scored; holds limits only and is to be shared by threads."""

    limits: ImageLimits
    budget: PixelBudget
    inference_batch: int  # rows given to the model at once

    def score(
        self,
        bundle: LoadedBundle,
        inputs: Sequence[Input],
        plan: Plan,
        deadline: Deadline,
    ) -> Scored:
        """Raises DeadlinePassed between two batches, or where an image waits for others to leave
        memory; nothing else: inputs fail one by one.
        """
        scored = Scored()
        for start in range(0, len(inputs), self.inference_batch):
            chunk = inputs[start : start + self.inference_batch]
            deadline.check()
            prepared = [self._prepare(item, bundle, scored, deadline) for item in chunk]
            deadline.check()
            scored.answers.extend(_answer(prepared, bundle, plan, scored))
        return scored

    def _prepare(
        self, item: Input, bundle: LoadedBundle, scored: Scored, deadline: Deadline
    ) -> NDArray[np.uint8] | InputRejected:
        """One input -> uint8 (height, width, channels), or why not.  Raises DeadlinePassed."""
        spec = bundle.manifest.input
        try:
            with self.budget.claim(deadline.remaining_seconds) as claim:

                def reserve(pixels: int) -> None:
                    if not claim.fill(pixels):
                        raise DeadlinePassed(deadline.seconds)

                match item:
                    case EncodedImage(data):
                        with scored.clock("decode"):
                            image = decode_image(data, self.limits, reserve)
                        with scored.clock("preprocess"):
                            return image_to_pixels(image, spec)
                    case PixelImage(pixels):
                        with scored.clock("preprocess"):
                            reserve(pixels.shape[0] * pixels.shape[1])
                            return resize_pixels(pixels, spec)
                    case BadInput(error):
                        return error
                    case _:
                        raise WrongModality("text", bundle.name, bundle.manifest.modality)
        except InputRejected as exc:
            return exc


def _answer(
    prepared: Sequence[NDArray[np.uint8] | InputRejected],
    bundle: LoadedBundle,
    plan: Plan,
    scored: Scored,
) -> list[Answer]:
    """Score the readable inputs together and put the answers back in order."""
    readable = [item for item in prepared if not isinstance(item, InputRejected)]
    verdicts: Iterator[Answer] = iter(())
    if readable:
        pixels = np.stack(readable)
        with scored.clock("infer"):
            verdicts = iter(_infer(bundle, pixels, plan, scored.batch_sizes.append))
    return [item if isinstance(item, InputRejected) else next(verdicts) for item in prepared]


def _infer(
    bundle: LoadedBundle, pixels: NDArray[np.uint8], plan: Plan, ran: Callable[[int], None]
) -> Sequence[Answer]:
    """uint8 (N, H, W, C), N >= 1 -> N answers.  If the batch fails, each input goes alone."""
    ran(len(pixels))
    try:
        return decide(_run_graphs(bundle, pixels, plan), plan)
    except Exception:  # onnxruntime's exceptions share no base
        logger.exception("inference failed on a batch of %d", len(pixels))
    if len(pixels) == 1:
        return [InferenceFailed()]
    return [_infer(bundle, row[None], plan, ran)[0] for row in pixels]


def _run_graphs(bundle: LoadedBundle, pixels: NDArray[np.uint8], plan: Plan) -> Outputs:
    """The forward graph always, others only when one of their detectors is asked for."""
    outputs: Outputs = {}
    for graph, session in bundle.sessions.items():
        names = plan.outputs_of(graph)
        if graph == FORWARD:
            names.insert(0, LOGITS)
        if names:
            outputs |= session.run(pixels, names)
    return outputs
