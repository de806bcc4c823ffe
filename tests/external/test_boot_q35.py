"""`machine.Q35` against real guests: memory map, ACPI tables, initrd."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from acpitk import klog
from acpitk.machine import ACPI_TABLES, INITRD, Q35, Case, Machine
from acpitk.qemu.image import find_kernel
from acpitk.qemu.runner import BootEnd, boot
from acpitk.ranges import GIB, MIB, parse_size
from acpitk.tables.srat import MemoryAffinity, ProcessorAffinity, build_srat, encode_srat

pytestmark = [pytest.mark.qemu, pytest.mark.kernel]
BOOTED = ("RSDP", "RSDT", "XSDT")


def guest(memory: int, initrd: int, kernel: str, qemu: Path) -> tuple[Machine, klog.FirmwareFacts, str]:
    srat = build_srat(
        (
            ProcessorAffinity(proximity_domain=0, apic_id=0),
            MemoryAffinity(proximity_domain=0, base=0, length=memory + 2 * GIB),
        )
    )
    case = Case(machine=Q35(memory, initrd), tables=(encode_srat(srat),))
    result = boot(case, find_kernel(kernel), qemu=qemu, timeout=120)
    assert result.ended is BootEnd.MARKER
    return case.resolved(), klog.firmware_facts(result.console), result.console


@pytest.mark.parametrize("kernel", ["v6.1", "v7.3"])
@pytest.mark.parametrize(
    "memory",
    [
        "128M",
        "512M",
        "1G",
        "2G",
        "2815M",
        "2816M",
        "3G",
        "4G",
        "5G",
        "16G",
        "64G",
        "65G",
        "144G",
        "161G",
        "978G",
    ],
)
def test_memory_map_and_acpi_placement(
    memory: str, kernel: str, qemu_path: Path, kernel_image: Callable[[str], Path]
) -> None:
    kernel_image(kernel)
    machine, facts, _ = guest(parse_size(memory), 0, kernel, qemu_path)
    assert facts.e820 == tuple((e.start, e.end, e.type.value) for e in machine.e820)
    tables = [t for t in facts.acpi_tables if t.signature not in BOOTED]
    start, end = min(t.address for t in tables), max(t.address + t.length for t in tables)
    assert [(r.start, r.end) for r in machine.placed if r.owner == ACPI_TABLES] == [(start, end)]
    (rsdt,) = (t for t in facts.acpi_tables if t.signature == "RSDT")
    assert (rsdt.address, rsdt.length) == (end, len(machine.after_tables))


@pytest.mark.parametrize("kernel", ["v6.1", "v7.3"])
@pytest.mark.parametrize(
    ("memory", "initrd"),
    [(GIB, 1), (512 * MIB, MIB), (GIB, 5_000_000), (4 * GIB, 64 * MIB), (144 * GIB, 20 * MIB)],
)
def test_initrd_placement(
    memory: int, initrd: int, kernel: str, qemu_path: Path, kernel_image: Callable[[str], Path]
) -> None:
    kernel_image(kernel)
    machine, facts, console = guest(memory, initrd, kernel, qemu_path)
    (placed,) = (r for r in machine.placed if r.owner == INITRD)
    assert f"RAMDISK: [mem {placed.start:#010x}-{placed.end - 1:#010x}]" in console
    assert facts.reserved is not None
    assert (placed.start, placed.end) in {(r.start, r.end) for r in facts.reserved}


def test_one_mebibyte_more_than_the_limit_is_refused_by_qemu_too(
    qemu_path: Path, kernel_image: Callable[[str], Path]
) -> None:
    from acpitk.errors import ToolError, UsageError

    with pytest.raises(UsageError, match="978G"):
        Q35(978 * GIB + MIB)
    kernel_image("v6.1")
    too_large = Q35(978 * GIB)
    object.__setattr__(too_large, "memory", 979 * GIB)
    with pytest.raises(ToolError, match="phys-bits"):
        boot(Case(machine=too_large), find_kernel("v6.1"), qemu=qemu_path)
