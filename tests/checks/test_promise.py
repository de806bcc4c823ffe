"""The promise of movable_node against consoles of real kernels, kept and broken."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from acpitk import klog
from acpitk.checks.finding import Finding
from acpitk.checks.promise import broken_promises
from acpitk.kernel.boot import predict
from acpitk.kernel.policy import POLICIES
from acpitk.klog import MemblockCall
from acpitk.machine import case_from_json
from acpitk.outcome import NumaState

LOGS = Path(__file__).parent.parent / "klog" / "logs" / "accepted"
KERNELS = sorted(log.stem for log in LOGS.glob("*.log"))
CASE = case_from_json(json.loads((LOGS / "case.json").read_text()), source="accepted")
HOT = next(e for e in predict(CASE, POLICIES["v6.1"]).entries if e.hotplug)


def judge(kernel: str, *moved: MemblockCall, to: int = 0, numa: NumaState = NumaState.SRAT) -> list[Finding]:
    """The recorded boot, with some reservations `to` elsewhere."""
    console = (LOGS / f"{kernel}.log").read_text()
    booted = replace(klog.parse(console, kernel=kernel, ended="marker"), numa=numa)
    trace = [
        replace(call, start=to, end=to + call.end - call.start) if call in moved else call
        for call in klog.memblock_trace(console)
    ]
    return broken_promises(trace, klog.firmware_facts(console), booted, predict(CASE, POLICIES[kernel]))


def reservations(kernel: str, caller: str) -> list[MemblockCall]:
    trace = klog.memblock_trace((LOGS / f"{kernel}.log").read_text())
    return [call for call in trace if call.call == "reserve" and call.caller == caller]


@pytest.mark.parametrize("kernel", KERNELS)
def test_real_kernels_keep_it(kernel: str) -> None:
    assert judge(kernel) == []


@pytest.mark.parametrize("kernel", KERNELS)
def test_one_allocation_in_hot_pluggable_memory_breaks_it(kernel: str) -> None:
    last = reservations(kernel, "memblock_alloc_range_nid")[-1]
    (found,) = judge(kernel, last, to=HOT.base)
    assert found.id == "BOOT-EARLY-ALLOC"
    assert found.kernels == (kernel,)
    assert f"{HOT.base:#x}-" in found.where
    assert found.signature == f"BOOT-EARLY-ALLOC:{found.where.partition(':')[0]}"


def test_where_firmware_put_something_the_kernel_resides() -> None:
    last = reservations("v6.1", "memblock_alloc_range_nid")[-1]
    placed = reservations("v6.1", "acpi_reserve_initial_tables")[0]
    assert judge("v6.1", last, placed, to=HOT.base) == []


def test_without_numa_nothing_is_promised() -> None:
    last = reservations("v6.1", "memblock_alloc_range_nid")[-1]
    assert judge("v6.1", last, to=HOT.base, numa=NumaState.DUMMY) == []
