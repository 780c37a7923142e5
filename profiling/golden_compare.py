# SPDX-License-Identifier: Apache-2.0
"""Compares what every primitive computes in the simulation and on a GPU.

    python3 profiling/golden_compare.py EXPECTED FOUND     two folders written by golden
    python3 profiling/golden_compare.py --build DIR        builds golden with g++ and with nvcc,
                                                           runs both, compares (needs a GPU)

<name>.bin must agree byte by byte. <name>.approx.bin holds float64 numbers, compared with the
tolerance below. Exit status: 0 all agree, 1 something differs, 2 a program failed.
"""

from __future__ import annotations

import argparse
import array
import math
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SIMT = ROOT / "tests" / "simt"
INCLUDES = [f"-I{SIMT}", f"-I{ROOT / 'csrc'}", f"-I{ROOT / 'csrc' / 'include'}"]

# |found - expected| <= relative * |expected| + absolute.
TOLERANCES = {
    # ex2.approx.ftz: 2 units of 2^-23, and results below 2^-126 become 0.
    "exp2_approx": (3e-7, 1.2e-38),
    # Sums of 16 products below 3200: tensor cores round each addition differently.
    "mma_bf16_random": (1e-6, 1e-2),
    "mma_f16_random": (1e-6, 1e-2),
    # Library functions in float64; one column is rounded to float32.
    "rules_library": (1.2e-7, 1e-14),
}
# Bulk copies exist from compute 9.0 on.
OPTIONAL = {"bulk_load"}


def base_name(path: Path) -> str:
    """The primitive's name."""
    return path.name.removesuffix(".bin").removesuffix(".approx")


def compare_exact(expected: bytes, found: bytes) -> str | None:
    """What differs, or None."""
    if len(expected) != len(found):
        return f"{len(found)} bytes, not {len(expected)}"
    wrong = [i for i, pair in enumerate(zip(expected, found, strict=True)) if pair[0] != pair[1]]
    if not wrong:
        return None
    words = sorted({i // 4 for i in wrong})
    return f"{len(words)} of {len(expected) // 4} words differ, the first at {words[0]}"


def compare_approx(expected: bytes, found: bytes, relative: float, absolute: float) -> str | None:
    """What differs, or None. NaN and infinities must stand at the same places."""
    if len(expected) != len(found):
        return f"{len(found)} bytes, not {len(expected)}"
    worst, place = 0.0, -1
    pairs = zip(array.array("d", expected), array.array("d", found), strict=True)
    for i, (a, b) in enumerate(pairs):
        if a == b or (math.isnan(a) and math.isnan(b)):
            continue
        limit = relative * abs(a) + absolute
        excess = abs(a - b) / limit if math.isfinite(a) and math.isfinite(b) else math.inf
        if excess > worst:
            worst, place = excess, i
    return None if worst <= 1.0 else f"{worst:.3g} times the tolerance at {place}"


def compare(expected: Path, found: Path) -> bool:
    """Prints one line per primitive; whether all agree."""
    names = sorted({path.name for folder in (expected, found) for path in folder.glob("*.bin")})
    agree = bool(names)
    for name in names:
        pair = expected / name, found / name
        base = base_name(pair[0])
        missing = [path.parent for path in pair if not path.exists()]
        if missing:
            what: str | None = f"not in {missing[0]}"
            if base in OPTIONAL:
                print(f"{base:<20} skipped ({what})")
                continue
        elif name.endswith(".approx.bin"):
            what = compare_approx(*(path.read_bytes() for path in pair), *TOLERANCES[base])
        else:
            what = compare_exact(*(path.read_bytes() for path in pair))
        print(f"{base:<20} {'ok' if what is None else 'differs: ' + what}")
        agree &= what is None
    return agree


def cuda_home() -> Path:
    """Where the CUDA headers and nvcc are."""
    return Path(os.environ.get("CUDA_HOME", "/usr/local/cuda"))


def host_command(target: Path) -> list[str]:
    """Builds golden with the simulation."""
    runtime = sorted(str(path) for path in (SIMT / "runtime").glob("*.cpp"))
    flags = ["-std=c++17", "-O1", "-ffp-contract=off", "-DVIA_ISA_NAMESPACE=isa_simt"]
    headers = ["-isystem", str(cuda_home() / "include")]
    main = str(SIMT / "golden_main.cpp")
    return ["g++", *flags, *INCLUDES, *headers, main, *runtime, "-o", str(target)]


def device_command(target: Path) -> list[str]:
    """Builds golden for the GPU that is present."""
    flags = ["-x", "cu", "-std=c++17", "-O2", "--expt-relaxed-constexpr", "-arch=native"]
    nvcc = str(cuda_home() / "bin" / "nvcc")
    return [nvcc, *flags, *INCLUDES, str(SIMT / "golden_main.cpp"), "-o", str(target)]


def build_and_run(folder: Path) -> tuple[Path, Path]:
    """Output folders of both programs."""
    outputs = []
    for word, command in (("host", host_command), ("device", device_command)):
        program, output = folder / f"golden_{word}", folder / word
        output.mkdir(parents=True, exist_ok=True)
        for old in output.glob("*.bin"):
            old.unlink()
        subprocess.run(command(program), check=True, timeout=300)
        subprocess.run([str(program), str(output)], check=True, timeout=120)
        outputs.append(output)
    return outputs[0], outputs[1]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Compare golden values of two machines")
    parser.add_argument("--build", action="store_true", help="build and run both in one folder")
    parser.add_argument("folders", nargs="+", type=Path)
    options = parser.parse_args(arguments)
    if len(options.folders) != (1 if options.build else 2):
        parser.error("give two folders, or one with --build")
    folders = options.folders
    if options.build:
        try:
            folders = build_and_run(folders[0].resolve())
        except (OSError, subprocess.SubprocessError) as error:
            print(f"golden: {error}")
            return 2
    return 0 if compare(*folders) else 1


if __name__ == "__main__":
    sys.exit(main())
