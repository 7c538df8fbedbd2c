"""The generated parts of docs/api-reference.md:  python -m benchmarks.api_reference

Signatures and docstrings of what is public in Python, read from the source as it stands there.
"""

import ast
import inspect
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import FunctionType

from benchmarks.page_blocks import fill

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "api-reference.md"

# module -> the names of it that are public; what is not here may change without notice
PUBLIC: Mapping[str, Sequence[str]] = {
    "service.client": (
        "ScoreClient",
        "AsyncScoreClient",
        "Retries",
        "RequestSize",
        "ClientError",
        "ServiceRefused",
        "ServiceUnreachable",
        "NoAnswerInTime",
    ),
    "service.schemas": ("ScoreParameters", "ScoreResponse", "ScoreResult", "FailedResult"),
    "service.bundle": (
        "find_bundles",
        "read_manifest",
        "verify_files",
        "read_calibration",
        "threshold_at",
        "p_values",
        "to_model_pixels",
        "TextEncoder",
        "pad_tokens",
        "BundleError",
    ),
    "training.config": ("load_config", "ConfigError"),
    "training.config_checks": ("check_config",),
    "training.pipeline": ("run",),
    "training.restore": ("load_scorers",),
    "training.fitting": ("torch_network",),
    "training.export": ("open_network",),
    "training.detectors": ("Detector", "FitError"),
    "training.evaluation.metrics": ("auroc", "evaluate_scores"),
    "training.evaluation.report": ("read_report",),
}


def blocks() -> dict[str, str]:
    """Module -> Markdown of its public names."""
    return {module: "".join(_entries(module, names)) for module, names in PUBLIC.items()}


def filled(page: str) -> str:
    """The page with every block of today."""
    return fill(page, blocks(), PAGE.name)


def _entries(module: str, names: Sequence[str]) -> Iterator[str]:
    for name in names:
        made = getattr(import_module(module), name)
        yield f"\n#### `{name}`\n\n{_described(made)}"


def _described(made: object) -> str:
    """A function: signature and docstring.  A class: the docstring, fields or constructor, and
    every public method with its own."""
    assert isinstance(made, type | FunctionType)  # noqa: S101
    node = ast.parse(textwrap.dedent(inspect.getsource(made))).body[0]
    if isinstance(node, ast.FunctionDef):
        return _fence(_signature(node)) + _words(node)
    assert isinstance(node, ast.ClassDef)  # noqa: S101
    text = _words(node)
    fields = [ast.unparse(part) for part in node.body if isinstance(part, ast.AnnAssign)]
    methods = [
        part
        for part in node.body
        if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef)
        and (part.name == "__init__" or not part.name.startswith("_"))
    ]
    if fields:
        text += _fence("\n".join(fields))
    for method in methods:
        text += _fence(_signature(method)) + _words(method)
    return text


def _signature(node: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    """Without `self`; wrapped where it is long."""
    node.args.args = [part for part in node.args.args if part.arg not in ("self", "cls")]
    returned = "" if node.returns is None else f" -> {ast.unparse(node.returns)}"
    start = "async " if isinstance(node, ast.AsyncFunctionDef) else ""
    line = f"{start}{node.name}({ast.unparse(node.args)}){returned}"
    return "\n".join(textwrap.wrap(line, 96, subsequent_indent="    ", break_long_words=False))


def _fence(code: str) -> str:
    return f"```text\n{code}\n```\n\n"


def _words(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> str:
    """The docstring; indented parts stay as they are."""
    found = ast.get_docstring(node)
    if found is None:
        return ""
    parts = found.split("\n\n")
    shown = [
        _fence(part).strip() if part.startswith("  ") or "\n  " in part else part for part in parts
    ]
    return "\n\n".join(shown) + "\n\n"


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
