"""The head that was trained to tell outliers from ID.

Outlier exposure by a classifier: Hendrycks et al. 2018, arXiv:1812.04606.  Higher = more OOD.
"""

from torch import Tensor

from training.classifier import Classifier
from training.detectors.outlier_head import copied_head, outlier_logit
from training.detectors.protocol import Detector, FitError
from training.outputs import Outputs


class BinaryHeadScore(Detector):
    """The logit of being an outlier, at even prior odds."""

    cost = "features"
    reference = "arXiv:1812.04606"
    summary = (
        "The logit of the head that was trained to tell outliers from ID; needs the objective "
        "binary_head."
    )

    def prepare(self, classifier: Classifier) -> None:
        for name, value in copied_head("binary_head", classifier).items():
            self.register_buffer(name, value)

    def finish(self) -> None:
        if "weight_0" not in self._buffers:
            raise FitError("binary_head has seen no network; prepare it first")

    def forward(self, outputs: Outputs) -> dict[str, Tensor]:
        """Features (B, D) -> logit (B,)."""
        self.fitted("weight_0")
        return {"binary_head": outlier_logit(outputs.features, self)}
