"""KL matching.  Source: Hendrycks et al. 2022, arXiv:1911.11132.  Higher = more OOD."""

import torch
from torch import Tensor

from training.detectors.protocol import Detector, FitError
from training.detectors.vectors import all_finite
from training.outputs import Outputs


class KlMatching(Detector):
    """Least KL(softmax || d_c), d_c the mean softmax of dev-ID inputs predicted as class c.

    A class that no dev-ID input is predicted as takes the train-ID inputs predicted as it; one
    that none of them is predicted as either has no d_c and takes no part.
    """

    reference = "arXiv:1911.11132"
    summary = (
        "Least Kullback-Leibler divergence of softmax from the typical softmax of a class; "
        "needs held-out ID data without labels."
    )

    def __init__(self) -> None:
        super().__init__()
        self._train = _TypicalSoftmax()
        self._held_out = _TypicalSoftmax()

    def prepare(self, classifier: object) -> None:
        self._train = _TypicalSoftmax()
        self._held_out = _TypicalSoftmax()

    def observe(self, outputs: Outputs, labels: Tensor) -> None:
        self._train.add(outputs.logits)

    def observe_held_out(self, outputs: Outputs, labels: Tensor) -> None:
        self._held_out.add(outputs.logits)

    def finish(self) -> None:
        held_out, train = self._held_out.counts, self._train.counts
        if not held_out.any():
            raise FitError("kl_matching saw no held-out inputs; d_c is their mean softmax")
        if not train.any():
            raise FitError("kl_matching saw no training inputs; d_c falls back on them")
        borrowed = (held_out == 0) & (train > 0)
        unseen = (held_out == 0) & (train == 0)
        counts = torch.where(borrowed, train, held_out)[:, None]
        sums = torch.where(borrowed[:, None], self._train.sums, self._held_out.sums)
        typical = sums[~unseen] / counts[~unseen]
        # float64 softmax underflows below e^-708: such a probability counts as that
        smallest = torch.finfo(torch.float64).tiny
        self.register_buffer("log_typical", typical.clamp(min=smallest).log().float())
        self.register_buffer("borrowed", borrowed)
        self.register_buffer("unseen", unseen)
        self._train, self._held_out = _TypicalSoftmax(), _TypicalSoftmax()

    def remarks(self) -> tuple[str, ...]:
        borrowed, unseen = self.noted("borrowed"), self.noted("unseen")
        found: list[str] = []
        if borrowed is not None and borrowed.any():
            found.append(
                f"kl_matching: no held-out input is predicted as classes "
                f"{borrowed.nonzero().flatten().tolist()}; training inputs stand in for them."
            )
        if unseen is not None and unseen.any():
            found.append(
                f"kl_matching: no input at all is predicted as classes "
                f"{unseen.nonzero().flatten().tolist()}; they take no part."
            )
        return tuple(found)

    def forward(self, outputs: Outputs) -> dict[str, Tensor]:
        """Logits (B, K) -> kl_matching (B,), min over c of sum p (log p - log d_c)."""
        log_typical = self.fitted("log_typical")  # (C, K), C <= K
        logs = torch.log_softmax(outputs.logits, dim=1)
        probabilities = torch.exp(logs)
        negative_entropy = (probabilities * logs).sum(dim=1)
        least_cross = (probabilities @ log_typical.T).amax(dim=1)  # its negative is the least
        return {"kl_matching": negative_entropy - least_cross}


class _TypicalSoftmax:
    """Per predicted class: the number of inputs (K,) and the sum of their softmax (K, K)."""

    def __init__(self) -> None:
        self.counts = torch.zeros(0, dtype=torch.float64)
        self.sums = torch.zeros(0, 0, dtype=torch.float64)

    def add(self, logits: Tensor) -> None:
        """Logits (B, K).  FitError if one is not finite."""
        logits = logits.detach().double().cpu()
        if not all_finite(logits):
            raise FitError("kl_matching: a logit is NaN or infinite")
        classes = logits.shape[1]
        if not len(self.counts):
            self.counts = torch.zeros(classes, dtype=torch.float64)
            self.sums = torch.zeros(classes, classes, dtype=torch.float64)
        predicted = logits.argmax(1)
        self.counts += torch.bincount(predicted, minlength=classes)
        self.sums.index_add_(0, predicted, torch.softmax(logits, dim=1))
