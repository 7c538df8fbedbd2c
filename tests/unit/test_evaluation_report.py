"""The report: rows from raw scores, JSON there and back, the page, the pictures."""

import json
import math
import re
from dataclasses import asdict, replace
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from service.bundle import threshold_at
from training.evaluation.html_tables import COLUMNS
from training.evaluation.latent_plot import principal_plane
from training.evaluation.markup import best_of, per_cent
from training.evaluation.metrics import evaluate_scores
from training.evaluation.plots import roc_curves
from training.evaluation.records import OodSet, Price, Published, Report
from training.evaluation.report import read_report, report_json, write_report
from training.evaluation.tables import (
    Latents,
    Scores,
    calibration_records,
    detector_records,
    table_rows,
)

DETECTORS = ("combined", "msp", "knn")


def make_scores():
    rng = np.random.default_rng(0)
    calibration = {d: np.sort(rng.normal(size=400)).astype(np.float32) for d in DETECTORS}
    shift = {"combined": 2.0, "msp": 1.0, "knn": 1.5}
    return Scores(
        calibration=calibration,
        id_test={d: rng.normal(size=500) for d in DETECTORS},
        ood={
            "digits": {d: rng.normal(shift[d], 1, size=300) for d in DETECTORS},
            "letters": {d: rng.normal(shift[d] / 2, 1, size=200) for d in DETECTORS},
            "reencoded": {d: rng.normal(d == "knn", 1, size=500) for d in DETECTORS},
        },
        thresholds={d: threshold_at(calibration[d], 0.95) for d in DETECTORS},
    )


def make_report(scores):
    published = {
        ("digits", "msp"): (Published("auroc", 0.2, "a paper"),),
        ("digits", "knn"): (Published("fpr95_id_side", 0.01, "b paper", "wider network"),),
    }
    return Report(
        title="Clothes & <digits>",
        bundle="clothes/1",
        test_accuracy=0.9251,
        counts={"test-ID": 500, "digits": 300},
        seeds=(0, 1),
        config={"epochs": 8, "widths": [1, 2]},
        libraries={"numpy": np.__version__},
        machine={"threads": "2"},
        detectors=detector_records(scores, {d: f"What {d} does." for d in DETECTORS}),
        ood_sets=(
            OodSet("digits", "Handwritten."),
            OodSet("letters"),
            OodSet("reencoded", "ID again", "control"),
        ),
        rows=table_rows(scores, published),
        calibration=calibration_records(scores),
        price=(Price("knn", 8, 0.0125, 1.07), Price("msp", 8, 0.0)),
        remarks=("One network < three.",),
        primary="combined",
    )


def make_latents():
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 3, 300)
    features = rng.normal(size=(300, 8)) + 5 * np.eye(8)[labels]
    return Latents(features, labels, ("a", "b", "c"), {"digits": rng.normal(size=(100, 8))})


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    scores = make_scores()
    report = make_report(scores)
    folder = tmp_path_factory.mktemp("bundle")
    return folder, report, write_report(folder, report, scores, make_latents())


class Page(HTMLParser):
    """Text of the cells, addresses of everything loaded, and whether tags balance."""

    VOID = frozenset({"meta", "img"})

    def __init__(self, text):
        super().__init__()
        self.cells, self.addresses, self.alternatives, self.open = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        known = dict(attrs)
        self.addresses += [known[name] for name in ("src", "href", "data") if name in known]
        if tag == "img":
            self.alternatives.append(known.get("alt"))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if {"td", "th"} & set(self.open):
            self.cells.append(data)


def test_rows_are_the_metrics_of_the_raw_scores():
    scores = make_scores()
    rows = table_rows(scores)
    assert len(rows) == 9
    row = next(row for row in rows if (row.ood_set, row.detector) == ("letters", "knn"))
    assert row.metrics == evaluate_scores(
        scores.id_test["knn"], scores.ood["letters"]["knn"], scores.thresholds["knn"]
    )
    assert row.auroc_interval[0] < row.metrics.auroc < row.auroc_interval[1]


def test_json_round_trip(written):
    folder, report, paths = written
    assert paths[0] == folder / "report.json"
    assert read_report(paths[0]) == report
    plain = json.loads(paths[0].read_text(), parse_constant=pytest.fail)  # NaN, Infinity
    assert plain["rows"][0]["metrics"]["auroc"] == report.rows[0].metrics.auroc


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_nan_and_infinity_are_refused_before_anything_is_written(tmp_path, bad):
    scores = make_scores()
    report = replace(make_report(scores), test_accuracy=bad)
    with pytest.raises(ValueError, match="NaN or infinity"):
        write_report(tmp_path / "new", report, scores)
    assert not (tmp_path / "new").exists()


def test_a_json_file_of_another_kind_is_refused(tmp_path):
    (tmp_path / "x.json").write_text('{"title": "x"}')
    with pytest.raises(ValidationError):
        read_report(tmp_path / "x.json")


def test_the_page_shows_the_numbers_of_the_json(written):
    folder, _, _ = written
    plain = json.loads((folder / "report.json").read_text())
    text = (folder / "report.html").read_text()
    page = Page(text)
    assert page.open == []
    cells = set(page.cells)
    controls = {s["name"] for s in plain["ood_sets"] if s["role"] == "control"}
    for row in plain["rows"]:
        fields = ["auroc"] if row["ood_set"] in controls else [name for name, _, _ in COLUMNS]
        assert {per_cent(row["metrics"][field]) for field in fields} <= cells
        if row["ood_set"] not in controls:
            low, high = row["auroc_interval"]
            assert f"{per_cent(low)}–{per_cent(high)}" in cells
    for record in plain["calibration"]:
        assert f"{record['p_values']['statistic']:.4f}" in cells
        for row in record["rows"]:
            assert {per_cent(row["realised"]), f"{row['threshold']:.6g}"} <= cells
    for detector in plain["detectors"]:
        assert detector["description"] in cells
    assert {"0.0125", "1.070"} <= cells
    assert "92.51 %" in text


def test_the_page_holds_no_nan(written):
    text = (written[0] / "report.html").read_text()
    prose = re.sub(r'src="data:[^"]*"|<style>.*?</style>', "", text, flags=re.DOTALL)
    assert not re.search(r"\b(nan|inf|infinity|none)\b", prose, re.IGNORECASE)


def test_the_page_is_self_contained_escaped_and_described(written):
    text = (written[0] / "report.html").read_text()
    page = Page(text)
    assert page.addresses
    assert all(address.startswith("data:image/png;base64,") for address in page.addresses)
    assert not re.search(r"<script|@import|url\(|https?://", text)
    assert "Clothes &amp; &lt;digits&gt;" in text
    assert "One network &lt; three." in text
    assert all(page.alternatives)
    assert "prefers-color-scheme:dark" in text
    assert '<html lang="en">' in text


def test_the_best_of_each_set_is_marked(written):
    folder, report, _ = written
    text = (folder / "report.html").read_text()
    best = max(
        (row for row in report.rows if row.ood_set == "digits"), key=lambda row: row.metrics.auroc
    )
    assert f"<strong>{per_cent(best.metrics.auroc)}</strong>" in text
    worst = report.row("digits", "msp")
    assert f"<strong>{per_cent(worst.metrics.auroc)}</strong>" not in text


def test_best_of():
    assert best_of({"a": 0.91, "b": 0.92}) == {"b"}
    assert best_of({"a": 0.91, "b": 0.92}, more=False) == {"a"}
    assert best_of({"a": 0.920001, "b": 0.92}) == {"a", "b"}  # equal as shown
    assert best_of({"a": 0.9}) == set()


def test_differences_to_published_numbers(written):
    folder, report, _ = written
    text = (folder / "report.html").read_text()
    msp, knn = report.row("digits", "msp"), report.row("digits", "knn")
    difference = msp.difference(msp.published[0])
    assert difference == pytest.approx(msp.metrics.auroc - 0.2)
    assert f"{100 * difference:+.2f}" in text
    assert msp.needs_explanation(msp.published[0])
    assert "not explained" in text
    assert not knn.needs_explanation(knn.published[0])
    assert "wider network" in text
    near = Published("auroc", round(msp.metrics.auroc + 0.02, 4), "c")
    assert not msp.needs_explanation(near)


def test_control_sets_flag_artefact_readers(written):
    folder, report, _ = written
    assert [row.detector for row in report.flagged_controls()] == ["knn"]
    assert (folder / "report.html").read_text().count(">reads artefacts<") == 1


def test_the_mean_leaves_controls_out():
    report = make_report(make_scores())
    areas = [report.row(name, "msp").metrics.auroc for name in ("digits", "letters")]
    assert report.macro_auroc("msp") == pytest.approx(np.mean(areas))
    fewer = replace(report, rows=tuple(r for r in report.rows if r.ood_set != "letters"))
    assert fewer.macro_auroc("msp") is None


def test_pictures_are_small_and_readable(written):
    _, _, paths = written
    pictures = [path for path in paths if path.suffix == ".png"]
    assert {path.stem for path in pictures} == {
        "scores",
        "roc",
        "calibration",
        "p_values",
        "latent",
    }
    assert sum(path.stat().st_size for path in pictures) < 1_500_000
    for path in pictures:
        with Image.open(path) as image:
            assert image.width >= 600
            assert len(image.convert("RGB").getcolors(1 << 24)) > 10  # not blank


def test_the_detector_that_decides_is_named_among_many_curves():
    scores = make_scores()
    many = ["msp", "knn", *(f"d{number}" for number in range(12)), "combined"]

    def spread(by_detector):
        return {name: next(iter(by_detector.values())) for name in many}

    ood = {name: spread(by_detector) for name, by_detector in scores.ood.items()}
    crowd = Scores(
        spread(scores.calibration), spread(scores.id_test), ood, dict.fromkeys(many, 0.0)
    )
    (legend,) = roc_curves(crowd, "combined").legends
    shown = [text.get_text() for text in legend.get_texts()]
    assert shown[0] == "combined (decides)"
    assert shown[1:4] == ["msp", "knn", "d0"]
    assert shown.count("others") == 1
    (without,) = roc_curves(crowd).legends
    assert "combined" not in " ".join(text.get_text() for text in without.get_texts())


def test_same_report_same_bytes(tmp_path):
    scores, latents = make_scores(), make_latents()
    report = make_report(scores)
    first = write_report(tmp_path / "a", report, scores, latents)
    second = write_report(tmp_path / "b", report, scores, latents)
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_extreme_scores_can_be_drawn(tmp_path):
    """Constant, huge, tiny and infinite scores; no OOD set; too few scores for 99 %."""
    calibration = {"flat": np.zeros(30), "huge": np.geomspace(1e-6, 1e6, 30)}
    scores = Scores(
        calibration=calibration,
        id_test={"flat": np.zeros(20), "huge": np.r_[calibration["huge"][:19], math.inf]},
        ood={"far": {"flat": np.ones(5), "huge": np.array([math.inf, 1e30, -math.inf])}},
        thresholds={"flat": 0.0, "huge": 1e5},
    )
    report = Report(
        title="extremes",
        bundle="x/1",
        test_accuracy=None,
        counts={},
        seeds=(),
        config={},
        libraries={},
        machine={},
        detectors=detector_records(scores, {"flat": "", "huge": ""}),
        ood_sets=(OodSet("far"),),
        rows=table_rows(scores),
        calibration=calibration_records(scores),
    )
    paths = write_report(tmp_path, report, scores)
    assert read_report(paths[0]) == report
    assert "latent" not in {path.stem for path in paths}
    without = replace(report, rows=(), ood_sets=())
    stems = {path.stem for path in write_report(tmp_path / "id", without, replace(scores, ood={}))}
    assert stems == {"report", "scores", "calibration", "p_values"}


def test_principal_plane_finds_the_widest_directions():
    rng = np.random.default_rng(2)
    features = rng.normal(size=(500, 6)) * np.array([1, 1, 9, 1, 5, 1]) + 3
    centre, plane, shares = principal_plane(features)
    assert centre == pytest.approx(features.mean(axis=0))
    assert plane.T @ plane == pytest.approx(np.eye(2), abs=1e-12)
    assert [int(np.argmax(np.abs(axis))) for axis in plane.T] == [2, 4]
    assert shares[0] == pytest.approx(81 / 110, abs=0.05)
    _, flat, _ = principal_plane(np.ones((5, 1)))
    assert flat.shape == (1, 2)


def test_inconsistent_reports_are_refused():
    scores = make_scores()
    report = make_report(scores)
    with pytest.raises(ValueError, match="repeat"):
        replace(report, rows=(*report.rows, report.rows[0]))
    with pytest.raises(ValueError, match="not listed"):
        replace(report, ood_sets=report.ood_sets[1:])
    with pytest.raises(ValueError, match="vim"):
        replace(report, primary="vim")
    with pytest.raises(ValueError, match="no metric"):
        Published("auc", 0.9, "x")
    with pytest.raises(ValueError, match="divide by 100"):
        Published("auroc", 98.6, "x")


def test_inconsistent_scores_are_refused():
    scores = make_scores()
    with pytest.raises(ValueError, match=r"test-ID: detectors differ .*\['knn'\]"):
        replace(scores, id_test={d: scores.id_test[d] for d in ("combined", "msp")})
    with pytest.raises(ValueError, match="calibration, msp: no scores"):
        replace(scores, calibration={**scores.calibration, "msp": np.array([])})
    latents = make_latents()
    with pytest.raises(ValueError, match="differ in number"):
        replace(latents, id_labels=latents.id_labels[1:])
    with pytest.raises(ValueError, match="do not fit"):
        replace(latents, ood_features={"x": np.zeros((4, 3))})


def test_report_json_is_plain_records():
    report = make_report(make_scores())
    assert json.loads(report_json(report)).keys() == asdict(report).keys()
