"""Inputs -> verdicts: decode or tokenize, batch, infer, decide.  In a worker thread; no HTTP."""

import logging
import time
from collections.abc import Generator, Sequence
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
    """One answer per input, in order; seconds per stage."""

    answers: list[Answer] = field(default_factory=list[Answer])
    stage_seconds: dict[str, float] = field(default_factory=dict[str, float])

    def took(self, stage: str, seconds: float) -> None:
        self.stage_seconds[stage] = self.stage_seconds.get(stage, 0.0) + seconds

    @contextmanager
    def clock(self, stage: str) -> Generator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self.took(stage, time.perf_counter() - started)


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
        """One caller's inputs, here and now, in the order that needs least memory and padding.

        Raises DetectorUnavailable before anything else; DeadlinePassed between two batches or
        two texts, or where an image waits for others to leave memory; nothing else: inputs fail
        one by one.
        """
        network = Network(bundle, plan.graphs, self.batches.on_demand_rows)
        scored = Scored()
        # images in small groups: few are in memory at once
        size = self.batches.rows if bundle.encoder is None else len(inputs)
        for start in range(0, len(inputs), size):
            deadline.check()
            group = [
                self.prepare(bundle, item, deadline, scored)
                for item in inputs[start : start + size]
            ]
            deadline.check()
            scored.answers += self._answer(network, group, plan, deadline, scored)
        return scored

    def _answer(
        self,
        network: "Network",
        group: Sequence["Prepared | InputRejected"],
        plan: Plan,
        deadline: Deadline,
        scored: Scored,
    ) -> list[Answer]:
        answers: list[Answer | None] = [
            item if isinstance(item, InputRejected) else None for item in group
        ]
        places = [place for place, answer in enumerate(answers) if answer is None]
        rows = [cast(Prepared, group[place]) for place in places]
        for batch in batches_of(rows, self.batches):
            deadline.check()
            with scored.clock("infer"):
                found = network.answer([rows[number] for number in batch], [plan] * len(batch))
            for number, answer in zip(batch, found.answers, strict=True):
                answers[places[number]] = answer
        return [answer for answer in answers if answer is not None]

    def prepare(
        self, bundle: LoadedBundle, item: Input, deadline: Deadline, scored: Scored
    ) -> "Prepared | InputRejected":
        """One input -> what the graph reads, or why not.  Raises DeadlinePassed."""
        try:
            if bundle.encoder is not None:
                with scored.clock("preprocess"):
                    deadline.check()
                    return _tokens(item, bundle, bundle.encoder)
            return self._pixels(item, bundle, scored, deadline)
        except InputRejected as exc:
            return exc

    def _pixels(
        self, item: Input, bundle: LoadedBundle, scored: Scored, deadline: Deadline
    ) -> NDArray[np.uint8]:
        """One input -> uint8 (height, width, channels).  Raises InputRejected, DeadlinePassed."""
        spec = cast(ImageInput, bundle.manifest.input)
        if isinstance(item, PixelImage) and item.pixels.shape == spec.shape:
            return item.pixels  # nothing to do, and it is in memory already
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
                    raise error
                case Text():
                    raise WrongModality("text", bundle.name, "image")


# pixels (H, W, C) or tokens of one input
Prepared = NDArray[np.uint8] | Tokens


def batches_of(rows: Sequence[Prepared], limits: BatchLimits) -> list[list[int]]:
    """Numbers of the rows, in batches: images in their order, texts with others of like length."""
    lengths = [len(row.ids) for row in rows if isinstance(row, Tokens)]
    if lengths:
        return by_length(lengths, limits)
    places = range(len(rows))
    return [list(places[start : start + limits.rows]) for start in places[:: limits.rows]]


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


@dataclass
class Found:
    """Answers of one batch, in order, and the sizes it was really run in."""

    answers: list[Answer]
    batch_sizes: list[int]


class Network:
    """The open graphs that some plans need, as one function of rows."""

    def __init__(
        self,
        bundle: LoadedBundle,
        graphs: Sequence[str],
        on_demand_rows: int,
        *,
        single_threads: bool = False,
    ) -> None:
        """`single_threads`: every graph on one thread, where it is open so.

        Opens what is not open yet.  Raises DetectorUnavailable.
        """
        self._encoder = bundle.encoder
        sessions = {graph: bundle.session(graph) for graph in graphs}
        if single_threads:
            sessions = {graph: session.single or session for graph, session in sessions.items()}
        self._sessions = sessions
        self._on_demand_rows = on_demand_rows

    def answer(self, rows: Sequence[Prepared], plans: Sequence[Plan]) -> Found:
        """N >= 1 rows, each with its plan, as one batch; if that fails, each row alone."""
        sizes = [len(rows)]
        try:
            return Found(self._answer(rows, plans), sizes)
        except Exception:  # onnxruntime's exceptions share no base
            logger.exception("inference failed on a batch of %d", len(rows))
        if len(rows) == 1:
            return Found([InferenceFailed()], sizes)
        answers: list[Answer] = []
        for row, plan in zip(rows, plans, strict=True):
            alone = self.answer([row], [plan])
            answers += alone.answers
            sizes += alone.batch_sizes
        return Found(answers, sizes)

    def _answer(self, rows: Sequence[Prepared], plans: Sequence[Plan]) -> list[Answer]:
        first = plans[0]
        distinct = [first]
        if any(plan is not first for plan in plans):
            distinct = list({id(plan): plan for plan in plans}.values())
        outputs: Outputs = {}
        batch = self._batch(rows)
        for graph, session in self._sessions.items():
            names = first.outputs_of(graph)
            if len(distinct) > 1:
                some = (name for plan in distinct for name in plan.outputs_of(graph))
                names = list(dict.fromkeys(some))
            outputs |= self._run(graph, session, batch, names)
        if len(distinct) == 1:
            answers = list[Answer](decide(outputs, first))
        else:
            answers = _decide_each(outputs, plans, distinct)
        if self._encoder is None:
            return answers
        return [
            replace(answer, truncated=row.truncated)
            if isinstance(answer, Verdict) and isinstance(row, Tokens)
            else answer
            for row, answer in zip(rows, answers, strict=True)
        ]

    def _batch(self, rows: Sequence[Prepared]) -> ModelInput:
        if self._encoder is None:
            return np.stack(cast(Sequence[NDArray[np.uint8]], rows))
        tokens = [row.ids for row in cast(Sequence[Tokens], rows)]
        return pad_tokens(tokens, self._encoder.spec.pad_id)

    def _run(
        self, graph: str, session: OnnxSession, batch: ModelInput, names: Sequence[str]
    ) -> Outputs:
        """A graph on demand keeps a multiple of the memory a row: it gets smaller pieces."""
        rows = len(batch) if graph == FORWARD else self._on_demand_rows
        if len(batch) <= rows:
            return session.run(batch, names)
        pieces = [
            session.run(batch[start : start + rows], names) for start in range(0, len(batch), rows)
        ]
        return {name: np.concatenate([piece[name] for piece in pieces]) for name in names}


def _decide_each(outputs: Outputs, plans: Sequence[Plan], distinct: Sequence[Plan]) -> list[Answer]:
    """Rows of different plans ran together; each is decided by its own."""
    answers: list[Answer | None] = [None] * len(plans)
    for plan in distinct:
        places = [place for place, own in enumerate(plans) if own is plan]
        part = {name: values[places] for name, values in outputs.items()}
        for place, answer in zip(places, decide(part, plan), strict=True):
            answers[place] = answer
    return [answer for answer in answers if answer is not None]
