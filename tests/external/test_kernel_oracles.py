"""Real kernels against each other, and against what movable_node promises."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from acpitk import klog
from acpitk.checks.differential import compare
from acpitk.checks.promise import UNTOLD, broken_promises
from acpitk.cli.oracles import kernels_oracle
from acpitk.fuzz.processors import Processor, encode_madt, with_processors
from acpitk.images import predict_image
from acpitk.kernel.policy import POLICIES
from acpitk.machine import Q35, Case
from acpitk.outcome import NumaState
from acpitk.qemu.boots import Boots
from acpitk.qemu.image import find_kernel
from acpitk.qemu.runner import Via
from acpitk.ranges import GIB, MIB
from acpitk.tables.header import seal
from acpitk.tables.srat import (
    MemoryAffinity,
    MemoryFlags,
    ProcessorAffinity,
    build_srat,
    decode_srat,
    encode_srat,
)

pytestmark = [pytest.mark.qemu, pytest.mark.kernel("v6.1")]

PLAIN, HOT = MemoryFlags.ENABLED, MemoryFlags.ENABLED | MemoryFlags.HOT_PLUGGABLE


def two_nodes(edge: int, cmdline: str = "movable_node") -> Case:
    """Node 0 plain up to `edge`, node 1 hot-pluggable from there."""
    entries = (
        MemoryAffinity(proximity_domain=0, base=0, length=edge, flags=PLAIN),
        MemoryAffinity(proximity_domain=1, base=edge, length=GIB - edge, flags=HOT),
    )
    return Case(machine=Q35(GIB), tables=(encode_srat(build_srat(entries)),), cmdline=cmdline)


ROUNDED = two_nodes(0x20000064)
"""6.12 and later round the start of ZONE_MOVABLE up, where 6.1 rounds down."""


def test_a_difference_that_the_rows_foretell_is_a_behaviour(
    qemu_path: Path, kernel_image: Callable[[str], Path]
) -> None:
    for name in ("v6.1", "v7.3"):
        kernel_image(name)
    oracle = kernels_oracle([find_kernel("v6.1"), find_kernel("v7.3")])
    assert list(oracle.check(ROUNDED)) == []
    assert oracle.behaviour is not None
    assert "boot v6.1 and boot v7.3: zone_movable_start as foretold" in oracle.behaviour(ROUNDED)
    assert list(oracle.check(two_nodes(512 * MIB))) == []


def test_a_difference_that_no_row_foretells_is_a_finding(
    qemu_path: Path, kernel_image: Callable[[str], Path]
) -> None:
    """A 6.1 that goes by the name of 6.12, whose row rounds up as that of 7.3 does."""
    for name in ("v6.1", "v7.3"):
        kernel_image(name)
    oracle = kernels_oracle([replace(find_kernel("v6.1"), name="v6.12"), find_kernel("v7.3")])
    (found,) = oracle.check(ROUNDED)
    assert found.signature == "DIFF-ZONE-MOVABLE:boot v6.12 and boot v7.3: N -> N"
    assert list(oracle.check(ROUNDED)) == [found]


@pytest.mark.parametrize("via", [Via.FORK, Via.FRESH])
def test_what_movable_node_promises(via: Via, qemu_path: Path, kernel_image: Callable[[str], Path]) -> None:
    """Kept with the option, and broken without it, as far as the log of either way tells."""
    kernel_image("v6.1")
    image = find_kernel("v6.1")
    with Boots(image, via=via) as boots:
        for case, broken in ((two_nodes(512 * MIB), False), (two_nodes(512 * MIB, ""), True)):
            result = boots.boot(case)
            assert result.via is via
            found = broken_promises(
                klog.memblock_trace(result.console),
                klog.firmware_facts(result.console),
                result.outcome(),
                predict_image(case, image, POLICIES["v6.1"]),
            )
            assert [each.cause for each in found] == ([UNTOLD] if broken else [])


def test_a_madt_of_the_case_is_what_the_kernel_reads(
    qemu_path: Path, kernel_image: Callable[[str], Path]
) -> None:
    """By either way: the processors it lists get per-CPU areas, and one that cannot be walked ends ACPI."""
    kernel_image("v6.1")
    image = find_kernel("v6.1")
    case = two_nodes(512 * MIB)
    cpus = tuple(ProcessorAffinity(proximity_domain=domain, apic_id=domain) for domain in (0, 1))
    memory = decode_srat(case.tables[0]).entries
    case = replace(case, tables=(encode_srat(build_srat((*cpus, *memory))),))
    listed = with_processors(case, [Processor(0), Processor(1)])
    broken = replace(listed, tables=(case.tables[0], seal(encode_madt([Processor(0)]) + bytes(8))))
    for via in (Via.FORK, Via.FRESH):
        with Boots(image, via=via) as boots:
            for each, state in ((case, NumaState.SRAT), (listed, NumaState.SRAT), (broken, NumaState.DUMMY)):
                result = boots.boot(each)
                predicted = predict_image(each, image, POLICIES["v6.1"])
                assert result.outcome().numa is state
                assert compare(predicted.outcome, result.outcome()).differences == ()
                trace = klog.memblock_trace(result.console)
                asked = [call.size for call in trace if call.caller == "pcpu_fc_alloc"]
                areas = [a for a in predicted.allocations if a.purpose == "percpu area"]
                assert asked == [a.end - a.start for a in areas]
