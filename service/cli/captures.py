"""`oodscore captures`: what the service kept for review, looked at and taken out for training."""

from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from service.captures import CaptureFolder, CaptureRecord
from service.captures.export import ExportFailed, export_captures
from service.cli.progress import track
from service.cli.remote import ApiKey, score_client
from service.settings import Settings

app = typer.Typer(
    help="The most OOD inputs, kept for review.  Example: oodscore captures export review",
    no_args_is_help=True,
)

Url = Annotated[str | None, typer.Option(help="a running service; wants an admin key")]
Folder = Annotated[Path | None, typer.Option(help="folder of captures; else OODSCORE_CAPTURE_DIR")]
Model = Annotated[str | None, typer.Option(help="only of this model")]
Version = Annotated[str | None, typer.Option(help="only of this version")]
Label = Annotated[str | None, typer.Option(help="only with this predicted label")]
Read = Callable[[CaptureRecord], bytes | None]


@app.command("list")
def list_captures(
    url: Url = None,
    api_key: ApiKey = None,
    folder: Folder = None,
    model: Model = None,
    version: Version = None,
    label: Label = None,
) -> None:
    """One line a capture: the most OOD first, by model and version.

    Example: oodscore captures list --url http://127.0.0.1:8000 --model fashion-mnist
    """
    with _opened(url, api_key, folder) as (records, _):
        for record in _chosen(records, model, version, label):
            typer.echo(
                f"{record.id}  {record.model}  version {record.version}  {record.label}  "
                f"{record.detector} {record.score:.4g}, p = {record.p_value:.3g}  "
                f"{record.media_type}  {record.size_bytes} bytes  {record.captured:%Y-%m-%d %H:%M}"
            )


@app.command()
def export(
    target: Annotated[Path, typer.Argument(help="folder to make")],
    url: Url = None,
    api_key: ApiKey = None,
    folder: Folder = None,
    model: Model = None,
    version: Version = None,
    label: Label = None,
) -> None:
    """Write the captures of one model as oodscore-train reads them.

    Images: TARGET/<predicted label>/<id>.png, and their scores in TARGET/captures.jsonl.  Texts:
    TARGET/captures.jsonl, with `text` and `label` on every line.

    Example: oodscore captures export review --folder captures --model fashion-mnist
    """
    with _opened(url, api_key, folder) as (records, read):
        chosen = _chosen(records, model, version, label)
        try:
            count = export_captures(chosen, read, target, _with_progress)
        except ExportFailed as exc:
            raise typer.BadParameter(str(exc)) from exc
    typer.echo(f"{target}  {count} captures")


@contextmanager
def _opened(
    url: str | None, api_key: str | None, path: Path | None
) -> Generator[tuple[list[CaptureRecord], Read]]:
    """Raises ClientError, OSError."""
    if url is not None:
        with score_client(url, api_key) as client:
            yield client.captures(), lambda record: client.capture(record.id)
        return
    path = path or Settings().capture_dir
    if path is None or not path.is_dir():
        raise typer.BadParameter(
            "name a folder of captures with --folder or OODSCORE_CAPTURE_DIR, or a service with "
            "--url" + ("" if path is None else f"; there is no folder {path}")
        )
    kept = CaptureFolder(path)
    yield sorted(kept.records(), key=lambda record: record.place), kept.read


def _chosen(
    records: Sequence[CaptureRecord], model: str | None, version: str | None, label: str | None
) -> list[CaptureRecord]:
    return [
        record
        for record in records
        if model in (None, record.model)
        and version in (None, record.version)
        and label in (None, record.label)
    ]


def _with_progress(records: Sequence[CaptureRecord]) -> Iterable[CaptureRecord]:
    return track(records, "exporting")
