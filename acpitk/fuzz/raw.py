"""An SRAT as slices of bytes, for editing: cut where the subtables' own lengths say, joined without loss.

Apart from `acpitk.tables` on purpose: mutations must reach tables no decoder accepts, thousands of times a
second, and an error in the codec must not hide itself from the fuzzer. Field places: ACPI 6.6 section 5.2.16.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from acpitk.ranges import ADDRESS_LIMIT
from acpitk.tables.header import checksum_valid, seal

HEADER_SIZE = 36
FIXED_SIZE = 48
PROCESSOR, MEMORY, X2APIC, GENERIC_INITIATOR, GENERIC_PORT = 0, 1, 2, 5, 6
ENABLED, HOT_PLUGGABLE, NON_VOLATILE, SPECIFIC_PURPOSE = 1, 2, 4, 8

_MEMORY = struct.Struct("<BBIHQQIIQ")
_FLAGS_AT = {0: 4, 1: 28, 2: 12, 3: 10, 5: 24, 6: 24, 7: 12}
_DOMAIN_AT = {1: 2, 2: 4, 3: 2, 4: 2, 5: 4, 6: 4, 7: 4}
_PROCESSOR_DOMAIN = (2, 9, 10, 11)
"""Bytes of the proximity domain in a type 0 entry, low to high."""


@dataclass(frozen=True, slots=True)
class Memory:
    """A whole memory affinity entry; `base` and `length` in bytes, `extra` what follows its 40 bytes."""

    domain: int
    base: int
    length: int
    flags: int = ENABLED
    extra: bytes = b""

    @property
    def end(self) -> int:
        """`base + length`, which may pass 2**64."""
        return self.base + self.length

    @property
    def hot(self) -> bool:
        """The Hot Pluggable flag."""
        return bool(self.flags & HOT_PLUGGABLE)

    def encode(self) -> bytes:
        """The entry; base and length are taken modulo 2**64, the domain and the flags modulo 2**32."""
        limit = ADDRESS_LIMIT - 1
        return (
            _MEMORY.pack(
                MEMORY,
                _MEMORY.size + len(self.extra),
                self.domain & 0xFFFFFFFF,
                0,
                self.base & limit,
                self.length & limit,
                0,
                self.flags & 0xFFFFFFFF,
                0,
            )
            + self.extra
        )


@lru_cache(maxsize=1 << 14)
def memory(entry: bytes) -> Memory | None:
    """The memory affinity entry in a slice, None where it is of another type or too short."""
    if entry[:1] != b"\x01" or len(entry) < _MEMORY.size:
        return None
    _, _, domain, _, base, length, _, flags, _ = _MEMORY.unpack_from(entry)
    return Memory(domain, base, length, flags, entry[_MEMORY.size :])


def processor(domain: int, apic_id: int, flags: int = ENABLED) -> bytes:
    """A type 0 entry."""
    high = domain >> 8 & 0xFFFFFF
    return struct.pack(
        "<BBBBIB3sI", PROCESSOR, 16, domain & 0xFF, apic_id, flags, 0, high.to_bytes(3, "little"), 0
    )


def x2apic(domain: int, x2apic_id: int, flags: int = ENABLED) -> bytes:
    """A type 2 entry."""
    return struct.pack("<BBHIIIII", X2APIC, 24, 0, domain, x2apic_id, flags, 0, 0)


def generic(kind: int, domain: int, bus: int, devfn: int, flags: int = ENABLED) -> bytes:
    """A type 5 or 6 entry with a PCI handle in segment 0."""
    handle = struct.pack("<HBB12x", 0, bus, devfn)
    return struct.pack("<BBBBI16sII", kind, 32, 0, 1, domain, handle, flags, 0)


def flags(entry: bytes) -> int | None:
    """The flags of an entry of a known type, None where it has none."""
    at = _FLAGS_AT.get(entry[0], len(entry))
    return int.from_bytes(entry[at : at + 4], "little") if at + 4 <= len(entry) else None


def with_flags(entry: bytes, value: int) -> bytes:
    """A copy with other flags; an entry without flags comes back as it is."""
    if flags(entry) is None:
        return entry
    at = _FLAGS_AT[entry[0]]
    return entry[:at] + struct.pack("<I", value) + entry[at + 4 :]


@lru_cache(maxsize=1 << 14)
def domain(entry: bytes) -> int | None:
    """The 32-bit proximity domain of an entry of a known type, None where it has none."""
    if entry[0] == PROCESSOR:
        return (
            int.from_bytes(bytes(entry[i] for i in _PROCESSOR_DOMAIN), "little") if len(entry) >= 16 else None
        )
    at = _DOMAIN_AT.get(entry[0], len(entry))
    return int.from_bytes(entry[at : at + 4], "little") if at + 4 <= len(entry) else None


def with_domain(entry: bytes, value: int) -> bytes:
    """A copy in another proximity domain; an entry without one comes back as it is."""
    if domain(entry) is None:
        return entry
    low = struct.pack("<I", value)
    out = bytearray(entry)
    if entry[0] == PROCESSOR:
        for at, byte in zip(_PROCESSOR_DOMAIN, low, strict=True):
            out[at] = byte
    else:
        at = _DOMAIN_AT[entry[0]]
        out[at : at + 4] = low
    return bytes(out)


@dataclass(frozen=True, slots=True)
class RawSrat:
    """`head` is the fixed part (48 bytes, fewer of a short table); `tail` starts where cutting fails."""

    head: bytes
    entries: tuple[bytes, ...]
    tail: bytes = b""

    def encode(self) -> bytes:
        """The bytes, joined."""
        return self.head + b"".join(self.entries) + self.tail

    def memories(self) -> Iterator[tuple[int, Memory]]:
        """Every whole memory affinity entry with its index in `entries`."""
        for index, entry in enumerate(self.entries):
            if (found := memory(entry)) is not None:
                yield index, found


@lru_cache(maxsize=1024)
def cut(table: bytes) -> RawSrat:
    """Cut a table of any bytes; `cut(table).encode() == table`."""
    entries: list[bytes] = []
    at, end = FIXED_SIZE, len(table)
    while at + 2 <= end:
        following = at + table[at + 1]
        if following < at + 2 or following > end:
            break
        entries.append(table[at:following])
        at = following
    return RawSrat(table[:FIXED_SIZE], tuple(entries), table[at:])


@lru_cache(maxsize=1024)
def _truth(table: bytes) -> tuple[bool, bool]:
    """Whether its length and its checksum are right."""
    return int.from_bytes(table[4:8], "little") == len(table), checksum_valid(table)


def keep_header_truth(before: bytes, after: bytes) -> bytes:
    """`after` with a right length and checksum exactly where `before` had them: damage outlives an edit."""
    if min(len(before), len(after)) < HEADER_SIZE:
        return after
    length_right, checksum_right = _truth(before)
    if length_right and checksum_right:
        return seal(after)
    length = len(after).to_bytes(4, "little") if length_right else before[4:8]
    after = after[:4] + length + after[8:]
    if checksum_right:
        checksum = (after[9] - sum(after)) & 0xFF
        return after[:9] + bytes([checksum]) + after[10:]
    return after
