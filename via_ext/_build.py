# SPDX-License-Identifier: Apache-2.0
"""What must be there before an operation can run: torch, the native module, and facts about it."""

from __future__ import annotations

import re
import sys
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

TORCH_FLOOR = (2, 10)  # first release with the DLPack C exchange API
_BUILD_COMMAND = "pip install -e . (or `make ext`) in the source folder"


def require_torch() -> None:
    """Checks the torch version without importing torch.

    Raises:
        ImportError: torch is missing, or older than 2.10.
    """
    floor = ".".join(map(str, TORCH_FLOOR))
    loaded = sys.modules.get("torch")
    try:
        version = str(loaded.__version__) if loaded else metadata.version("torch")
    except metadata.PackageNotFoundError:
        raise ImportError(f"via_ext needs torch >= {floor}, and torch is not installed") from None
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    if numbers < TORCH_FLOOR:
        raise ImportError(
            f"via_ext needs torch >= {floor} (DLPack C exchange API), found torch {version}"
        )


def native() -> ModuleType:
    """Imports and returns `via_ext._C`.

    Raises:
        ImportError: the module is not built, or not for this Python.
    """
    try:
        from via_ext import _C
    except ImportError as error:
        raise ImportError(
            f"via_ext._C, the native module, cannot be loaded ({error}); build it with "
            f"{_BUILD_COMMAND}",
            name="via_ext._C",
        ) from error
    return _C


def build_info() -> dict[str, Any]:
    """Facts about this installation; needs neither a GPU nor a driver.

    Returns:
        version (str), git_commit (str, "unknown" outside a checkout), cuda (bool),
        cuda_architectures (tuple of str such as "90a-real"), cuda_version (str or None),
        compiler (str), cpu_isa (str: the instruction set chosen for this CPU), cpu_isas (tuple of
        str: those compiled).

    Raises:
        ImportError: the native module is not built.
    """
    info: dict[str, Any] = native().build_info()
    return info


def describe_installation() -> list[tuple[str, str]]:
    """Rows of `via-ext info`: build facts, Python and torch, and the visible devices.

    Returns:
        Pairs (name, text), in the order to print.

    Raises:
        ImportError: the native module is not built.
        RuntimeError: a GPU is visible, but the check kernel fails there.
    """
    import torch

    module = native()
    info = build_info()
    names = ", ".join(info["cuda_architectures"])
    rows = [
        ("via_ext", f"{info['version']} ({info['git_commit']}) in {Path(__file__).parent}"),
        ("python", sys.version.split()[0]),
        ("torch", f"{torch.__version__}, {torch.get_num_threads()} threads"),
        ("compiler", info["compiler"]),
        ("cpu_isa", f"{info['cpu_isa']} (built: {', '.join(info['cpu_isas'])})"),
        ("cuda", f"{info['cuda_version']} for {names}" if info["cuda"] else "built without CUDA"),
    ]
    count: int = module.device_count()
    for index in range(count):
        device = module.device_info(index)
        image = device["image_architecture"]
        rows.append(
            (
                f"cuda:{index}",
                f"{device['name']}, compute capability {device['compute_capability'] / 10:.1f}, "
                f"{device['num_multiprocessors']} multiprocessors, "
                f"{device['memory_bytes'] / 2**30:.0f} GiB, "
                + (f"runs the sm_{image} image" if image else "no image of this build runs here"),
            )
        )
    if not count:
        rows.append(("devices", "cpu" if info["cuda"] else "cpu (GPUs are not looked for)"))
    return rows
