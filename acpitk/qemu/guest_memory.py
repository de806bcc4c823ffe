"""What the log does not print: zones and NUMA distances, read from the memory of a booted guest.

The layout of the kernel's structures comes from the kernel itself, from the BTF type information in its
vmlinux (Documentation/bpf/btf.rst). The guest's RAM is a file that outlives QEMU, so reading it costs
about a millisecond and the guest need not be asked.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from math import isqrt
from pathlib import Path

from acpitk import klog
from acpitk.errors import DecodeError
from acpitk.machine import Q35
from acpitk.outcome import NumaState, Outcome, Zone
from acpitk.qemu.image import KernelImage
from acpitk.ranges import GIB, PAGE_SHIFT
from acpitk.vmlinux import btf_types

LOCAL_DISTANCE, REMOTE_DISTANCE = 10, 20
"""include/linux/topology.h: what node_distance() says where the table says nothing."""

ReadRam = Callable[[int, int], bytes]
"""(offset in RAM, size) -> bytes; fewer where RAM ends."""

_ZONE_NAMES = {
    "ZONE_DMA": "DMA",
    "ZONE_DMA32": "DMA32",
    "ZONE_NORMAL": "Normal",
    "ZONE_MOVABLE": "Movable",
    "ZONE_DEVICE": "Device",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Offsets in bytes within struct pglist_data and struct zone.

    Args:
        node_id: of `node_id`, to check that the address really holds that node.
        node_zones, zone_size: of the array of zones, and one zone's size.
        start_pfn, spanned_pages, present_pages: of those fields in struct zone.
        zones: zone names by index.
    """

    node_id: int
    node_zones: int
    zone_size: int
    start_pfn: int
    spanned_pages: int
    present_pages: int
    zones: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestMemory:
    """What was read; a field is None where it could not be.

    Args:
        zones: populated zones of every node whose NODE_DATA the log locates, sorted.
        distances: node_distance(i, j) of nodes 0 to the highest possible one.
    """

    zones: tuple[Zone, ...] | None = None
    distances: tuple[tuple[int, ...], ...] | None = None


def observe(console: str, ram: ReadRam, *, machine: Q35, image: KernelImage) -> GuestMemory:
    """Read zones and distances of a guest that reached its marker.

    Args:
        console: its log; NODE_DATA and memblock lines say where to look.
        ram: reads the guest's RAM.
        machine: for where addresses sit in it.
        image: the kernel, for its layout.
    """
    outcome = klog.parse(console, kernel=image.name, ended="")
    if outcome.node_data is None or outcome.zone_movable_start is None or outcome.panic is not None:
        return GuestMemory()
    try:
        layout = layout_of(image)
        zones = [
            zone
            for node in outcome.node_data
            for zone in _zones(_read(ram, machine, node.start, node.end - node.start), node.nid, layout)
        ]
        table = _distance_table(console, ram, machine) if outcome.numa is NumaState.SRAT else ()
    except (DecodeError, OSError, ValueError, struct.error):
        return GuestMemory()
    return GuestMemory(zones=tuple(zones), distances=_node_distances(table, _nodes(console, outcome)))


def _nodes(console: str, outcome: Outcome) -> int:
    """Possible nodes, the highest plus one: what the kernel prints of it, or else what its log shows."""
    known = {region.nid for region in outcome.memory or () if region.nid is not None}
    if outcome.numa is NumaState.SRAT:
        known.update((outcome.pxm_to_node or {}).values())
    return klog.firmware_facts(console).nr_node_ids or max(known, default=0) + 1


def _node_distances(table: tuple[bytes, ...], nodes: int) -> tuple[tuple[int, ...], ...]:
    """__node_distance(): the table, and 10 or 20 beyond it."""
    return tuple(
        tuple(
            table[i][j] if max(i, j) < len(table) else LOCAL_DISTANCE if i == j else REMOTE_DISTANCE
            for j in range(nodes)
        )
        for i in range(nodes)
    )


def _read(ram: ReadRam, machine: Q35, address: int, size: int) -> bytes:
    offset = address if address < machine.low_end else machine.low_end + address - 4 * GIB
    data = ram(offset, size)
    if len(data) != size:
        raise ValueError(f"guest memory {address:#x}+{size:#x} is not RAM")
    return data


def _zones(node: bytes, nid: int, layout: Layout) -> list[Zone]:
    """The populated zones (present_pages above 0) of one pg_data_t."""
    if struct.unpack_from("<i", node, layout.node_id)[0] != nid:
        raise ValueError(f"no pg_data_t of node {nid} there")
    out = []
    for index, name in enumerate(layout.zones):
        at = layout.node_zones + index * layout.zone_size
        start, spanned, present = (
            struct.unpack_from("<Q", node, at + field)[0]
            for field in (layout.start_pfn, layout.spanned_pages, layout.present_pages)
        )
        if present:
            out.append(Zone(nid, name, start << PAGE_SHIFT, (start + spanned) << PAGE_SHIFT))
    return out


def _distance_table(console: str, ram: ReadRam, machine: Q35) -> tuple[bytes, ...]:
    """The rows of the table numa_alloc_distance() reserved last, unless numa_reset_distance() freed it."""
    place: tuple[int, int] | None = None
    wanted = 0
    for call in klog.memblock_trace(console):
        asked = call.caller == "numa_alloc_distance"
        if call.call.startswith("memblock_"):
            wanted = call.size if asked else 0
        elif call.call == "reserve" and (asked or call.end - call.start == wanted):
            place, wanted = (call.start, call.end), 0
        elif call.call == "free" and (call.start, call.end) == place:
            place = None
    if place is None:
        return ()
    count = isqrt(place[1] - place[0])
    if count * count != place[1] - place[0]:
        raise ValueError(f"a distance table of {place[1] - place[0]} bytes is not square")
    cells = _read(ram, machine, place[0], count * count)
    return tuple(cells[row * count : (row + 1) * count] for row in range(count))


@lru_cache(maxsize=16)
def layout_of(image: KernelImage) -> Layout:
    """The layout of `image`, kept beside a cached vmlinux once it was worked out.

    Raises:
        DecodeError: the vmlinux has no usable BTF.
    """
    kept = image.path.with_name("layout.json") if image.path.with_name("meta.json").exists() else None
    if kept is not None:
        try:
            fields = json.loads(kept.read_text())
            return Layout(**fields | {"zones": tuple(fields["zones"])})
        except (OSError, ValueError, TypeError, KeyError):
            pass
    with image.path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as vmlinux:
        layout = read_layout(vmlinux)
    if kept is not None:
        _keep(kept, layout)
    return layout


def _keep(path: Path, layout: Layout) -> None:
    fields = {name: getattr(layout, name) for name in Layout.__slots__}
    staging = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        staging.write_text(json.dumps(fields) + "\n")
        staging.replace(path)
    except OSError:
        staging.unlink(missing_ok=True)


def read_layout(vmlinux: bytes | mmap.mmap) -> Layout:
    """The layout from a kernel image's BTF type information.

    Raises:
        DecodeError: no BTF, or a struct or field is missing.
    """
    types = btf_types(vmlinux, frozenset({"pglist_data", "zone"}), frozenset({"zone_type"}))
    node, zone = types.structs["pglist_data"].fields, types.structs["zone"]
    try:
        return Layout(
            node_id=node["node_id"],
            node_zones=node["node_zones"],
            zone_size=zone.size,
            start_pfn=zone.fields["zone_start_pfn"],
            spanned_pages=zone.fields["spanned_pages"],
            present_pages=zone.fields["present_pages"],
            zones=tuple(_ZONE_NAMES[name] for name in types.enums["zone_type"] if name in _ZONE_NAMES),
        )
    except KeyError as error:
        raise DecodeError(f"no field {error.args[0]}", path="btf.types", offset=0) from None
