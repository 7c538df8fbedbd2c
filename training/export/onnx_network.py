"""Run an exported graph, so that what is calibrated and reported is what is served."""

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.fitting import Network

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


def open_network(graph: Path | bytes, threads: int = 0, *, optimised: bool = True) -> Network:
    """An ONNX graph as a function of its inputs, on the CPU; threads 0 = all cores.

    Not `optimised`: node by node, as the file says.
    """
    import onnxruntime  # after the telemetry switch

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if not optimised:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    input_name = session.get_inputs()[0].name

    def network(inputs: NDArray[Any]) -> dict[str, NDArray[np.float32]]:
        values = session.run(names, {input_name: inputs})
        return {name: np.asarray(value) for name, value in zip(names, values, strict=True)}

    return network
