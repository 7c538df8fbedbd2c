"""One version of a model that is being served: verified, opened, warmed before it follows."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from service.bundle import (
    MANIFEST,
    BundleError,
    BundleRef,
    ManifestInvalid,
    check_seal,
    sha256_of,
)
from service.errors import DetectorUnavailable
from service.graphs import SessionOptions
from service.loading import LoadedBundle, VariantMissing, open_bundle, verify_bundle
from service.onnx_session import ProviderUnavailable

EXPECTED = (BundleError, ProviderUnavailable, VariantMissing)


@dataclass(frozen=True)
class SessionSetup:
    """How bundles are opened."""

    options: SessionOptions
    int8_models: Collection[str] = ()


def open_next(
    ref: BundleRef,
    setup: SessionSetup,
    others: Collection[LoadedBundle],
    before: LoadedBundle | None,
) -> LoadedBundle:
    """The bundle, with the graphs open that the one `before` it has in use.

    `others`: the loaded versions of the same model.
    Raises BundleError, ProviderUnavailable, VariantMissing.
    """
    bundle = open_bundle(ref, setup.options, int8=ref.name in setup.int8_models)
    for other in others:
        if other.modality != bundle.modality:
            raise ManifestInvalid(
                ref.path / MANIFEST,
                f"reads {bundle.modality}s, but version {other.version} of the model reads "
                f"{other.modality}s; publish it under another name",
            )
    for graph in bundle.on_demand:
        if before is not None and graph in before.on_demand and before.state(graph) == "ready":
            _open_graph(bundle, graph)
    return bundle


def is_still(ref: BundleRef, bundle: LoadedBundle) -> bool:
    """Does the folder hold what was loaded from it, though it looks different?

    Raises BundleError.
    """
    verify_bundle(ref)
    check_seal(ref.path)
    return sha256_of(ref.path / MANIFEST) == bundle.digest


def describe(exc: Exception, models_dir: Path) -> str:
    """For callers: without the folder's place on the machine."""
    if isinstance(exc, EXPECTED):
        return str(exc).replace(f"{models_dir}/", "")
    return f"could not be opened ({type(exc).__name__}); the log has the cause"


def _open_graph(bundle: LoadedBundle, graph: str) -> None:
    """Raises what is wrong with it."""
    try:
        bundle.session(graph)
    except DetectorUnavailable as exc:
        if isinstance(exc.__cause__, Exception):
            raise exc.__cause__ from None
        raise
