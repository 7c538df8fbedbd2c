"""oodscore-train acquire: parse, delegate, print where the questions are."""

from pathlib import Path
from typing import Annotated

import typer

from training.active.ask import Order
from training.active.ask import acquire as ask
from training.active.state import ASK_CSV
from training.option_checks import check_writable


def acquire(
    bundle: Annotated[Path, typer.Argument(help="bundle folder, models/<name>/<version>")],
    pool: Annotated[
        Path,
        typer.Option(
            help="unlabelled inputs: a folder, .csv or .jsonl, or an export of `oodscore captures`"
        ),
    ],
    state: Annotated[
        Path, typer.Option(help="folder of all rounds: questions, answers, what was labelled")
    ] = Path("acquire"),
    count: Annotated[int, typer.Option(help="inputs to ask about in a round")] = 20,
    id_data: Annotated[
        Path | None,
        typer.Option(help="labelled ID data: a folder, .csv or .jsonl; default: the bundle's own"),
    ] = None,
) -> None:
    """Choose what of a pool to label next; print the path of the table to fill in.

    Example: oodscore-train acquire models/sorter/1 --pool review --state acquire

    Write a class, OOD or skip into the column `answer` and call again: the answers are taken over,
    what is ID is in labelled/, what is not in rejected/, and the next round is asked.
    """
    check_writable(state, "--state")
    typer.echo(ask(Order(bundle, pool, state, count, id_data)) / ASK_CSV)
