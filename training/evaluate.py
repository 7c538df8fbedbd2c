"""A published bundle, measured again: on its test sets, on folders, on corrupted test-ID.

Scores come from the exported graphs, thresholds and calibration scores from the bundle: what is
measured is what is served.  Nothing here changes the bundle.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table
from tokenizers import Tokenizer

from service.bundle import (
    FORWARD,
    ImageInput,
    Manifest,
    TextEncoder,
    check_seal,
    find_bundles,
    read_calibration,
    read_manifest,
    verify_files,
)
from training.batches import BATCH, batch_rows
from training.config import RunConfig
from training.data import (
    CONTROL,
    TEXT_CONTROL,
    DataUnavailable,
    ImageSet,
    InputSet,
    Roles,
    TextLoader,
    load_roles,
    load_test_id,
    source_of,
)
from training.data.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from training.evaluation.corruption import (
    ACCURACY,
    CorruptionCell,
    CorruptionReport,
    all_spreads,
)
from training.evaluation.corruption_report import overview_table, write_corruption_report
from training.evaluation.metrics import auroc
from training.evaluation.mistakes import Judge, Mistakes, ScoredInputs, worst_mistakes
from training.evaluation.mistakes_page import heading
from training.evaluation.records import Report
from training.evaluation.report import write_report
from training.evaluation.tables import Scores
from training.export import library_versions, open_network
from training.fitting import SIDE_BATCH, Network
from training.pipeline import score_roles
from training.progress import say, track
from training.reporting import build_report, collect_latents, machine
from training.restore import load_scorers
from training.scorer import LOGITS

CORRUPTION_IMAGES = 2000  # in each cell; an AUROC is then good to about 1 point
_SEED = 0
_SAMPLE_STREAM = 2  # of the images that are corrupted

Values = dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Bundle:
    """An opened bundle: verified files, the config that made it, its graphs by file name."""

    folder: Path
    manifest: Manifest
    config: RunConfig
    networks: Mapping[str, Network]  # the forward graph first

    @property
    def label(self) -> str:
        return f"{self.manifest.name}/{self.manifest.version}"

    def outputs(self, pixels: NDArray[np.uint8]) -> Values:
        """uint8 (N, H, W, C) -> logits (N, K) and detector -> scores.

        A graph beside forward.onnx costs several passes and sees `several_passes_limit` images.
        """
        found: Values = {}
        for graph, network in self.networks.items():
            seen = pixels if graph == FORWARD else pixels[: self.config.several_passes_limit]
            batch = batch_rows(pixels.shape[1:], BATCH if graph == FORWARD else SIDE_BATCH)
            parts = [network(seen[start : start + batch]) for start in range(0, len(seen), batch)]
            found |= {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        scores = {spec.name: found[spec.output] for spec in self.manifest.detectors}
        return {LOGITS: found[LOGITS]} | scores


def open_bundle(folder: Path) -> Bundle:
    """Raises BundleError when a file is damaged, ValueError when this cannot be measured."""
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such bundle folder; expected models/<name>/<version>")
    versions = [str(ref.path) for ref in find_bundles(folder.parent) if ref.path.parent == folder]
    if versions:
        raise ValueError(f"{folder} holds versions of a bundle; choose of {', '.join(versions)}")
    manifest = read_manifest(folder)
    verify_files(folder, manifest)
    check_seal(folder)
    try:
        config = RunConfig.model_validate(manifest.provenance.config)
    except ValidationError as exc:
        raise ValueError(
            f"{folder}: its manifest holds no run config of this release, so its test data are "
            f"not known ({exc.error_count()} fields do not fit)"
        ) from exc
    graphs = dict.fromkeys([FORWARD, *(spec.graph for spec in manifest.detectors)])
    return Bundle(folder, manifest, config, {g: open_network(folder / g) for g in graphs})


def evaluate_sets(
    bundle: Bundle, further: Mapping[str, str], out: Path, column: str | None = None
) -> Report:
    """The report of the run once more, and the worst mistakes, with further OOD sets: name ->
    what `source_of` reads; `column`: of tables, that with the images or texts.

    Raises DataUnavailable when ID data or a further set is absent, ValueError on a name twice.
    """
    config = bundle.config
    refuse_inside(out, bundle)
    taken = sorted(set(further) & {CONTROL, TEXT_CONTROL, *config.data.test_ood})
    if taken:
        raise ValueError(f"the bundle's config already has OOD sets named {taken}; choose others")
    columns = {} if column is None else {bundle.manifest.modality: column}
    sources = {name: (source_of(given, columns),) for name, given in further.items()}
    data = config.data.model_copy(update={"test_ood": config.data.test_ood | sources})
    roles = load_roles(data, form_of(bundle), config.seed)
    absent = [roles.missing[name] for name in further if name in roles.missing]
    if absent:
        raise DataUnavailable("; ".join(absent))
    scorers = load_scorers(bundle.folder)
    scored = score_roles(list(bundle.networks.values()), roles, config)
    scores = replace(
        scored.scores,
        calibration=read_calibration(bundle.folder, bundle.manifest),
        thresholds={spec.name: spec.threshold for spec in bundle.manifest.detectors},
    )
    report = build_report(config, scorers, roles, scores, scored.accuracy, bundle=bundle.label)
    shows = (
        "This page shows test inputs: mind their licence, and whose they are, before passing it on."
    )
    report = replace(report, remarks=(*_changed_data(bundle, roles), *report.remarks, shows))
    mistakes = _mistakes(bundle, roles, scores, scored.predicted)
    for row in mistakes.rows:
        say(heading(row))
    write_report(out, report, scores, collect_latents(scorers, roles), mistakes)
    return report


def _mistakes(
    bundle: Bundle, roles: Roles, scores: Scores, predicted: Mapping[str, NDArray[np.int64]]
) -> Mistakes:
    """Those of the detector that decides; its graph scored every input."""
    name = bundle.manifest.policy.primary
    threshold, calibration = scores.thresholds[name], scores.calibration[name]
    return worst_mistakes(
        Judge(name, threshold, calibration, bundle.manifest.class_names),
        ScoredInputs(roles.test_id, scores.id_test[name], predicted["test_id"]),
        {
            ood_set: ScoredInputs(inputs, scores.ood[ood_set][name], predicted[ood_set])
            for ood_set, inputs in roles.test_ood.items()
        },
    )


def evaluate_corruptions(
    bundle: Bundle, out: Path, limit: int = CORRUPTION_IMAGES
) -> CorruptionReport:
    """Clean test-ID against each of sixteen corruptions at five severities; writes the report.

    At most `limit` images, drawn at random; the same ones in every cell.  Raises
    DataUnavailable when test-ID is absent, ValueError when a detector scores NaN.
    """
    refuse_inside(out, bundle)
    if bundle.config.input is None:
        raise ValueError(f"{bundle.label} reads texts; corruptions are those of images")
    test_id = load_test_id(bundle.config.data, bundle.config.input, bundle.config.seed)
    if test_id.class_names != bundle.manifest.class_names:
        raise ValueError(
            f"test-ID has the classes {test_id.class_names}, the bundle "
            f"{bundle.manifest.class_names}: a label would mean two things"
        )
    order = np.random.default_rng([_SEED, _SAMPLE_STREAM]).permutation(len(test_id))[:limit]
    chosen = test_id.take(order, "test_id")
    clean = bundle.outputs(chosen.inputs)
    grid = [(kind, severity) for kind in CORRUPTIONS for severity in SEVERITIES]
    cells = tuple(
        _cell(bundle, chosen, clean, kind, severity)
        for kind, severity in track(grid, "corrupting and scoring")
    )
    detectors = tuple(spec.name for spec in bundle.manifest.detectors)
    report = CorruptionReport(
        title=f"{bundle.config.name}: detection of corrupted images",
        bundle=bundle.label,
        primary=bundle.manifest.policy.primary,
        data=test_id.origin,
        counts={ACCURACY: len(chosen)} | {name: len(clean[name]) for name in detectors},
        seed=_SEED,
        clean_accuracy=_accuracy(clean, chosen),
        detectors=detectors,
        kinds=tuple(CORRUPTIONS),
        severities=SEVERITIES,
        cells=cells,
        spreads=all_spreads(cells, detectors, SEVERITIES),
        libraries=library_versions(),
        machine=machine(),
        remarks=(
            *changed_set(bundle, "test_id", test_id),
            "This page shows a test image: mind the licence of the data before passing it on.",
        ),
    )
    write_corruption_report(out, report, chosen.inputs[0])
    return report


def form_of(bundle: Bundle) -> ImageInput | TextLoader:
    """How raw data become the bundle's inputs: texts by its own tokenizer."""
    spec = bundle.manifest.input
    if isinstance(spec, ImageInput) or bundle.config.text is None:
        assert isinstance(spec, ImageInput)  # noqa: S101  (the manifest's own rule)
        return spec
    path = bundle.folder / spec.tokenizer
    TextEncoder.load(path, spec)
    return TextLoader(bundle.config.text, (Tokenizer.from_file(str(path)), spec))


def print_sets(report: Report) -> None:
    """AUROC in per cent, a row for each detector and a column for each set, to stdout."""
    accuracy = f"test accuracy {100 * (report.test_accuracy or 0):.2f} %"
    table = Table(title=f"{report.bundle}: AUROC (%); {accuracy}")
    table.add_column("detector")
    for ood_set in report.ood_sets:
        table.add_column(ood_set.name, justify="right")
    for detector in report.detectors:
        rows = [report.row(ood_set.name, detector.name) for ood_set in report.ood_sets]
        shown = [f"{100 * row.metrics.auroc:.1f}" if row else "" for row in rows]
        table.add_row(detector.name, *shown)
    _print(table)


def print_corruptions(report: CorruptionReport) -> None:
    """Mean, deviation and range over the kinds, per cent, a column for each severity."""
    _print(overview_table(report))


def _print(table: Table) -> None:
    Console(width=None if Console().is_terminal else 120).print(table)


def _cell(
    bundle: Bundle, chosen: ImageSet, clean: Values, kind: str, severity: int
) -> CorruptionCell:
    worse = bundle.outputs(corrupt(chosen.inputs, kind, severity, _SEED))
    areas: dict[str, float] = {}
    for spec in bundle.manifest.detectors:
        try:
            areas[spec.name] = auroc(clean[spec.name], worse[spec.name])
        except ValueError as exc:
            raise ValueError(f"{spec.name} on {kind}, severity {severity}: {exc}") from exc
    return CorruptionCell(kind, severity, _accuracy(worse, chosen), areas)


def _accuracy(outputs: Values, images: ImageSet) -> float:
    return float((outputs[LOGITS].argmax(axis=1) == images.labels).mean())


def refuse_inside(out: Path, bundle: Bundle) -> None:
    """ValueError where a report would be written into the bundle."""
    if out.resolve().is_relative_to(bundle.folder.resolve()):
        raise ValueError(f"{out} lies inside the bundle; a published bundle never changes")


def _changed_data(bundle: Bundle, roles: Roles) -> list[str]:
    """Remarks on ID sets that are not those the bundle was made from."""
    sets = {"dev_id": roles.dev_id, "cal_id": roles.cal_id, "test_id": roles.test_id}
    return [line for role, part in sets.items() for line in changed_set(bundle, role, part)]


def changed_set(bundle: Bundle, role: str, part: InputSet) -> list[str]:
    """A remark where an ID set is not the one that the bundle was reported on."""
    recorded = bundle.manifest.provenance.data.get(role, "nothing recorded")
    found = part.fingerprint()
    # "10000 images, sha256 ..., origin": another copy of the same content is the same data
    if found.split(", ")[:2] == recorded.split(", ")[:2]:
        return []
    line = f"{role} is not what the bundle was reported on: here {found}; then {recorded}."
    say(line)
    return [line]
