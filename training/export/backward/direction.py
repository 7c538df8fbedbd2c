"""One direction of a recurrent layer, as its backward rule reads it.

Sizes: L steps, N rows, I inputs, H units, G gates.  Sequences are (L, N, ...), as the operators
have them; of a direction, W is (G H, I), R is (G H, H), B is (2 G H) = b, b'.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from training.export.backward.expressions import Term
from training.export.backward.extents import zeros_like
from training.export.backward.scan import TurnRule, scanned
from training.export.backward.step import Step

_PAST_THE_END = int(np.iinfo(np.int64).max)


@dataclass(frozen=True)
class Direction:
    """Its weights, its outputs and their cotangents; nothing is turned round, only Scans are."""

    step: Step
    number: int
    from_end: bool  # it reads the sequence from the last step to the first

    def states(self) -> Term:
        """H of all steps (L, N, H)."""
        return self._own(self.step.y, axis=1)

    def initial(self, position: int) -> Term:
        """The state (N, H) it starts from: an input of the layer, zeros where that is left out."""
        stated = self.step.input(position)
        return self._own(stated) if stated else self._no_state()

    def cotangent(self) -> Term:
        """dL/dH of all steps (L, N, H), as far as their readers are other layers."""
        given = self.step.cotangents[0]
        if given is None:
            return Term(self.step, zeros_like(self.step, self.states().name))
        return self._own(given, axis=1)

    def final_cotangent(self, position: int) -> Term:
        """dL/d(the state it ends with) (N, H), an output of the layer."""
        cotangents = self.step.cotangents
        given = cotangents[position] if position < len(cotangents) else None
        return self._own(given) if given else self._no_state()

    def before(self, values: Term, initial: Term) -> Term:
        """Values of all steps (L, N, H) -> at each step, the value of the step read before it."""
        first = self.step.add("Unsqueeze", [initial.name, self.step.integers([0])])
        begin, end = (1, _PAST_THE_END) if self.from_end else (0, -1)
        bounds = [self.step.integers([n]) for n in (begin, end, 0)]
        rest = self.step.add("Slice", [values.name, *bounds])
        parts = [rest, first] if self.from_end else [first, rest]
        return Term(self.step, self.step.add("Concat", parts, axis=0))

    def sums(self, before: Term) -> list[tuple[Term, Term]]:
        """(W x + b, R H' + b') of each gate, (L, N, H) each, from H' of all steps."""
        read = self._affine(Term(self.step, self.step.x), self.weights(1), bias=0)
        kept = self._affine(before, self.weights(2), bias=1)
        return list(zip(self._gates(read), self._gates(kept), strict=True))

    def weights(self, position: int) -> Term:
        """W or R."""
        return self._own(self.step.input(position))

    def scanned(
        self, rule: TurnRule, states: Sequence[Term], sequences: Sequence[Term], *, against: bool
    ) -> list[Term]:
        """A Scan as it reads the sequence, or against that."""
        names = [[term.name for term in terms] for terms in (states, sequences)]
        made = scanned(self.step, rule, *names, from_end=self.from_end != against)
        return [Term(self.step, name) for name in made]

    def _own(self, stacked: str, axis: int = 0) -> Term:
        """Its part of a tensor that has an axis of directions."""
        number = self.step.graph.constant(np.int64(self.number))
        return Term(self.step, self.step.add("Gather", [stacked, number], axis=axis))

    def _no_state(self) -> Term:
        zero = self.step.graph.constant(np.int64(0))
        row = self.step.add("Gather", [self.states().name, zero], axis=0)
        return Term(self.step, zeros_like(self.step, row))

    def _affine(self, values: Term, weights: Term, bias: int) -> Term:
        """values weights^T, plus a half of B where the layer has one."""
        product = Term(
            self.step,
            self.step.add("MatMul", [values.name, weights.to("Transpose", perm=[1, 0]).name]),
        )
        if not self.step.input(3):
            return product
        halves = self.step.graph.add_node(
            "Split", [self._own(self.step.input(3)).name], 2, axis=0, num_outputs=2
        )
        return product + Term(self.step, halves[bias])

    def _gates(self, sums: Term) -> list[Term]:
        """(L, N, G H) -> G of (L, N, H)."""
        gates = {"GRU": 3, "LSTM": 4}[self.step.node.op_type]
        parts = self.step.graph.add_node("Split", [sums.name], gates, axis=-1, num_outputs=gates)
        return [Term(self.step, name) for name in parts]


def joined(parts: Sequence[Term]) -> Term:
    """Side by side along the last axis."""
    step = parts[0].step
    return Term(step, step.add("Concat", [part.name for part in parts], axis=-1))
