"""Synthetic genomes: the chains against their own laws, the files as the reader sees them."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from benchmarks.genomes import ORDERS, READ, Chain, random_chain, repeats, write_genomes
from training.config import load_config
from training.data.text_sources import read_fasta

CONFIG = Path(__file__).parents[2] / "training" / "configs" / "sequences.toml"


def test_a_chain_follows_its_transitions() -> None:
    """Counts of what comes after each context, row by row of the matrix."""
    chain = random_chain(np.random.default_rng(0), 2)
    drawn = chain.draw(np.random.default_rng(1), 60, 3000)
    counts = np.zeros((16, 4))
    np.add.at(counts, (4 * drawn[:, :-2] + drawn[:, 1:-1], drawn[:, 2:]), 1)
    np.testing.assert_allclose(
        counts / counts.sum(1, keepdims=True), chain.transitions, atol=4 * 0.5 / 8000**0.5
    )


def test_a_chain_starts_in_its_stationary_law() -> None:
    chain = Chain(1, np.array([[0.9, 0.1, 0, 0], [0, 0.5, 0.5, 0], [0, 0, 0, 1], [1, 0, 0, 0]]))
    values, vectors = np.linalg.eig(chain.transitions.T)
    law = np.real(vectors[:, np.argmax(np.real(values))])
    first = chain.draw(np.random.default_rng(2), 20_000, 1)[:, 0]
    shares = np.bincount(first, minlength=4) / len(first)
    np.testing.assert_allclose(shares, law / law.sum(), atol=0.015)


def test_repeats_repeat() -> None:
    """Some period of 2 to 6 explains all but the changed nucleotides; i.i.d. ones have none."""
    rng = np.random.default_rng(3)

    def best_period(row: np.ndarray) -> float:
        return max(float((row[p:] == row[:-p]).mean()) for p in range(2, 7))

    assert min(map(best_period, repeats(rng, 100, READ))) > 0.8
    assert max(map(best_period, rng.integers(0, 4, (100, READ)))) < 0.5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("genomes")
    write_genomes(root, reads=20, ood_reads=80, seed=5)
    return root


def test_the_reader_sees_classes_and_reads(folder: Path) -> None:
    for part, count in (("id", 20), ("unseen", 10), ("composition", 10)):
        found = read_fasta(part, path=str(folder / part), read_length=READ)
        assert Counter(found.labels.tolist()) == dict.fromkeys(range(len(ORDERS)), count)
        assert {len(text) for text in found.texts} == {READ}
        assert set("".join(found.texts)) == set("ACGT")
    for part in ("uniform", "repeats"):
        found = read_fasta(part, path=str(folder / f"{part}.fasta"), read_length=READ)
        assert len(found) == 80
        assert set(found.labels.tolist()) == {-1}


def test_composition_keeps_the_mix_of_its_class(folder: Path) -> None:
    for file in sorted((folder / "id").iterdir()):
        (whole,) = {"".join(read_fasta("x", path=str(file)).texts)}
        alone = "".join(read_fasta("x", path=str(folder / "composition" / file.name)).texts)
        for letter in "ACGT":
            share, other = (text.count(letter) / len(text) for text in (whole, alone))
            assert share == pytest.approx(other, abs=0.04)


def test_a_seed_writes_the_same_files(folder: Path, tmp_path: Path) -> None:
    write_genomes(tmp_path / "same", reads=20, ood_reads=80, seed=5)
    write_genomes(tmp_path / "other", reads=20, ood_reads=80, seed=6)
    for file in sorted(folder.rglob("*.fasta")):
        name = file.relative_to(folder)
        assert (tmp_path / "same" / name).read_bytes() == file.read_bytes()
        assert (tmp_path / "other" / name).read_bytes() != file.read_bytes()


@pytest.mark.parametrize(("reads", "ood_reads"), [(25, 80), (20, 90), (0, 80), (20, 0)])
def test_counts_that_cannot_be_cut_are_refused(tmp_path: Path, reads: int, ood_reads: int) -> None:
    with pytest.raises(ValueError, match="multiples of 10 and of 80"):
        write_genomes(tmp_path, reads=reads, ood_reads=ood_reads, seed=0)


def test_the_config_reads_what_is_written() -> None:
    data = load_config(CONFIG).data
    sources = [source for sources in data.test_ood.values() for source in sources]
    paths = {source.arguments["path"] for source in (*data.train, *sources)}
    parts = ("id", "unseen", "composition", "uniform.fasta", "repeats.fasta")
    assert paths == {f"data/genomes/{part}" for part in parts}
    assert all(source.arguments["read_length"] == READ for source in (*data.train, *sources))
