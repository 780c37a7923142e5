# SPDX-License-Identifier: Apache-2.0
"""What the commands share: one-line errors, exit codes, consoles."""

from __future__ import annotations

import errno
import functools
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.console import Console


@contextmanager
def _one_line_errors(debug: bool) -> Iterator[None]:
    """Failures become one line on stderr and exit code 1, Ctrl-C exit code 130."""
    try:
        yield
        print(end="", flush=True)  # what cannot be written shows here, not as Python ends
    except KeyboardInterrupt:
        print("via-ext: interrupted", file=sys.stderr)
        raise typer.Exit(130) from None
    except typer.Exit:
        raise
    except BrokenPipeError:
        # The reader (head, less) has seen enough; what is still buffered has nowhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(0) from None
    except Exception as error:
        if debug:
            raise
        text = " ".join(str(error).split()) or type(error).__name__
        print(f"via-ext: error: {text}", file=sys.stderr)
        raise typer.Exit(1) from None


def guarded(command: Callable[..., None]) -> Callable[..., None]:
    """A command whose failures are one line on stderr, unless `--debug` is given."""

    @functools.wraps(command)
    def wrapped(*, debug: bool, **options: Any) -> None:
        with _one_line_errors(debug):
            command(debug=debug, **options)

    return wrapped


Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of a failure.")]


class _PipeConsole(Console):
    """Leaves a closed pipe to the command instead of ending the process with exit code 1."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError(errno.EPIPE, "the reader has gone")


def make_console(plain: bool, stderr: bool = False) -> Console:
    """A console that leaves a closed pipe to the command; `plain` has no colour."""
    if plain:
        return _PipeConsole(stderr=stderr, force_terminal=False, color_system=None, highlight=False)
    return _PipeConsole(stderr=stderr, highlight=False)
