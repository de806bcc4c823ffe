"""What movable_node promises, held against the console of a real boot.

Until the SRAT is parsed memblock allocates upwards from the end of the kernel image, afterwards it leaves out
what is marked (__memblock_find_range_bottom_up() and should_skip_region(), mm/memblock.c). So no allocation
lands in memory that the SRAT calls hot-pluggable, except on nodes where the kernel resides anyway.
"""

from __future__ import annotations

from collections.abc import Sequence

from acpitk.checks.catalogue import finding
from acpitk.checks.finding import Finding
from acpitk.kernel.prediction import EntryUse, Prediction
from acpitk.klog import FirmwareFacts, MemblockCall
from acpitk.outcome import NumaState, Outcome
from acpitk.ranges import MIB

ALLOCATORS = frozenset({"memblock_alloc_range_nid", "alloc_low_pages", "numa_alloc_distance"})
"""Functions that reserve memory whose place the kernel has chosen; the other two do so in 5.10."""
_CHANGES = frozenset({"add", "remove", "reserve", "free"})
_TABLES = "acpi_reserve_initial_tables"
UNTOLD = "before the ACPI tables are read"
"""The cause of an allocation that no SRAT could have kept elsewhere."""
_LISTED = 3


def broken_promises(
    trace: Sequence[MemblockCall], facts: FirmwareFacts, booted: Outcome, prediction: Prediction
) -> list[Finding]:
    """One finding where a kernel booted with movable_node allocated hot-pluggable memory.

    The kernel resides on the nodes in whose ranges, up to the end of RAM, something lies whose place it did
    not choose: its image, the initrd, ACPI tables. Memory below 1 MiB, where processors start, is left out.

    Args:
        trace: `klog.memblock_trace` of the console.
        facts: of the same console.
        booted: its outcome; nothing is promised where NUMA is not from the SRAT.
        prediction: names the SRAT entries that the kernel accepts, and their nodes.
    """
    if booted.numa is not NumaState.SRAT or not booted.memory or facts.reserved is None:
        return []
    begun = 1 + max((i for i, call in enumerate(trace) if call.call == "add"), default=-1)
    fixed = [(row.start, row.end) for row in facts.reserved]
    chosen: list[tuple[str, MemblockCall, bool]] = []
    told = False
    for call, before in zip(trace[begun:], trace[max(begun - 1, 0) :], strict=False):
        told |= call.caller == _TABLES
        if call.call == "reserve" and call.caller not in ALLOCATORS:
            fixed.append((call.start, call.end))
        elif call.call == "reserve" and call.start >= MIB:
            by = call.caller if before.call in _CHANGES else before.caller
            chosen.append((by, call, told))
    entries = [entry for entry in prediction.entries if entry.use is EntryUse.ACCEPTED]
    end_of_ram = booted.memory[-1].end
    spans = [(entry.base, min(entry.base + entry.length, end_of_ram), entry) for entry in entries]
    homes = {entry.nid for start, end, entry in spans if any(s < end and start < e for s, e in fixed)}
    hot = [(start, end) for start, end, entry in spans if entry.hotplug and entry.nid not in homes]
    landed = [each for each in chosen if any(s < each[1].end and each[1].start < e for s, e in hot)]
    return [_finding(landed, booted.kernel)] if landed else []


def _finding(landed: Sequence[tuple[str, MemblockCall, bool]], kernel: str) -> Finding:
    first, _, told = landed[0]
    more = f" and {len(landed) - _LISTED} more" if len(landed) > _LISTED else ""
    return finding(
        "BOOT-EARLY-ALLOC",
        where="; ".join(f"{by}: {c.start:#x}-{c.end:#x}" for by, c, _ in landed[:_LISTED]) + more,
        expected="no allocation in hot-pluggable memory of a node where nothing had been placed",
        actual=f"{len(landed)} of the allocations up to the set-up of zones lie there",
        cause=first if told else UNTOLD,
        kernels=(kernel,),
    )
