"""oodscore-train advise: parse, delegate, print the words and the path of the page."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from training.advise.gather import Wanted
from training.advise.page import ADVICE_HTML, overview_table, write_advice
from training.advise.study import advise as study
from training.evaluate import open_bundle, refuse_inside
from training.option_checks import check_share, check_writable


def advise(
    bundle: Annotated[Path, typer.Argument(help="bundle folder, models/<name>/<version>")],
    id_data: Annotated[
        str | None,
        typer.Option(
            "--id",
            help="held-out ID data, new to the bundle: a folder, a file (.csv, .jsonl, .npz), or "
            "module:name of a torch Dataset; default: the bundle's own test-ID",
        ),
    ] = None,
    production: Annotated[
        str | None,
        typer.Option(help="unlabelled production inputs, or captures exported by the service"),
    ] = None,
    outliers: Annotated[str | None, typer.Option(help="known outliers, a few or many")] = None,
    column: Annotated[
        str | None,
        typer.Option(help='of tables: images or texts stand there; default "image" or "text"'),
    ] = None,
    id_acceptance: Annotated[
        float | None, typer.Option(help="share of ID to accept; default: the bundle's")
    ] = None,
    detectors: Annotated[
        str | None, typer.Option(help="comma-separated; default: all of the bundle")
    ] = None,
    limit: Annotated[int, typer.Option(min=40, help="inputs taken of each set, at random")] = 2000,
    out: Annotated[Path | None, typer.Option(help="default: runs/advice/...")] = None,
) -> None:
    """Say which detectors of a bundle are worth their price, which threshold, what to expect.

    Example: oodscore-train advise models/sorter/1 --production inbox --outliers screenshots

    In words, a table and one picture, from the bundle's held-out ID data, outliers made of it by
    code, and what you give.  Nothing of the bundle is changed.
    """
    if id_acceptance is not None:
        check_share(id_acceptance, "--id-acceptance")
    opened = open_bundle(bundle)
    folder = out or Path("runs") / "advice" / opened.label.replace("/", "-")
    refuse_inside(folder, opened)
    check_writable(folder, "--out")
    names = None
    if detectors is not None:
        names = [name.strip() for name in detectors.split(",") if name.strip()]
    wanted = Wanted(id_data, outliers, production, column, limit)
    acceptance = opened.config.id_acceptance if id_acceptance is None else id_acceptance
    advice = study(opened, wanted, acceptance, names)
    write_advice(folder, advice)
    Console(width=None if Console().is_terminal else 120).print(overview_table(advice))
    for line in advice.words:
        typer.echo(f"- {line}")
    typer.echo(folder / ADVICE_HTML)
