"""`oodscore score`: files on a bundle in this process, or on a running service."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from service.admission import PixelBudget
from service.arrays import parse_npy
from service.cli.models import ModelsDir, choose_bundle
from service.cli.progress import track
from service.client import ScoreClient, ServiceRefused
from service.decision import make_plan
from service.decoding import ImageLimits
from service.errors import ServiceError
from service.inputs import EncodedImage, Input, PixelImage
from service.repository import SessionOptions, open_bundle
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

_FILES_AT_ONCE = 16
_BYTES_AT_ONCE = 24 * 1024 * 1024  # below the default limit of a request body
# a group is refused with one of these for what one file, or their number, did to it
_TRY_ONE_BY_ONE = frozenset({413, 422, 500, 504})
_NPY = ".npy"
_NO_DEADLINE = Deadline(float("inf"), float("inf"))

ScoreFiles = Callable[[Sequence[bytes]], ScoreResponse]  # encoded images
ScoreNpy = Callable[[bytes], ScoreResponse]


@dataclass(frozen=True)
class Backend:
    """Where scoring happens."""

    images: ScoreFiles
    npy: ScoreNpy


Answered = tuple[str, ScoreResponse, ScoreResult | FailedResult]  # name of the input, its answer


def score(
    files: Annotated[list[Path], typer.Argument(exists=True, dir_okay=False, readable=True)],
    url: Annotated[str | None, typer.Option(help="a running service; else this process")] = None,
    model: Annotated[str | None, typer.Option(help="the default model if left out")] = None,
    version: Annotated[str | None, typer.Option(help="the highest if left out")] = None,
    detectors: Annotated[
        str | None, typer.Option(help="comma separated; the first one decides")
    ] = None,
    id_acceptance: Annotated[
        float | None, typer.Option(help="share of ID inputs to accept, 0 to 1")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object a line")] = False,
    models_dir: ModelsDir = None,
) -> None:
    """Score images, or .npy files of uint8 images (N, H, W, C).  Exit code 1 if any failed.

    Example: oodscore score photo.png --model fashion-mnist --json
    """
    parameters = ScoreParameters(
        model=model, version=version, detectors=detectors, id_acceptance=id_acceptance
    )
    if url is None:
        failed = _score_all(files, _local_backend(parameters, models_dir), as_json)
    else:
        with ScoreClient(url) as client:
            failed = _score_all(files, _remote_backend(client, parameters), as_json)
    if failed:
        raise typer.Exit(1)


def _score_all(files: Sequence[Path], backend: Backend, as_json: bool) -> bool:
    """Print each answer as it comes; True if an input failed."""
    failed = False
    for group in track(_groups(files), "scoring"):
        for name, response, result in _score_group(group, backend):
            failed |= isinstance(result, FailedResult)
            typer.echo(_json_line(name, response, result) if as_json else _line(name, result))
    return failed


def _score_group(group: Sequence[Path], backend: Backend) -> Iterator[Answered]:
    """A refusal for what is in the files is told of the file it belongs to; others are raised."""
    data = [file.read_bytes() for file in group]
    try:
        if group[0].suffix == _NPY:
            response = backend.npy(data[0])
            names = [f"{group[0]}[{index}]" for index in range(len(response.results))]
        else:
            response = backend.images(data)
            names = [str(file) for file in group]
    except (ServiceError, ServiceRefused) as exc:
        if len(group) == 1:
            names, response = [str(group[0])], _failure(exc)
        elif isinstance(exc, ServiceRefused) and exc.status in _TRY_ONE_BY_ONE:
            for file in group:
                yield from _score_group([file], backend)
            return
        else:
            raise
    for name, result in zip(names, response.results, strict=True):
        yield name, response, result


def _groups(files: Sequence[Path]) -> list[list[Path]]:
    """Neighbouring images together up to a number and a size, .npy files alone, in order."""
    groups: list[list[Path]] = []
    group_bytes = 0
    for file in files:
        size = file.stat().st_size
        last = groups[-1] if groups else []
        alone = _NPY in (file.suffix, last[0].suffix if last else _NPY)
        if alone or len(last) == _FILES_AT_ONCE or group_bytes + size > _BYTES_AT_ONCE:
            groups.append([file])
            group_bytes = size
        else:
            last.append(file)
            group_bytes += size
    return groups


def _local_backend(parameters: ScoreParameters, models_dir: Path | None) -> Backend:
    settings = Settings()
    ref = choose_bundle(models_dir, parameters.model, parameters.version)
    bundle = open_bundle(ref, SessionOptions(settings.provider, settings.threads))
    names = parameters.detectors
    plan = make_plan(
        bundle.manifest,
        bundle.calibration,
        None if names is None else [name.strip() for name in names.split(",")],
        parameters.id_acceptance,
    )
    limits = ImageLimits(settings.max_image_bytes, settings.max_pixels)
    scorer = Scorer(limits, PixelBudget(settings.max_decoded_pixels), settings.inference_batch)

    def score_inputs(inputs: Sequence[Input]) -> ScoreResponse:
        return to_response(bundle, scorer.score(bundle, inputs, plan, _NO_DEADLINE).answers)

    def score_npy(body: bytes) -> ScoreResponse:
        rows = parse_npy(body, max_inputs=len(body), max_pixels=settings.max_pixels)
        return score_inputs([PixelImage(row) for row in rows])

    return Backend(lambda images: score_inputs([EncodedImage(data) for data in images]), score_npy)


def _remote_backend(client: ScoreClient, parameters: ScoreParameters) -> Backend:
    return Backend(
        lambda images: client.score_images(images, parameters),
        lambda body: client.score_npy(body, parameters),
    )


def _failure(exc: ServiceError | ServiceRefused) -> ScoreResponse:
    """A refused single input, told like one of several."""
    error = ErrorItem(code=exc.code, detail=exc.detail)
    return ScoreResponse(
        model=ModelId(name="", version=""), results=[FailedResult(index=0, error=error)]
    )


def _line(name: str, result: ScoreResult | FailedResult) -> str:
    if isinstance(result, FailedResult):
        return f"{name}  ERROR  {result.error.code}: {result.error.detail}"
    return (
        f"{name}  {result.decision}  {result.label} ({result.confidence:.1%})  "
        f"{result.detector} {result.score:.4g}, p = {result.p_value:.3g}"
    )


def _json_line(name: str, response: ScoreResponse, result: ScoreResult | FailedResult) -> str:
    return json.dumps({"file": name, "model": response.model.model_dump(), **result.model_dump()})
