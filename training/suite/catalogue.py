"""The experiments by name: what each repeats, and what it takes."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from training.active.own_studies import OWN_STUDIES
from training.benchmarks import benchmark_config, finished, run_benchmark
from training.config import RunConfig
from training.studies import STUDIES, load_study, run_study, study_finished

Seeds = tuple[int, ...]


@dataclass(frozen=True)
class Experiment:
    """`minutes`: of one seed, roughly; with `gpu` on one of a data centre, otherwise on two
    processor cores.  `before`: the command that makes what its config reads."""

    repeats: str
    minutes: int
    gpu: bool = False
    before: str = ""


_OUTLIERS = "oodscore-train outliers training/configs"
# Times on GPUs are estimates from the number of multiplications: none of these was run here.
EXPERIMENTS: dict[str, Experiment] = {
    "active-learning": Experiment("ours: what to label in a contaminated pool", 5),
    "binary-head": Experiment("ours: what a binary head knows of other outliers", 10),
    "cifar10": Experiment("OpenOOD v1.5 (arXiv:2306.09301), short training", 150),
    "cifar10-densenet": Experiment("ODIN (arXiv:1706.02690)", 150, gpu=True),
    "cifar10-finetunes": Experiment(
        "generative outlier exposure; energy (arXiv:2010.03759), short fine-tuning",
        20,
        before=f"{_OUTLIERS}/cifar10.toml --generator vae --epochs 3 --count 2500 "
        "--out $OODSCORE_OUTLIERS/things",
    ),
    "cifar10-open-set": Experiment("VMDLS, table 2 (UAI 2022)", 180, gpu=True),
    "cifar10-outliers": Experiment(
        "generative outlier exposure; energy (arXiv:2010.03759)",
        200,
        gpu=True,
        before=f"{_OUTLIERS}/cifar10_densenet.toml --generator gan --count 50000 "
        "--out $OODSCORE_OUTLIERS/cifar10",
    ),
    "cifar10-resnet": Experiment(
        "FSSD (arXiv:2012.12682); Mahalanobis (arXiv:1807.03888)", 120, gpu=True
    ),
    "cifar100-densenet": Experiment("ODIN (arXiv:1706.02690)", 150, gpu=True),
    "cifar100-outliers": Experiment(
        "generative outlier exposure; energy (arXiv:2010.03759)",
        200,
        gpu=True,
        before=f"{_OUTLIERS}/cifar100_densenet.toml --generator gan --count 50000 "
        "--out $OODSCORE_OUTLIERS/cifar100",
    ),
    "disambiguation": Experiment("ours: what is OOD, what is new, what is ambiguous", 3),
    "dose-images": Experiment(
        "ours: spread and number of generated images",
        15,
        before="the commands on top of training/configs/studies/dose_images.toml",
    ),
    "dose-texts": Experiment(
        "generative outlier exposure, texts: temperature and number",
        15,
        before="the commands on top of training/configs/studies/dose_texts.toml",
    ),
    "fashion-mnist": Experiment("FSSD (arXiv:2012.12682)", 15),
    "fashion-mnist-ensemble": Experiment("FSSD (arXiv:2012.12682), its deep ensemble", 45),
    "imbalance": Experiment("ours: outliers and rare classes", 10),
    "latent-shape": Experiment("ours: what an objective does to the features", 10),
    "mnist": Experiment("the softmax baseline (arXiv:1610.02136)", 6),
    "newsgroups": Experiment("outlier exposure's GRU (arXiv:1812.04606)", 10),
    "newsgroups-outliers": Experiment(
        "generative outlier exposure, texts",
        10,
        before="the command on top of training/configs/studies/posts.toml",
    ),
    "objectives": Experiment(
        "ours: every objective, the same data",
        30,
        before=f"{_OUTLIERS}/studies/garments.toml --generator vae --count 5000 --epochs 8 "
        "--out $OODSCORE_OUTLIERS/garments",
    ),
    "open-set": Experiment("VMDLS, table 3 (UAI 2022), short training", 25),
    "open-set-losses": Experiment("VMDLS, tables 4 and 5 (UAI 2022), short training", 15),
    "sequences": Experiment(
        "FSSD's genomes (arXiv:2012.12682), synthetic ones here",
        30,
        before="python -m benchmarks.genomes data/genomes",
    ),
}


def configs(name: str) -> dict[str, RunConfig]:
    """Arm -> its config with seed 0; of a single network, one entry called as the experiment.
    None of a study whose arms are no runs.  ValueError on an unknown name."""
    if name in OWN_STUDIES:
        return {}
    if name in STUDIES:
        study = load_study(name)
        return {arm.name: study.config(arm, 0) for arm in study.arms}
    return {name: benchmark_config(name)}


def is_finished(name: str, seeds: Seeds, out: Path) -> bool:
    """Whether `out` holds the result of exactly this."""
    if name in OWN_STUDIES:
        return OWN_STUDIES[name].finished(seeds, out)
    check = study_finished if name in STUDIES else finished
    return check(name, seeds, out)


def runner(name: str) -> Callable[[str, Seeds, Path, Path], object]:
    """What measures it: (name, seeds, runs, out)."""
    if name in OWN_STUDIES:
        return lambda name, seeds, _, out: OWN_STUDIES[name].measure(seeds, out)
    return run_study if name in STUDIES else run_benchmark
