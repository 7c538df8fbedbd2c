"""Corruption reports: spreads by hand, refusals, the files that are written."""

import json
import re
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training.data.corruptions import CORRUPTIONS, SEVERITIES
from training.evaluation.corruption import (
    ACCURACY,
    CorruptionCell,
    CorruptionReport,
    all_spreads,
    read_corruption_report,
    spread_over_kinds,
)
from training.evaluation.corruption_plots import contact_sheet, severity_curves
from training.evaluation.corruption_report import overview_table, write_corruption_report

DETECTORS = ("msp", "<combined>")


def a_report() -> CorruptionReport:
    kinds = tuple(CORRUPTIONS)
    cells = tuple(
        CorruptionCell(
            kind,
            severity,
            0.9 - 0.05 * severity - 0.01 * i,
            {"msp": 0.5 + 0.05 * severity, "<combined>": 0.5 + 0.02 * severity * (i % 4)},
        )
        for (i, kind), severity in product(enumerate(kinds), SEVERITIES)
    )
    return CorruptionReport(
        title="a < b",
        bundle="toy/1",
        primary="<combined>",
        data="made by hand",
        counts={ACCURACY: 100, "msp": 100, "<combined>": 40},
        seed=0,
        clean_accuracy=0.9,
        detectors=DETECTORS,
        kinds=kinds,
        severities=SEVERITIES,
        cells=cells,
        spreads=all_spreads(cells, DETECTORS, SEVERITIES),
        libraries={"numpy": np.__version__},
        machine={"cores": "2"},
        remarks=("mind & read",),
    )


def test_a_spread_by_hand() -> None:
    cells = [
        CorruptionCell("snow", 1, 0.5, {"msp": 0.6}),
        CorruptionCell("fog", 1, 0.7, {"msp": 0.8}),
        CorruptionCell("frost", 1, 0.6, {"msp": 1.0}),
        CorruptionCell("snow", 2, 0.0, {"msp": 0.0}),
    ]
    spread = spread_over_kinds(cells, 1, lambda cell: cell.auroc["msp"])
    assert spread.severity == 1
    assert spread.mean == pytest.approx(0.8)
    assert spread.deviation == pytest.approx(0.2)  # sqrt((0.04 + 0 + 0.04) / 2)
    assert (spread.lowest, spread.lowest_kind) == (0.6, "snow")
    assert (spread.highest, spread.highest_kind) == (1.0, "frost")


def test_spreads_cover_accuracy_and_every_detector_at_every_severity() -> None:
    report = a_report()
    assert list(report.spreads) == [ACCURACY, *DETECTORS]
    for name, spreads in report.spreads.items():
        assert [spread.severity for spread in spreads] == list(SEVERITIES)
        for spread in spreads:
            values = [report.at(kind, spread.severity).value(name) for kind in report.kinds]
            assert spread.mean == pytest.approx(sum(values) / 16)
            assert (spread.lowest, spread.highest) == (min(values), max(values))
            assert report.at(spread.lowest_kind, spread.severity).value(name) == spread.lowest


def test_an_incomplete_report_is_refused() -> None:
    report = a_report()
    with pytest.raises(ValueError, match=r"lack.*jpeg_compression.*5"):
        replace(report, cells=report.cells[:-1])
    with pytest.raises(ValueError, match="lack or repeat"):
        replace(report, cells=(*report.cells, report.cells[0]))
    with pytest.raises(ValueError, match=r"gaussian_noise, severity 1.*energy"):
        replace(report, detectors=(*DETECTORS, "energy"))


@pytest.mark.parametrize("channels", [1, 3])
def test_report_files(tmp_path: Path, channels: int) -> None:
    report = a_report()
    image = np.random.default_rng(0).integers(0, 256, (16, 20, channels), dtype=np.uint8)
    written = write_corruption_report(tmp_path / "new", report, image)
    assert all(path.stat().st_size > 0 for path in written)
    assert read_corruption_report(tmp_path / "new" / "report.json") == report
    assert len(json.loads((tmp_path / "new" / "report.json").read_text())["cells"]) == 80
    page = (tmp_path / "new" / "report.html").read_text()
    for kind in CORRUPTIONS:
        assert f">{kind}<" in page
    assert "&lt;combined&gt; (default)" in page
    assert "<combined>" not in page
    assert "a &lt; b" in page
    assert "mind &amp; read" in page
    assert page.count("data:image/png;base64,") == 2
    assert not re.search(r'(src|href)="(?!data:|#)', page)
    # a table an overview, a severity, accuracy and a detector
    assert page.count("<table>") == 1 + 5 + 1 + len(DETECTORS)


def test_shown_numbers_are_the_reports(tmp_path: Path) -> None:
    report = a_report()
    write_corruption_report(tmp_path, report, np.zeros((8, 8, 1), np.uint8))
    page = (tmp_path / "report.html").read_text()
    spread = report.spreads["msp"][4]
    assert f"<td>{100 * spread.mean:.2f}<small>± {100 * spread.deviation:.2f}</small>" in page
    accuracy = report.spreads[ACCURACY][4]
    assert f"{100 * accuracy.lowest:.2f}<small>{accuracy.lowest_kind}</small>" in page


def test_nan_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    report = replace(a_report(), clean_accuracy=float("nan"))
    with pytest.raises(ValueError, match="JSON"):
        write_corruption_report(tmp_path / "new", report, np.zeros((8, 8, 1), np.uint8))
    assert not (tmp_path / "new").exists()


def test_curves_show_mean_and_bands() -> None:
    report = a_report()
    figure = severity_curves(report)
    assert [ax.get_title() for ax in figure.axes] == [ACCURACY, *(f"AUROC, {d}" for d in DETECTORS)]
    for ax, name in zip(figure.axes, report.spreads, strict=True):
        drawn = np.asarray(ax.lines[0].get_ydata(), float)
        np.testing.assert_allclose(drawn, [100 * s.mean for s in report.spreads[name]])
        ranges = ax.collections[0].get_paths()[0].get_extents()
        assert ranges.ymin == pytest.approx(100 * min(s.lowest for s in report.spreads[name]))
        assert ranges.ymax == pytest.approx(100 * max(s.highest for s in report.spreads[name]))


def test_the_sheet_shows_the_clean_image_and_every_cell(tmp_path: Path) -> None:
    image = np.full((12, 9, 3), 200, np.uint8)
    figure = contact_sheet(image, seed=0)
    shown = [ax.images[0].get_array() for ax in figure.axes]
    assert [sheet.shape for sheet in shown if sheet is not None] == [(8 * 14, 6 * 11, 3)] * 2
    names = [label.get_text() for ax in figure.axes for label in ax.get_yticklabels()]
    assert names == list(CORRUPTIONS)
    figure.savefig(tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as picture:
        assert picture.width > 800


def test_the_terminal_table_has_a_row_a_detector() -> None:
    grid = overview_table(a_report())
    assert grid.row_count == 1 + len(DETECTORS)
    assert len(grid.columns) == 1 + len(SEVERITIES)
    assert list(grid.columns[1].cells)[1].startswith("55.0 ± 0.0")
