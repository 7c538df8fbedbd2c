"""Formulas over tensors of the graph, written as formulas."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from training.export.backward.step import Step


@dataclass(frozen=True)
class Term:
    """A tensor in a rule's formula; arithmetic appends nodes, numbers become constants."""

    step: Step
    name: str

    def __add__(self, other: "Term | float") -> Self:
        return self._with("Add", other)

    def __radd__(self, other: float) -> Self:
        return self._with("Add", other)

    def __sub__(self, other: "Term | float") -> Self:
        return self._with("Sub", other)

    def __rsub__(self, other: float) -> Self:
        return self._made("Sub", [self.step.number(other), self.name])

    def __mul__(self, other: "Term | float") -> Self:
        return self._with("Mul", other)

    def __rmul__(self, other: float) -> Self:
        return self._with("Mul", other)

    def __truediv__(self, other: "Term | float") -> Self:
        return self._with("Div", other)

    def __neg__(self) -> Self:
        return self.to("Neg")

    def to(self, op_type: str, **attributes: Any) -> Self:
        """The result of an operator on this tensor alone."""
        return self._made(op_type, [self.name], **attributes)

    def sum(self, axes: Sequence[int]) -> Self:
        """Sum along the axes, which stay as dimensions of 1."""
        return self._made("ReduceSum", [self.name, self.step.integers(axes)], keepdims=1)

    def mean(self, axes: Sequence[int]) -> Self:
        """Mean along the axes, which stay as dimensions of 1."""
        return self._made("ReduceMean", [self.name, self.step.integers(axes)], keepdims=1)

    def where(self, condition: str, otherwise: "Term | float") -> Self:
        """This tensor where the condition holds."""
        return self._made("Where", [condition, self.name, self._name_of(otherwise)])

    def above(self, other: "Term | float") -> str:
        """A condition, for `where`."""
        return self.step.add("Greater", [self.name, self._name_of(other)])

    def below(self, other: "Term | float") -> str:
        """A condition, for `where`."""
        return self.step.add("Less", [self.name, self._name_of(other)])

    def equals(self, other: "Term | float") -> Self:
        """1 where the tensors are equal, else 0."""
        same = self.step.add("Equal", [self.name, self._name_of(other)])
        elements = self.step.graph.element_type(self.step.y)
        return self._made("Cast", [same], to=elements)

    def _with(self, op_type: str, other: "Term | float") -> Self:
        return self._made(op_type, [self.name, self._name_of(other)])

    def _name_of(self, other: "Term | float") -> str:
        return other.name if isinstance(other, Term) else self.step.number(other)

    def _made(self, op_type: str, inputs: Sequence[str], **attributes: Any) -> Self:
        return type(self)(self.step, self.step.add(op_type, inputs, **attributes))


def terms(step: Step) -> tuple[Term, Term, Term]:
    """First input x, first output y and cotangent g of the node, ready for formulas."""
    return Term(step, step.x), Term(step, step.y), Term(step, step.g)
