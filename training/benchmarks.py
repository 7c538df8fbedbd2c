"""Published experiments, run again: several seeds, our numbers beside the literature's."""

from dataclasses import fields, replace
from importlib import resources
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from training.config import RunConfig, load_config
from training.config_checks import check_config
from training.data import load_roles
from training.evaluation.by_seed import gather_by_seed, write_by_seed
from training.evaluation.intervals import student_interval
from training.evaluation.metrics import OodMetrics
from training.evaluation.records import PUBLISHED_TOLERANCE, Report, Row
from training.evaluation.report import REPORT_JSON, read_report, report_json, write_report
from training.evaluation.tables import Latents, Scores
from training.fitting import torch_network
from training.pipeline import score_roles, train_and_fit
from training.progress import say
from training.reporting import build_report, collect_latents, machine

# name -> config of this package
BENCHMARKS: dict[str, str] = {
    "cifar10": "cifar10.toml",
    "cifar10-densenet": "cifar10_densenet.toml",
    "cifar10-resnet": "cifar10_resnet.toml",
    "cifar100-densenet": "cifar100_densenet.toml",
    "fashion-mnist": "fashion_mnist.toml",
    "fashion-mnist-ensemble": "fashion_mnist_ensemble.toml",
    "mnist": "mnist.toml",
    "newsgroups": "newsgroups.toml",
    "sequences": "sequences.toml",
}


def run_benchmark(name: str, seeds: tuple[int, ...], runs: Path, out: Path) -> Report:
    """Train and score one network a seed; write report.json, report.html, plots, by_seed.json.

    Every metric of the report is the mean over the seeds, by_seed.json has those of each; both are
    written anew after every seed.  A seed that was measured before, by the same commit, is read
    from `runs`; only the first one is scored again, for the pictures.  ValueError on an unknown
    name.
    """
    if not seeds:
        raise ValueError("at least one seed is needed")
    base = benchmark_config(name)
    check_config(base)
    reports: list[Report] = []
    pictured: tuple[Scores, Latents] | None = None
    for seed in seeds:
        config = base.model_copy(update={"seed": seed})
        kept = runs / f"{config.name}-seed{seed}-report.json"
        report = _kept_report(kept, config)
        if report is None or pictured is None:
            report, scores, latents = _measured(name, config, runs)
            runs.mkdir(parents=True, exist_ok=True)
            kept.write_text(report_json(report), encoding="utf-8")
            if pictured is None:
                pictured = (scores, latents)
        say(f"seed {seed}: test accuracy {100 * (report.test_accuracy or 0):.2f} %")
        reports.append(report)
        mean = mean_report(reports)
        write_report(out, mean, *pictured)
        write_by_seed(out, gather_by_seed(reports))
    return mean_report(reports)


def benchmark_config(name: str) -> RunConfig:
    """ValueError on an unknown name."""
    if name not in BENCHMARKS:
        raise ValueError(f"no benchmark {name!r}; choose of {sorted(BENCHMARKS)}")
    with resources.as_file(resources.files("training") / "configs" / BENCHMARKS[name]) as path:
        return load_config(path)


def finished(name: str, seeds: tuple[int, ...], out: Path) -> bool:
    """Whether `out` holds today's config measured with these seeds."""
    path = out / REPORT_JSON
    if not path.exists():
        return False
    report = read_report(path)
    wanted = benchmark_config(name).model_copy(update={"seed": seeds[0]})
    return report.seeds == seeds and report.config == wanted.model_dump(mode="json")


def _kept_report(path: Path, config: RunConfig) -> Report | None:
    """One seed's report of an earlier call, where code and config are the same."""
    if not path.exists():
        return None
    report = read_report(path)
    same = report.config == config.model_dump(mode="json")
    return report if same and report.machine.get("commit") == machine()["commit"] else None


def _measured(name: str, config: RunConfig, runs: Path) -> tuple[Report, Scores, Latents]:
    roles = load_roles(config.data, config.form, config.seed, config.outliers)
    scorers, _ = train_and_fit(config, roles, runs)
    networks = [torch_network(part) for part in (scorers.forward, *scorers.sides)]
    scored = score_roles(networks, roles, config)
    report = build_report(
        config, scorers, roles, scored.scores, scored.accuracy, bundle=f"benchmark {name}"
    )
    return report, scored.scores, collect_latents(scorers, roles)


def mean_report(reports: list[Report]) -> Report:
    """One report a seed -> one whose metrics are means over the seeds."""
    first = reports[0]
    rows = []
    for position, row in enumerate(first.rows):
        per_seed = [report.rows[position].metrics for report in reports]
        metrics = _mean_metrics(per_seed)
        aurocs = tuple(metric.auroc for metric in per_seed)
        rows.append(
            Row(
                row.ood_set,
                row.detector,
                metrics,
                student_interval(aurocs) if len(reports) > 1 else row.auroc_interval,
                aurocs,
                row.published,
            )
        )
    accuracies = [report.test_accuracy for report in reports if report.test_accuracy is not None]
    remarks = list(first.remarks)
    if len(reports) > 1:
        remarks.insert(
            0,
            "Every metric is the mean over the seeds, its interval the 95 % Student interval of "
            "that mean; thresholds, the calibration check and all pictures are those of the first "
            "seed. Accuracy by seed: " + ", ".join(f"{100 * a:.2f} %" for a in accuracies) + ".",
        )
    return replace(
        first,
        test_accuracy=float(np.mean(accuracies)),
        seeds=tuple(seed for report in reports for seed in report.seeds),
        rows=tuple(rows),
        remarks=tuple(remarks),
    )


def print_comparison(report: Report) -> None:
    """Ours beside the published numbers, per cent, to stdout."""
    table = Table(title=f"{report.title}; seeds {', '.join(map(str, report.seeds))}")
    for column in ("OOD set", "detector", "metric", "ours", "by seed (AUROC)", "published", "gap"):
        table.add_column(column, justify="left" if column in ("OOD set", "detector") else "right")
    for row in report.rows:
        by_seed = " ".join(f"{100 * auroc:.1f}" for auroc in row.auroc_by_seed)
        if not row.published:
            table.add_row(
                row.ood_set, row.detector, "auroc", f"{100 * row.metrics.auroc:.1f}", by_seed
            )
        for published in row.published:
            table.add_row(
                row.ood_set,
                row.detector,
                published.metric,
                f"{100 * getattr(row.metrics, published.metric):.1f}",
                by_seed if published.metric == "auroc" else "",
                f"{100 * published.value:.1f}",
                f"{100 * row.difference(published):+.1f}",
            )
    console = Console(width=None if Console().is_terminal else 120)
    console.print(table)
    console.print(f"test accuracy {100 * (report.test_accuracy or 0):.2f} %")
    for row in report.rows:
        large = [p for p in row.published if abs(row.difference(p)) > PUBLISHED_TOLERANCE]
        if large:
            console.print(f"[bold]{row.detector}[/]: {large[0].explanation}")


def _mean_metrics(metrics: list[OodMetrics]) -> OodMetrics:
    means = {
        field.name: float(np.mean([getattr(metric, field.name) for metric in metrics]))
        for field in fields(OodMetrics)
        if field.name not in ("id_count", "ood_count", "threshold")
    }
    return replace(metrics[0], **means)
