"""oodscore-train: parse, delegate, print what was made."""

from pathlib import Path
from typing import Annotated

import typer

from service.bundle import BundleError
from training.active.command import acquire
from training.advise.command import advise
from training.combiners import EnsembleFitError
from training.config import ConfigError, load_config
from training.data import DataError, DataUnavailable
from training.detectors import FitError
from training.evaluate import (
    CORRUPTION_IMAGES,
    evaluate_corruptions,
    evaluate_sets,
    open_bundle,
    print_corruptions,
    print_sets,
)
from training.export import ParityError
from training.export.backward import UnsupportedOperator
from training.export.int8 import NothingToQuantise
from training.fit.command import fit
from training.generate import Order, write_outliers
from training.generators import IMAGE_GENERATORS, TEXT_GENERATORS
from training.optimise import CheckpointMismatch
from training.option_checks import check_writable
from training.pipeline import run as run_pipeline
from training.progress import say
from training.suite.command import benchmark

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Train classifiers, fit OOD detectors, export bundles, measure.",
)
_Runs = Annotated[Path, typer.Option(help="where checkpoints of unfinished runs are kept")]
# What a person can mend: shown without a traceback, exit code 1.
_EXPECTED = (
    BundleError,
    CheckpointMismatch,
    ConfigError,
    DataError,
    DataUnavailable,
    EnsembleFitError,
    FitError,
    FloatingPointError,
    NothingToQuantise,
    OSError,
    ParityError,
    UnsupportedOperator,
    ValueError,
)


app.command()(fit)
app.command()(acquire)
app.command()(advise)
app.command()(benchmark)


@app.command()
def run(
    config: Annotated[Path, typer.Argument(help="TOML run config")],
    models: Annotated[Path, typer.Option(help="model repository to publish into")] = Path("models"),
    runs: _Runs = Path("runs"),
) -> None:
    """Train, fit detectors, calibrate, export and publish one bundle; print its path.

    Example: oodscore-train run training/configs/fashion_mnist.toml

    A run that was cut off continues after its last finished epoch.
    """
    check_writable(models, "--models")
    check_writable(runs, "--runs")
    published = run_pipeline(load_config(config), models, runs)
    if published is not None:  # torchrun's other processes have nothing to say
        typer.echo(published.path)


@app.command()
def outliers(
    config: Annotated[Path, typer.Argument(help="TOML run config: its train-ID is imitated")],
    out: Annotated[Path, typer.Option(help="folder to write; it must not exist")],
    generator: Annotated[
        str,
        typer.Option(
            help=f"of images: {', '.join(sorted(IMAGE_GENERATORS))}; "
            f"of texts: {', '.join(sorted(TEXT_GENERATORS))}"
        ),
    ],
    count: Annotated[int, typer.Option(help="outliers to write")] = 10_000,
    spread: Annotated[
        float | None,
        typer.Option(
            help="standard deviation of the latents (1 in training), or temperature of a text "
            "model; left out: chosen without OOD data"
        ),
    ] = None,
    epochs: Annotated[int, typer.Option(help="of the generator's training")] = 10,
    tokens: Annotated[int, typer.Option(help="in each text")] = 20,
    seed: Annotated[
        int | None,
        typer.Option(help="of the generator, and of the split of ID; left out: the config's"),
    ] = None,
    runs: _Runs = Path("runs"),
) -> None:
    """Train a generator on train-ID and write an outlier set, with a preview to look at.

    Example: oodscore-train outliers training/configs/fashion_mnist.toml --generator vae
    --out outliers/garments

    A config reads the set by `source = "generated"`, in its table outliers.sources.  Training
    that was cut off continues after its last finished epoch.
    """
    run = load_config(config)
    order = Order(
        generator, count, spread, epochs, run.seed if seed is None else seed, tokens=tokens
    )
    typer.echo(write_outliers(run, order, out, runs))


@app.command()
def evaluate(
    bundle: Annotated[Path, typer.Argument(help="bundle folder, models/<name>/<version>")],
    corruptions: Annotated[
        bool, typer.Option("--corruptions", help="clean against corrupted test-ID instead")
    ] = False,
    ood: Annotated[
        list[str] | None,
        typer.Option(help="NAME=FOLDER or FILE of images or texts, as a further OOD set"),
    ] = None,
    column: Annotated[
        str | None,
        typer.Option(help='of tables: images or texts stand there; default "image" or "text"'),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(min=1, help=f"images in each corruption cell; default {CORRUPTION_IMAGES}"),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="default: runs/evaluations/...")] = None,
) -> None:
    """Measure a published bundle again; print the table and the path of the report.

    Example: oodscore-train evaluate models/fashion-mnist/2 --corruptions

    Without --corruptions: on the test sets of the bundle's own config, and on data of yours; the
    report then shows the worst mistakes of the detector that decides, too.
    """
    if corruptions and ood:
        raise typer.BadParameter("does not go with --corruptions", param_hint="--ood")
    if limit is not None and not corruptions:
        raise typer.BadParameter("goes with --corruptions only", param_hint="--limit")
    named = [_named(entry) for entry in ood or []]
    further = dict(named)
    if len(further) < len(named):
        raise typer.BadParameter("a name stands twice", param_hint="--ood")
    opened = open_bundle(bundle)
    ending = "-corruptions" if corruptions else ""
    name = opened.label.replace("/", "-") + ending
    folder = out or Path("runs") / "evaluations" / name
    check_writable(folder, "--out")
    if corruptions:
        print_corruptions(evaluate_corruptions(opened, folder, limit or CORRUPTION_IMAGES))
    else:
        print_sets(evaluate_sets(opened, further, folder, column))
    typer.echo(folder / "report.html")


def _named(entry: str) -> tuple[str, str]:
    name, equals, given = entry.partition("=")
    if not (name and equals and given):
        raise typer.BadParameter(f"{entry!r} is not NAME=FOLDER or NAME=FILE", param_hint="--ood")
    return name, given


def main() -> None:
    """Console entry: exit code 0 done, 1 refused with a reason, 2 wrong usage."""
    try:
        app()
    except _EXPECTED as exc:
        say(f"oodscore-train: {exc}")
        raise SystemExit(1) from exc
