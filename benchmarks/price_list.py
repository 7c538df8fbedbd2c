"""What does each detector cost on top of the plain classifier?  python -m benchmarks.price_list

One run, about ten minutes on a quiet core: the network and every detector of a config, with
random weights (a price has nothing to do with what the weights are).  Writes
results/price_list-<config>.json, a picture, and docs/price-list.md from all such results.
--quick prints a rough table and writes nothing.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from benchmarks.prices.measure import measure
from benchmarks.prices.picture import draw
from benchmarks.prices.records import PriceList
from benchmarks.prices.report import page, rich_table
from benchmarks.prices.workload import drawn_workload
from training.config import load_config
from training.evaluation.timing import FEWEST_PAIRS, Limits

BATCHES = (1, 8, 32)
SECONDS = 60.0
RESULTS = Path(__file__).parent / "results"
DOCS = Path(__file__).parents[1] / "docs"
PAGE = DOCS / "price-list.md"
_CONFIG = Path(__file__).parents[1] / "training" / "configs" / "cifar10.toml"
_QUICK_BATCHES = (1, 8)


def read_all(results: Path = RESULTS) -> list[PriceList]:
    """Every recorded price list, by config."""
    files = sorted(results.glob("price_list-*.json"))
    return [PriceList.model_validate_json(file.read_text(encoding="utf-8")) for file in files]


def write(listed: PriceList) -> None:
    """Record, picture, and the page of all records."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    record = listed.model_dump_json(indent=1) + "\n"
    (RESULTS / f"price_list-{listed.config}.json").write_text(record, encoding="utf-8")
    draw(listed, DOCS / listed.picture)
    PAGE.write_text(page(read_all()), encoding="utf-8")


def _arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.price_list")
    parser.add_argument("--config", type=Path, default=_CONFIG, help="of oodscore-train run")
    parser.add_argument(
        "--seconds", type=float, default=SECONDS, help="of timing, at least, at each batch size"
    )
    parser.add_argument("--quick", action="store_true", help="few rounds; writes nothing")
    return parser.parse_args(given)


def main(given: Sequence[str] | None = None) -> None:
    arguments = _arguments(given)
    workload = drawn_workload(load_config(arguments.config))
    console = Console(width=150)
    if arguments.quick:
        limits = Limits(seconds=0, rounds=FEWEST_PAIRS)
        console.print(rich_table(measure(workload, _QUICK_BATCHES, limits)))
        console.print("--quick: nothing is written")
        return
    listed = measure(workload, BATCHES, Limits(seconds=arguments.seconds))
    console.print(rich_table(listed))
    write(listed)
    console.print(f"written: {RESULTS}/price_list-{listed.config}.json, {PAGE}")


if __name__ == "__main__":
    main()
