"""A run config as a TOML file that `oodscore-train run` reads."""

from pathlib import Path

import tomli_w

from training.config import RunConfig


def write_config(config: RunConfig, path: Path, heading: str) -> None:
    """`heading`: comment lines on top.  Defaults and fields without a value are left out."""
    values = config.model_dump(mode="json", exclude_defaults=True, exclude_none=True)
    comment = "".join(f"# {line}\n" for line in heading.splitlines())
    path.write_text(f"{comment}\n{tomli_w.dumps(values)}", encoding="utf-8")
