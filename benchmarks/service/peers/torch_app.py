"""FastAPI, torch and pytorch-ood, as one would write it in an afternoon.  Runs in our own
development environment: the network is the bundle's checkpoint.

Scores that pytorch-ood knows are pytorch-ood's, fitted on noise (only the speed counts); the
others are the torch modules the bundle's graph was exported from.
"""

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
import uvicorn
from fastapi import FastAPI, Request
from PIL import Image
from pytorch_ood.detector import (
    DICE,
    KNN,
    RMD,
    EnergyBased,
    Entropy,
    Mahalanobis,
    MaxLogit,
    MaxSoftmax,
    ViM,
)
from starlette.concurrency import run_in_threadpool

from service.bundle import TextEncoder, read_manifest
from service.bundle.manifest import TextInput
from training.restore import load_scorer

FIT_ROWS = 2000
# ours -> pytorch-ood's, from logits or from features
OF_LOGITS = {"msp": MaxSoftmax, "max_logit": MaxLogit, "energy": EnergyBased, "entropy": Entropy}


class Model:
    def __init__(self, folder: Path) -> None:
        self.manifest = read_manifest(folder)
        self.spec = self.manifest.input
        scorer = load_scorer(folder).eval()
        self.classifier = scorer.classifier
        self.encoder = None
        if isinstance(self.spec, TextInput):
            self.encoder = TextEncoder.load(folder / self.spec.tokenizer, self.spec)
            example = torch.randint(2, self.spec.vocabulary_size, (FIT_ROWS, 8))
        else:
            example = torch.randint(0, 256, (FIT_ROWS, *self.spec.shape), dtype=torch.uint8)
        with torch.inference_mode():
            parts = [self.classifier(part) for part in example.split(100)]
            features = torch.cat([part.features for part in parts]).clone()
            labels = torch.arange(FIT_ROWS) % len(self.manifest.class_names)
        head = self.classifier.head
        weight, bias = head.weight.detach(), head.bias.detach()
        identity = torch.nn.Identity()
        width = features.shape[1]
        self.of_features = {
            "mahalanobis": Mahalanobis(identity),
            "rmds": RMD(identity),
            "knn": KNN(identity, k=5),
            "vim": ViM(identity, d=width // 2, w=weight, b=bias),
            "dice": DICE(identity, w=weight, b=bias, p=0.7),
        }
        for detector in self.of_features.values():
            detector.fit_features(features, labels)
        self.of_logits = {name: kind(identity) for name, kind in OF_LOGITS.items()}
        theirs = {*self.of_features, *self.of_logits}
        self.ours = [d for d in scorer.detectors if getattr(d, "name", None) not in theirs]
        self.thresholds = {d.name: d.threshold for d in self.manifest.detectors}

    def rows(self, body: bytes) -> torch.Tensor:
        if self.encoder is not None:
            return torch.from_numpy(self.encoder.encode_all([body.decode()]))
        if body[:6] == b"\x93NUMPY":
            return torch.from_numpy(np.load(io.BytesIO(body)))
        image = Image.open(io.BytesIO(body)).convert("L" if self.spec.channels == 1 else "RGB")
        image = image.resize((self.spec.width, self.spec.height), Image.Resampling.BILINEAR)
        pixels = np.asarray(image, np.uint8).reshape(self.spec.shape)
        return torch.from_numpy(pixels.copy())[None]

    @torch.inference_mode()
    def score(self, body: bytes) -> dict[str, Any]:
        outputs = self.classifier(self.rows(body))
        scores: dict[str, torch.Tensor] = {}
        for name, detector in self.of_logits.items():
            scores[name] = detector.predict(outputs.logits)
        for name, detector in self.of_features.items():
            scores[name] = torch.as_tensor(detector.predict_features(outputs.features)).flatten()
        for detector in self.ours:
            scores.update(detector(outputs))
        labels = outputs.logits.argmax(1).tolist()
        columns = {name: values.tolist() for name, values in scores.items()}
        return {
            "results": [
                {
                    "label": self.manifest.class_names[label],
                    "detectors": {
                        name: {
                            "score": values[row],
                            "threshold": self.thresholds.get(name, 0.0),
                            "decision": "OOD"
                            if values[row] > self.thresholds.get(name, 0.0)
                            else "ID",
                        }
                        for name, values in columns.items()
                    },
                }
                for row, label in enumerate(labels)
            ]
        }


def main() -> None:
    torch.set_num_threads(int(os.environ["THREADS"]))
    model = Model(Path(os.environ["BUNDLE"]))
    app = FastAPI()

    @app.post("/score")
    async def score(request: Request) -> dict[str, Any]:
        return await run_in_threadpool(model.score, await request.body())

    uvicorn.run(app, host="127.0.0.1", port=int(os.environ["PORT"]), access_log=False)


if __name__ == "__main__":
    main()
