"""What this host offers for booting: whether KVM works here, and which version a program states."""

from __future__ import annotations

import os
import re
import select
import subprocess
from pathlib import Path

from acpitk.errors import ToolError

KVM = Path("/dev/kvm")
_TIMEOUT_S = 10.0
_VERSION = re.compile(r"\d+(?:\.\w+)+")


def kvm_problem(qemu: Path, device: Path = KVM) -> str | None:
    """Why KVM cannot be used, found by opening `device` and running firmware on it; None if it can.

    The guest is stopped at the first byte its SeaBIOS writes to its debug port, so its processor has run.

    Raises:
        ToolError: `qemu` cannot be run at all.
    """
    try:
        os.close(os.open(device, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return f"{device}: {error.strerror}"
    # fmt: off
    argv = [
        str(qemu), "-accel", "kvm", "-machine", "q35", "-m", "64M", "-nodefaults", "-no-user-config",
        "-display", "none", "-debugcon", "stdio", "-global", "isa-debugcon.iobase=0x402",
    ]
    # fmt: on
    try:
        guest = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
    except OSError as error:
        raise ToolError(f"{qemu} does not run: {error.strerror}") from None
    with guest:
        assert guest.stdout is not None  # noqa: S101 (it is a pipe)
        try:
            ready, _, _ = select.select([guest.stdout], [], [], _TIMEOUT_S)
            ran = bool(ready and guest.stdout.read(1))
        finally:
            guest.kill()
        _, complaint = guest.communicate()
    if ran:
        return None
    lines = complaint.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else f"a guest's firmware does not run within {_TIMEOUT_S:g} s"


def program_version(program: Path) -> str:
    """The first version number that `program --version` prints.

    Raises:
        ToolError: it does not run, or prints none.
    """
    try:
        done = subprocess.run(
            [program, "--version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ToolError(f"{program} --version: {error}") from None
    if match := _VERSION.search(done.stdout.partition("\n")[0]):
        return match[0]
    raise ToolError(f"{program} --version names no version")
