"""Where output goes: a report or one JSON document on stdout, notes on stderr, files whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType

from acpitk.errors import UsageError
from acpitk.report.text import printable

_PIPED_WIDTH = 10_000
"""Columns assumed where stdout is not a terminal: lines are never wrapped for a program that reads them."""


def one_line(message: str) -> str:
    """The message as one printable line, whatever file names or table bytes are quoted in it."""
    return printable(" ".join(message.split("\n")))


def note(message: str) -> None:
    """Say something on stderr that is not the result."""
    print(f"acpitk: {one_line(message)}", file=sys.stderr)


def emit_json(document: Any) -> None:
    """Write the one JSON document of this command."""
    json.dump(document, sys.stdout, indent=2)
    sys.stdout.write("\n")


def emit(*parts: RenderableType) -> None:
    """Write a report: coloured on a terminal unless NO_COLOR is set, plain and unwrapped elsewhere."""
    terminal = sys.stdout.isatty()
    console = Console(file=sys.stdout, width=None if terminal else _PIPED_WIDTH, highlight=False)
    with console.capture() as captured:
        console.print(*parts, sep="\n")
    text = captured.get()
    sys.stdout.write(text if terminal else "".join(f"{line.rstrip()}\n" for line in text.splitlines()))


def check_file_target(path: Path) -> None:
    """Find out before long work whether a file can be written there.

    Raises:
        UsageError: it is a directory, or its directory does not exist.
    """
    if path.is_dir():
        raise UsageError(f"{path}: is a directory; name a file to write")
    if not path.parent.is_dir():
        raise UsageError(f"{path}: {path.parent} is not a directory")


def write_file(path: Path, data: bytes) -> None:
    """Write `path` in one step: a reader sees the old file or the new one, never a part.

    Raises:
        OSError: the directory cannot be written, or the disk is full.
    """
    path = Path(os.path.realpath(path))
    if path.exists() and not path.is_file():
        path.write_bytes(data)  # a device or a pipe: nothing to replace
        return
    descriptor, temporary = tempfile.mkstemp(prefix=".acpitk-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            os.fchmod(file.fileno(), 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
