"""Make `oodscore` a known distribution of this Python, without building or copying a wheel.

    python install_metadata.py PYPROJECT

Writes the metadata folder (so that `importlib.metadata.version("oodscore")` answers) and the
console script, both from pyproject.toml.  The code itself is found through PYTHONPATH.
"""

import sys
import sysconfig
import tomllib
from pathlib import Path


def main() -> int:
    project = tomllib.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))["project"]
    name, version = project["name"], project["version"]
    module, function = project["scripts"][name].split(":")

    info = Path(sysconfig.get_path("purelib")) / f"{name}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "INSTALLER").write_text("image\n")

    script = Path(sysconfig.get_path("scripts")) / name
    script.write_text(
        f"#!{sys.executable}\nimport sys\n\nfrom {module} import {function}\n\n"
        f"sys.exit({function}())\n"
    )
    script.chmod(0o755)
    return 0


if __name__ == "__main__":
    sys.exit(main())
