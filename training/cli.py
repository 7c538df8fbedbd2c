"""oodscore-train: parse, delegate, print what was made."""

from pathlib import Path
from typing import Annotated

import typer

from service.bundle import BundleError
from training.benchmarks import BENCHMARKS, print_comparison, run_benchmark
from training.combiners import EnsembleFitError
from training.config import ConfigError, load_config
from training.data import DataError, DataUnavailable
from training.detectors import FitError
from training.export import ParityError
from training.optimise import CheckpointMismatch
from training.pipeline import run as run_pipeline
from training.progress import say

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
    ParityError,
    ValueError,
)


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
    typer.echo(run_pipeline(load_config(config), models, runs).path)


@app.command()
def benchmark(
    name: Annotated[str, typer.Argument(help=f"one of: {', '.join(sorted(BENCHMARKS))}")],
    seeds: Annotated[str, typer.Option(help="comma-separated")] = "0,1,2",
    runs: _Runs = Path("runs"),
    out: Annotated[Path | None, typer.Option(help="default: benchmarks/results/NAME")] = None,
) -> None:
    """Run a published experiment again; print our numbers beside the literature's.

    Example: oodscore-train benchmark fashion-mnist --seeds 0,1,2
    """
    folder = out or Path("benchmarks") / "results" / name
    try:
        numbers = tuple(int(seed) for seed in seeds.split(","))
    except ValueError as exc:
        raise typer.BadParameter(f"{seeds!r} is no list of numbers", param_hint="--seeds") from exc
    print_comparison(run_benchmark(name, numbers, runs, folder))
    typer.echo(folder / "report.html")


def main() -> None:
    """Console entry: exit code 0 done, 1 refused with a reason, 2 wrong usage."""
    try:
        app()
    except _EXPECTED as exc:
        say(f"oodscore-train: {exc}")
        raise SystemExit(1) from exc
