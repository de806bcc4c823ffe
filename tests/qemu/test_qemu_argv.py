"""The QEMU command line, and what -acpitable cannot deliver."""

from __future__ import annotations

import shlex
import struct
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acpitk.errors import UsageError
from acpitk.machine import Q35, Case, E820Entry, E820Type, Machine
from acpitk.qemu.argv import CMDLINE, qemu_argv, shell_line, undeliverable
from acpitk.ranges import GIB
from acpitk.tables.header import seal

TABLE = seal(b"SRAT" + struct.pack("<IBB", 48, 3, 0) + b"ACPITK" + b"ACPITK  " + bytes(24))
CASE = Case(machine=Q35(GIB), tables=(TABLE,), cmdline="movable_node")


def argv(case: Case, **changes: object) -> list[str]:
    paths = [Path(f"/t/table{i}") for i in range(len(case.tables))]
    options: dict[str, object] = {"qemu": "qemu", "kernel": Path("/k/vmlinux"), "table_paths": paths}
    return qemu_argv(case, **options | changes)  # type: ignore[arg-type]


def test_a_sound_table_is_deliverable() -> None:
    assert undeliverable(CASE) == ()


@pytest.mark.parametrize(
    ("table", "word"),
    [
        (TABLE[:-1], "declares 48 bytes and has 47"),
        (TABLE[:9] + bytes([TABLE[9] ^ 1]) + TABLE[10:], "checksum"),
        (TABLE[:35], "35 bytes"),
        (b"", "0 bytes"),
        (seal(TABLE.ljust(65536, b"\0")), "65536 bytes"),
    ],
)
def test_what_qemu_would_change_is_undeliverable(table: bytes, word: str) -> None:
    (reason,) = undeliverable(replace(CASE, tables=(table,)))
    assert word in reason


def test_an_explicit_machine_is_undeliverable() -> None:
    machine = Machine(e820=(E820Entry(0, GIB, E820Type.USABLE),))
    assert undeliverable(replace(CASE, machine=machine))
    with pytest.raises(UsageError, match="explicit memory map"):
        argv(replace(CASE, machine=machine))


@given(st.text(max_size=60))
def test_the_command_line_is_one_argument_or_refused(cmdline: str) -> None:
    case = replace(CASE, cmdline=cmdline)
    if undeliverable(case):
        with pytest.raises(UsageError, match="command line"):
            argv(case)
    else:
        arguments = argv(case)
        assert arguments[arguments.index("-append") + 1] == f"{CMDLINE} {cmdline}".rstrip()
        assert shlex.split(shell_line(arguments)) == arguments


def test_a_command_line_longer_than_the_kernel_takes_is_refused() -> None:
    assert "2047" in undeliverable(replace(CASE, cmdline="x" * 2000))[0]


@pytest.mark.parametrize("name", ["a:b", "a,b", "a,sig=XXXX"])
def test_paths_never_reach_the_option_parser(name: str) -> None:
    with pytest.raises(UsageError, match=name):
        argv(CASE, table_paths=[Path("/t") / name])
    with pytest.raises(UsageError, match=name):
        argv(CASE, memory_path=Path("/t") / name)


def test_every_table_and_the_initrd_get_their_file() -> None:
    case = replace(CASE, machine=Q35(GIB, 4096), tables=(TABLE, TABLE))
    arguments = argv(case, initrd=Path("/t/initrd"))
    assert [a for a in arguments if a.startswith("file=")] == ["file=/t/table0", "file=/t/table1"]
    assert arguments[arguments.index("-initrd") + 1] == "/t/initrd"
    with pytest.raises(UsageError, match="initrd"):
        argv(case)
    with pytest.raises(UsageError, match="one file per table"):
        argv(CASE, table_paths=[])


def test_guest_memory_is_not_reserved_on_the_host() -> None:
    backend = next(a for a in argv(CASE) if a.startswith("memory-backend-ram"))
    assert f"size={GIB}" in backend
    assert "reserve=off" in backend
