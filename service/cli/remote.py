"""Options of every command that asks a running service."""

from typing import Annotated

import typer

ApiKey = Annotated[
    str | None,
    typer.Option(
        envvar="OODSCORE_API_KEY",
        help="key for the service at --url; better in the environment, where no ps shows it",
    ),
]
