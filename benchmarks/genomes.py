"""Synthetic genomes as FASTA files:  python -m benchmarks.genomes data/genomes

A species is a Markov chain of some order over A, C, G, T.  `id/` holds a file for each class; the
OOD folders and files hold what no class made:
unseen       species drawn as the classes were, with other transitions
composition  each class's own mix of nucleotides, drawn independently: the chains of order 0
uniform      all four nucleotides alike, independently (FSSD's noise is of this kind)
repeats      one motif of 2 to 6 nucleotides over and over, 5 % of the nucleotides changed
The same seed writes the same files.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray

ALPHABET = np.frombuffer(b"ACGT", np.uint8)
READ = 250
ORDERS = (1, 1, 2, 2, 3, 3, 4, 4)  # of the classes, and of the unseen species
_BURN_IN = 100
_LINE = 70
# Dirichlet parameters: how alike the compositions of species are, how alike the rows of one chain
_COMPOSITION, _TRANSITIONS = 30.0, 6.0
_CHANGED = 0.05  # of the nucleotides of a repeat


@dataclass(frozen=True)
class Chain:
    """transitions: (4 ** order, 4); row number = the last `order` nucleotides, base 4."""

    order: int
    transitions: NDArray[np.float64]

    def draw(self, rng: np.random.Generator, count: int, length: int) -> NDArray[np.int64]:
        """Independent stretches of its stationary law, (count, length) in 0..3."""
        upper = self.transitions.cumsum(1)[:, :3]
        contexts = len(self.transitions)
        state = rng.integers(0, contexts, count)
        drawn = np.empty((_BURN_IN + length, count), np.int64)
        for step in drawn:
            step[:] = (rng.random(count)[:, None] >= upper[state]).sum(1)
            state = (4 * state + step) % contexts
        return drawn[_BURN_IN:].T


def random_chain(rng: np.random.Generator, order: int) -> Chain:
    """Rows scattered around a composition that is itself near (1/4, 1/4, 1/4, 1/4)."""
    composition = rng.dirichlet(np.full(4, _COMPOSITION))
    return Chain(order, rng.dirichlet(_TRANSITIONS * composition, 4**order))


def repeats(rng: np.random.Generator, count: int, length: int) -> NDArray[np.int64]:
    """(count, length) in 0..3, each row of a motif of its own that is not of one nucleotide."""
    rows = np.empty((count, length), np.int64)
    for row in rows:
        motif = rng.integers(0, 4, rng.integers(2, 7))
        motif[-1] = (motif[0] + rng.integers(1, 4)) % 4
        row[:] = np.resize(motif, length)
    changed = rng.random(rows.shape) < _CHANGED
    return np.where(changed, (rows + rng.integers(1, 4, rows.shape)) % 4, rows)


def write_fasta(path: Path, records: Iterable[NDArray[np.int64]]) -> None:
    """Records of nucleotides in 0..3, named by their number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="ascii") as file:
        for number, record in enumerate(records):
            letters = ALPHABET[record].tobytes().decode("ascii")
            lines = [letters[at : at + _LINE] for at in range(0, len(letters), _LINE)]
            file.write(f">{path.stem}_{number}\n" + "\n".join(lines) + "\n")


def write_genomes(folder: Path, *, reads: int, ood_reads: int, seed: int) -> None:
    """`reads` of READ nucleotides a class, `ood_reads` in each OOD set.

    Records of ten reads each; ValueError unless both are multiples of ten, for each species.
    """
    species = len(ORDERS)
    if reads < 10 or reads % 10 or ood_reads < 10 * species or ood_reads % (10 * species):
        raise ValueError(
            f"{reads} reads a class and {ood_reads} OOD reads; give multiples of 10 and of "
            f"{10 * species}"
        )
    long = 10 * READ
    kinds = ("id", "unseen", "composition", "uniform", "repeats")
    streams = dict(zip(kinds, np.random.SeedSequence(seed).spawn(len(kinds)), strict=True))
    rngs = {kind: np.random.default_rng(stream) for kind, stream in streams.items()}
    for index, order in enumerate(ORDERS):
        name = f"species{index + 1}_order{order}.fasta"
        genome = random_chain(rngs["id"], order).draw(rngs["id"], reads // 10, long)
        write_fasta(folder / "id" / name, genome)
        share = ood_reads // species // 10
        unseen = random_chain(rngs["unseen"], order).draw(rngs["unseen"], share, long)
        write_fasta(folder / "unseen" / name, unseen)
        mix = np.bincount(genome.ravel(), minlength=4) / genome.size
        alone = Chain(0, mix[None]).draw(rngs["composition"], share, long)
        write_fasta(folder / "composition" / name, alone)
    uniform = rngs["uniform"].integers(0, 4, (ood_reads // 10, long))
    write_fasta(folder / "uniform.fasta", uniform)
    write_fasta(folder / "repeats.fasta", repeats(rngs["repeats"], ood_reads, READ))


def main(
    folder: Annotated[Path, typer.Argument(help="made where it is missing")],
    reads: Annotated[int, typer.Option(help="of 250 nucleotides, a class")] = 1200,
    ood_reads: Annotated[int, typer.Option(help="in each OOD set")] = 1040,
    seed: Annotated[int, typer.Option()] = 0,
) -> None:
    """Write id/, unseen/, composition/, uniform.fasta and repeats.fasta into FOLDER."""
    write_genomes(folder, reads=reads, ood_reads=ood_reads, seed=seed)
    typer.echo(folder)


if __name__ == "__main__":
    typer.run(main)
