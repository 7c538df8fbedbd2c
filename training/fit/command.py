"""oodscore-train fit: parse, delegate, print the path of the bundle."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from training.detectors import FitError
from training.fit.build import FitRequest, describe_layers, run_config
from training.fit.networks import ImageFlags, NetworkFlags, network_of
from training.fit.written import write_config
from training.option_checks import check_share, check_writable
from training.pipeline import run
from training.progress import say

_RESIZE = ("stretch", "center_crop", "pad")
_INTERPOLATION = ("nearest", "bilinear", "bicubic")


def fit(
    network: Annotated[
        str | None,
        typer.Argument(
            help="package.module:callable, torchvision:NAME, timm:NAME, a file of torch.export "
            "(.pt2) or TorchScript (.pt), or the folder of a Hugging Face classifier of texts"
        ),
    ] = None,
    onnx: Annotated[
        Path | None,
        typer.Option(
            help="an ONNX classifier of images or texts instead: scores are appended, without "
            "gradients"
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(help="ID data: a folder, .csv or .jsonl, or module:name of a torch Dataset"),
    ] = None,
    name: Annotated[str | None, typer.Option(help="of the bundle")] = None,
    weights: Annotated[
        str | None, typer.Option(help="state dict: .safetensors, or tensors saved by torch.save")
    ] = None,
    arguments: Annotated[str, typer.Option(help="JSON object, for the callable")] = "{}",
    classes: Annotated[
        Path | None, typer.Option(help="file: one class a line, in the order of the logits")
    ] = None,
    held_out: Annotated[
        str | None, typer.Option(help="ID data the network was not trained on, to calibrate on")
    ] = None,
    test: Annotated[str | None, typer.Option(help="ID data to report on")] = None,
    ood: Annotated[list[str] | None, typer.Option(help="NAME=FOLDER or FILE to report on")] = None,
    image_column: Annotated[str | None, typer.Option(help='of a table; default "image"')] = None,
    text_column: Annotated[str | None, typer.Option(help='of a table; default "text"')] = None,
    label_column: Annotated[str | None, typer.Option(help='of a table; default "label"')] = None,
    size: Annotated[str | None, typer.Option(help="224, or HEIGHTxWIDTH")] = None,
    mean: Annotated[str | None, typer.Option(help="one number a channel, pixels in 0..1")] = None,
    std: Annotated[str | None, typer.Option(help="one number a channel, pixels in 0..1")] = None,
    resize: Annotated[str | None, typer.Option(help=", ".join(_RESIZE))] = None,
    interpolation: Annotated[str | None, typer.Option(help=", ".join(_INTERPOLATION))] = None,
    max_tokens: Annotated[int | None, typer.Option(help="of a text; default 128")] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(help="tokenizer.json of an ONNX classifier; default the one beside it"),
    ] = None,
    list_layers: Annotated[
        bool, typer.Option("--list-layers", help="show what can be tapped, and stop")
    ] = False,
    taps: Annotated[str | None, typer.Option(help="comma-separated layers")] = None,
    detectors: Annotated[str | None, typer.Option(help="comma-separated names")] = None,
    id_acceptance: Annotated[float, typer.Option(help="share of ID inputs to accept")] = 0.95,
    models: Annotated[Path, typer.Option(help="model repository to publish into")] = Path("models"),
    seed: Annotated[int, typer.Option(help="of the split")] = 0,
) -> None:
    """Fit detectors to a classifier of your own; print the path of its bundle.

    Example: oodscore-train fit shop.networks:Sorter --weights sorter.safetensors --data photos
    --name sorter --size 224 --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225

    Nothing is trained.  Layers, detectors and sizes of the parts are chosen, and can be given; the
    run config is written beside the bundle, for `oodscore-train run`.
    """
    images = ImageFlags(
        _size(size),
        _numbers(mean, "--mean"),
        _numbers(std, "--std"),
        _one_of(resize, _RESIZE, "--resize"),
        _one_of(interpolation, _INTERPOLATION, "--interpolation"),
    )
    check_share(id_acceptance, "--id-acceptance")
    names = () if classes is None else _lines(classes)
    flags = NetworkFlags(weights, _arguments(arguments), names, images, max_tokens, tokenizer)
    if (network is None) == (onnx is None):
        raise typer.BadParameter("give a network, or --onnx FILE", param_hint="NETWORK")
    if onnx is not None and onnx.suffix.lower() != ".onnx":
        raise typer.BadParameter(f"{onnx} is no .onnx file", param_hint="--onnx")
    described = network_of(network or str(onnx), flags)
    if list_layers:
        typer.echo("\n".join(describe_layers(described)))
        return
    if data is None or name is None:
        raise typer.BadParameter("give the ID data and a name", param_hint="--data, --name")
    check_writable(models, "--models")
    columns = {"image": image_column, "text": text_column, "label": label_column}
    request = FitRequest(
        name=name,
        network=described,
        data=data,
        held_out=held_out,
        test=test,
        ood=dict(_named(entry) for entry in ood or []),
        columns={column: given for column, given in columns.items() if given is not None},
        taps=None if taps is None else _names(taps),
        detectors=None if detectors is None else _names(detectors),
        id_acceptance=id_acceptance,
        seed=seed,
    )
    config, roles = run_config(request)
    try:
        published = run(config, models, Path("runs"), roles)
    except FitError as exc:
        raise _with_advice(exc, [detector.name for detector in config.detectors]) from exc
    if published is None:  # another process of a group publishes
        return
    written = published.path.with_suffix(".toml")
    write_config(
        config,
        written,
        f"{config.name}, version {published.version}\noodscore-train run {written}",
    )
    say(f"the config is {written}")
    typer.echo(published.path)


def _with_advice(error: FitError, names: Sequence[str]) -> FitError:
    """The same, and what to ask for where the message begins with the detector that failed."""
    failed = str(error).partition(":")[0]
    others = [name for name in names if name != failed]
    if failed not in names or not others:
        return error
    return FitError(f"{error}. Without {failed}: --detectors {','.join(others)}")


def _named(entry: str) -> tuple[str, str]:
    name, equals, path = entry.partition("=")
    if not (name and equals and path):
        raise typer.BadParameter(f"{entry!r} is not NAME=PATH", param_hint="--ood")
    return name, path


def _names(given: str) -> list[str]:
    return [name.strip() for name in given.split(",") if name.strip()]


def _size(given: str | None) -> tuple[int, int] | None:
    if given is None:
        return None
    height, _, width = given.partition("x")
    try:
        return int(height), int(width or height)
    except ValueError as exc:
        raise typer.BadParameter(f"{given!r} is no size", param_hint="--size") from exc


def _numbers(given: str | None, hint: str) -> tuple[float, ...] | None:
    if given is None:
        return None
    try:
        return tuple(float(number) for number in given.split(","))
    except ValueError as exc:
        raise typer.BadParameter(f"{given!r}: numbers are expected", param_hint=hint) from exc


def _one_of(given: str | None, choices: Sequence[str], hint: str) -> Any:
    if given is not None and given not in choices:
        raise typer.BadParameter(f"{given!r}; choose of {', '.join(choices)}", param_hint=hint)
    return given


def _arguments(given: str) -> dict[str, Any]:
    try:
        values = json.loads(given)
    except json.JSONDecodeError as exc:
        raise typer.BadParameter(f"is not JSON ({exc})", param_hint="--arguments") from exc
    if not isinstance(values, dict):
        raise typer.BadParameter("is no JSON object", param_hint="--arguments")
    return values


def _lines(file: Path) -> tuple[str, ...]:
    if not file.is_file():
        raise typer.BadParameter(f"there is no file {file}", param_hint="--classes")
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as exc:
        raise typer.BadParameter(
            f"{file} is not UTF-8 ({exc.reason})", param_hint="--classes"
        ) from exc
    names = tuple(filter(None, map(str.strip, text.splitlines())))
    if twice := sorted(name for name, count in Counter(names).items() if count > 1):
        raise typer.BadParameter(f"{file} names {twice[:5]} twice", param_hint="--classes")
    return names
