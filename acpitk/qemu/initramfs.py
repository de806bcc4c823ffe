"""Initial RAM disks: newc cpio archives built in memory, the same bytes every time."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

_TRAILER = "TRAILER!!!"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One archive member: `mode` is a full st_mode, `device` is (major, minor) of a device node."""

    name: str
    mode: int
    data: bytes = b""
    device: tuple[int, int] = (0, 0)


def archive(entries: Iterable[Entry]) -> bytes:
    """A newc cpio archive (Documentation/driver-api/early-userspace/buffer-format.rst), trailer included."""
    out = bytearray()
    for number, entry in enumerate((*entries, Entry(name=_TRAILER, mode=0)), start=1):
        name = entry.name.encode() + b"\0"
        ino = 0 if entry.name == _TRAILER else number
        fields = (ino, entry.mode, 0, 0, 1, 0, len(entry.data), 0, 0, *entry.device, len(name), 0)
        out += b"070701" + "".join(f"{field:08x}" for field in fields).encode() + name
        out += bytes(-len(out) % 4) + entry.data
        out += bytes(-len(out) % 4)
    return bytes(out)


def padded(size: int) -> bytes:
    """An empty archive of exactly `size` bytes, for machines where only the size of the initrd matters."""
    return archive(()).ljust(size, b"\0")[:size]
