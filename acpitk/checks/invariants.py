"""Policy edge cases visible in one prediction: where Linux does something else than firmware asked for.

Every rule is one generator over a `_View`. Nothing is formatted before a rule fires, because the fuzzer asks
thousands of times a second; what would repeat itself for each range is one finding that names the first
places.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from acpitk.checks.catalogue import finding
from acpitk.checks.differential import message_class, panic_class
from acpitk.checks.finding import Finding, Severity
from acpitk.kernel.cmdline import CommandLine, parse_cmdline
from acpitk.kernel.policy import POLICIES
from acpitk.kernel.prediction import Allocation, EntryUse, EntryVerdict, Prediction
from acpitk.machine import ACPI_TABLES, INITRD, KERNEL_IMAGE, Case
from acpitk.outcome import Block, NumaReason, NumaState, Outcome, Region
from acpitk.ranges import ADDRESS_LIMIT, GIB, MIB, PAGE_SIZE

MEMORY_MAP_SHARE = 64
"""struct page takes 64 of every 4096 bytes, so 1/64 of all memory goes to the memory map."""
KERNEL_RESERVE = 128 * MIB
"""Kernel memory wanted beside the memory map: with 64 to 72 MiB on a 1 GiB guest, kernels 5.10 to 7.3 run out
of memory during boot; with 96 MiB they come up with little to spare."""
MOVABLE_RATIO = 4
"""ZONE_MOVABLE to kernel zones from which Documentation/admin-guide/mm/memory-hotplug.rst warns."""

_SLACK = 128 * MIB
"""A range that ends less than this above RAM covers what firmware keeps for itself at the top."""
_LISTED = 3
_HARMLESS = frozenset({None, NumaReason.ACCEPTED, NumaReason.NO_SRAT, NumaReason.TURNED_OFF})
_BAD_SRAT_MESSAGES = ("Unexpected header length", "Too many proximity domains", "too many memblk ranges")
_IGNORED = {
    EntryUse.EMPTY: Severity.WARNING,
    EntryUse.WRAPPED: Severity.WARNING,
    EntryUse.NOT_RAM: Severity.NOTE,
    EntryUse.DISABLED: Severity.NOTE,
}
_SLIT_MESSAGES = {
    "SLIT table looks invalid": "invalid matrix",
    "can't allocate distance table": "no memory for the distance table",
}
_NO_SINGLE_OR_MOVABLE_ZONE = frozenset({None, "Movable"})


class _View(NamedTuple):
    """What the rules look at, computed once.

    `movable_node`: the kernel's own word for the option is given. `accepted`, `hot_entries` and
    `plain_entries` are ascending by base; `hot` are the marked regions of RAM, `swept` the parts of RAM in
    ZONE_MOVABLE without the mark.
    """

    case: Case
    prediction: Prediction
    outcome: Outcome
    kernels: tuple[str, ...]
    options: CommandLine
    movable_node: bool
    accepted: list[EntryVerdict]
    hot_entries: list[EntryVerdict]
    plain_entries: list[EntryVerdict]
    memory: tuple[Region, ...]
    hot: list[Region]
    movable: Mapping[Any, int]
    swept: list[Region]


def check(case: Case, prediction: Prediction) -> list[Finding]:
    """The policy findings (`POL-*`) of one prediction, in the order of the rules.

    A field of the outcome that was not observed makes the rules that need it silent.
    """
    outcome = prediction.outcome
    options = parse_cmdline(case.cmdline)
    policy = POLICIES.get(outcome.kernel)
    memory = outcome.memory or ()
    movable: Mapping[Any, int] = outcome.zone_movable_start or {}
    accepted = [entry for entry in prediction.entries if entry.use is EntryUse.ACCEPTED]
    accepted.sort(key=_base)
    view = _View(
        case,
        prediction,
        outcome,
        (outcome.kernel,),
        options,
        options.given(policy.hotplug_option if policy else "movable_node"),
        accepted,
        [entry for entry in accepted if entry.hotplug],
        [entry for entry in accepted if not entry.hotplug],
        memory,
        [region for region in memory if "hotplug" in region.flags],
        movable,
        [
            Region(max(region.start, movable[region.nid]), region.end, region.nid)
            for region in memory
            if region.nid in movable and region.end > movable[region.nid] and "hotplug" not in region.flags
        ]
        if movable
        else [],
    )
    found: list[Finding] = []
    for rule in _RULES:
        found += rule(view)
    return found


def _base(entry: EntryVerdict) -> int:
    return entry.base


def _span(start: int, end: int) -> str:
    return f"{start:#x}-{end:#x}"


def _places(names: Sequence[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


def _ranges(rows: Iterable[Region | Block]) -> str:
    return _places([_span(row.start, row.end) for row in rows])


def _entries(entries: Iterable[EntryVerdict]) -> str:
    return "SRAT memory entry at byte " + _places([str(entry.offset) for entry in entries])


def _touches(start: int, end: int, regions: Iterable[Region]) -> bool:
    return any(start < region.end and region.start < end for region in regions)


def _outside(regions: Iterable[Region], entries: Iterable[EntryVerdict]) -> Iterator[Region]:
    """The parts of `regions` that no entry covers; both ascending."""
    spans: list[tuple[int, int]] = []
    for entry in entries:
        start, end = entry.base, entry.base + entry.length
        if spans and start <= spans[-1][1]:
            spans[-1] = (spans[-1][0], max(end, spans[-1][1]))
        else:
            spans.append((start, end))
    first = 0
    for region in regions:
        at = region.start
        while first < len(spans) and spans[first][1] <= at:
            first += 1
        for start, end in spans[first:]:
            if start >= region.end:
                break
            if start > at:
                yield Region(at, start, region.nid)
            at = end
        if at < region.end:
            yield Region(at, region.end, region.nid)


def _kernel_node(view: _View) -> Iterator[Finding]:
    for nid, owners in view.prediction.kernel_nodes.items():
        yield finding(
            "POL-KERNEL-NODE",
            severity=None if view.movable_node else Severity.NOTE,
            where=f"node {nid}",
            expected="the memory stays hot-pluggable, as the SRAT says",
            actual=f"the mark is cleared on the whole node, because it holds: {', '.join(owners)}",
            cause=_main_owner(owners),
            kernels=view.kernels,
        )


def _main_owner(owners: tuple[str, ...]) -> str:
    """The owner that explains most: one cause for one kind of node, however many others are there."""
    return next((owner for owner in (KERNEL_IMAGE, INITRD, ACPI_TABLES) if owner in owners), min(owners))


def _boot_memory(view: _View) -> Iterator[Finding]:
    """What the kernel allocated in hot-pluggable memory, and in ZONE_MOVABLE beside it."""
    if view.hot:
        severity, cause = (None, "") if view.movable_node else (Severity.NOTE, "movable_node is off")
        allocations = _allocated(view, view.hot)
        if data := [a for a in allocations if a.purpose.startswith("NODE_DATA")]:
            yield _allocations(view, "POL-NODE-DATA", data, severity, cause)
        if others := [a for a in allocations if not a.purpose.startswith("NODE_DATA")]:
            cause = cause or message_class(others[0].purpose)
            yield _allocations(view, "POL-EARLY-ALLOC", others, severity, cause)
    if view.swept and (allocations := _allocated(view, view.swept)):
        cause = "" if view.movable_node else "size given on the command line"
        yield _allocations(view, "POL-ALLOC-MOVABLE", allocations, None, cause)


def _allocated(view: _View, regions: list[Region]) -> list[Allocation]:
    """Allocations that touch one of `regions`, which are ascending."""
    low, high = regions[0].start, regions[-1].end
    near = [a for a in view.prediction.allocations if a.start < high and low < a.end]
    return near if len(regions) == 1 else [a for a in near if _touches(a.start, a.end, regions)]


def _allocations(
    view: _View, rule: str, allocations: list[Allocation], severity: Severity | None, cause: str
) -> Finding:
    count = len(allocations)
    return finding(
        rule,
        severity=severity,
        where=_places([f"{a.purpose} at {_span(a.start, a.end)}" for a in allocations]),
        expected="memory that is to be removed holds nothing that cannot move",
        actual=f"{count} boot-time allocation{'' if count == 1 else 's'} in it",
        cause=cause,
        kernels=view.kernels,
    )


def _hot_not_movable(view: _View) -> Iterator[Finding]:
    if not (view.hot and view.movable_node and view.outcome.zone_movable_start is not None):
        return
    left_out = [r for r in view.hot if r.nid is not None and r.start < view.movable.get(r.nid, ADDRESS_LIMIT)]
    for cause, regions in (
        ("no ZONE_MOVABLE on the node", [r for r in left_out if r.nid not in view.movable]),
        ("start rounded up", [r for r in left_out if r.nid in view.movable]),
    ):
        if regions:
            starts = {r.nid: view.movable[r.nid] for r in regions if r.nid in view.movable}
            yield finding(
                "POL-HOT-NOT-MOVABLE",
                where=f"node {regions[0].nid}, {_ranges(regions)}",
                expected="all hot-pluggable memory in ZONE_MOVABLE",
                actual="ZONE_MOVABLE starts at " + _places([f"{at:#x}" for at in starts.values()])
                if starts
                else "the node has no ZONE_MOVABLE: its start, rounded up, is past the end of the node",
                cause=cause,
                kernels=view.kernels,
            )


def _swept(view: _View) -> Iterator[Finding]:
    if view.swept and view.movable_node:
        yield finding(
            "POL-SWEPT",
            where=f"node {view.swept[0].nid}, {_ranges(view.swept)}",
            expected="memory without Hot Pluggable in a kernel zone",
            actual="in ZONE_MOVABLE, because it lies above the node's lowest hot-pluggable address",
            kernels=view.kernels,
        )


def _kernel_memory(view: _View) -> Iterator[Finding]:
    """Thresholds: `MEMORY_MAP_SHARE`, `KERNEL_RESERVE`, `MOVABLE_RATIO`."""
    if view.outcome.zone_movable_start is None:
        regions = view.hot if view.movable_node else []
        movable = sum(r.end - r.start for r in regions)
    else:
        starts = view.movable
        movable = sum(
            r.end - max(r.start, starts[r.nid])
            for r in view.memory
            if r.nid in starts and r.end > starts[r.nid]
        )
    if not movable:
        return
    total = sum(r.end - r.start for r in view.memory)
    kernel, wanted = total - movable, total // MEMORY_MAP_SHARE + KERNEL_RESERVE
    if kernel < wanted:
        yield finding(
            "POL-KERNEL-MEMORY",
            where="all nodes",
            expected=f"at least {wanted // MIB}M outside ZONE_MOVABLE for {total // MIB}M of RAM",
            actual=f"{kernel // MIB}M",
            kernels=view.kernels,
        )
    elif movable > MOVABLE_RATIO * kernel:
        yield finding(
            "POL-MOVABLE-RATIO",
            where="all nodes",
            expected=f"at most {MOVABLE_RATIO} times as much movable as kernel memory",
            actual=f"{movable // MIB}M in ZONE_MOVABLE, {kernel // MIB}M elsewhere",
            kernels=view.kernels,
        )


def _numa_rejected(view: _View) -> Iterator[Finding]:
    reason = view.outcome.numa_reason
    if reason is NumaReason.NO_SRAT and not view.options.acpi_off:
        if view.case.table(b"SRAT") is None:
            return
        cause = "SRAT not mapped"
    elif reason in _HARMLESS:
        return
    else:
        cause = str(reason)
    if reason is NumaReason.BAD_SRAT:
        text = "\n".join(view.outcome.messages)
        cause += ": " + next((m for m in _BAD_SRAT_MESSAGES if m in text), "processor entry length")
    rejected = [entry for entry in view.prediction.entries if entry.use is EntryUse.REJECTED]
    yield finding(
        "POL-NUMA-REJECTED",
        where=_entries(rejected) if rejected else "SRAT",
        offset=rejected[0].offset if rejected else None,
        expected="nodes and hotplug marks from the SRAT",
        actual=f"one dummy node with all memory: {cause}",
        cause=cause,
        kernels=view.kernels,
    )


def _entry_ignored(view: _View) -> Iterator[Finding]:
    if len(view.accepted) == len(view.prediction.entries):
        return
    for use, severity in _IGNORED.items():
        entries = [
            e for e in view.prediction.entries if e.use is use and (e.hotplug or use is not EntryUse.DISABLED)
        ]
        if entries:
            yield finding(
                "POL-ENTRY-IGNORED",
                severity=severity,
                where=_entries(entries),
                offset=entries[0].offset,
                expected="the entry gives its node memory",
                actual=f"no memory comes of it: {use}",
                cause=f"{use}{', hot-pluggable' if any(e.hotplug for e in entries) else ''}",
                kernels=view.kernels,
            )


def _pxm_masked(view: _View) -> Iterator[Finding]:
    entries = [e for e in view.accepted if e.pxm != e.firmware_pxm]
    if entries:
        yield finding(
            "POL-PXM-MASKED",
            where=_entries(entries),
            offset=entries[0].offset,
            expected=f"proximity domain {entries[0].firmware_pxm}",
            actual=f"proximity domain {entries[0].pxm}, node {entries[0].nid}",
            kernels=view.kernels,
        )


def _nodes(view: _View) -> Iterator[Finding]:
    """Numbering, nodes without memory, nodes with memory that stay offline."""
    if view.outcome.numa is not NumaState.SRAT:
        return
    nodes = view.outcome.pxm_to_node or {}
    in_order = [nodes[pxm] for pxm in sorted(nodes)]
    if in_order != sorted(in_order):
        yield finding(
            "POL-NODE-ORDER",
            where=_places([f"proximity domain {pxm} is node {nodes[pxm]}" for pxm in sorted(nodes)]),
            expected="nodes numbered in the order of their proximity domains",
            actual="nodes numbered in the order of first appearance",
            kernels=view.kernels,
        )
    with_memory = {region.nid for region in view.memory}
    if bare := [nid for nid in in_order if nid not in with_memory]:
        yield finding(
            "POL-MEMORYLESS",
            where=_places([f"node {nid}" for nid in bare]),
            expected="memory on every node",
            actual="no RAM of the memory map is on the node",
            kernels=view.kernels,
        )
    if view.outcome.node_data is not None and view.outcome.panic is None:
        online = {row.nid for row in view.outcome.node_data}
        if offline := [nid for nid in with_memory if nid is not None and nid not in online]:
            yield finding(
                "POL-NODE-OFFLINE",
                where=_places([f"node {nid}" for nid in sorted(offline)]),
                expected="a pg_data_t for every node with memory",
                actual="none could be allocated",
                kernels=view.kernels,
            )


def _distances(view: _View) -> Iterator[Finding]:
    if view.case.table(b"SLIT") is None:
        return
    for message in view.outcome.messages:
        for text, cause in _SLIT_MESSAGES.items():
            if text in message:
                yield finding(
                    "POL-SLIT-IGNORED",
                    where="SLIT",
                    expected="node distances from the SLIT",
                    actual=f"10 and 20 everywhere: {cause}",
                    cause=cause,
                    kernels=view.kernels,
                )
    rows = view.outcome.distances or ()
    if tuple(zip(*rows, strict=False)) != rows:
        i, j = next((i, j) for i, row in enumerate(rows) for j in range(i) if row[j] != rows[j][i])
        yield finding(
            "POL-SLIT-ASYMMETRIC",
            where=f"nodes {j} and {i}",
            expected=f"{rows[j][i]} both ways",
            actual=f"{rows[j][i]} from {j} to {i}, {rows[i][j]} back",
            kernels=view.kernels,
        )


def _blocks(view: _View) -> Iterator[Finding]:
    stuck = [
        block
        for block in view.outcome.blocks or ()
        if not block.removable and block.zone in _NO_SINGLE_OR_MOVABLE_ZONE
    ]
    if not stuck:
        return
    shared: dict[str, list[Block]] = {}
    reasons: dict[str, list[Block]] = {}
    for block in stuck:
        if block.zone is not None:
            reasons.setdefault(block.reason, []).append(block)
        elif _touches(block.start, block.end, view.hot):
            nids = {r.nid for r in view.memory if r.start < block.end and block.start < r.end}
            shared.setdefault("two nodes" if len(nids) > 1 else "two zones", []).append(block)
    for cause, blocks in shared.items():
        yield finding(
            "POL-BLOCK-STRADDLE",
            severity=None if view.movable_node else Severity.NOTE,
            where=f"memory block {_ranges(blocks)}",
            expected="hot-pluggable memory in blocks of its own",
            actual=f"the block holds memory of {cause}",
            cause=cause,
            kernels=view.kernels,
        )
    for reason, blocks in reasons.items():
        yield finding(
            "POL-NOT-REMOVABLE",
            severity=Severity.NOTE if "hole" in reason else None,
            where=f"memory block {_ranges(blocks)}",
            expected="a block in ZONE_MOVABLE can be removed",
            actual=f"it {reason}",
            cause=message_class(reason),
            kernels=view.kernels,
        )


def _beyond_ram(view: _View) -> Iterator[Finding]:
    if not view.memory:
        return
    end = view.memory[-1].end
    if entries := [e for e in view.hot_entries if e.base + e.length > end + _SLACK]:
        yield finding(
            "POL-BEYOND-RAM",
            where=_entries(entries),
            offset=entries[0].offset,
            expected=f"a range that ends with RAM, at {end:#x}",
            actual=f"it ends at {entries[0].base + entries[0].length:#x}",
            kernels=view.kernels,
        )
    if end <= 4 * GIB and (
        entries := [
            e
            for e in view.prediction.entries
            if e.base + e.length > 4 * GIB and e.use in (EntryUse.ACCEPTED, EntryUse.NOT_RAM)
        ]
    ):
        yield finding(
            "POL-SWIOTLB",
            where=_entries(entries),
            offset=entries[0].offset,
            expected="no bounce buffer on a machine with all RAM below 4 GiB",
            actual=f"64 MiB of low memory go to one, as the range ends at "
            f"{entries[0].base + entries[0].length:#x}",
            kernels=view.kernels,
        )


def _wrapped_mark(view: _View) -> Iterator[Finding]:
    entries = (
        [e for e in view.prediction.entries if e.hotplug and e.use is EntryUse.WRAPPED] if view.hot else []
    )
    if not entries:
        return
    base = min(e.base for e in entries)
    if marked := [r for r in _outside(view.hot, view.hot_entries) if r.end > base]:
        yield finding(
            "POL-WRAPPED-MARK",
            where=_entries(entries),
            offset=entries[0].offset,
            expected="an entry that is not used leaves no trace",
            actual=f"{_ranges(marked)} of node {marked[0].nid} became hot-pluggable",
            kernels=view.kernels,
        )


def _panic(view: _View) -> Iterator[Finding]:
    if view.outcome.panic is not None:
        yield finding(
            "POL-PANIC",
            where="boot",
            expected="the kernel boots",
            actual=view.outcome.panic,
            cause=panic_class(view.outcome.panic),
            kernels=view.kernels,
        )


def _options(view: _View) -> Iterator[Finding]:
    """What the command line asks for, and what of it is without effect."""
    options = view.options
    given = (
        ("kernelcore=mirror", options.mirror),
        ("kernelcore=", options.kernelcore or options.kernelcore_percent),
        ("movablecore=", options.movablecore or options.movablecore_percent),
    )
    core = next((name for name, value in given if value), "")
    if not view.movable_node:
        if view.hot_entries and view.outcome.numa is NumaState.SRAT:
            yield finding(
                "POL-OPTION-OFF",
                where=_entries(view.hot_entries),
                offset=view.hot_entries[0].offset,
                expected="hot-pluggable memory in ZONE_MOVABLE",
                actual=f"{core} does not look at the marks"
                if core
                else "the command line has no movable_node",
                cause=core,
                kernels=view.kernels,
            )
        return
    if core:
        yield finding(
            "POL-CORE-IGNORED",
            where="command line",
            expected=f"{core} sets the size of ZONE_MOVABLE",
            actual="movable_node takes precedence" + ("" if view.movable else ", and nothing is movable"),
            cause=core if view.movable else f"{core}, nothing movable",
            kernels=view.kernels,
        )
    if view.outcome.zone_movable_start is not None and not view.movable:
        cause = _why_nothing_movable(view)
        yield finding(
            "POL-NOTHING-MOVABLE",
            severity=None if any(e.hotplug for e in view.prediction.entries) else Severity.NOTE,
            where="all nodes",
            expected="hot-pluggable memory in ZONE_MOVABLE",
            actual=f"no node has ZONE_MOVABLE: {cause}",
            cause=cause,
            kernels=view.kernels,
        )


def _why_nothing_movable(view: _View) -> str:
    if view.outcome.numa is not NumaState.SRAT:
        return "no NUMA configuration from the SRAT"
    if view.hot:
        return "start rounded past the end of the node"
    if view.prediction.kernel_nodes:
        return "the kernel resides on every hot-pluggable node"
    return "no RAM is hot-pluggable"


def _all_hot(view: _View) -> Iterator[Finding]:
    if view.hot_entries and not view.plain_entries:
        yield finding(
            "POL-ALL-HOT",
            severity=None if view.movable_node else Severity.NOTE,
            where=_entries(view.hot_entries),
            offset=view.hot_entries[0].offset,
            expected="memory without Hot Pluggable for the kernel",
            actual="every entry with RAM has the flag",
            kernels=view.kernels,
        )


def _adopted_ram(view: _View) -> Iterator[Finding]:
    if view.outcome.numa is not NumaState.SRAT or not view.accepted:
        return
    regions = [
        r for r in _outside(view.memory, view.accepted) if r.nid is not None and r.end - r.start >= PAGE_SIZE
    ]
    if regions:
        yield finding(
            "POL-ADOPTED-RAM",
            where=_ranges(regions),
            expected="a memory entry for all RAM",
            actual=f"node {regions[0].nid} swallowed it",
            kernels=view.kernels,
        )


def _overlap_flags(view: _View) -> Iterator[Finding]:
    if not (view.hot_entries and view.plain_entries):
        return
    reach: dict[tuple[int | None, bool], EntryVerdict] = {}
    for entry in view.accepted:
        other = reach.get((entry.nid, not entry.hotplug))
        if other is not None and entry.base < other.base + other.length:
            end = min(entry.base + entry.length, other.base + other.length)
            yield finding(
                "POL-OVERLAP-FLAGS",
                where=_entries((other, entry)),
                offset=entry.offset,
                expected="one set of flags for each address",
                actual=f"{_span(entry.base, end)} is described with and without Hot Pluggable",
                kernels=view.kernels,
            )
            return
        own = reach.get((entry.nid, entry.hotplug))
        if own is None or entry.base + entry.length > own.base + own.length:
            reach[entry.nid, entry.hotplug] = entry


_RULES: tuple[Callable[[_View], Iterator[Finding]], ...] = (
    _panic,
    _numa_rejected,
    _kernel_node,
    _boot_memory,
    _hot_not_movable,
    _swept,
    _kernel_memory,
    _entry_ignored,
    _pxm_masked,
    _nodes,
    _distances,
    _blocks,
    _beyond_ram,
    _wrapped_mark,
    _options,
    _all_hot,
    _adopted_ram,
    _overlap_flags,
)
