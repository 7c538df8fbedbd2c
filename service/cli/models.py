"""`oodscore models`: look at the bundles of a folder without serving them."""

from pathlib import Path
from typing import Annotated

import typer

from service.bundle import BundleError, BundleRef, Manifest, find_bundles, read_manifest
from service.cli.progress import track
from service.errors import UnknownModel, UnknownVersion
from service.repository import SessionOptions, no_bundles, open_bundle
from service.settings import Settings

app = typer.Typer(
    help="List, verify and show bundles.  Example: oodscore models verify",
    no_args_is_help=True,
)
ModelsDir = Annotated[Path | None, typer.Option(help="folder of bundles")]


@app.command("list")
def list_models(models_dir: ModelsDir = None) -> None:
    """One line a bundle version.

    Example: oodscore models list --models-dir models
    """
    for ref in bundle_refs(models_dir):
        manifest = read_manifest(ref.path)
        detectors = ", ".join(spec.name for spec in manifest.detectors)
        typer.echo(
            f"{ref.name}  version {ref.version}  {manifest.modality}  "
            f"{len(manifest.class_names)} classes  {detectors}"
        )


@app.command()
def verify(
    models_dir: ModelsDir = None,
    model: Annotated[str | None, typer.Argument(help="only this model")] = None,
) -> None:
    """Check schema, digests, calibration and golden outputs as `serve` does.

    Example: oodscore models verify fashion-mnist
    """
    settings = Settings()
    options = SessionOptions(settings.provider, settings.threads)
    failed = False
    refs = [ref for ref in bundle_refs(models_dir) if model in (None, ref.name)]
    if model is not None and not refs:
        raise UnknownModel(model, sorted({ref.name for ref in bundle_refs(models_dir)}))
    for ref in track(refs, "verifying"):
        try:
            open_bundle(ref, options)
        except BundleError as exc:
            failed = True
            typer.echo(f"{ref.name}  version {ref.version}  REFUSED  {exc}")
        else:
            typer.echo(f"{ref.name}  version {ref.version}  ok")
    if failed:
        raise typer.Exit(1)


@app.command()
def show(
    model: Annotated[str, typer.Argument(help="name of the model")],
    version: Annotated[str | None, typer.Option(help="the highest if left out")] = None,
    models_dir: ModelsDir = None,
) -> None:
    """Classes, detectors, thresholds and origin of one bundle.

    Example: oodscore models show fashion-mnist
    """
    typer.echo(_describe(read_manifest(choose_bundle(models_dir, model, version).path)))


def bundle_refs(models_dir: Path | None) -> list[BundleRef]:
    """Raises BundleIncomplete when there are none."""
    folder = models_dir or Settings().models_dir
    refs = find_bundles(folder) if folder.is_dir() else []
    if not refs:
        raise no_bundles(folder)
    return refs


def choose_bundle(models_dir: Path | None, model: str | None, version: str | None) -> BundleRef:
    """By the rules of the service: default model, highest version.

    Raises BundleIncomplete, UnknownModel, UnknownVersion.
    """
    refs = bundle_refs(models_dir)
    name = model or Settings().default_image_model or refs[0].name
    versions = [ref for ref in refs if ref.name == name]
    if not versions:
        raise UnknownModel(name, sorted({ref.name for ref in refs}))
    chosen = [ref for ref in versions if version in (None, ref.version)]
    if not chosen:
        raise UnknownVersion(name, version or "", [ref.version for ref in versions])
    return chosen[-1]


def _describe(manifest: Manifest) -> str:
    image = manifest.input
    lines = [
        f"{manifest.name} version {manifest.version}: {manifest.description}",
        f"input      {manifest.modality}, {image.height} x {image.width} x {image.channels}, "
        f"{image.resize}, {image.interpolation}",
        f"classes    {', '.join(manifest.class_names)}",
        f"created    {manifest.provenance.created.isoformat()}",
        f"decided by {manifest.policy.primary}",
        "detectors",
    ]
    for spec in manifest.detectors:
        low, high = spec.acceptance_interval
        lines.append(
            f"  {spec.name}: OOD above {spec.threshold:.6g}; accepts {spec.id_acceptance:.1%} of "
            f"ID ({low:.1%} to {high:.1%}, {spec.calibration_size} calibration scores); "
            f"cost {spec.cost}"
        )
    return "\n".join(lines)
