"""The guest's init program, what is read from its files, and memory to plug in: no QEMU needed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from acpitk.errors import ToolError, UsageError
from acpitk.machine import Q35, Case, Machine
from acpitk.outcome import Zone
from acpitk.qemu.hot_add import HotAdd, device_address, override
from acpitk.qemu.remove import distances, zones
from acpitk.qemu.userspace import build_init, initrd, with_initrd
from acpitk.ranges import GIB, MIB
from acpitk.tables.srat import encode_srat
from acpitk.topology import parse_topology

SRAT = encode_srat(parse_topology(["0:mem=0-1G,cpus=0", "3:mem=4G-5G,hotplug"]).tables()[0])
ZONEINFO = """Node 0, zone      DMA
  per-node stats
      nr_inactive_anon 0
  pages free     3840
        min      21
        spanned  4095
        present  3998
        managed  3840
        protection: (0, 991, 991, 991)
      nr_free_pages 3840
  pagesets
    cpu: 0
              count: 0
  node_unreclaimable:  0
  start_pfn:           1
Node 0, zone   Normal
  pages free     0
        spanned  0
        present  0
        managed  0
        protection: (0, 0, 0, 0)
Node 1, zone  Movable
  pages free     131072
        spanned  262144
        present  131072
        managed  131072
        protection: (0, 0, 0, 0)
  node_unreclaimable:  0
  start_pfn:           1048576
"""


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty cache; the test is skipped where no C compiler is."""
    if shutil.which("gcc") is None:
        pytest.skip("no gcc")
    monkeypatch.setenv("ACPITK_CACHE", str(tmp_path))
    return tmp_path


def test_the_init_program_is_small_the_same_each_time_and_kept(compiler: Path) -> None:
    first = build_init()
    (kept,) = (compiler / "compiled").iterdir()
    kept.unlink()
    assert build_init() == first
    assert len(first) < 4096
    kept.write_bytes(b"\x7fELF kept")
    assert build_init() == b"\x7fELF kept"


def test_a_damaged_copy_is_compiled_anew(compiler: Path) -> None:
    first = build_init()
    (kept,) = (compiler / "compiled").iterdir()
    kept.write_bytes(b"")
    assert build_init() == first


def test_without_a_compiler_the_package_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ACPITK_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolError, match="gcc"):
        build_init()


def test_the_machine_gets_the_initrd_and_keeps_a_larger_one(compiler: Path) -> None:
    size = len(initrd())
    assert size < 8192
    assert with_initrd(Case(machine=Q35(GIB)), size).machine == Q35(GIB, size)
    assert with_initrd(Case(machine=Q35(GIB, MIB)), size).machine == Q35(GIB, MIB)
    with pytest.raises(UsageError):
        with_initrd(Case(machine=Machine(e820=())), size)


def test_populated_zones_are_read_and_empty_ones_are_not() -> None:
    assert zones(ZONEINFO) == (
        Zone(0, "DMA", 0x1000, 0x1000000),
        Zone(1, "Movable", 4 * GIB, 5 * GIB),
    )


def test_distances_need_every_possible_node() -> None:
    rows = {"node0": "10 20\n", "node1": "20 10\n"}
    assert distances(rows, "0-1\n") == ((10, 20), (20, 10))
    assert distances(rows, "0-2\n") is None
    assert distances({"node0": "10\n"}, "0\n") == ((10,),)


def test_an_override_is_the_table_under_qemus_name() -> None:
    archive = override(SRAT)
    at = archive.index(b"SRAT")
    table = archive[at : at + len(SRAT)]
    assert archive.index(b"kernel/firmware/acpi/srat.aml") < at
    assert sum(table) % 256 == 0
    assert table[10:24] == b"BOCHS BXPC    "
    assert int.from_bytes(table[24:28], "little") >= 2
    assert (table[:9], table[28:]) == (SRAT[:9], SRAT[28:])


@pytest.mark.parametrize("bad", [SRAT[:-1], SRAT + b"\0", SRAT[:9] + bytes([SRAT[9] ^ 1]) + SRAT[10:], b""])
def test_what_the_kernel_would_refuse_is_refused(bad: bytes) -> None:
    with pytest.raises(UsageError, match="length and checksum"):
        override(bad)


@pytest.mark.parametrize(
    ("memory", "address"), [(GIB, 4 * GIB), (3 * GIB, 5 * GIB), (3 * GIB + MIB, 6 * GIB)]
)
def test_a_device_starts_at_a_whole_gibibyte_above_ram(memory: int, address: int) -> None:
    assert device_address(Case(machine=Q35(memory))) == address


def test_the_domain_is_the_srats_unless_given() -> None:
    case = Case(machine=Q35(GIB), tables=(SRAT,))
    assert HotAdd(size=GIB).domain_in(case, 4 * GIB) == 3
    assert HotAdd(size=GIB, domain=1).domain_in(case, 4 * GIB) == 1
    with pytest.raises(UsageError, match="SIZE@DOMAIN"):
        HotAdd(size=GIB).domain_in(case, 5 * GIB)


@pytest.mark.parametrize("size", [0, MIB, 200 * MIB, 65 * GIB])
def test_sizes_are_whole_memory_blocks(size: int) -> None:
    with pytest.raises(UsageError, match="128M"):
        HotAdd(size=size)
