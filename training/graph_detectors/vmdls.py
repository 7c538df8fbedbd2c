"""VMDLS: the likelihood of VMDLS_b, weighted by how badly an autoencoder draws the image again.

Source: Dinari & Freifeld, UAI 2022, openreview.net/forum?id=ScLeuUUi9gq.  Higher = more OOD.

The published rule multiplies the log-likelihood l by a = ||t1(x) - t1(x')||^2, t1 the first
tapped layer, x' the reconstruction; that only ranks where l < 0, and the released code shifts l
and scales a by maxima over the test set.  Here both references are frozen at the fit, so that a
score depends on its own input alone: s = max(l_ref - l, 1) a / a_ref, l_ref one above the largest
l of dev-ID, a_ref the median a of dev-ID.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from training.classifier import Classifier, ImageClassifier
from training.data import InputSet
from training.detectors import FitError, NotFitted
from training.detectors.class_gaussians import log_densities
from training.detectors.vmdls_b import VmdlsB, feature_ensemble
from training.graph_detectors.autoencoder import Autoencoder
from training.graph_detectors.protocol import FitContext, GraphDetector
from training.outputs import Outputs, pooled
from training.progress import say, track

_BATCH = 256
_PREFIX = "autoencoder."


class Vmdls(GraphDetector):
    """The autoencoder is trained at the fit, on un-augmented train-ID: squared error, Adam.

    `latent` numbers between encoder and decoder, `maps` feature maps of their first layer.
    """

    cost = "multi_pass"
    reference = "openreview:ScLeuUUi9gq"
    summary = (
        "Minus the log-likelihood under the likeliest class Gaussian of all layers, times the "
        "first layer's error on an autoencoder's reconstruction; a second pass and the autoencoder."
    )
    builds_on = VmdlsB

    def __init__(
        self,
        latent: int = 32,
        maps: int = 16,
        epochs: int = 5,
        lr: float = 1e-3,
        seed: int = 0,
    ) -> None:
        super().__init__("vmdls", "passes-vmdls.onnx")
        for option, value in {"latent": latent, "maps": maps, "epochs": epochs}.items():
            if value < 1:
                raise ValueError(f"vmdls: {option} is {value}; at least 1 is needed")
        if lr <= 0:
            raise ValueError(f"vmdls: lr is {lr}; it must be positive")
        self.latent, self.maps, self.epochs, self.lr, self.seed = latent, maps, epochs, lr, seed
        self.autoencoder: Autoencoder | None = None

    def suffixes(self, layers: Sequence[str], penultimate: str) -> tuple[str, ...]:
        return ("",)

    def check_network(self, classifier: Classifier, inputs: Tensor) -> None:
        if not isinstance(classifier, ImageClassifier):
            raise FitError("vmdls draws its inputs again, which texts do not allow; use vmdls_b")

    def fit(self, context: FitContext) -> None:
        classifier = context.classifier
        if context.train is None or not isinstance(classifier, ImageClassifier):
            raise FitError("vmdls needs the images of train-ID to train its autoencoder on")
        self._buffers.clear()  # of an earlier fit
        for name, value in context.detector(VmdlsB, self.name).state_dict().items():
            self.register_buffer(name, value.clone().to(classifier.device))
        self.autoencoder = self._trained(classifier, context.train)
        likelihoods, errors = [], []
        with torch.no_grad():
            for inputs in context.held_out.split(_BATCH):
                likelihood, error = self._parts(classifier, inputs.to(classifier.device))
                likelihoods.append(likelihood)
                errors.append(error)
        reference = torch.cat(errors).median()
        if not float(reference) > 0:
            raise FitError("vmdls: the autoencoder draws dev-ID without any error")
        self.register_buffer("likelihood_reference", torch.cat(likelihoods).max() + 1)
        self.register_buffer("error_reference", reference)

    def restore(self, state: dict[str, Tensor]) -> None:
        """The autoencoder's shape follows from its weights, but for the image's size."""
        super().restore({n: v for n, v in state.items() if not n.startswith(_PREFIX)})
        weights = {n.removeprefix(_PREFIX): v for n, v in state.items() if n.startswith(_PREFIX)}
        height, width = self.get_buffer("image_size").tolist()
        self.autoencoder = self._built(weights["down1.weight"].shape[1], height, width)
        self.autoencoder.load_state_dict(weights)

    def hyperparameters(self) -> dict[str, float | int | str]:
        return {
            "latent": self.latent,
            "maps": self.maps,
            "epochs": self.epochs,
            "lr": self.lr,
            "seed": self.seed,
        }

    def forward(self, classifier: Classifier, inputs: Tensor) -> dict[str, Tensor]:
        likelihood, error = self._parts(classifier, inputs)
        surprise = (self.get_buffer("likelihood_reference") - likelihood).clamp(min=1)
        return {self.name: surprise * error / self.get_buffer("error_reference")}

    def _parts(self, classifier: Classifier, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Log-likelihood of the likeliest class, error of the first layer, both (B,)."""
        if self.autoencoder is None:
            raise NotFitted("vmdls has no autoencoder yet; fit it first")
        point = classifier.continuous(inputs)
        outputs = classifier.from_continuous(point, inputs)
        again = classifier.from_continuous(self.autoencoder(point), inputs)
        likelihood = log_densities(feature_ensemble(outputs), self).amax(dim=1)
        return likelihood, (_first(outputs) - _first(again)).square().sum(dim=1)

    def _built(self, channels: int, height: int, width: int) -> Autoencoder:
        return Autoencoder(channels, height, width, self.latent, self.maps)

    def _trained(self, classifier: ImageClassifier, train: InputSet) -> Autoencoder:
        spec, device = classifier.spec, classifier.device
        self.register_buffer("image_size", torch.tensor([spec.height, spec.width]))
        with torch.random.fork_rng(), torch.enable_grad():
            torch.manual_seed(self.seed)
            network = self._built(spec.channels, spec.height, spec.width).to(device)
            optimiser = torch.optim.Adam(network.parameters(), lr=self.lr)
            for epoch in range(self.epochs):
                batches = torch.randperm(len(train)).split(_BATCH)
                total = torch.zeros((), device=device)
                what = f"autoencoder, epoch {epoch + 1}/{self.epochs}"
                for batch in track(batches, what):
                    inputs = torch.from_numpy(train.batch(batch.numpy())).to(device)
                    images = classifier.continuous(inputs)
                    loss = F.mse_loss(network(images), images)
                    optimiser.zero_grad(set_to_none=True)
                    loss.backward()
                    optimiser.step()
                    total += loss.detach() * len(batch)
                say(f"{what}: mean squared error {float(total) / len(train):.4f}")
        return network.eval().requires_grad_(False)


def _first(outputs: Outputs) -> Tensor:
    """The first tapped layer, pooled (B, D)."""
    return pooled(next(iter(outputs.taps.values())))
