"""`oodscore models`: look at the bundles of a folder without serving them."""

from pathlib import Path
from typing import Annotated

import typer

from service.bundle import (
    BundleError,
    BundleRef,
    ImageInput,
    Manifest,
    Modality,
    TextInput,
    VariantSpec,
    find_bundles,
    read_manifest,
)
from service.cli.progress import track
from service.errors import ModalityNotServed, UnknownModel, UnknownVersion
from service.graphs import SessionOptions
from service.loading import check_every_graph
from service.repository import no_bundles
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
    """Check schema, digests, calibration and golden outputs as `serve` does, of every graph: also
    those that `serve` opens on demand, and variants that no setting asks for.

    Example: oodscore models verify fashion-mnist
    """
    settings = Settings()
    options = SessionOptions(settings.provider, settings.threads, max_rows=1)
    failed = False
    refs = [ref for ref in bundle_refs(models_dir) if model in (None, ref.name)]
    if model is not None and not refs:
        raise UnknownModel(model, sorted({ref.name for ref in bundle_refs(models_dir)}))
    for ref in track(refs, "verifying"):
        try:
            check_every_graph(ref, options)
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
    """Classes, detectors, thresholds and origin of one bundle; what its int8 variant costs.

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


def choose_bundle(models_dir: Path | None, model: str, version: str | None) -> BundleRef:
    """The highest version if none is named.

    Raises BundleIncomplete, UnknownModel, UnknownVersion.
    """
    refs = bundle_refs(models_dir)
    versions = [ref for ref in refs if ref.name == model]
    if not versions:
        raise UnknownModel(model, sorted({ref.name for ref in refs}))
    chosen = [ref for ref in versions if version in (None, ref.version)]
    if not chosen:
        raise UnknownVersion(model, version or "", [ref.version for ref in versions])
    return chosen[-1]


def default_model(models_dir: Path | None, modality: Modality) -> str:
    """By the rules of the service: the setting, else the first name whose newest version fits.

    Raises BundleError, ModalityNotServed.
    """
    if named := Settings().default_models.get(modality):
        return named
    newest = {ref.name: ref for ref in bundle_refs(models_dir)}
    for name, ref in newest.items():
        if read_manifest(ref.path).modality == modality:
            return name
    raise ModalityNotServed(modality, list(newest))


def _describe_input(spec: ImageInput | TextInput) -> str:
    if isinstance(spec, TextInput):
        return (
            f"text, at most {spec.max_tokens} tokens, {spec.tokenizer} with "
            f"{spec.vocabulary_size} ids"
        )
    size = f"{spec.height} x {spec.width} x {spec.channels}"
    return f"image, {size}, {spec.resize}, {spec.interpolation}"


def _describe(manifest: Manifest) -> str:
    lines = [
        f"{manifest.name} version {manifest.version}: {manifest.description}",
        f"input      {_describe_input(manifest.input)}",
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
            f"cost {spec.cost}{', on demand: ' + spec.graph if spec.on_demand else ''}"
        )
    for variant in manifest.variants:
        lines += _describe_variant(variant)
    return "\n".join(lines)


def _describe_variant(variant: VariantSpec) -> list[str]:
    """Its price; every pair is forward.onnx, then the variant."""
    price = variant.price
    faster = ", ".join(f"{ratio:.2f}x at batch {n}" for n, ratio in price.speed_ratio.items())
    lines = [
        f"variant {variant.name}, served where OODSCORE_INT8_MODELS names the model",
        f"  measured on {price.measured_on}",
        f"  speed: {faster} (above 1 is faster)",
        f"  accuracy: {price.accuracy_fp32:.2%} -> {price.accuracy:.2%}",
    ]
    for ood_set, detectors in price.auroc.items():
        lines.append(f"  AUROC against {ood_set}")
        lines += [f"    {name}: {a:.2%} -> {b:.2%}" for name, (a, b) in detectors.items()]
    thresholds = ", ".join(f"{name} {t:.6g}" for name, t in variant.thresholds.items())
    return [*lines, f"  OOD above: {thresholds}"]
