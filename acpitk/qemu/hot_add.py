"""Plugs a memory device into a running guest, watches its memory blocks, takes it away again.

QEMU adds an SRAT of its own where memory can be plugged in, and Linux uses the first one. So the case's SRAT
travels in the initrd, from where the kernel replaces QEMU's (Documentation/admin-guide/acpi/
initrd_table_override.rst). The other tables go by `-acpitable` as always.
"""

from __future__ import annotations

import stat
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from acpitk import klog
from acpitk.errors import UsageError
from acpitk.machine import Q35, Case
from acpitk.outcome import Block, Outcome
from acpitk.qemu.image import KernelImage
from acpitk.qemu.initramfs import Entry, archive
from acpitk.qemu.remove import MEMORY, blocks, observed, offline, state_file
from acpitk.qemu.userspace import FileError, Guest, GuestDiedError, initrd, running, with_initrd
from acpitk.ranges import GIB, MIB, align_up

CHANNEL = "initrd-override"
_OEM = b"BOCHS BXPC    "
"""OEM ID and OEM table ID of QEMU's tables: what the kernel matches (acpi_table_initrd_override)."""
_BLOCK = 128 * MIB
_DOMAIN_MAX = 127
"""MAX_NODES - 1 (include/sysemu/numa.h)."""
_OST_EJECT, _OST_IN_PROGRESS = (3, 0x103), 0x84
_POLL = 0.05
_SETTLE = 5.0
"""Seconds blocks may take to come online by themselves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HotAdd:
    """What to plug in.

    Args:
        size: bytes, a multiple of 128 MiB.
        domain: the proximity domain its device object states; None is the one the SRAT has for its address.
    """

    size: int
    domain: int | None = None

    def __post_init__(self) -> None:
        if self.size < _BLOCK or self.size % _BLOCK or self.size > 64 * GIB:
            raise UsageError("memory to add comes in memory blocks: a multiple of 128M up to 64G")
        if self.domain is not None and self.domain > _DOMAIN_MAX:
            raise UsageError(
                f"QEMU plugs memory into proximity domains 0 to {_DOMAIN_MAX}, not {self.domain}"
            )

    def domain_in(self, case: Case, address: int) -> int:
        """The domain stated: of the SRAT's first enabled memory entry over `address`, unless given.

        Raises:
            UsageError: there is no such entry, or none QEMU can state.
        """
        if self.domain is not None:
            return self.domain
        for base, length, domain in _memory_entries(case.table(b"SRAT") or b""):
            if base <= address < base + length and domain <= _DOMAIN_MAX:
                return domain
        raise UsageError(f"no SRAT entry covers {address:#x}, where memory is plugged in: say SIZE@DOMAIN")


@dataclass(frozen=True, slots=True, kw_only=True)
class HotAddResult:
    """One boot with memory plugged in while it ran.

    Args:
        case: the case that was booted.
        added: the memory blocks of the device, and whether each could be offlined again; None where the
            guest died.
        valid_zones: for the start of each, the zones sysfs offered before anybody onlined it, the kernel's
            choice first, or the one it was in already.
        unplugged: the guest released the device and its blocks are gone.
        outcome: the boot, and all memory blocks; those there before the device were not tried.
        console: everything the kernel printed.
        seconds: wall time.
    """

    case: Case
    added: tuple[Block, ...] | None
    valid_zones: Mapping[int, str]
    unplugged: bool
    outcome: Outcome
    console: str
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """The document's `hot_add`: where the device was, what its blocks offered, whether it could go."""
        out: dict[str, Any] = {"unplugged": self.unplugged}
        if self.added:
            out |= {"start": self.added[0].start, "end": self.added[-1].end}
            out["valid_zones"] = sorted(set(self.valid_zones.values()))
        return out


def device_address(case: Case) -> int:
    """Where QEMU puts the first memory device: from 4 GiB or the end of RAM on, at a whole GiB
    (hw/i386/pc.c, pc_memory_init).

    Raises:
        UsageError: not a Q35 guest.
    """
    if not isinstance(case.machine, Q35):
        raise UsageError("this machine is an explicit memory map; only a Q35 guest can be booted")
    return align_up(max(case.machine.ram[-1].end, 4 * GIB), GIB)


def _memory_entries(srat: bytes) -> Iterator[tuple[int, int, int]]:
    """(base, length, domain) of the enabled memory affinity entries, as far as lengths lead."""
    at = 48
    while at + 2 <= len(srat) and srat[at + 1] >= 2:
        if srat[at] == 1 and srat[at + 1] >= 40 and at + 40 <= len(srat):
            domain, base, length, flags = struct.unpack_from("<I2xQQ4xI", srat, at + 2)
            if flags & 1:
                yield base, length, domain
        at += srat[at + 1]


def override(srat: bytes) -> bytes:
    """An archive from which the kernel replaces QEMU's SRAT by `srat`.

    Raises:
        UsageError: the kernel refuses tables with a wrong length or checksum from there.
    """
    if len(srat) < 36 or int.from_bytes(srat[4:8], "little") != len(srat) or sum(srat) & 0xFF:
        raise UsageError("the initrd carries only an SRAT with a true length and checksum")
    table = bytearray(srat)
    table[10:24] = _OEM
    table[24:28] = max(2, int.from_bytes(srat[24:28], "little")).to_bytes(4, "little")
    table[9] = (table[9] - sum(table)) & 0xFF
    return archive(
        (Entry(name="kernel/firmware/acpi/srat.aml", mode=stat.S_IFREG | 0o644, data=bytes(table)),)
    )


def hot_add(
    case: Case,
    image: KernelImage,
    device: HotAdd,
    *,
    qemu: Path | None = None,
    timeout: float = 120,
    stop: threading.Event | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> HotAddResult:
    """Boot `case`, plug in `device`, see what becomes of its memory blocks, offline and unplug it.

    Blocks that stay offline are onlined with `online`, to the zone the kernel chooses.

    Raises:
        UsageError: the case cannot be booted, has no SRAT, or one the initrd cannot carry.
        ToolError: as `runner.boot` and `userspace.build_init`, or QEMU refused the device.
    """
    srat = case.table(b"SRAT")
    if srat is None:
        raise UsageError("hot-add needs an SRAT")
    device = replace(device, domain=device.domain_in(case, device_address(case)))
    content = initrd(override(srat))
    case = with_initrd(case, len(content))
    booted = replace(case, tables=tuple(table for table in case.tables if table is not srat))
    begun = time.monotonic()

    def edit(argv: list[str]) -> list[str]:
        return _pluggable(argv, booted, device)

    with running(booted, image, initrd=content, qemu=qemu, timeout=timeout, stop=stop, edit=edit) as guest:
        seen = Outcome(source="boot", kernel=image.name)
        added: tuple[Block, ...] | None = None
        words: dict[int, str] = {}
        unplugged = False
        try:
            guest.greeting()
            progress("userspace runs")
            console, ended = guest.console, "marker"
            seen = observed(guest)
            words, added = _plug(guest, device)
            unplugged = _unplug(guest, {block.start for block in added})
        except GuestDiedError as death:
            console, ended = guest.console, death.end
        log = klog.parse(console, kernel=image.name, ended=ended)
        return HotAddResult(
            case=case,
            added=added,
            valid_zones=words,
            unplugged=unplugged,
            outcome=replace(
                log,
                zones=seen.zones,
                distances=seen.distances,
                blocks=None if seen.blocks is None or added is None else (*seen.blocks, *added),
                channel=CHANNEL,
            ),
            console=guest.console,
            seconds=time.monotonic() - begun,
        )


def _pluggable(argv: list[str], case: Case, device: HotAdd) -> list[str]:
    """The QEMU arguments of `case` with a slot for `device` and a NUMA node for each domain up to its own."""
    assert isinstance(case.machine, Q35)  # noqa: S101
    memory = case.machine.memory
    changed = {
        "-machine": "q35",
        "-m": f"{memory // MIB}M,slots=1,maxmem={(memory + device.size) // MIB}M",
    }
    out = [changed.get(before, argument) for before, argument in zip(["", *argv], argv, strict=False)]
    out += ["-numa", "node,nodeid=0,memdev=ram0,cpus=0"]
    for nid in range(1, (device.domain or 0) + 1):
        out += ["-numa", f"node,nodeid={nid}"]
    return out


def _plug(guest: Guest, device: HotAdd) -> tuple[dict[int, str], tuple[Block, ...]]:
    """Plug the device in, online its blocks and offline them; what they offered and how that went."""
    before = {block.start for block in blocks(guest)}
    guest.monitor("qmp_capabilities")
    guest.monitor("object-add", qom_type="memory-backend-ram", id="mem1", size=device.size, reserve=False)
    guest.monitor("device_add", driver="pc-dimm", id="dimm1", memdev="mem1", node=device.domain)
    new = _arrived(guest, before, device.size)
    offered = guest.each(MEMORY, "valid_zones")
    words = {block.start: offered[f"memory{block.start // (block.end - block.start)}"] for block in new}
    automatic = {block.start for block in new if block.online}
    for block in new:
        if block.start not in automatic:
            guest.write(state_file(block), "online")
    online = [block for block in blocks(guest) if block.start in words]
    return words, tuple(replace(offline(guest, b), online=b.start in automatic) for b in online)


def _unplug(guest: Guest, added: set[int]) -> bool:
    guest.monitor("device_del", id="dimm1")
    return guest.event(_unplugged) and not added & {block.start for block in blocks(guest)}


def _unplugged(event: str, data: Mapping[str, Any]) -> bool | None:
    """Whether the guest let the device go, None where an event does not tell. A guest that cannot says so
    through _OST: ejection request, and a status that is neither 0 nor "in progress" (ACPI 6.5, 6.3.5)."""
    if event == "DEVICE_DELETED":
        return True if data.get("device") == "dimm1" else None
    if event == "ACPI_DEVICE_OST":
        info = data["info"]
        failed = info["source"] in _OST_EJECT and info["status"] not in (0, _OST_IN_PROGRESS)
        return False if failed else None
    return None


def _arrived(guest: Guest, before: set[int], size: int) -> tuple[Block, ...]:
    """The new memory blocks, once all of them exist and, where the kernel onlines them, are online."""
    policy = guest.read(f"{MEMORY}/auto_online_blocks")
    wanted = not isinstance(policy, FileError) and policy.strip() != "offline"
    deadline = time.monotonic() + _SETTLE
    while True:
        new = tuple(block for block in blocks(guest) if block.start not in before)
        complete = sum(block.end - block.start for block in new) == size
        if (complete and all(block.online is wanted for block in new)) or time.monotonic() > deadline:
            return new
        time.sleep(_POLL)
