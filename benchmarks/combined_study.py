"""Which members, combined how, make `combined`?

    python -m benchmarks.combined_study --config fashion_mnist --seeds 0,1,2

Reads train-ID, dev-ID, cal-ID and outliers made from dev-ID (training/data/derived.py and
derived_texts.py); never a test-OOD set.  Each network (a finished checkpoint of `oodscore-train`)
scores them once with every detector of the forward graph; then every strategy of `strategies` is
judged leave-one-kind-out and `choose` takes one (benchmarks/member_search.py).

Writes its config's part of results/combined_study.json; `python -m benchmarks.combined_tables`
then writes the tables of docs/combined.md.  `--scores FOLDER` keeps the scores of each network
there and takes up those it finds.
"""

import json
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.combined_tables import RESULT
from benchmarks.environment import environment
from benchmarks.member_search import Judge, Outcome, SeedScores, Strategy, choose, evaluate
from training.combiners import Ensemble
from training.config import RunConfig, load_config
from training.data import load_roles
from training.data.derived import PROXIES
from training.data.derived_texts import TEXT_PROXIES
from training.detectors import DETECTORS
from training.fitting import score_set, torch_network
from training.pipeline import train_and_fit
from training.progress import say, track

CONFIGS = Path("training/configs")
RUNS = Path("runs")
# Layer ensembles of a config that are candidates themselves, with equal and with learnt weights.
LAYERED = ("mahalanobis_ensemble", "fssd_ensemble")


def strategies() -> list[Strategy]:
    """Every rule and standardisation x search x layer weights; single scores beside them, and
    the pair that was `combined` before this study."""
    rules: list[Strategy] = [
        Strategy("pair", "mean"),
        Strategy("pair", "mean", "median"),
        Strategy("pair", "max"),
        Strategy("pair", "fisher"),
        Strategy("pair", "stouffer"),
        Strategy("pair", "harmonic"),
    ]
    found = [Strategy("single"), Strategy("single", layer_weights="learnt")]
    found.append(Strategy("fixed", fixed=("energy", "mahalanobis_ensemble")))
    for rule, search, weights in product(rules, ("pair", "greedy", "all"), ("equal", "learnt")):
        found.append(Strategy(search, rule.rule, rule.standardisation, weights))
    return found


def score_network(config: RunConfig) -> SeedScores:
    """One network's scores of dev-ID, cal-ID and all proxies, layer ensembles included."""
    kinds = tuple(TEXT_PROXIES if config.modality == "text" else PROXIES)
    data = config.data.model_copy(update={"test_ood": {}, "proxy_ood": kinds})
    roles = load_roles(data, config.form, config.seed)
    detectors = tuple(d for d in config.detectors if d.name in DETECTORS)
    forward = config.model_copy(update={"detectors": detectors, "combiners": ()})
    scorers, _ = train_and_fit(forward, roles, RUNS)
    network = torch_network(scorers.forward)
    return SeedScores(
        score_set(network, roles.dev_id).scores,
        score_set(network, roles.cal_id).scores,
        {kind: score_set(network, images).scores for kind, images in roles.proxies.items()},
    )


def remembered(config: RunConfig, folder: Path | None) -> SeedScores:
    """`score_network`, or what an earlier call left in the folder."""
    if folder is None:
        return score_network(config)
    path = folder / f"{config.name}-seed{config.seed}.npz"
    if not path.exists():
        scores = score_network(config)
        parts = {"dev_id": scores.dev_id, "cal_id": scores.cal_id, **scores.proxies}
        arrays = {f"{part}/{n}": v for part, columns in parts.items() for n, v in columns.items()}
        folder.mkdir(parents=True, exist_ok=True)
        np.savez(path, allow_pickle=False, **arrays)
        return scores
    say(f"taking up {path}")
    found: dict[str, dict[str, np.ndarray[Any, np.dtype[np.float32]]]] = {}
    with np.load(path) as arrays:
        for key in arrays:
            part, _, name = key.partition("/")
            found.setdefault(part, {})[name] = arrays[key]
    return SeedScores(found.pop("dev_id"), found.pop("cal_id"), found)


def with_layered(scores: SeedScores, config: RunConfig) -> SeedScores:
    """The config's own layer ensembles beside their members."""
    for entry in config.combiners:
        if entry.name in LAYERED:
            standardisation = entry.standardisation or "mad"
            ensemble = Ensemble(entry.name, entry.members, entry.rule, standardisation)
            scores = scores.scored_by(ensemble.fit(scores.dev_id))
    return scores


def described(outcome: Outcome) -> dict[str, Any]:
    strategy = outcome.strategy

    def rounded(areas: dict[str, float]) -> dict[str, float]:
        return {kind: round(area, 5) for kind, area in areas.items()}

    return {
        "strategy": strategy.label,
        "search": strategy.search,
        "rule": strategy.rule,
        "standardisation": strategy.standardisation,
        "layer_weights": strategy.layer_weights,
        "left_out_mean": round(outcome.mean, 5),
        "left_out_worst": round(outcome.worst, 5),
        "left_out": rounded(outcome.left_out),
        "chosen_without": {kind: list(members) for kind, members in outcome.chosen.items()},
        "members": list(outcome.members),
        "seen": rounded(outcome.seen),
    }


def study(config: RunConfig, seeds: list[SeedScores]) -> dict[str, Any]:
    """The part of the result that is one config's."""
    layers = {entry.name: entry.members for entry in config.combiners if entry.name in LAYERED}
    judge = Judge(seeds, layers)
    outcomes = [evaluate(judge, strategy) for strategy in track(strategies(), "strategies")]
    singles = {
        member: judge.areas(Strategy("single"), (member,), None) for member in judge.pool("equal")
    }
    return {
        "kinds": list(judge.kinds),
        "counts": {
            "dev_id": len(next(iter(seeds[0].dev_id.values()))),
            "cal_id": len(next(iter(seeds[0].cal_id.values()))),
        },
        "chosen": described(choose(outcomes)),
        "single": described(next(o for o in outcomes if o.strategy.search == "single")),
        "outcomes": [described(o) for o in sorted(outcomes, key=lambda o: -o.mean)],
        "members": {
            member: {kind: round(area, 5) for kind, area in areas.items()}
            for member, areas in singles.items()
        },
    }


def show(part: dict[str, Any]) -> None:
    """The strategies, best first."""
    table = Table(title="AUROC on the kind left out, per cent; mean over kinds and networks")
    for column in ("strategy", "members", "worst", "mean"):
        table.add_column(column, justify="right" if column in ("worst", "mean") else "left")
    for row in part["outcomes"]:
        members = row["members"] if len(row["members"]) <= 5 else [f"{len(row['members'])} scores"]
        figures = (f"{100 * row[f'left_out_{name}']:.2f}" for name in ("worst", "mean"))
        table.add_row(row["strategy"], ", ".join(members), *figures)
    console = Console()
    console.print(table)
    chosen = part["chosen"]
    console.print(f"chosen: [bold]{chosen['strategy']}[/] of {', '.join(chosen['members'])}")


def main(
    config: Annotated[str, typer.Option(help="name of a file in training/configs, no ending")],
    seeds: Annotated[str, typer.Option(help="networks, by seed, with commas")] = "0",
    scores: Annotated[Path | None, typer.Option(help="folder to keep scores in")] = None,
) -> None:
    """Judge every strategy on outliers made from dev-ID; write results/combined_study.json."""
    base = load_config(CONFIGS / f"{config}.toml")
    numbers = [int(seed) for seed in seeds.split(",")]
    networks = []
    for seed in numbers:
        own = base.model_copy(update={"seed": seed})
        networks.append(with_layered(remembered(own, scores), own))
    part = {"environment": environment(), "seeds": numbers, **study(base, networks)}
    whole = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    whole[base.name] = part
    RESULT.write_text(json.dumps(whole, indent=1) + "\n")
    show(part)


if __name__ == "__main__":
    typer.run(main)
