"""`oodscore score`: images and texts on a bundle in this process, or on a running service."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from service.bundle import Modality
from service.cli import bulk
from service.cli.models import ModelsDir
from service.cli.progress import track
from service.cli.remote import ApiKey, score_client
from service.cli.score_backends import Backend, local_backend, remote_backend
from service.cli.score_inputs import Item, groups_of, read_items
from service.cli.score_output import Answered, CsvTable, Tell, tell_as_json, tell_in_words
from service.client import ServiceRefused
from service.errors import ServiceError
from service.schemas import (
    ErrorItem,
    FailedResult,
    ModelId,
    ScoreParameters,
    ScoreResponse,
    ScoreResult,
)

# a group is refused with one of these for what one input, or their number, did to it
_OF_INPUTS = frozenset({413, 422, 500, 504})


def score(
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            exists=True,
            readable=True,
            help="images; .npy: uint8 images (N, H, W, C); .txt: one text; .jsonl: a text a line; "
            "with --out also folders, .csv and .parquet",
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
    as_csv: Annotated[bool, typer.Option("--csv", help="a table, one input a line")] = False,
    models_dir: ModelsDir = None,
    out: Annotated[
        Path | None, typer.Option(dir_okay=False, help="a data set into this Parquet file")
    ] = None,
    engine: bulk.EngineOption = "process",
    cluster: bulk.Cluster = None,
    workers: bulk.WorkerCount = None,
    column: bulk.Column = None,
    batch: bulk.Batch = 1,
    partition_rows: bulk.PartitionRows = 1000,
    restart: bulk.Restart = False,
) -> None:
    """Score images and texts: files, or what `--text` says.  Exit code 1 if any failed.

    A .txt file is one text, without its last line end; a line of a .jsonl file is a JSON string
    or an object with a field `text`.

    With `--out` whole data sets: folders and tables too, on all processors or on a cluster, into
    a Parquet file with one row an input, in order.  The same command goes on where it was stopped.

    Example: oodscore score photo.png --model fashion-mnist --json

    Example: oodscore score --text "my card was declined"

    Example: oodscore score *.png --url https://oodscore.example --csv > answers.csv

    Example: oodscore score photographs --model cifar10 --out scores.parquet
    """
    if out is not None:
        _check_alone(("--text", text), ("--url", url), ("--json", as_json), ("--csv", as_csv))
        options = bulk.BulkOptions(
            out, engine, cluster, workers, column, batch, partition_rows, restart
        )
        asked = ScoreParameters(
            model=model, version=version, detectors=detectors, id_acceptance=id_acceptance
        )
        bulk.score_data_set(files or (), asked, models_dir, options)
        return
    if folders := [str(file) for file in files or () if file.is_dir()]:
        raise typer.BadParameter(f"{', '.join(folders)}: a folder is scored with --out")
    items = read_items(files or (), text or ())
    if not items:
        raise typer.BadParameter("nothing to score; give files or --text")
    parameters = ScoreParameters(
        model=model, version=version, detectors=detectors, id_acceptance=id_acceptance
    )
    modalities: set[Modality] = {item.modality for item in items}
    _check_format(as_json, as_csv, modalities)
    with ExitStack() as stack:
        if url is None:
            backend = local_backend(parameters, models_dir, modalities)
        else:
            client = stack.enter_context(score_client(url, api_key))
            backend = remote_backend(client, parameters)
        if as_csv:
            tell = stack.enter_context(CsvTable()).tell
        else:
            tell = tell_as_json if as_json else tell_in_words
        failed = _score_all(items, backend, tell)
    if failed:
        raise typer.Exit(1)


def _check_alone(*others: tuple[str, object]) -> None:
    """Raises typer.BadParameter."""
    if given := [name for name, value in others if value]:
        raise typer.BadParameter(f"--out does not go with {', '.join(given)}")


def _check_format(as_json: bool, as_csv: bool, modalities: Collection[Modality]) -> None:
    """Raises typer.BadParameter."""
    if as_json and as_csv:
        raise typer.BadParameter("--json and --csv: give one of them")
    if as_csv and len(modalities) > 1:
        raise typer.BadParameter(
            "--csv: images and texts are answered by different models with different detectors; "
            "score them one after the other, or use --json"
        )


def _score_all(items: Sequence[Item], backend: Backend, tell: Tell) -> bool:
    """Tell each answer as it comes; True if an input failed."""
    failed = False
    for group in track(groups_of(items), "scoring", weigh=len):
        for answered in _score_group(group, backend):
            failed |= isinstance(answered.result, FailedResult)
            tell(answered)
    return failed


def _score_group(group: Sequence[Item], backend: Backend) -> Iterator[Answered]:
    """A refusal for what is in the inputs is told of the one it belongs to; others are raised."""
    try:
        response = _ask(group, backend)
    except (ServiceError, ServiceRefused) as exc:
        of_inputs = isinstance(exc, ServiceError) or _is_of_inputs(exc)
        if of_inputs and len(group) == 1:
            response = _failure(exc)
        elif of_inputs and isinstance(exc, ServiceRefused):
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


def _is_of_inputs(refused: ServiceRefused) -> bool:
    """Others might fare better; not so with a wrong key, or an unknown model."""
    return refused.status in _OF_INPUTS or refused.code == "no_inputs"


def _failure(exc: ServiceError | ServiceRefused) -> ScoreResponse:
    """A refused single input, told like one of several."""
    error = ErrorItem(code=exc.code, detail=exc.detail)
    return ScoreResponse(
        model=ModelId(name="", version=""), results=[FailedResult(index=0, error=error)]
    )
