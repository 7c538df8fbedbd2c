"""What every command that asks a running service shares."""

from typing import Annotated

import typer

from service.client import ScoreClient

ApiKey = Annotated[
    str | None,
    typer.Option(
        envvar="OODSCORE_API_KEY",
        help="key for the service at --url; better in the environment, where no ps shows it",
    ),
]


def score_client(url: str, api_key: str | None) -> ScoreClient:
    """An empty key is none.  Raises typer.BadParameter, ServiceUnreachable."""
    try:
        return ScoreClient(url, api_key=api_key or None)
    except ValueError as exc:
        raise typer.BadParameter(str(exc)) from exc
