"""`oodscore score --out`: whole data sets into a table."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from service.bundle import Modality, read_manifest
from service.cli.models import choose_bundle, default_model
from service.cli.progress import track_all
from service.cpus import usable_cpus
from service.errors import WrongModality
from service.schemas import ScoreParameters
from service.settings import Settings

if TYPE_CHECKING:  # needs the extra `bulk`
    from service.bulk import DataSet, Job, Model, Outcome, Partition

EngineName = Literal["process", "dask", "ray"]
EngineOption = Annotated[
    EngineName, typer.Option(help="with --out: processes of this machine, or a cluster")
]
Cluster = Annotated[
    str | None,
    typer.Option(help="with --engine: the cluster's address; else one on this machine meanwhile"),
]
WorkerCount = Annotated[
    int | None,
    typer.Option(min=1, help="with --out: worker processes; all processors if left out"),
]
Column = Annotated[
    str | None,
    typer.Option(
        help="with --out: column of a table with the texts, images or paths; else text, image, "
        "file or path"
    ),
]
Batch = Annotated[
    int,
    typer.Option(
        min=1,
        max=4096,
        help="with --out: inputs given to the model at once; above 1 the last bits of a score "
        "may depend on an input's neighbours",
    ),
]
PartitionRows = Annotated[
    int, typer.Option(min=1, help="with --out: inputs of a partition, lost at most when stopped")
]
Restart = Annotated[
    bool, typer.Option("--restart", help="with --out: throw away what an earlier run made")
]


@dataclass(frozen=True)
class BulkOptions:
    """Of the command line."""

    out: Path
    engine: EngineName
    cluster: str | None
    workers: int | None
    column: str | None
    batch: int
    partition_rows: int
    restart: bool


def score_data_set(
    paths: Sequence[Path], asked: ScoreParameters, models_dir: Path | None, options: BulkOptions
) -> None:
    """Score, write, tell.  Raises typer.Exit(1) if an input failed or the run was stopped.

    Raises typer.BadParameter, BundleError, ServiceError, VariantMissing, ProviderUnavailable.
    """
    try:
        from service import bulk
    except ImportError as exc:
        raise typer.BadParameter(
            f"--out needs the package {exc.name}: pip install 'oodscore[bulk]'"
        ) from exc
    if options.cluster is not None and options.engine == "process":
        raise typer.BadParameter("--cluster: name its kind with --engine dask or --engine ray")
    started = time.monotonic()
    try:
        job, model, data = _prepare(paths, asked, models_dir, options)
        count = usable_cpus() if model.bundle.provider == "cpu" else 1
        workers = bulk.Workers(options.engine, options.workers or count, options.cluster)
        detectors = model.plan.names
        del model  # its sessions: the workers open their own
        outcome = bulk.run_bulk(
            job, detectors, data, options.out, workers, _watch, restart=options.restart
        )
    except (bulk.InputsUnusable, bulk.OutputTaken, bulk.EngineMissing) as exc:
        raise typer.BadParameter(str(exc)) from exc
    except (bulk.BulkError, OSError) as exc:  # a folder that cannot be written, no such cluster
        typer.echo(f"error: {exc}", err=True)
        raise typer.Exit(1) from exc
    except KeyboardInterrupt as exc:
        typer.echo("stopped; the same command goes on from here", err=True)
        raise typer.Exit(1) from exc
    _tell(outcome, data, options.out, time.monotonic() - started)
    if outcome.failed:
        raise typer.Exit(1)


def _prepare(
    paths: Sequence[Path], asked: ScoreParameters, models_dir: Path | None, options: BulkOptions
) -> tuple["Job", "Model", "DataSet"]:
    """What is to be scored with what; the bundle is opened here once, to refuse it in time."""
    from service import bulk

    settings = Settings()
    modality: Modality | None = None
    if asked.model is None:
        modality = bulk.modality_of(paths, options.column)
    ref = choose_bundle(models_dir, asked.model or default_model(models_dir, modality or "image"),
                        asked.version)  # fmt: skip
    manifest = read_manifest(ref.path)
    if modality not in (None, manifest.modality):
        raise WrongModality(modality or "image", ref.name, manifest.modality)
    data = bulk.find_inputs(paths, manifest.modality, options.column, options.partition_rows)
    named = asked.detectors
    job = bulk.Job(
        folder=str(Path.cwd()),
        bundle=replace(ref, path=ref.path.resolve()),
        digest="",
        modality=manifest.modality,
        detectors=None if named is None else tuple(name.strip() for name in named.split(",")),
        id_acceptance=asked.id_acceptance,
        int8=ref.name in settings.int8_models,
        provider=settings.provider,
        batch=options.batch,
        limits=bulk.InputLimits(
            settings.max_image_bytes, settings.max_pixels, settings.max_text_characters
        ),
    )
    model = bulk.open_model(job)
    # a GPU and a CPU give different bits: what was found here is asked of every worker
    job = replace(job, digest=model.bundle.digest, provider=model.bundle.provider)
    return job, model, data


def _watch(
    done: "Iterator[tuple[Partition, bytes]]", already: int, total: int
) -> "Iterator[tuple[Partition, bytes]]":
    return track_all(done, "scoring", total, already=already, weigh=lambda item: item[0].count)


def _tell(outcome: "Outcome", data: "DataSet", out: Path, seconds: float) -> None:
    again = f", {outcome.found} of them there already" if outcome.found else ""
    typer.echo(
        f"{out}  {outcome.inputs:,} inputs: {outcome.ood:,} OOD, {outcome.failed:,} failed  "
        f"({outcome.partitions:,} partitions{again}, {seconds:.1f} s)"
    )
    if data.left_out:
        told = ", ".join(f"{count:,} {suffix}" for suffix, count in data.left_out.most_common(8))
        typer.echo(f"left out of the folders: {told}", err=True)
