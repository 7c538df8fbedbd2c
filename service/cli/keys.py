"""`oodscore keys`: make API keys."""

import json
from typing import Annotated

import typer

from service.api_keys import entry_of, new_secret

app = typer.Typer(
    help="Make API keys.  Example: oodscore keys new mobile-app",
    no_args_is_help=True,
)


@app.callback()
def keys() -> None:
    """So that `new` has to be said while it is the only command."""


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="who gets it; stands in logs and metrics")],
    scopes: Annotated[
        str, typer.Option(help="what it allows: score, metrics, admin, joined by +")
    ] = "score",
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object")] = False,
) -> None:
    """Print a new key, and the entry for the settings that lets it in.  Nothing is stored.

    The entry goes into OODSCORE_API_KEYS, or on a line of the file OODSCORE_API_KEYS_FILE; it
    holds only a hash.

    Example: oodscore keys new mobile-app

    Example: oodscore keys new on-call --scopes admin+metrics
    """
    secret = new_secret()
    try:
        entry = entry_of(name, scopes, secret)
    except ValueError as exc:
        raise typer.BadParameter(str(exc)) from exc
    if as_json:
        typer.echo(json.dumps({"name": name, "key": secret, "entry": entry}))
        return
    typer.echo(f"key    {secret}")
    typer.echo(f"entry  {entry}")
    typer.echo("The key is shown this once; the entry belongs into the settings.", err=True)
