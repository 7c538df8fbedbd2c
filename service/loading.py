"""One bundle: verified file by file, its forward graph opened.  A wrong bundle must not answer."""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Literal, cast

import numpy as np
from numpy.typing import NDArray

from service.bundle import (
    CALIBRATION,
    FORWARD,
    GOLDEN,
    MANIFEST,
    BundleCorrupt,
    BundleIncomplete,
    BundleRef,
    DetectorSpec,
    Golden,
    Manifest,
    ManifestInvalid,
    Modality,
    TextEncoder,
    TextInput,
    TextUnusable,
    VariantSpec,
    check_seal,
    read_calibration,
    read_calibration_classes,
    read_golden,
    read_manifest,
    sha256_of,
    threshold_at,
    verify_files,
)
from service.decision import LOGITS, Plan, make_plan
from service.graphs import Expected, GraphState, OnDemandGraph, SessionOptions, open_graph
from service.histograms import Histogram, histogram_of
from service.logs import fields
from service.onnx_session import ModelInput, OnnxSession, ScoreOutput

logger = logging.getLogger(__name__)

Variant = Literal["fp32", "int8"]
Calibration = Mapping[str, NDArray[np.float32]]  # detector -> ascending (n,)


class VariantMissing(Exception):
    """A variant was asked for by a setting, and there is none; the message says of what."""


@dataclass(frozen=True)
class LoadedBundle:
    """A bundle whose forward graph reproduced its golden outputs, ready to score."""

    ref: BundleRef
    manifest: Manifest  # with the thresholds of the served variant
    calibration: Calibration  # of the served variant
    sessions: Mapping[str, OnnxSession]  # the open graphs; under forward.onnx its served variant
    on_demand: Mapping[str, OnDemandGraph]  # all others, open or not
    variant: Variant
    digest: str  # SHA-256 of manifest.json, which holds those of all other files
    encoder: TextEncoder | None  # of a text bundle
    classes: Mapping[str, NDArray[np.int32]] | None = None  # predicted for the calibration scores

    @property
    def name(self) -> str:
        return self.manifest.name

    @property
    def version(self) -> str:
        return self.manifest.version

    @property
    def modality(self) -> Modality:
        return self.manifest.modality

    @cached_property
    def _default_plan(self) -> Plan:
        return make_plan(self.manifest, self.calibration, classes=self.classes)

    @cached_property
    def histograms(self) -> Mapping[str, Histogram]:
        """Of the calibration scores of every detector."""
        return {name: histogram_of(scores) for name, scores in self.calibration.items()}

    def plan(
        self, detectors: Sequence[str] | None = None, id_acceptance: float | None = None
    ) -> Plan:
        """As `make_plan`.  Raises UnknownDetector, InvalidParameter, AcceptanceOutOfReach."""
        if detectors is None and id_acceptance is None:
            return self._default_plan  # most requests name neither
        return make_plan(self.manifest, self.calibration, detectors, id_acceptance, self.classes)

    @property
    def provider(self) -> str:
        return self.sessions[FORWARD].provider

    def file(self, name: str) -> Path | None:
        """Path of a file the manifest names, else None."""
        return self.ref.path / name if name in self.manifest.files else None

    def state(self, graph: str) -> GraphState:
        return self.on_demand[graph].state if graph in self.on_demand else "ready"

    def unopened(self, plan: Plan) -> list[str]:
        """The graphs `session` would open first.  Raises DetectorUnavailable."""
        graphs = [graph for graph in plan.graphs if graph not in self.sessions]
        for graph in graphs:
            self.on_demand[graph].check()
        return graphs

    def session(self, graph: str) -> OnnxSession:
        """Opens the graph if need be, which may take seconds.  Raises DetectorUnavailable."""
        if graph in self.sessions:
            return self.sessions[graph]
        return self.on_demand[graph].session()


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


def open_bundle(ref: BundleRef, options: SessionOptions, *, int8: bool = False) -> LoadedBundle:
    """Verify every file, open the forward graph, reproduce its golden outputs.

    `int8`: serve that variant of the forward graph.  Graphs on demand stay closed.
    Raises BundleError naming the file, ProviderUnavailable, VariantMissing.
    """
    started = time.perf_counter()
    manifest = verify_bundle(ref)
    variant = _int8_variant(ref, manifest) if int8 else None
    calibration = _checked_calibration(ref, manifest, None)
    golden = read_golden(ref.path, manifest)
    for spec in manifest.variants:  # served or not: a bundle is right as a whole
        own = _checked_calibration(ref, manifest, spec), read_golden(ref.path, manifest, spec)
        if spec == variant:
            calibration, golden = {**calibration, **own[0]}, own[1]
    encoder = load_encoder(ref, manifest)
    path = ref.path / (variant.graph if variant else FORWARD)
    expected = _expected(ref, manifest, encoder, FORWARD, golden, variant)
    forward = open_graph(path, expected, options)
    check_seal(ref.path)
    sessions = {FORWARD: forward}
    bundle = LoadedBundle(
        ref=ref,
        manifest=manifest if variant is None else manifest.with_thresholds_of(variant),
        calibration=calibration,
        sessions=sessions,
        on_demand={
            graph: OnDemandGraph(
                ref.path, graph, partial(open_on_demand, ref, manifest, graph, options), sessions
            )
            for graph in on_demand_graphs(manifest)
        },
        variant=variant.name if variant else "fp32",
        digest=sha256_of(ref.path / MANIFEST),
        encoder=encoder,
        classes=read_calibration_classes(ref.path, manifest),
    )
    logger.info(
        "bundle ready",
        extra=fields(
            model=bundle.name,
            version=bundle.version,
            variant=bundle.variant,
            provider=bundle.provider,
            digest=bundle.digest,
            seconds=round(time.perf_counter() - started, 3),
        ),
    )
    return bundle


def open_on_demand(
    ref: BundleRef, manifest: Manifest, graph: str, options: SessionOptions
) -> OnnxSession:
    """A graph other than the forward one, long after its bundle was verified: so once more.

    onnxruntime reads external data below the graph's folder only (a contract test holds it to
    that), and there every file is one the manifest names.
    Raises BundleError naming the file, ProviderUnavailable.
    """
    verify_files(ref.path, manifest)
    golden = read_golden(ref.path, manifest)
    expected = _expected(ref, manifest, load_encoder(ref, manifest), graph, golden)
    return open_graph(ref.path / graph, expected, options)


def check_every_graph(ref: BundleRef, options: SessionOptions) -> None:
    """All that could ever be served of a bundle: each graph and variant, opened and closed again.

    Raises BundleError naming the file, ProviderUnavailable.
    """
    bundle = open_bundle(ref, options)
    for graph in bundle.on_demand:
        open_on_demand(ref, bundle.manifest, graph, options)
    if bundle.manifest.variants:
        open_bundle(ref, options, int8=True)


def load_encoder(ref: BundleRef, manifest: Manifest) -> TextEncoder | None:
    """The tokenizer of a text bundle.  Raises BundleCorrupt."""
    spec = manifest.input
    return (
        TextEncoder.load(ref.path / spec.tokenizer, spec) if isinstance(spec, TextInput) else None
    )


def on_demand_graphs(manifest: Manifest) -> list[str]:
    return list(dict.fromkeys(spec.graph for spec in manifest.detectors if spec.on_demand))


def _int8_variant(ref: BundleRef, manifest: Manifest) -> VariantSpec:
    for variant in manifest.variants:
        if variant.name == "int8":
            return variant
    raise VariantMissing(
        f"OODSCORE_INT8_MODELS names {ref.name}, but its version {ref.version} carries no int8 "
        f"variant ({ref.path / MANIFEST}); add one, remove that version, or take the name out"
    )


def _expected(
    ref: BundleRef,
    manifest: Manifest,
    encoder: TextEncoder | None,
    graph: str,
    golden: Golden,
    variant: VariantSpec | None = None,
) -> Expected:
    """What the manifest says of one graph file; `variant` only stands for the forward one.

    Raises BundleCorrupt where a golden text cannot be tokenized.
    """
    outputs = [ScoreOutput(d.output, ()) for d in manifest.detectors if d.graph == graph]
    if graph == FORWARD:
        outputs.insert(0, ScoreOutput(LOGITS, (len(manifest.class_names),)))
    tolerance = variant.golden_tolerance if variant else None
    golden_file = ref.path / (variant.golden if variant else GOLDEN)
    return Expected(
        input=manifest.input,
        outputs=outputs,
        golden=golden,
        golden_batch=_golden_batch(golden_file, golden, encoder),
        golden_file=golden_file,
        tolerance=tolerance or manifest.tolerance_of(graph),
    )


def _golden_batch(path: Path, golden: Golden, encoder: TextEncoder | None) -> ModelInput:
    if encoder is None:
        return cast(NDArray[np.uint8], golden.inputs)  # read_golden has seen to it
    try:
        return encoder.encode_all(golden.inputs.tolist())
    except TextUnusable as exc:
        raise BundleCorrupt(path, str(exc)) from exc


def _checked_calibration(
    ref: BundleRef, manifest: Manifest, variant: VariantSpec | None
) -> dict[str, NDArray[np.float32]]:
    """Scores that give the thresholds: score > threshold is p_value <= 1 - id_acceptance."""
    calibration = read_calibration(ref.path, manifest, variant)
    described = manifest if variant is None else manifest.with_thresholds_of(variant)
    for name, scores in calibration.items():
        _check_threshold(ref, described.detector(name), scores, variant)
    return calibration


def _check_threshold(
    ref: BundleRef,
    spec: DetectorSpec,
    scores: NDArray[np.float32],
    variant: VariantSpec | None,
) -> None:
    expected = threshold_at(scores, spec.id_acceptance)
    if not np.isclose(spec.threshold, expected, rtol=1e-6, atol=1e-6):
        file = variant.calibration if variant else CALIBRATION
        raise ManifestInvalid(
            ref.path / MANIFEST,
            f"detector {spec.name}: threshold {spec.threshold}, but the calibration scores of "
            f"{file} give {expected} at id_acceptance {spec.id_acceptance}",
        )
