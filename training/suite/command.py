"""oodscore-train benchmark: one experiment, all of them, or the list."""

from difflib import get_close_matches
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from training.active.own_studies import OWN_STUDIES
from training.benchmarks import print_comparison, run_benchmark
from training.option_checks import check_writable
from training.studies import STUDIES, run_study
from training.study_file import STUDY_JSON
from training.suite.catalogue import EXPERIMENTS
from training.suite.needs import needs
from training.suite.run import Wishes, hindrance, run_all

ALL = "all"


def benchmark(
    name: Annotated[
        str | None, typer.Argument(help="of --list, or all: every one that runs here")
    ] = None,
    show_list: Annotated[
        bool, typer.Option("--list", help="what there is, what it needs, what runs here")
    ] = False,
    gpu: Annotated[
        bool, typer.Option("--gpu", help="with all: those that need a GPU, too")
    ] = False,
    download: Annotated[
        bool, typer.Option("--download", help="with all: fetch what torchvision offers")
    ] = False,
    seeds: Annotated[str, typer.Option(help="comma-separated")] = "0,1,2",
    runs: Annotated[Path, typer.Option(help="where checkpoints are kept")] = Path("runs"),
    out: Annotated[
        Path | None, typer.Option(help="default: benchmarks/results/NAME; of all its parent")
    ] = None,
) -> None:
    """Run a published experiment again; print our numbers beside the literature's.

    Example: oodscore-train benchmark fashion-mnist --seeds 0,1,2

    An experiment that was cut off goes on where it stopped.
    """
    if show_list:
        _print_list(Wishes(gpu, download))
        return
    if name is None:
        raise typer.BadParameter(f"choose of {', '.join(EXPERIMENTS)}, or all", param_hint="NAME")
    if (gpu or download) and name != ALL:
        raise typer.BadParameter(
            f"{name} uses a GPU and downloads by itself; leave the option out",
            param_hint="--gpu, --download",
        )
    if name != ALL and name not in EXPERIMENTS:
        near = get_close_matches(name, EXPERIMENTS, 1)
        meant = f"did you mean {near[0]}? " if near else ""
        raise typer.BadParameter(
            f"there is no experiment {name!r}; {meant}Choose of {', '.join(EXPERIMENTS)}, or all",
            param_hint="NAME",
        )
    try:
        numbers = tuple(int(seed) for seed in seeds.split(","))
    except ValueError as exc:
        raise typer.BadParameter(f"{seeds!r} is no list of numbers", param_hint="--seeds") from exc
    if min(numbers) < 0 or len(set(numbers)) < len(numbers):
        raise typer.BadParameter(
            f"{seeds!r}: seeds are 0 or more, and each counts once", param_hint="--seeds"
        )
    results = Path("benchmarks") / "results"
    check_writable(out or results, "--out")
    check_writable(runs, "--runs")
    if name == ALL:
        outcome = run_all(numbers, runs, out or results, Wishes(gpu, download))
        for each, what in outcome.items():
            typer.echo(f"{each}: {what}")
        return
    folder = out or results / name
    if name in OWN_STUDIES:
        OWN_STUDIES[name].measure(numbers, folder)
        typer.echo(folder / STUDY_JSON)
        return
    if name in STUDIES:
        run_study(name, numbers, runs, folder)
        typer.echo(folder / STUDY_JSON)
        return
    print_comparison(run_benchmark(name, numbers, runs, folder))
    typer.echo(folder / "report.html")


def _print_list(wishes: Wishes) -> None:
    """To stdout; sets that are not here in words, those that are by their number."""
    table = Table(show_lines=True)
    for column in ("experiment", "repeats", "a seed takes", "data", "with all"):
        table.add_column(column, overflow="fold")
    for name, experiment in EXPERIMENTS.items():
        found = needs(name)
        here = sum(need.state == "here" for need in found)
        lines = [f"{here} of {len(found)} sets are here"]
        lines += [
            f"{need.name}: {need.state}, {need.source}" + ("" if need.required else " (optional)")
            for need in found
            if need.state != "here"
        ]
        if experiment.before and here < len(found):
            lines.append(f"first: {experiment.before}")
        where = "GPU" if experiment.gpu else "CPU"
        reason = hindrance(name, wishes)
        table.add_row(
            name,
            experiment.repeats,
            f"{experiment.minutes} min, {where}",
            "\n".join(lines),
            "runs" if reason is None else f"left out: {reason}",
        )
    console = Console(width=None if Console().is_terminal else 140)
    console.print(table)
