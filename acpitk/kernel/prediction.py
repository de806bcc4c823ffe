"""What the model says of one boot: the outcome, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from acpitk.machine import Reserved
from acpitk.outcome import Outcome


class EntryUse(StrEnum):
    """What Linux did with one memory affinity entry."""

    ACCEPTED = "accepted"
    DISABLED = "disabled"
    EMPTY = "zero length"
    WRAPPED = "wraps past 2^64"
    NOT_RAM = "describes no RAM"
    REJECTED = "rejected"
    SKIPPED = "SRAT already rejected"


class EntryVerdict(NamedTuple):
    """One memory affinity entry as the kernel walked it.

    Args:
        offset: byte offset of the entry in the SRAT.
        base, length: bytes, as in the table; `base + length` may exceed 2**64.
        pxm: proximity domain as the kernel understood it (masked to 8 bits for revision 1).
        firmware_pxm: proximity domain as written in the table.
        nid: the node it was given, None where it got none.
        hotplug: the Hot Pluggable flag is set.
        use: what became of it.
    """

    offset: int
    base: int
    length: int
    pxm: int
    firmware_pxm: int
    nid: int | None
    hotplug: bool
    use: EntryUse


class Allocation(NamedTuple):
    """One boot-time memblock allocation the model made: `purpose` names it, `wanted_nid` None is any node."""

    purpose: str
    start: int
    end: int
    wanted_nid: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """The model's answer.

    Args:
        outcome: the same shape a real boot gives.
        owners: memblock.reserved with owners when numa_clear_kernel_node_hotplug() judges the hotplug marks.
        entries: every memory affinity entry the kernel saw, in table order.
        kernel_nodes: node -> owners of the reserved memory that made it a kernel node, only for nodes
            where firmware asked for hotplug and lost it.
        allocations: early allocations the model placed, in order.
        skips_hotplug, bottom_up: how memblock allocates until the SRAT is parsed.
    """

    outcome: Outcome
    owners: tuple[Reserved, ...] = ()
    entries: tuple[EntryVerdict, ...] = ()
    kernel_nodes: Mapping[int, tuple[str, ...]]
    allocations: tuple[Allocation, ...] = ()
    skips_hotplug: bool = False
    bottom_up: bool = False
