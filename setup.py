# SPDX-License-Identifier: Apache-2.0
"""Builds via_ext._C by running CMake, and nothing else. Settings: see CONTRIBUTING.md, Build."""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pybind11
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()


class CMakeBuild(build_ext):
    """Configures and builds CMakeLists.txt; the module lands where setuptools expects it."""

    def build_extension(self, ext: Extension) -> None:
        """Runs CMake for the one extension there is."""
        target = Path(self.get_ext_fullpath(ext.name)).resolve()
        target.parent.mkdir(parents=True, exist_ok=True)
        for stale in target.parent.glob("_C.*"):
            if stale.suffix in {".so", ".pyd"}:
                stale.unlink()  # another Python's, or an older build's, would be shipped too
        # Not shared with `make ext` by default: pip builds with a CMake that is gone afterwards.
        folder = os.environ.get("VIA_EXT_BUILD_DIR") or self.build_temp
        configure = [
            *["cmake", "-S", str(ROOT), "-B", folder, "-DVIA_EXT_PYTHON=ON"],
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
            f"-DVIA_EXT_OUTPUT_DIR={target.parent}",
            f"-DVIA_EXT_CUDA={os.environ.get('VIA_EXT_CUDA', 'AUTO').upper()}",
        ]
        if shutil.which("ninja") and "CMAKE_GENERATOR" not in os.environ:
            configure.append("-GNinja")
        configure += shlex.split(os.environ.get("CMAKE_ARGS", ""))
        jobs = os.environ.get("MAX_JOBS") or str(os.cpu_count() or 1)
        subprocess.run(configure, check=True)
        subprocess.run(["cmake", "--build", folder, "--parallel", jobs], check=True)


setup(ext_modules=[Extension("via_ext._C", [])], cmdclass={"build_ext": CMakeBuild})
