"""`oodscore`: serve, score, models.  Exit codes: 0 done, 1 failed, 2 wrong usage."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from service import server
from service.bundle import BundleError
from service.captures import CaptureFolderUnusable
from service.cli import captures, keys, models, score
from service.client import ClientError
from service.errors import ServiceError
from service.loading import VariantMissing
from service.onnx_session import ProviderUnavailable
from service.server import AddressUnusable
from service.settings import LogLevel, Provider, Settings, unknown_variables

app = typer.Typer(
    help="Does the classifier know this input?  Example: oodscore serve",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.add_typer(models.app, name="models")
app.add_typer(keys.app, name="keys")
app.add_typer(captures.app, name="captures")
app.command("score")(score.score)


@app.command()
def serve(
    models_dir: Annotated[Path | None, typer.Option(help="folder of bundles")] = None,
    host: Annotated[str | None, typer.Option(help="address to listen on")] = None,
    port: Annotated[int | None, typer.Option(help="port to listen on; 0: a free one")] = None,
    model: Annotated[str | None, typer.Option(help="default model for images")] = None,
    text_model: Annotated[str | None, typer.Option(help="default model for texts")] = None,
    provider: Annotated[Provider | None, typer.Option(help="where to run the graphs")] = None,
    log_level: Annotated[LogLevel | None, typer.Option(help="least level to log")] = None,
) -> None:
    """Serve every bundle of a folder over HTTP until SIGTERM.

    Options win over OODSCORE_* environment variables.

    Example: oodscore serve --models-dir models --port 8000
    """
    given: dict[str, Any] = {
        "models_dir": models_dir,
        "host": host,
        "port": port,
        "default_image_model": model,
        "default_text_model": text_model,
        "provider": provider,
        "log_level": log_level,
    }
    if misspelt := {name: meant for name, meant in unknown_variables().items() if meant}:
        _fail("; ".join(f"{n} is no setting: {m} is one" for n, m in misspelt.items()), 2)
    settings = Settings(**{name: value for name, value in given.items() if value is not None})
    if failure := server.serve(settings):
        raise failure


_FAILURES = (
    AddressUnusable,
    BundleError,
    CaptureFolderUnusable,
    ClientError,
    ProviderUnavailable,
    ServiceError,
    VariantMissing,
)


def main() -> None:
    """Entry point of the console script."""
    try:
        app()
    except ValidationError as exc:
        _fail("; ".join(_problem(error["loc"], error["msg"]) for error in exc.errors()), 2)
    except _FAILURES as exc:
        _fail(str(exc), 1)


def _problem(place: tuple[int | str, ...], message: str) -> str:
    """What is wrong with one setting, or with several together, which the message then names."""
    message = message.removeprefix("Value error, ")
    name = str(place[0]) if place else ""
    return f"setting {name} (OODSCORE_{name.upper()}): {message}" if name else message


def _fail(message: str, status: int) -> None:
    typer.echo(f"error: {message}", err=True)
    sys.exit(status)
