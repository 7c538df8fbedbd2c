"""What every peer does with a request: decode, one session run for all rows, thresholds, p-values.

Runs in the peers' own environments: numpy, Pillow, tokenizers and onnxruntime, nothing of ours.
BUNDLE names the bundle's folder, THREADS the session's threads.
"""

import io
import json
import os
from pathlib import Path

import numpy as np

os.environ["ORT_DISABLE_TELEMETRY"] = "1"
import onnxruntime


class BundleScorer:
    def __init__(self):
        folder = Path(os.environ["BUNDLE"])
        manifest = json.loads((folder / "manifest.json").read_text())
        self.input = manifest["input"]
        self.is_text = manifest["modality"] == "text"
        self.classes = manifest["class_names"]
        self.detectors = [d for d in manifest["detectors"] if d["graph"] == "forward.onnx"]
        with np.load(folder / "calibration.npz") as calibration:
            self.calibration = {d["name"]: calibration[d["name"]] for d in self.detectors}
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(os.environ["THREADS"])
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        path = str(folder / "forward.onnx")
        self.session = onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])
        self.outputs = ["logits", *(d["output"] for d in self.detectors)]
        if self.is_text:
            from tokenizers import Tokenizer

            self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
            self.tokenizer.enable_truncation(self.input["max_tokens"])
            self.tokenizer.no_padding()

    def decode(self, body):
        """One request's bytes -> rows: an image, an npy array of many, or a text."""
        if self.is_text:
            return [np.array(self.tokenizer.encode(body.decode()).ids, np.int64)]
        if body[:6] == b"\x93NUMPY":
            return list(np.load(io.BytesIO(body)))
        from PIL import Image

        image = Image.open(io.BytesIO(body))
        image = image.convert("L" if self.input["channels"] == 1 else "RGB")
        size = (self.input["width"], self.input["height"])
        if image.size != size:
            image = image.resize(size, Image.Resampling.BILINEAR)
        return [np.asarray(image, np.uint8).reshape(*size[::-1], self.input["channels"])]

    def score(self, requests):
        """Rows of several requests, as one batch -> one answer a request."""
        rows = [row for request in requests for row in request]
        if self.is_text:
            batch = np.full((len(rows), max(map(len, rows))), self.input["pad_id"], np.int64)
            for target, row in zip(batch, rows, strict=True):
                target[: len(row)] = row
        else:
            batch = np.stack(rows)
        name = self.session.get_inputs()[0].name
        found = dict(zip(self.outputs, self.session.run(self.outputs, {name: batch}), strict=True))
        labels = found["logits"].argmax(1)
        results = [{"label": self.classes[label], "detectors": {}} for label in labels]
        for detector in self.detectors:
            known = self.calibration[detector["name"]]
            scores = found[detector["output"]]
            above = len(known) - np.searchsorted(known, scores)
            p_values = (1.0 + above) / (len(known) + 1.0)
            for result, score, p_value in zip(results, scores, p_values, strict=True):
                result["detectors"][detector["name"]] = {
                    "score": float(score),
                    "threshold": detector["threshold"],
                    "p_value": float(p_value),
                    "decision": "OOD" if score > detector["threshold"] else "ID",
                }
        answers, place = [], 0
        for request in requests:
            answers.append({"results": results[place : place + len(request)]})
            place += len(request)
        return answers
