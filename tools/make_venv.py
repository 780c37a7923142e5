# SPDX-License-Identifier: Apache-2.0
"""Creates the Makefile's virtual environment: `python make_venv.py FOLDER TORCH_REQUIREMENT...`.

An interpreter that already has torch and transformers, recent enough, is re-used: the new
environment then sees its packages, and torch is not installed a second time.
"""

from __future__ import annotations

import re
import subprocess
import sys
import sysconfig
from importlib import metadata, util
from pathlib import Path

PYTHON_FLOOR = (3, 11)
REUSED = {"torch": (2, 10), "transformers": (5, 15)}  # the floors of pyproject.toml
# Pins that must not replace what is re-used.
RUNTIME = {"transformers", "tokenizers", "safetensors", "numpy", "typer", "rich", "pyyaml"}
ROOT = Path(__file__).resolve().parent.parent


def has_recent(package: str, floor: tuple[int, int]) -> bool:
    """True if this interpreter has `package` at version `floor` or later."""
    try:
        version = metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return tuple(map(int, re.findall(r"\d+", version)[:2])) >= floor


def run(command: list[str | Path], failure: str) -> None:
    """Runs a program; if it fails, its own words are followed by one line that says what to do."""
    if subprocess.run(command, check=False).returncode != 0:
        sys.exit(failure)


def main() -> None:
    """Creates the environment and installs torch into it unless it is there."""
    folder, torch_requirement = Path(sys.argv[1]), sys.argv[2:]
    if sys.version_info < PYTHON_FLOOR:
        floor = ".".join(map(str, PYTHON_FLOOR))
        sys.exit(
            f"Python >= {floor} is needed, {sys.executable} is {sys.version.split()[0]}: "
            "call make PYTHON=..."
        )
    without_venv = (
        f"{sys.executable} cannot create virtual environments: install python3-venv "
        "(Debian, Ubuntu: apt install python3-venv) or call make PYTHON=..."
    )
    if util.find_spec("venv") is None or util.find_spec("ensurepip") is None:
        sys.exit(without_venv)
    reuse = all(has_recent(package, floor) for package, floor in REUSED.items())
    options = ["--system-site-packages"] if reuse else []
    # The module can be there without the wheels that it installs.
    run([sys.executable, "-m", "venv", "--clear", *options, folder], without_venv)
    python = folder / "bin" / "python"
    pins = (ROOT / "constraints.txt").read_text().splitlines(keepends=True)
    if reuse:
        pins = [pin for pin in pins if pin.split("==")[0] not in RUNTIME]
    constraints = folder / "constraints.txt"
    constraints.write_text("".join(pins))
    # Programs of packages that are not installed again lie beside the interpreter that has them.
    (folder / "tools_path").write_text(sysconfig.get_path("scripts") if reuse else "")
    if not reuse:
        command = [python, "-m", "pip", "install", "-q", "-c", constraints, *torch_requirement]
        run(command, f"pip cannot install {' '.join(torch_requirement)}: call make TORCH=...")
        return
    print(
        f"re-using torch {metadata.version('torch')} and transformers "
        f"{metadata.version('transformers')} of {sys.executable}"
    )
    if sys.prefix != sys.base_prefix:
        # "System" packages of a virtual environment's child are those of the base interpreter,
        # so this one's own folder is added by name.
        query = "import sysconfig; print(sysconfig.get_path('purelib'))"
        result = subprocess.run([python, "-c", query], check=True, capture_output=True, text=True)
        parent = sysconfig.get_path("purelib")
        line = f"import site; site.addsitedir({parent!r})\n"
        Path(result.stdout.strip(), "parent_environment.pth").write_text(line)


if __name__ == "__main__":
    main()
