"""The QEMU command line of a case. Pure: nothing is read, written or started here."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from acpitk.errors import UsageError
from acpitk.machine import Case, Machine, madt_at
from acpitk.ranges import MIB

NOKASLR = "nokaslr"
CMDLINE = f"earlyprintk=serial console=ttyS0 ignore_loglevel memblock=debug {NOKASLR} panic=-1"
"""What every boot adds in front of the case's own kernel arguments, `nokaslr` unless it is about that."""
CMDLINE_MAX = 2047
"""COMMAND_LINE_SIZE - 1 of x86 (arch/x86/include/asm/setup.h)."""
_ELSE = ", the initrd override refuses it: only firmware of its own (acpi_rsdp=) can carry it"
TABLE_MIN, TABLE_MAX = 36, 65535
"""Bytes -acpitable takes per table (hw/acpi/core.c, acpi_table_install)."""


def undeliverable(case: Case) -> tuple[str, ...]:
    """Why `-acpitable` cannot hand this case to a guest as it is; empty when it can.

    QEMU rewrites the length and the checksum of every table (hw/acpi/core.c, acpi_table_install), so a
    table that is wrong in either would silently become another one.
    """
    reasons = []
    if isinstance(case.machine, Machine):
        reasons.append("the machine is an explicit memory map; QEMU gives a guest only its own layouts")
    if madt_at(case.tables) is not None:
        reasons.append("Linux would use QEMU's own MADT, which comes before those of -acpitable")
    for index, table in enumerate(case.tables):
        name = f"table {index} ({table[:4].decode('latin-1')!r})"
        if not TABLE_MIN <= len(table) <= TABLE_MAX:
            reasons.append(f"{name} has {len(table)} bytes; -acpitable takes {TABLE_MIN} to {TABLE_MAX}")
            continue
        declared = int.from_bytes(table[4:8], "little")
        if declared != len(table):
            reasons.append(
                f"{name} declares {declared} bytes and has {len(table)}; QEMU corrects that{_ELSE}"
            )
        elif sum(table) & 0xFF:
            reasons.append(f"{name} has a wrong checksum; QEMU corrects that{_ELSE}")
    if problem := cmdline_problem(case.cmdline):
        reasons.append(problem)
    return tuple(reasons)


def qemu_argv(
    case: Case,
    *,
    qemu: str,
    kernel: Path,
    table_paths: Sequence[Path],
    initrd: Path | None = None,
    memory_path: Path | None = None,
    kaslr: bool = False,
    extra: Sequence[str] = (),
) -> list[str]:
    """The argument list that boots `case`, its console on stdout.

    Args:
        case: a case whose machine is a `Q35`.
        qemu: the QEMU program.
        kernel: an uncompressed vmlinux with a PVH entry.
        table_paths: one file per table of the case, in order; no ':' or ',' in the names.
        initrd: the file of `case.machine.initrd` bytes, where that is not 0.
        memory_path: a file of the guest's size to share as its RAM; None is anonymous memory.
        kaslr: let the kernel place itself at random; `kernel` is a bzImage then.
        extra: more QEMU arguments.

    Raises:
        UsageError: the case or a path cannot be given to QEMU.
    """
    machine = case.machine
    if isinstance(machine, Machine):
        raise UsageError("this machine is an explicit memory map; only a Q35 guest can be booted")
    if problem := cmdline_problem(case.cmdline):
        raise UsageError(problem)
    if len(table_paths) != len(case.tables) or (initrd is not None) != bool(machine.initrd):
        raise UsageError("one file per table, and an initrd exactly where the machine has one")
    for path in (*table_paths, *([memory_path] if memory_path else [])):
        if {":", ","} & set(str(path)):
            raise UsageError(f"{path}: QEMU cannot take a path with ':' or ','")
    backend = f"memory-backend-file,mem-path={memory_path},share=on" if memory_path else "memory-backend-ram"
    own = CMDLINE.replace(f"{NOKASLR} ", "") if kaslr else CMDLINE
    # fmt: off
    argv = [
        qemu,
        "-machine", "q35,memory-backend=ram0", "-accel", "tcg", "-cpu", "qemu64", "-smp", "1",
        "-m", f"{machine.memory // MIB}M",
        "-object", f"{backend},id=ram0,size={machine.memory},reserve=off",
        "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "stdio",
        "-kernel", str(kernel), "-append", f"{own} {case.cmdline}".rstrip(),
    ]
    # fmt: on
    for path in table_paths:
        argv += ["-acpitable", f"file={path}"]
    if initrd is not None:
        argv += ["-initrd", str(initrd)]
    return [*argv, *extra]


def shell_line(argv: Sequence[str]) -> str:
    """`argv` as one line for a POSIX shell, to read or to paste."""
    return shlex.join(argv)


def cmdline_problem(cmdline: str) -> str | None:
    if not (cmdline.isascii() and cmdline.isprintable()):
        return f"the kernel command line has characters that are not printable ASCII: {cmdline!r}"
    if (size := len(CMDLINE) + 1 + len(cmdline)) > CMDLINE_MAX:
        return f"the kernel command line is {size} bytes with acpitk's own arguments; x86 takes {CMDLINE_MAX}"
    return None
