"""Find, verify and open the bundles of a models folder.  A wrong bundle must not answer."""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.bundle import (
    FORWARD,
    GOLDEN,
    MANIFEST,
    BundleCorrupt,
    BundleIncomplete,
    BundleRef,
    Golden,
    Manifest,
    ManifestInvalid,
    check_golden,
    check_seal,
    find_bundles,
    read_calibration,
    read_golden,
    read_manifest,
    sha256_of,
    threshold_at,
    verify_files,
)
from service.cpus import usable_cpus
from service.decision import LOGITS
from service.errors import UnknownModel, UnknownVersion
from service.logs import fields
from service.onnx_session import OnnxSession, Outputs, ScoreOutput

logger = logging.getLogger(__name__)

# networks slower than this on one image are worth more than one thread
_SMALL_NETWORK_SECONDS = 0.003


@dataclass(frozen=True)
class SessionOptions:
    provider: str = "auto"  # auto, cpu or cuda
    threads: int | None = None  # inside one inference; None: by the network's speed


@dataclass(frozen=True)
class LoadedBundle:
    """A bundle that reproduced its golden outputs, ready to score."""

    ref: BundleRef
    manifest: Manifest
    calibration: Mapping[str, NDArray[np.float32]]  # detector -> ascending (n,)
    sessions: Mapping[str, OnnxSession]  # graph file -> session; forward.onnx first
    digest: str  # SHA-256 of manifest.json, which holds those of all other files

    @property
    def name(self) -> str:
        return self.manifest.name

    @property
    def version(self) -> str:
        return self.manifest.version

    @property
    def provider(self) -> str:
        return self.sessions[FORWARD].provider

    def file(self, name: str) -> Path | None:
        """Path of a file the manifest names, else None."""
        return self.ref.path / name if name in self.manifest.files else None


class Repository:
    """The served bundles: versions by name, newest last."""

    def __init__(
        self, bundles: Sequence[LoadedBundle], default_image_model: str | None = None
    ) -> None:
        """Raises UnknownModel when the default is not among the bundles."""
        self._models: dict[str, dict[str, LoadedBundle]] = {}
        for bundle in sorted(bundles, key=lambda b: b.ref):
            self._models.setdefault(bundle.name, {})[bundle.version] = bundle
        self.default = default_image_model or next(iter(self._models))
        self.get(self.default)

    @property
    def names(self) -> list[str]:
        return list(self._models)

    def all(self) -> list[LoadedBundle]:
        return [bundle for versions in self._models.values() for bundle in versions.values()]

    def versions(self, name: str) -> list[str]:
        return list(self._models[name])

    def get(self, name: str | None = None, version: str | None = None) -> LoadedBundle:
        """No name: the default model.  No version: the highest.

        Raises UnknownModel, UnknownVersion.
        """
        name = self.default if name is None else name
        if name not in self._models:
            raise UnknownModel(name, self.names)
        versions = self._models[name]
        if version is None:
            return next(reversed(versions.values()))
        if version not in versions:
            raise UnknownVersion(name, version, list(versions))
        return versions[version]


def open_repository(
    models_dir: Path, options: SessionOptions, default_image_model: str | None = None
) -> Repository:
    """Every version of every bundle below `models_dir`, each verified.

    Raises BundleError naming the file, ProviderUnavailable, UnknownModel.
    """
    refs = find_bundles(models_dir) if models_dir.is_dir() else []
    if not refs:
        raise no_bundles(models_dir)
    return Repository([open_bundle(ref, options) for ref in refs], default_image_model)


def no_bundles(models_dir: Path) -> BundleIncomplete:
    return BundleIncomplete(
        models_dir,
        "holds no bundle (expected <name>/<version>/manifest.json); train one with "
        "oodscore-train or set OODSCORE_MODELS_DIR",
    )


def verify_bundle(ref: BundleRef) -> Manifest:
    """Schema, digests, place.  Raises BundleError."""
    manifest = read_manifest(ref.path)
    if (manifest.name, manifest.version) != (ref.name, ref.version):
        raise ManifestInvalid(
            ref.path / MANIFEST,
            f"says {manifest.name} version {manifest.version}, but lies in "
            f"{ref.name}/{ref.version}",
        )
    verify_files(ref.path, manifest)
    if FORWARD not in manifest.files:
        raise BundleIncomplete(ref.path / FORWARD, "is not named in manifest.json")
    return manifest


def open_bundle(ref: BundleRef, options: SessionOptions) -> LoadedBundle:
    """Verify, open every graph, reproduce the golden outputs.

    Raises BundleError naming the file, ProviderUnavailable.
    """
    started = time.perf_counter()
    manifest = verify_bundle(ref)
    calibration = read_calibration(ref.path, manifest)
    _check_thresholds(ref, manifest, calibration)
    golden = read_golden(ref.path, manifest)
    graphs = dict.fromkeys((FORWARD, *(spec.graph for spec in manifest.detectors)))
    sessions = {graph: _open_graph(ref, graph, manifest, golden, options) for graph in graphs}
    _check_golden(ref, manifest, golden, sessions)
    check_seal(ref.path)
    digest = sha256_of(ref.path / MANIFEST)
    bundle = LoadedBundle(ref, manifest, calibration, sessions, digest)
    logger.info(
        "bundle ready",
        extra=fields(
            model=bundle.name,
            version=bundle.version,
            provider=bundle.provider,
            digest=digest,
            seconds=round(time.perf_counter() - started, 3),
        ),
    )
    return bundle


def graph_outputs(manifest: Manifest, graph: str) -> list[ScoreOutput]:
    """What the manifest says one graph file gives."""
    outputs = [ScoreOutput(d.output, ()) for d in manifest.detectors if d.graph == graph]
    if graph == FORWARD:
        outputs.insert(0, ScoreOutput(LOGITS, (len(manifest.class_names),)))
    return outputs


def _open_graph(
    ref: BundleRef, graph: str, manifest: Manifest, golden: Golden, options: SessionOptions
) -> OnnxSession:
    path, cpus = ref.path / graph, usable_cpus()
    outputs = graph_outputs(manifest, graph)
    session = OnnxSession(path, provider=options.provider, threads=options.threads or 1)
    session.check_signature(manifest.input, outputs)
    if options.threads is None and session.provider == "cpu" and cpus > 1:
        names = [output.name for output in outputs]
        if _seconds_per_image(path, session, golden, names) > _SMALL_NETWORK_SECONDS:
            session = OnnxSession(path, provider=options.provider, threads=cpus)
    return session


def _seconds_per_image(
    path: Path, session: OnnxSession, golden: Golden, outputs: Sequence[str]
) -> float:
    """The faster of two runs; the first also warms the session."""
    times: list[float] = []
    for _ in range(2):
        started = time.perf_counter()
        _run(path, session, golden.inputs[:1], outputs)
        times.append(time.perf_counter() - started)
    return min(times)


def _check_golden(
    ref: BundleRef, manifest: Manifest, golden: Golden, sessions: Mapping[str, OnnxSession]
) -> None:
    served: Outputs = {}
    for graph, session in sessions.items():
        names = [output.name for output in graph_outputs(manifest, graph)]
        served |= _run(ref.path / graph, session, golden.inputs, names)
    check_golden(ref.path / GOLDEN, golden, served, manifest.golden_tolerance)


def _run(
    path: Path, session: OnnxSession, pixels: NDArray[np.uint8], outputs: Sequence[str]
) -> Outputs:
    try:
        return session.run(pixels, outputs)
    except Exception as exc:
        raise BundleCorrupt(path, f"fails on the golden inputs ({exc})") from exc


def _check_thresholds(
    ref: BundleRef, manifest: Manifest, calibration: Mapping[str, NDArray[np.float32]]
) -> None:
    """score > threshold must mean p_value <= 1 - id_acceptance."""
    for spec in manifest.detectors:
        expected = threshold_at(calibration[spec.name], spec.id_acceptance)
        if not np.isclose(spec.threshold, expected, rtol=1e-6, atol=1e-6):
            raise ManifestInvalid(
                ref.path / MANIFEST,
                f"detector {spec.name}: threshold {spec.threshold}, but the calibration scores "
                f"give {expected} at id_acceptance {spec.id_acceptance}",
            )
