"""Programs that the host's C compiler makes of acpitk's own sources, kept in the cache."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

from acpitk.errors import ToolError
from acpitk.qemu.image import cache_dir

_TIMEOUT_S = 60.0


def compiled(
    source: Path, flags: Sequence[str], libraries: Sequence[str] = (), *, what: str, packages: str
) -> bytes:
    """The ELF file that `source` compiles to, made once per source and flags.

    Args:
        what: what it is, for errors.
        packages: the Debian packages that compiling it takes, for errors.

    Raises:
        ToolError: no compiler, or it failed.
    """
    text = source.read_bytes()
    key = sha256(b"\0".join((text, *(flag.encode() for flag in (*flags, *libraries))))).hexdigest()
    kept = cache_dir() / "compiled" / f"{source.stem}-{key[:32]}"
    with contextlib.suppress(OSError):
        if (program := kept.read_bytes()).startswith(b"\x7fELF"):
            return program
    if (compiler := shutil.which("gcc") or shutil.which("cc")) is None:
        raise ToolError(f"{what} takes a C compiler (Debian: {packages})")
    with tempfile.TemporaryDirectory(prefix="acpitk-") as directory:
        out = Path(directory) / source.stem
        argv = [compiler, "-x", "c", *flags, "-o", str(out), "-", *libraries]
        try:
            done = subprocess.run(argv, input=text, capture_output=True, timeout=_TIMEOUT_S, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ToolError(f"{compiler} does not run: {error}") from None
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip().splitlines() or ["no message"]
            raise ToolError(f"{compiler} cannot compile {what} (Debian: {packages}): {said[0]}")
        program = out.read_bytes()
    with contextlib.suppress(OSError):
        kept.parent.mkdir(parents=True, exist_ok=True)
        staging = kept.with_name(f"{kept.name}.{os.getpid()}")
        staging.write_bytes(program)
        staging.replace(kept)
    return program
