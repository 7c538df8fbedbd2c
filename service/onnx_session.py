"""One ONNX graph, opened and checked.  The only importer of onnxruntime."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from service.bundle import BundleCorrupt, ImageInput, TextInput
from service.tuning import Tuning

# onnxruntime 1.31 reports to outside hosts unless this stands before the import.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
import onnxruntime  # pyright: ignore[reportMissingTypeStubs]

_ort = cast(Any, onnxruntime)  # the package ships no types

_NVIDIA_DRIVER = (Path("/proc/driver/nvidia"), Path("/dev/nvidiactl"), Path("/dev/dxg"))

# One arena for all sessions on the CPU, that grows by what is asked for: a session's own doubles,
# and keeps what its largest batch took when others run.
_AS_REQUESTED, _DEFAULT, _NO_LIMIT = 1, -1, 0
_ort.create_and_register_allocator(
    _ort.OrtMemoryInfo(
        "Cpu", _ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, _ort.OrtMemType.DEFAULT
    ),
    _ort.OrtArenaCfg(_NO_LIMIT, _AS_REQUESTED, _DEFAULT, _DEFAULT),
)

# uint8 pixels (N, H, W, C), or int64 token ids (N, L)
ModelInput = NDArray[np.uint8] | NDArray[np.int64]
Outputs = dict[str, NDArray[np.float32]]


class ProviderUnavailable(Exception):
    """CUDA was asked for and cannot be used; the message says what is missing."""


@dataclass(frozen=True)
class ScoreOutput:
    """Name and shape past the batch of a float32 output: () for (N,), (K,) for (N, K)."""

    name: str
    shape: tuple[int, ...]


class OnnxSession:
    """A graph from pixels or tokens to float32 outputs; `run` may be called from threads."""

    def __init__(self, path: Path, *, provider: str, threads: int) -> None:
        """Raises BundleCorrupt (not a graph onnxruntime reads), ProviderUnavailable."""
        self._path = path
        self.threads = threads
        self.tuning = Tuning(rows=1, seconds_per_row=0.0)  # until it is measured
        # the same graph on one thread, for while more waits than one batch
        self.single: OnnxSession | None = None
        options = _ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # idle threads that spin cost up to twice the processor time
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.use_env_allocators", "1")
        options.log_severity_level = 3
        wanted = _providers(provider)
        try:
            self._session = _ort.InferenceSession(str(path), options, providers=wanted)
        except Exception as exc:  # onnxruntime's own exceptions share no base
            raise BundleCorrupt(path, f"is not a graph onnxruntime can run ({exc})") from exc
        # the list of wished providers says nothing: a failed one is dropped with a log line
        self.provider = (
            "cuda" if "CUDAExecutionProvider" in self._session.get_providers() else "cpu"
        )
        if provider == "cuda" and self.provider != "cuda":
            raise ProviderUnavailable(
                "provider is 'cuda', but onnxruntime could not start CUDA: it needs an NVIDIA "
                "driver and the CUDA libraries (pip install 'oodscore[gpu]'); "
                "set OODSCORE_PROVIDER=auto to fall back to the CPU"
            )
        self._input = str(self._session.get_inputs()[0].name) if self._session.get_inputs() else ""

    def check_signature(self, spec: ImageInput | TextInput, outputs: Sequence[ScoreOutput]) -> None:
        """Raises BundleCorrupt unless the graph reads and gives what the manifest says."""
        inputs = self._session.get_inputs()
        if len(inputs) != 1:
            raise BundleCorrupt(self._path, f"has {len(inputs)} inputs, expected one")
        if isinstance(spec, TextInput):
            self._check_tensor(inputs[0], "tensor(int64)", (None,))
        else:
            size = (spec.height, spec.width, spec.channels)
            self._check_tensor(inputs[0], "tensor(uint8)", size)
        declared = {str(output.name): output for output in self._session.get_outputs()}
        for output in outputs:
            if output.name not in declared:
                raise BundleCorrupt(self._path, f"has no output {output.name!r}")
            self._check_tensor(declared[output.name], "tensor(float)", output.shape)

    def run(self, batch: ModelInput, outputs: Sequence[str]) -> Outputs:
        """Pixels or tokens of N >= 1 inputs -> output name -> float32 (N, ...).

        Raises ValueError on an empty batch, which would end the process inside onnxruntime;
        whatever onnxruntime raises; RuntimeError if a row is missing in an output.
        """
        if len(batch) == 0:
            raise ValueError("an empty batch cannot be scored")
        arrays = self._session.run(list(outputs), {self._input: batch})
        rows = len(batch)
        if {len(array) for array in arrays} != {rows}:
            found = {name: len(array) for name, array in zip(outputs, arrays, strict=True)}
            raise RuntimeError(f"not {rows} rows in each output: {found}")
        return dict(zip(outputs, arrays, strict=True))

    def _check_tensor(self, tensor: Any, kind: str, shape: tuple[int | None, ...]) -> None:
        """`shape`: past the batch; None where the size has to be free."""
        declared = tuple(tensor.shape)
        # a symbolic size is checked by the golden run
        fits = len(declared) == len(shape) + 1 and all(
            not isinstance(got, int) or got == wanted
            for got, wanted in zip(declared, (None, *shape), strict=True)
        )
        if tensor.type != kind or not fits:
            sizes = ["N", *("L" if size is None else str(size) for size in shape)]
            free = "batch size N" if None not in shape else "batch size N and length L"
            raise BundleCorrupt(
                self._path,
                f"{tensor.name!r} is {tensor.type} {list(declared)}, expected {kind} "
                f"({', '.join(sizes)}) with a free {free}",
            )


def _providers(provider: str) -> list[Any]:
    cpu = "CPUExecutionProvider"
    if provider == "cpu" or "CUDAExecutionProvider" not in _ort.get_available_providers():
        return [cpu]
    if provider == "auto" and not any(path.exists() for path in _NVIDIA_DRIVER):
        return [cpu]  # without a driver CUDA could only fail, loudly
    _ort.preload_dlls()
    # TF32 keeps 10 bits of mantissa: scores would not match those calibrated on the CPU
    options = {"arena_extend_strategy": "kSameAsRequested", "use_tf32": "0"}
    return [("CUDAExecutionProvider", options), cpu]
