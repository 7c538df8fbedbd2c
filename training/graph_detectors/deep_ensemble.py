"""Deep ensemble: what networks trained alike from several seeds disagree about.

Source: Lakshminarayanan et al. 2017, arXiv:1612.01474.  Higher = more OOD.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from training.classifier import Classifier
from training.detectors import FitError, NotFitted
from training.graph_detectors.mixture import Mixture
from training.graph_detectors.protocol import FitContext, GraphDetector
from training.outputs import Outputs


class DeepEnsemble(GraphDetector):
    """`deep_ensemble`: predictive entropy; `_mi`: mutual information; `_msp`: log-odds against
    the class of the largest mean probability.

    The members are the run's classifier and the further ones of the context, whose weights are
    buffers here: the classifier's architecture runs once with each.
    """

    cost = "multi_pass"
    reference = "arXiv:1612.01474"
    summary = (
        "Entropy of the mean softmax of networks trained from several seeds, and (_mi) the mutual "
        "information of class and network, (_msp) the log-odds against the mean's first class; "
        "one pass of each network."
    )

    def __init__(self) -> None:
        super().__init__("deep_ensemble", "passes-deep_ensemble.onnx")

    def suffixes(self, layers: Sequence[str], penultimate: str) -> tuple[str, ...]:
        return ("", "_mi", "_msp")

    def fit(self, context: FitContext) -> None:
        if not context.members:
            raise FitError(
                "deep_ensemble needs networks trained from other seeds: set members in the config "
                "to at least 2, or leave the detector out"
            )
        own = context.classifier.backbone.state_dict()
        states = [own]
        self._buffers.clear()  # of an earlier fit
        for number, member in enumerate(context.members, start=1):
            state = member.backbone.state_dict()
            if {n: v.shape for n, v in state.items()} != {n: v.shape for n, v in own.items()}:
                raise FitError(f"deep_ensemble: member {number} is another kind of network")
            if any(all(torch.equal(state[n], v) for n, v in other.items()) for other in states):
                raise FitError(f"deep_ensemble: member {number} has the weights of another member")
            states.append(state)
            self.restore({_buffer(number, name): value.clone() for name, value in state.items()})

    def hyperparameters(self) -> dict[str, float | int | str]:
        return {"members": 1 + len(self.member_states)}

    @property
    def member_states(self) -> list[dict[str, Tensor]]:
        """The backbone's state for each further member; NotFitted before `fit`."""
        states: dict[str, dict[str, Tensor]] = {}
        for buffer, value in self.named_buffers():
            member, name = buffer.split("/", 1)
            states.setdefault(member, {})[name.replace("/", ".")] = value
        if not states:
            raise NotFitted("deep_ensemble has no members yet; fit it first")
        return list(states.values())

    def forward(self, classifier: Classifier, inputs: Tensor) -> dict[str, Tensor]:
        mixture = Mixture.of(self.votes(classifier, inputs))
        return {
            self.name: mixture.entropy(),
            f"{self.name}_mi": mixture.mutual_information(),
            f"{self.name}_msp": mixture.log_odds(),
        }

    def votes(self, classifier: Classifier, inputs: Tensor) -> Tensor:
        """Raw inputs -> logits of every member (M, B, K), the classifier's first."""
        votes = [classifier(inputs).logits]
        for state in self.member_states:
            weights = {f"backbone.{name}": value for name, value in state.items()}
            outputs = torch.func.functional_call(classifier, weights, (inputs,))
            assert isinstance(outputs, Outputs)  # noqa: S101
            votes.append(outputs.logits)
        return torch.stack(votes)


def _buffer(member: int, name: str) -> str:
    """A buffer's name may hold no dot."""
    return f"member_{member}/{name.replace('.', '/')}"
