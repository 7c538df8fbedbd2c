"""Inputs -> verdicts: decode or tokenize, batch, infer, decide.  In a worker thread; no HTTP."""

import logging
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import cast

import numpy as np
from numpy.typing import NDArray

from service.admission import PixelBudget
from service.batches import BatchLimits, by_length
from service.bundle import (
    FORWARD,
    ImageInput,
    TextEncoder,
    TextUnusable,
    Tokens,
    pad_tokens,
    resize_pixels,
)
from service.decision import Plan, Verdict, decide
from service.decoding import ImageLimits, decode_image, image_to_pixels
from service.errors import (
    DeadlinePassed,
    InferenceFailed,
    InputFailed,
    InputRejected,
    TextUnreadable,
    WrongModality,
)
from service.inputs import BadInput, EncodedImage, Input, PixelImage, Text
from service.loading import LoadedBundle
from service.onnx_session import ModelInput, OnnxSession, Outputs

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
    batches: BatchLimits

    def score(
        self,
        bundle: LoadedBundle,
        inputs: Sequence[Input],
        plan: Plan,
        deadline: Deadline,
    ) -> Scored:
        """Raises DetectorUnavailable before anything else; DeadlinePassed between two batches or
        two texts, or where an image waits for others to leave memory; nothing else: inputs fail
        one by one.
        """
        sessions = {graph: bundle.session(graph) for graph in plan.graphs}
        scored = Scored()
        model = _Model(sessions, plan, self.batches.on_demand_rows, scored)
        if bundle.encoder is None:
            self._score_images(bundle, inputs, model, deadline)
        else:
            self._score_texts(bundle, bundle.encoder, inputs, model, deadline)
        return scored

    def _score_images(
        self, bundle: LoadedBundle, inputs: Sequence[Input], model: "_Model", deadline: Deadline
    ) -> None:
        """Batches in the order of the inputs, so that few images are in memory at once."""
        for start in range(0, len(inputs), self.batches.rows):
            chunk = inputs[start : start + self.batches.rows]
            deadline.check()
            prepared = [self._pixels(item, bundle, model.scored, deadline) for item in chunk]
            deadline.check()
            readable = [item for item in prepared if not isinstance(item, InputRejected)]
            answers = iter(model.answer(np.stack(readable)) if readable else ())
            model.scored.answers += [
                item if isinstance(item, InputRejected) else next(answers) for item in prepared
            ]

    def _score_texts(
        self,
        bundle: LoadedBundle,
        encoder: TextEncoder,
        inputs: Sequence[Input],
        model: "_Model",
        deadline: Deadline,
    ) -> None:
        """Batches of texts of like length, whatever their order."""
        answers: list[Answer | None] = [None] * len(inputs)
        places: list[int] = []
        texts: list[Tokens] = []
        with model.scored.clock("preprocess"):
            for place, item in enumerate(inputs):
                deadline.check()
                try:
                    texts.append(_tokens(item, bundle, encoder))
                    places.append(place)
                except InputRejected as exc:
                    answers[place] = exc
        for batch in by_length([len(text.ids) for text in texts], self.batches):
            deadline.check()
            ids = pad_tokens([texts[number].ids for number in batch], encoder.spec.pad_id)
            for number, answer in zip(batch, model.answer(ids), strict=True):
                if isinstance(answer, Verdict):
                    answer = replace(answer, truncated=texts[number].truncated)
                answers[places[number]] = answer
        model.scored.answers += [answer for answer in answers if answer is not None]

    def _pixels(
        self, item: Input, bundle: LoadedBundle, scored: Scored, deadline: Deadline
    ) -> NDArray[np.uint8] | InputRejected:
        """One input -> uint8 (height, width, channels), or why not.  Raises DeadlinePassed."""
        spec = cast(ImageInput, bundle.manifest.input)
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
                    case Text():
                        raise WrongModality("text", bundle.name, "image")
        except InputRejected as exc:
            return exc


def _tokens(item: Input, bundle: LoadedBundle, encoder: TextEncoder) -> Tokens:
    """Raises InputRejected."""
    match item:
        case Text(text):
            try:
                return encoder.tokens(text)
            except TextUnusable as exc:
                raise TextUnreadable(str(exc)) from exc
        case BadInput(error):
            raise error
        case EncodedImage() | PixelImage():
            raise WrongModality("image", bundle.name, "text")


@dataclass(frozen=True)
class _Model:
    """The graphs of one request, what is asked of them, and where their work is written down."""

    sessions: Mapping[str, OnnxSession]
    plan: Plan
    on_demand_rows: int
    scored: Scored

    def answer(self, batch: ModelInput) -> Sequence[Answer]:
        """Pixels or tokens of N >= 1 inputs -> N answers."""
        with self.scored.clock("infer"):
            return self._infer(batch)

    def _infer(self, batch: ModelInput) -> Sequence[Answer]:
        """If the batch fails, each input goes alone."""
        self.scored.batch_sizes.append(len(batch))
        try:
            outputs: Outputs = {}
            for graph, session in self.sessions.items():
                outputs |= self._run(graph, session, batch)
            return decide(outputs, self.plan)
        except Exception:  # onnxruntime's exceptions share no base
            logger.exception("inference failed on a batch of %d", len(batch))
        if len(batch) == 1:
            return [InferenceFailed()]
        return [self._infer(row[None])[0] for row in batch]

    def _run(self, graph: str, session: OnnxSession, batch: ModelInput) -> Outputs:
        """A graph on demand keeps a multiple of the memory a row: it gets smaller pieces."""
        names = self.plan.outputs_of(graph)
        rows = len(batch) if graph == FORWARD else self.on_demand_rows
        if len(batch) <= rows:
            return session.run(batch, names)
        pieces = [
            session.run(batch[start : start + rows], names) for start in range(0, len(batch), rows)
        ]
        return {name: np.concatenate([piece[name] for piece in pieces]) for name in names}
