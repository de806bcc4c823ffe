"""What one boot did with the tables: the common result of the model and of a real kernel.

A field that was not observed is None here and absent in JSON. Addresses are bytes, ranges half-open. What
every prediction makes dozens of is a named tuple, which takes half the time of a frozen dataclass.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

SCHEMA = 1


class NumaState(StrEnum):
    """Which NUMA configuration the kernel ended up with."""

    SRAT = "srat"
    DUMMY = "dummy"
    OFF = "off"


class NumaReason(StrEnum):
    """Why: the first thing that decided `NumaState`."""

    ACCEPTED = "accepted"
    NO_SRAT = "no SRAT"
    NO_MEMORY_AFFINITY = "no memory affinity entry accepted"
    ZERO_LENGTH = "zero-length subtable"
    BAD_SRAT = "SRAT entry rejected"
    OVERLAP = "nodes overlap"
    COVERAGE = "nodes do not cover RAM"
    TURNED_OFF = "turned off on the command line"


class Region(NamedTuple):
    """A memblock region. `nid` None: not assigned. `flags` are memblock's words, for example `hotplug`."""

    start: int
    end: int
    nid: int | None = None
    flags: tuple[str, ...] = ()


class NodeData(NamedTuple):
    """Where the pg_data_t of node `nid` sits; `on_nid` is the node that owns that memory."""

    nid: int
    start: int
    end: int
    on_nid: int


class Zone(NamedTuple):
    """A populated zone's span: `zone` is DMA, DMA32, Normal or Movable."""

    nid: int
    zone: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Block:
    """A memory block and whether it can be offlined. `zone` None: no single zone.

    `certain` False: not tried, or a forecast that what the running kernel puts there may prove wrong;
    `removable` is then False, because nothing guarantees it. `online` False: the kernel left a hot-added
    block offline; `zone` is the one it chose when told to online it.
    """

    start: int
    end: int
    nid: int | None
    zone: str | None
    removable: bool
    reason: str
    certain: bool = True
    online: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Everything observed of one boot; None means not observed (only `panic` None means: it lived).

    `channel` says how the SRAT got in where that was not `-acpitable`.
    """

    source: str
    kernel: str
    numa: NumaState | None = None
    numa_reason: NumaReason | None = None
    pxm_to_node: Mapping[int, int] | None = None
    memory: tuple[Region, ...] | None = None
    reserved: tuple[Region, ...] | None = None
    node_data: tuple[NodeData, ...] | None = None
    distances: tuple[tuple[int, ...], ...] | None = None
    zone_movable_start: Mapping[int, int] | None = None
    zones: tuple[Zone, ...] | None = None
    blocks: tuple[Block, ...] | None = None
    panic: str | None = None
    channel: str | None = None
    messages: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The documented JSON form; fields not observed are absent."""
        out: dict[str, Any] = {"schema": SCHEMA, "source": self.source, "kernel": self.kernel}
        if self.numa is not None:
            out["numa"] = {"state": self.numa.value}
            if self.numa_reason is not None:
                out["numa"]["reason"] = self.numa_reason.value
        if self.pxm_to_node is not None:
            out["pxm_to_node"] = {str(pxm): nid for pxm, nid in sorted(self.pxm_to_node.items())}
        for name, regions in (("memory", self.memory), ("reserved", self.reserved)):
            if regions is not None:
                out[name] = [_region_json(region, flags=name == "memory") for region in regions]
        if self.node_data is not None:
            out["node_data"] = [
                {"nid": n.nid, "start": n.start, "end": n.end, "on_nid": n.on_nid} for n in self.node_data
            ]
        if self.distances is not None:
            out["distances"] = [list(row) for row in self.distances]
        if self.zone_movable_start is not None:
            out["zone_movable_start"] = {str(nid): at for nid, at in sorted(self.zone_movable_start.items())}
        if self.zones is not None:
            out["zones"] = [
                {"nid": z.nid, "zone": z.zone, "start": z.start, "end": z.end} for z in self.zones
            ]
        if self.blocks is not None:
            out["blocks"] = [_block_json(block) for block in self.blocks]
        if self.panic is not None:
            out["panic"] = self.panic
        if self.channel is not None:
            out["channel"] = self.channel
        out["messages"] = list(self.messages)
        return out


def _region_json(region: Region, *, flags: bool) -> dict[str, Any]:
    out: dict[str, Any] = {"start": region.start, "end": region.end}
    if region.nid is not None:
        out["nid"] = region.nid
    if flags or region.flags:
        out["flags"] = list(region.flags)
    return out


def _block_json(block: Block) -> dict[str, Any]:
    out: dict[str, Any] = {"start": block.start, "end": block.end}
    if block.nid is not None:
        out["nid"] = block.nid
    if block.zone is not None:
        out["zone"] = block.zone
    out |= {"removable": block.removable, "reason": block.reason}
    flags = {"certain": block.certain, "online": block.online}
    return out | {name: value for name, value in flags.items() if not value}
