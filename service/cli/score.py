"""`oodscore score`: images and texts on a bundle in this process, or on a running service."""

import json
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from service.admission import PixelBudget
from service.arrays import parse_npy
from service.batches import BatchLimits
from service.bundle import Modality
from service.cli.models import ModelsDir, choose_bundle, default_model
from service.cli.progress import track
from service.cli.remote import ApiKey
from service.cli.score_inputs import Item, groups_of, read_items
from service.client import ScoreClient, ServiceRefused
from service.decision import Plan, make_plan
from service.decoding import ImageLimits
from service.errors import ServiceError
from service.graphs import SessionOptions
from service.inputs import EncodedImage, Input, PixelImage, text_input
from service.loading import LoadedBundle, open_bundle
from service.responses import to_response
from service.schemas import (
    ErrorItem,
    FailedResult,
    ModelId,
    ScoreParameters,
    ScoreResponse,
    ScoreResult,
)
from service.scoring import Deadline, Scorer
from service.settings import Settings

# a group is refused with one of these for what one input, or their number, did to it
_TRY_ONE_BY_ONE = frozenset({413, 422, 500, 504})
_NO_DEADLINE = Deadline(float("inf"), float("inf"))


@dataclass(frozen=True)
class Backend:
    """Where scoring happens."""

    images: Callable[[Sequence[bytes]], ScoreResponse]  # encoded
    npy: Callable[[bytes], ScoreResponse]
    texts: Callable[[Sequence[str]], ScoreResponse]


@dataclass(frozen=True)
class Answered:
    """One input with its answer."""

    name: str
    source: dict[str, str]
    model: ModelId
    result: ScoreResult | FailedResult


def score(
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            exists=True,
            dir_okay=False,
            readable=True,
            help="images; .npy: uint8 images (N, H, W, C); .txt: one text; .jsonl: a text a line",
        ),
    ] = None,
    text: Annotated[list[str] | None, typer.Option(help="a text to score; repeatable")] = None,
    url: Annotated[str | None, typer.Option(help="a running service; else this process")] = None,
    api_key: ApiKey = None,
    model: Annotated[
        str | None, typer.Option(help="the default model of each modality if left out")
    ] = None,
    version: Annotated[str | None, typer.Option(help="the highest if left out")] = None,
    detectors: Annotated[
        str | None,
        typer.Option(
            help="comma separated; the first one decides; left out: all that need no extra pass"
        ),
    ] = None,
    id_acceptance: Annotated[
        float | None, typer.Option(help="share of ID inputs to accept, 0 to 1")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object a line")] = False,
    models_dir: ModelsDir = None,
) -> None:
    """Score images and texts: files, or what `--text` says.  Exit code 1 if any failed.

    A .txt file is one text, without its last line end; a line of a .jsonl file is a JSON string
    or an object with a field `text`.

    Example: oodscore score photo.png --model fashion-mnist --json

    Example: oodscore score --text "my card was declined"
    """
    items = read_items(files or (), text or ())
    if not items:
        raise typer.BadParameter("nothing to score; give files or --text")
    parameters = ScoreParameters(
        model=model, version=version, detectors=detectors, id_acceptance=id_acceptance
    )
    if url is None:
        modalities: set[Modality] = {item.modality for item in items}
        failed = _score_all(items, _local_backend(parameters, models_dir, modalities), as_json)
    else:
        with ScoreClient(url, api_key=api_key) as client:
            failed = _score_all(items, _remote_backend(client, parameters), as_json)
    if failed:
        raise typer.Exit(1)


def _score_all(items: Sequence[Item], backend: Backend, as_json: bool) -> bool:
    """Print each answer as it comes; True if an input failed."""
    failed = False
    for group in track(groups_of(items), "scoring"):
        for answered in _score_group(group, backend):
            failed |= isinstance(answered.result, FailedResult)
            typer.echo(_json_line(answered) if as_json else _line(answered))
    return failed


def _score_group(group: Sequence[Item], backend: Backend) -> Iterator[Answered]:
    """A refusal for what is in the inputs is told of the one it belongs to; others are raised."""
    try:
        response = _ask(group, backend)
    except (ServiceError, ServiceRefused) as exc:
        if len(group) == 1:
            response = _failure(exc)
        elif isinstance(exc, ServiceRefused) and exc.status in _TRY_ONE_BY_ONE:
            for item in group:
                yield from _score_group([item], backend)
            return
        else:
            raise
    first = group[0]
    rows = len(response.results) > 1 or isinstance(response.results[0], ScoreResult)
    if first.is_array and rows:
        names = [f"{first.name}[{index}]" for index in range(len(response.results))]
        sources = [{"file": name} for name in names]
    else:
        names, sources = [item.name for item in group], [item.source for item in group]
    for name, source, result in zip(names, sources, response.results, strict=True):
        yield Answered(name, source, response.model, result)


def _ask(group: Sequence[Item], backend: Backend) -> ScoreResponse:
    """Raises ServiceError, ClientError."""
    texts = [item.content for item in group if isinstance(item.content, str)]
    if texts:
        return backend.texts(texts)
    data = [item.content.read_bytes() for item in group if isinstance(item.content, Path)]
    return backend.npy(data[0]) if group[0].is_array else backend.images(data)


def _local_backend(
    parameters: ScoreParameters, models_dir: Path | None, modalities: Collection[Modality]
) -> Backend:
    """The bundles these modalities need are opened now: what cannot be served is told once."""
    settings = Settings()
    budget = PixelBudget(settings.max_decoded_pixels)
    batches = BatchLimits(
        settings.inference_batch, settings.on_demand_batch, settings.inference_tokens
    )
    scorer = Scorer(ImageLimits(settings.max_image_bytes, settings.max_pixels), budget, batches)
    opened: dict[str, tuple[LoadedBundle, Plan]] = {}
    names: dict[Modality, str] = {}
    for modality in modalities:
        name = names[modality] = parameters.model or default_model(models_dir, modality)
        if name not in opened:
            opened[name] = _open(name, parameters, models_dir, settings)

    def score_inputs(modality: Modality, inputs: Sequence[Input]) -> ScoreResponse:
        bundle, plan = opened[names[modality]]
        return to_response(bundle, scorer.score(bundle, inputs, plan, _NO_DEADLINE).answers)

    def score_npy(body: bytes) -> ScoreResponse:
        rows = parse_npy(body, max_inputs=len(body), max_pixels=settings.max_pixels)
        return score_inputs("image", [PixelImage(row) for row in rows])

    def score_texts(texts: Sequence[str]) -> ScoreResponse:
        limit = settings.max_text_characters
        return score_inputs("text", [text_input(text, limit) for text in texts])

    return Backend(
        lambda images: score_inputs("image", [EncodedImage(data) for data in images]),
        score_npy,
        score_texts,
    )


def _open(
    name: str, parameters: ScoreParameters, models_dir: Path | None, settings: Settings
) -> tuple[LoadedBundle, Plan]:
    """With every graph the plan needs.  Raises BundleError, ServiceError, ProviderUnavailable."""
    ref = choose_bundle(models_dir, name, parameters.version)
    options = SessionOptions(settings.provider, settings.threads)
    bundle = open_bundle(ref, options, int8=ref.name in settings.int8_models)
    detectors = parameters.detectors
    plan = make_plan(
        bundle.manifest,
        bundle.calibration,
        None if detectors is None else [d.strip() for d in detectors.split(",")],
        parameters.id_acceptance,
    )
    for graph in plan.graphs:
        bundle.session(graph)
    return bundle, plan


def _remote_backend(client: ScoreClient, parameters: ScoreParameters) -> Backend:
    return Backend(
        lambda images: client.score_images(images, parameters),
        lambda body: client.score_npy(body, parameters),
        lambda texts: client.score_texts(texts, parameters),
    )


def _failure(exc: ServiceError | ServiceRefused) -> ScoreResponse:
    """A refused single input, told like one of several."""
    error = ErrorItem(code=exc.code, detail=exc.detail)
    return ScoreResponse(
        model=ModelId(name="", version=""), results=[FailedResult(index=0, error=error)]
    )


def _line(answered: Answered) -> str:
    name, result = answered.name, answered.result
    if isinstance(result, FailedResult):
        return f"{name}  ERROR  {result.error.code}: {result.error.detail}"
    cut = "  (only its beginning was read)" if result.truncated else ""
    return (
        f"{name}  {result.decision}  {result.label} ({result.confidence:.1%})  "
        f"{result.detector} {result.score:.4g}, p = {result.p_value:.3g}{cut}"
    )


def _json_line(answered: Answered) -> str:
    result = answered.result.model_dump(exclude_none=True)
    return json.dumps({**answered.source, "model": answered.model.model_dump(), **result})
