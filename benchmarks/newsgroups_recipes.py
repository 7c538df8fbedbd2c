"""What of the published 20 Newsgroups figures is text, what is training?

python -m benchmarks.newsgroups_recipes

training/configs/newsgroups.toml differs in two things from the experiment whose figures are
published (generative outlier exposure).  Its posts and its Reuters-52 are lower-case letters alone,
without words of one or two letters and without stop words, while its Multi30k and WMT keep theirs;
ours are texts as they were written, posts without headers, quotes and footers.  And its recipe is
another.  Here each is changed alone, on the seed of the config; the network without either change
is the benchmark's.  Writes results/newsgroups_recipes.json after every arm; an arm that stands
there is not trained again.  No figure here chooses anything.
"""

import gzip
import json
import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

from service.bundle import TextInput
from training.config import DetectorConfig, RunConfig, SourceConfig, expand_variables, load_config
from training.data import Roles, TextSet, load_roles
from training.detectors import DETECTORS
from training.evaluation.metrics import auroc, fpr_at_ood_detection
from training.fitting import fit_detectors, score_set, torch_network
from training.pipeline import train_member
from training.scorer import Scorer

CONFIG = Path(__file__).parents[1] / "training" / "configs" / "newsgroups.toml"
RESULT = Path(__file__).parent / "results" / "newsgroups_recipes.json"
SCORES = ("msp", "energy")
_FILTERED = "reuters52"


@dataclass(frozen=True)
class Arm:
    """filtered: texts without stop words where the published ones are; recipe: changes to
    [optimiser]."""

    what: str
    filtered: bool
    recipe: Mapping[str, Any]


_PUBLISHED: Mapping[str, Any] = {"lr": 1e-3, "schedule": "steps", "epochs": 10, "batch_size": 32}
ARMS = {
    "texts": Arm("texts as published", filtered=True, recipe={}),
    "recipe": Arm("recipe as published", filtered=False, recipe=_PUBLISHED),
}


@dataclass(frozen=True)
class Outcome:
    """One arm on one seed; auroc, fpr95: score -> OOD set -> share (FPR on the OOD side)."""

    what: str
    accuracy: float
    median_tokens: dict[str, float]
    unknown: dict[str, float]  # share of the tokens, by set
    auroc: dict[str, dict[str, float]]
    fpr95: dict[str, dict[str, float]]


def without_stop_words(text: str) -> str:
    """Runs of three or more letters, in lower case, that are no stop words (scikit-learn's)."""
    words = re.findall(r"[a-z]+", text.lower())
    return " ".join(word for word in words if len(word) > 2 and word not in ENGLISH_STOP_WORDS)


def whole_post(row: Mapping[str, str]) -> str:
    """Subject and body, quotes and signature included."""
    return f"{row['subject']} {row['raw'].partition(chr(10) * 2)[2]}"


def run_arm(arm: Arm, base: RunConfig, folder: Path) -> Outcome:
    """Train the network of `base` with the arm's changes; `folder` takes texts and checkpoint."""
    data = base.data
    if arm.filtered:
        data = data.model_copy(
            update={
                "train": (_rewritten(folder, data.train[0]),),
                "test_ood": data.test_ood
                | {_FILTERED: (_rewritten(folder, data.test_ood[_FILTERED][0]),)},
            }
        )
    recipe = base.optimiser
    assert recipe is not None, base.name  # noqa: S101
    config = base.model_copy(
        update={
            "data": data.model_copy(update={"proxy_ood": ()}),
            "optimiser": recipe.model_copy(update=dict(arm.recipe)),
            "detectors": tuple(DetectorConfig(name=name) for name in SCORES),
            "combiners": (),
        }
    )
    roles = load_roles(config.data, config.form, config.seed)
    classifier, _ = train_member(config, roles, folder, config.seed)
    detectors = [DETECTORS[name]() for name in SCORES]
    fit_detectors(classifier, detectors, roles.train_id, roles.dev_id)
    return _measured(arm.what, torch_network(Scorer(classifier, detectors).eval()), roles)


def _measured(what: str, network: Any, roles: Roles) -> Outcome:
    inside = score_set(network, roles.test_id)
    outside = {name: score_set(network, ood).scores for name, ood in roles.test_ood.items()}

    def each(metric: Any) -> dict[str, dict[str, float]]:
        return {
            score: {
                name: round(float(metric(inside.scores[score], scores[score])), 5)
                for name, scores in outside.items()
            }
            for score in SCORES
        }

    sets = {"test_id": roles.test_id, **roles.test_ood}
    texts = {name: part for name, part in sets.items() if isinstance(part, TextSet)}
    assert isinstance(roles.spec, TextInput)  # noqa: S101
    unknown_id = roles.spec.unknown_id
    return Outcome(
        what,
        round(float((inside.logits.argmax(1) == roles.test_id.labels).mean()), 5),
        {name: float(np.median(part.lengths())) for name, part in texts.items()},
        {
            name: round(float((part.inputs == unknown_id).sum() / part.lengths().sum()), 5)
            for name, part in texts.items()
        },
        each(auroc),
        each(lambda id_scores, ood: fpr_at_ood_detection(id_scores, ood, 0.95)),
    )


def _rewritten(folder: Path, source: SourceConfig) -> SourceConfig:
    """The texts of a JSONL file without stop words, as a file in `folder`; of posts all."""
    path: str = source.arguments["path"]
    target = folder / f"{Path(path).parent.name}.jsonl"
    with target.open("w", encoding="utf-8") as file:
        for row in _rows(path):
            text = without_stop_words(whole_post(row) if "raw" in row else row["text"])
            file.write(json.dumps({"text": text, "label": row["label"]}) + "\n")
    return SourceConfig.model_validate({"source": "jsonl", "path": str(target)})


def _rows(path: str) -> Iterator[dict[str, str]]:
    expanded = expand_variables(path)
    if expanded is None:
        raise SystemExit("set OODSCORE_DATA to the folder of data sets")
    with gzip.open(expanded, "rt", encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def show(outcomes: Mapping[str, Mapping[str, Any]]) -> None:
    table = Table("arm", "accuracy", *SCORES)
    for outcome in outcomes.values():
        areas = [f"{100 * np.mean(list(outcome['auroc'][name].values())):.1f}" for name in SCORES]
        table.add_row(outcome["what"], f"{100 * outcome['accuracy']:.1f}", *areas)
    Console().print(table)


def main() -> None:
    base = load_config(CONFIG)
    found = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    for name, arm in ARMS.items():
        if name in found:
            continue
        with tempfile.TemporaryDirectory() as folder:
            found[name] = asdict(run_arm(arm, base, Path(folder)))
        RESULT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        show(found)


if __name__ == "__main__":
    main()
