"""What Linux does with a case: the whole path from table bytes to zones and memory blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from acpitk.kernel import hotplug, madt, numa, sparse, srat, zones
from acpitk.kernel.cmdline import CommandLine, parse_cmdline
from acpitk.kernel.early import EarlyState, early_state
from acpitk.kernel.memblock import FLAG_NAMES, NO_NID, KernelPanicError, Row
from acpitk.kernel.policy import BUILDS, HotplugMarks, KernelBuild, KernelPolicy
from acpitk.kernel.prediction import Allocation, Prediction
from acpitk.machine import MADT, Case, Machine, Reserved
from acpitk.outcome import Block, NodeData, NumaReason, NumaState, Outcome, Region, Zone
from acpitk.ranges import GIB, MIB

DISTANCE_TABLE = "distance table"
CRASH_KERNEL = "crash kernel"
_CRASH_ALIGN = 16 * MIB


def boot(case: Case, policy: KernelPolicy, build: KernelBuild | None = None) -> Outcome:
    """The outcome of booting `case` on a kernel with `policy`."""
    return predict(case, policy, build).outcome


def zones_of(case: Case, policy: KernelPolicy) -> Outcome:
    """The outcome up to the zones: without memory blocks, and without what fails after that."""
    return _prepared(case, policy, None).to_zones()


def predict(case: Case, policy: KernelPolicy, build: KernelBuild | None = None) -> Prediction:
    """The outcome of booting `case`, and why.

    Args:
        build: what compiling fixed; the Debian cloud kernel of the policy's version when None.
    """
    return _prepared(case, policy, build).run()


def _prepared(case: Case, policy: KernelPolicy, build: KernelBuild | None) -> _Boot:
    build = build or BUILDS[policy.name]
    options = parse_cmdline(case.cmdline)
    machine = case.resolved()
    hot: tuple[tuple[int, int], ...] = ()
    early_walk = policy.regions_have_flags and policy.hotplug_marks is HotplugMarks.EARLY_WALK
    if early_walk and options.given(policy.hotplug_option):
        table = case.table(b"SRAT")
        hot = srat.hot_ranges(table, following(case, machine, table)) if table is not None else ()
    early = early_state(case, machine, options, policy, build, hot)
    state = srat.Numa(
        policy=policy, build=build, numa_off=options.numa_off, srat_disabled=options.srat_disabled
    )
    return _Boot(case, machine, options, early, state)


def following(case: Case, machine: Machine, table: bytes) -> bytes:
    """The bytes behind `table` in memory: the tables after it, then what ends the ACPI area."""
    index = next(i for i, other in enumerate(case.tables) if other is table)
    return b"".join(case.tables[index + 1 :]) + machine.after_tables


def preceding(case: Case, table: bytes) -> bytes:
    """The bytes before `table` in memory, as far back as the case's own tables go."""
    index = next(i for i, other in enumerate(case.tables) if other is table)
    return b"".join(case.tables[:index])


class _Boot:
    """One boot in progress; `outcome` collects what has been decided so far."""

    def __init__(
        self, case: Case, machine: Machine, options: CommandLine, early: EarlyState, state: srat.Numa
    ) -> None:
        self.case, self.machine, self.options, self.early, self.numa = case, machine, options, early, state
        self.mb = early.memblock
        self.bottom_up = early.memblock.bottom_up
        self.owners = list(early.owners)
        self.kernel_nodes: Mapping[int, tuple[str, ...]] = {}
        self.facts: dict[str, Any] = {}
        self.madt = case.table(MADT)
        self.madt_ends_acpi = self.madt is not None and madt.disables_acpi(self.madt)

    def to_zones(self) -> Outcome:
        try:
            self.facts["zones"] = self._zones()
        except KernelPanicError as panic:
            self.facts["panic"] = str(panic)
        return self._outcome()

    def run(self) -> Prediction:
        try:
            laid_out = self._zones()
            self._percpu()
            self.facts["zones"] = laid_out
            self.facts["blocks"] = self._blocks(laid_out)
        except KernelPanicError as panic:
            self.facts["panic"] = str(panic)
        return Prediction(
            outcome=self._outcome(),
            owners=tuple(self.owners),
            entries=tuple(self.numa.entries),
            kernel_nodes=self.kernel_nodes,
            allocations=tuple(
                [
                    Allocation(purpose, start, end, None if nid == NO_NID else nid)
                    for purpose, start, end, nid in self.mb.log
                ]
            ),
            skips_hotplug=self.mb.skips_hotplug,
            bottom_up=self.bottom_up,
        )

    def _outcome(self) -> Outcome:
        return Outcome(
            source="model",
            kernel=self.numa.policy.name,
            messages=tuple(self.numa.messages),
            **self.facts,
        )

    def _numa(self) -> None:
        """x86_numa_init() (arch/x86/mm/numa.c): ACPI, then the dummy node."""
        reason: NumaReason | None = NumaReason.TURNED_OFF
        registered = True
        if not self.options.numa_off:
            numa.reset(self.numa, self.mb)
            reason = self._acpi() or self._accept()
        if reason is not None:
            numa.reset(self.numa, self.mb)
            registered = self._dummy()
        self.facts |= {
            "numa": self._state(reason),
            "numa_reason": reason or NumaReason.ACCEPTED,
            "pxm_to_node": dict(self.numa.pxm_to_node),
        }
        nodes = numa.allocate_node_data(self.numa, self.mb, self.early.max_pfn) if registered else []
        self.facts |= {
            "memory": _regions(self.mb.memory),
            "reserved": _regions(self.mb.reserved),
            "node_data": tuple(nodes),
            "distances": self._distances(nodes),
        }

    def _state(self, reason: NumaReason | None) -> NumaState:
        if reason is None:
            return NumaState.SRAT
        return NumaState.OFF if self.options.numa_off else NumaState.DUMMY

    def _acpi(self) -> NumaReason | None:
        """acpi_numa_init(): the reason it fails, None where entries were accepted."""
        if self.options.acpi_off:
            return NumaReason.NO_SRAT
        if self.madt_ends_acpi:
            self.numa.messages.append(madt.DISABLES)
            return NumaReason.TURNED_OFF if self.options.srat_disabled else NumaReason.NO_SRAT
        reason: NumaReason | None = NumaReason.NO_SRAT
        if (table := self.case.table(b"SRAT")) is not None:
            reason = srat.parse_srat(self.numa, self.mb, table, following(self.case, self.machine, table))
        if (table := self.case.table(b"SLIT")) is not None:
            before, after = preceding(self.case, table), following(self.case, self.machine, table)
            srat.parse_slit(self.numa, self.mb, table, before, after, self.mb.current_limit)
        silent = (NumaReason.NO_SRAT, NumaReason.NO_MEMORY_AFFINITY)
        return NumaReason.TURNED_OFF if self.options.srat_disabled and reason in silent else reason

    def _accept(self) -> NumaReason | None:
        """The rest of numa_init() for the ACPI attempt, up to registration."""
        self.mb.bottom_up = False
        reason = numa.cleanup_meminfo(self.numa, self.mb, self.early.max_pfn)
        if reason is not None:
            return reason
        owners = self.owners
        if self.numa.distance_count:
            table = Reserved(
                self.numa.distance_at, self.numa.distance_at + self.numa.distance_count**2, DISTANCE_TABLE
            )
            owners = [*owners, table]
        reason, lost = numa.register(self.numa, self.mb, self.early.max_pfn, owners)
        if reason is None:
            self.owners, self.kernel_nodes = owners, lost
        return reason

    def _dummy(self) -> bool:
        """dummy_numa_init(): one node with all memory; False where memblock had no room to take that in."""
        self.numa.messages.append(
            "NUMA turned off" if self.options.numa_off else "No NUMA configuration found"
        )
        end = self.early.max_pfn << 12
        self.numa.messages.append(f"Faking a node at [mem {0:#018x}-{end - 1:#018x}]")
        self.numa.nodes_parsed.add(0)
        self.numa.meminfo.append(srat.Blk(0, end, 0))
        self.mb.bottom_up = False
        numa.cleanup_meminfo(self.numa, self.mb, self.early.max_pfn)
        reason, _ = numa.register(self.numa, self.mb, self.early.max_pfn, self.owners)
        return reason is None

    def _distances(self, nodes: list[NodeData]) -> tuple[tuple[int, ...], ...]:
        side = 1 + max(0, *[node.nid for node in nodes], *self.numa.nodes_parsed)
        plain = _plain_distances(side)
        count, known = self.numa.distance_count, self.numa.distances
        if not count:
            return plain
        both = min(side, count)
        return tuple(
            [
                (*known[i * count : i * count + both], *plain[i][both:]) if i < count else plain[i]
                for i in range(side)
            ]
        )

    def _zones(self) -> tuple[Zone, ...]:
        """setup_arch() from the SRAT on, free_area_init() and sparse_init(), in the order of the version."""
        if self.early.failed:
            raise KernelPanicError(self.early.failed)
        self._numa()
        nodes: tuple[NodeData, ...] = self.facts["node_data"]
        policy, build = self.numa.policy, self.numa.build
        self._crash_kernel(self.options.crashkernel)
        lost: list[int] = []
        if not policy.memory_map_after_zones:
            lost = sparse.populate(self.mb, list(nodes), policy, build)
        layout = zones.lay_out(
            self.mb.memory, [node.nid for node in nodes], self.early.max_pfn, self.options, policy
        )
        self.facts["zone_movable_start"] = layout.movable_start
        online = {node.nid for node in nodes}
        if lost:
            raise KernelPanicError(f"{srat.NULL_POINTER} in subsection_map_init")
        numa.allocate_offline_node_data(self.numa, self.mb, online)
        if policy.memory_map_after_zones:
            sparse.populate(self.mb, list(nodes), policy, build)
        if any(nid not in online for _, _, nid in numa.page_ranges(self.mb.memory)):
            raise KernelPanicError(f"{srat.NULL_POINTER} in memmap_init")
        return layout.zones

    def _percpu(self) -> None:
        sparse.percpu(self.mb, self._cpu_nodes(sorted(node.nid for node in self.facts["node_data"])))

    def _blocks(self, laid_out: tuple[Zone, ...]) -> tuple[Block, ...]:
        return hotplug.memory_blocks(
            self.mb,
            laid_out,
            self.early.max_pfn,
            self.numa.policy,
            hypervisor=not isinstance(self.case.machine, Machine),
        )

    def _cpu_nodes(self, online: Sequence[int]) -> list[int]:
        """The node of each possible processor: the boot processor, of APIC ID 0, then those of the MADT.

        One whose node is not known takes an online node in turns (numa_init_array(), arch/x86/mm/numa.c).
        Versions differ over a MADT that does not list the boot processor first, or lists one twice, disabled,
        or with an ID below 255 as an x2APIC; that moves nothing but per-CPU areas, and is not followed.
        """
        others: Sequence[int] = ()
        if self.madt is not None and not self.options.acpi_off and not self.madt_ends_acpi:
            others = madt.processors(self.madt, self.numa.build.flat_apic_limit)
        nodes = self.numa.cpu_nodes
        return [
            nodes.get(apic_id, online[cpu % len(online)] if online else 0)
            for cpu, apic_id in enumerate((0, *others))
        ]

    def _crash_kernel(self, size: int) -> None:
        """reserve_crashkernel() of a plain size: below 4 GiB, or else anywhere."""
        for end in (4 * GIB, 0):
            if size and self.mb.allocate(CRASH_KERNEL, size, _CRASH_ALIGN, start=_CRASH_ALIGN, end=end):
                return


def _regions(rows: list[Row]) -> tuple[Region, ...]:
    return tuple(
        [
            Region(start, end, None if nid < 0 else nid, _flag_names(flags) if flags else ())
            for start, end, nid, flags in rows
        ]
    )


@lru_cache(maxsize=256)
def _flag_names(flags: int) -> tuple[str, ...]:
    return tuple(name for bit, name in FLAG_NAMES.items() if flags & bit)


@lru_cache(maxsize=32)
def _plain_distances(side: int) -> tuple[tuple[int, ...], ...]:
    """What `side` nodes have without a SLIT."""
    return tuple(
        tuple(srat.LOCAL_DISTANCE if i == j else srat.REMOTE_DISTANCE for j in range(side))
        for i in range(side)
    )
