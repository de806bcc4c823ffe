"""Offlines every memory block of a real guest, one at a time, and brings it back before the next."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from acpitk import klog
from acpitk.machine import Case
from acpitk.outcome import Block, Outcome, Zone
from acpitk.qemu.image import KernelImage
from acpitk.qemu.userspace import FileError, Guest, GuestDiedError, initrd, running, with_initrd
from acpitk.ranges import PAGE_SIZE

MEMORY, NODES = "/sys/devices/system/memory", "/sys/devices/system/node"
OFFLINED, NOT_TRIED = "offlined", "not tried"
_TRIES = 3
"""Attempts at a block that answers EBUSY: pages in flight make it fail for a moment."""
_LAG_S = 1.0
"""How long after that the kernel's reason may come: where a thread of its own writes the console, it lags."""
_FAILED = re.compile(r"memory offlining \[mem 0x[0-9a-f]+-0x[0-9a-f]+\] failed due to (.+)")
_ZONE = re.compile(
    r"^Node (\d+), zone +(\w+)\n(?:(?!Node ).*\n)*? +spanned +(\d+)\n +present +([1-9]\d*)\n"
    r"(?:(?!Node ).*\n)*? +start_pfn: +(\d+)$",
    re.MULTILINE,
)
_ERRORS = {"EINVAL": "no single zone", "EBUSY": "busy"}
"""What an errno of offlining stands for where the kernel printed nothing (memory_block_offline())."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RemovalResult:
    """One boot to userspace.

    Args:
        case: the case that was booted: the given one with the initrd that holds userspace.
        outcome: what was observed; where the guest died, `panic` says how and not all `blocks` were tried.
        deadly: the block whose offlining killed it.
        console: everything the kernel printed.
        seconds: wall time.
    """

    case: Case
    outcome: Outcome
    deadly: Block | None
    console: str
    seconds: float


def remove(
    case: Case,
    image: KernelImage,
    *,
    qemu: Path | None = None,
    timeout: float = 120,
    stop: threading.Event | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> RemovalResult:
    """Boot `case` to userspace and offline every memory block.

    Each block is offlined alone: it is online again in its old zone before the next one is tried. An EBUSY
    is tried again twice. A block the kernel lets go is `removable`; `reason` is the errno and the kernel's
    words for it.

    Raises:
        UsageError, ToolError: as `runner.boot` and `userspace.build_init`.
    """
    archive = initrd()
    case = with_initrd(case, len(archive))
    begun = time.monotonic()
    with running(case, image, initrd=archive, qemu=qemu, timeout=timeout, stop=stop) as guest:
        seen = Outcome(source="boot", kernel=image.name)
        tried: list[Block] = []
        try:
            guest.greeting()
            progress("userspace runs")
            seen = observed(guest)
            for block in seen.blocks or ():
                tried.append(_try(guest, block))
            console, ended = guest.console, "marker"
        except GuestDiedError as death:
            console, ended = guest.console, death.end
        left = (seen.blocks or ())[len(tried) :]
        log = klog.parse(console, kernel=image.name, ended=ended)
        return RemovalResult(
            case=case,
            outcome=replace(
                log,
                zones=seen.zones,
                distances=seen.distances,
                blocks=None if seen.blocks is None else (*tried, *left),
            ),
            deadly=left[0] if left else None,
            console=console,
            seconds=time.monotonic() - begun,
        )


def observed(guest: Guest) -> Outcome:
    """Zones, distances and memory blocks as userspace sees them; no block was tried yet."""
    zoneinfo = guest.read("/proc/zoneinfo")
    return Outcome(
        source="boot",
        kernel="",
        zones=None if isinstance(zoneinfo, FileError) else zones(zoneinfo),
        distances=distances(guest.each(NODES, "distance"), guest.read(f"{NODES}/possible")),
        blocks=blocks(guest),
    )


def zones(zoneinfo: str) -> tuple[Zone, ...]:
    """The populated zones in the text of /proc/zoneinfo (zoneinfo_show_print(), mm/vmstat.c)."""
    return tuple(
        Zone(int(nid), name, int(start) * PAGE_SIZE, (int(start) + int(spanned)) * PAGE_SIZE)
        for nid, name, spanned, _, start in _ZONE.findall(zoneinfo)
    )


def distances(rows: dict[str, str], possible: str | FileError) -> tuple[tuple[int, ...], ...] | None:
    """The matrix in node*/distance; None unless every possible node is online and so has a row."""
    side = len(rows)
    if isinstance(possible, FileError) or possible.strip() not in (f"0-{side - 1}", "0"[: side == 1]):
        return None
    return tuple(tuple(map(int, rows[f"node{nid}"].split())) for nid in range(side))


def blocks(guest: Guest) -> tuple[Block, ...]:
    """The memory blocks by address, not tried. `nid` is None for a block several nodes
    list, `zone` for a block without a single zone."""
    size = guest.read(f"{MEMORY}/block_size_bytes")
    if isinstance(size, FileError):
        return ()
    bytes_ = int(size, 16)
    valid_zones = guest.each(MEMORY, "valid_zones")
    owners: dict[str, list[int]] = {}
    for node in guest.each(NODES, "distance"):
        for name in guest.names(f"{NODES}/{node}"):
            if re.fullmatch(r"memory\d+", name):
                owners.setdefault(name, []).append(int(node.removeprefix("node")))
    out = []
    for name, state in guest.each(MEMORY, "state").items():
        start = int(name.removeprefix("memory")) * bytes_
        nids, zone = owners.get(name, []), valid_zones.get(name, "none")
        out.append(
            Block(
                start=start,
                end=start + bytes_,
                nid=nids[0] if len(nids) == 1 else None,
                zone=None if zone == "none" else zone,
                removable=False,
                reason=NOT_TRIED,
                certain=False,
                online=state == "online",
            )
        )
    return tuple(sorted(out, key=lambda block: block.start))


def offline(guest: Guest, block: Block) -> Block:
    """Try to offline a block; it stays offline where that works."""
    before, errno = len(guest.console), "EBUSY"
    for _ in range(_TRIES):
        error = guest.write(state_file(block), "offline")
        if error is None:
            return replace(block, removable=True, reason=OFFLINED, certain=True)
        if (errno := error.name) != "EBUSY":
            break
    latest = time.monotonic() + (_LAG_S if errno == "EBUSY" else 0)
    while not (said := _FAILED.findall(guest.console[before:])) and time.monotonic() < latest:
        time.sleep(0.01)
    words = said[-1] if said else _ERRORS.get(errno, "no words for it")
    return replace(block, reason=f"{errno}: {words}", certain=True)


def _try(guest: Guest, block: Block) -> Block:
    tried = offline(guest, block)
    if tried.removable:
        guest.write(state_file(block), "online_movable" if block.zone == "Movable" else "online_kernel")
    return tried


def state_file(block: Block) -> str:
    """The sysfs file that says and changes whether a block is online."""
    return f"{MEMORY}/memory{block.start // (block.end - block.start)}/state"
