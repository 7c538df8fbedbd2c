"""Which members make `combined`?  python -m benchmarks.combined_members

Candidates are compared on proxy outliers made from dev-ID (jigsaw, pixelate) against cal-ID, over
three seeds; no test set is read.  Rule: the highest mean AUROC; within 0.1 points the fewer
members.  Continues the checkpoints of `oodscore-train benchmark fashion-mnist`.
Writes results/combined_members.json.
"""

import json
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.environment import environment
from training.config import CombinerConfig, RunConfig, load_config
from training.data import load_roles
from training.evaluation.metrics import auroc
from training.fitting import score_set, torch_network
from training.pipeline import train_and_fit

CONFIG = Path("training/configs/fashion_mnist.toml")
RESULT = Path(__file__).parent / "results" / "combined_members.json"
SEEDS = (0, 1, 2)
PAIR = ("energy", "mahalanobis_ensemble")
CANDIDATES = {
    "mean of two": CombinerConfig(name="mean_of_two", members=PAIR),
    "largest of two": CombinerConfig(name="largest_of_two", members=PAIR, rule="max"),
    "mean of three": CombinerConfig(name="mean_of_three", members=(*PAIR, "fssd_density")),
    "largest of three": CombinerConfig(
        name="largest_of_three", members=(*PAIR, "fssd_density"), rule="max"
    ),
}


def proxy_aurocs(config: RunConfig) -> dict[str, dict[str, float]]:
    """Score name -> proxy -> AUROC against cal-ID, for one seed."""
    kept = tuple(entry for entry in config.combiners if entry.name == "mahalanobis_ensemble")
    config = config.model_copy(update={"combiners": (*kept, *CANDIDATES.values())})
    roles = load_roles(config.data.model_copy(update={"test_ood": {}}), config.input, config.seed)
    scorer, _ = train_and_fit(config, roles, Path("runs"))
    network = torch_network(scorer)
    calibration = score_set(network, roles.cal_id).scores
    proxies = {name: score_set(network, part).scores for name, part in roles.proxies.items()}
    named = {candidate: entry.name for candidate, entry in CANDIDATES.items()}
    named |= {member: member for member in (*PAIR, "fssd_density")}
    return {
        label: {
            proxy: round(auroc(calibration[score], scores[score]), 4)
            for proxy, scores in proxies.items()
        }
        for label, score in named.items()
    }


def main() -> None:
    config = load_config(CONFIG)
    by_seed = [proxy_aurocs(config.model_copy(update={"seed": seed})) for seed in SEEDS]
    means = {
        label: float(np.mean([area for seed in by_seed for area in seed[label].values()]))
        for label in by_seed[0]
    }
    table = Table(title="AUROC on proxy outliers, mean over seeds and proxies, per cent")
    table.add_column("score")
    table.add_column("mean", justify="right")
    for label, mean in sorted(means.items(), key=lambda item: -item[1]):
        table.add_row(label, f"{100 * mean:.2f}")
    Console().print(table)
    result = {
        "environment": environment(),
        "seeds": SEEDS,
        "means": {label: round(mean, 4) for label, mean in means.items()},
        "by_seed": by_seed,
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
