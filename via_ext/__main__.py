# SPDX-License-Identifier: Apache-2.0
"""`python -m via_ext` and the `via-ext` script: the command line where typer is installed.

`info` works with the core dependencies alone; the other commands need `via_ext[hf]`.
"""

from __future__ import annotations

import argparse
import sys
from importlib.util import find_spec


def _core_command_line() -> int:
    from via_ext._build import describe_installation

    parser = argparse.ArgumentParser(
        prog="via-ext",
        description="Without typer only `info` is available: pip install 'via_ext[hf]' for more.",
    )
    parser.add_argument("command", choices=["info"], help="print the build facts and the devices")
    parser.parse_args()
    try:
        rows = describe_installation()
    except (ImportError, RuntimeError) as error:
        print(f"via-ext: {error}", file=sys.stderr)
        return 1
    for name, text in rows:
        print(f"{name:<10} {text}")
    return 0


def main() -> int:
    """Runs the command line.

    Returns:
        0 on success, 1 on failure; usage errors exit with 2.
    """
    if find_spec("typer") is None or find_spec("rich") is None or find_spec("via_ext.cli") is None:
        return _core_command_line()
    from via_ext.cli import app

    app()
    return 0


if __name__ == "__main__":
    sys.exit(main())
