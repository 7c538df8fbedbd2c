"""Run an exported graph, so that what is calibrated and reported is what is served."""

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.fitting import Network

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


def open_network(path: Path, threads: int = 0) -> Network:
    """An ONNX file as a function of pixels, on the CPU; threads 0 = all cores."""
    import onnxruntime  # after the telemetry switch

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    pixels_name = session.get_inputs()[0].name

    def network(pixels: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        values = session.run(names, {pixels_name: pixels})
        return {name: np.asarray(value) for name, value in zip(names, values, strict=True)}

    return network
