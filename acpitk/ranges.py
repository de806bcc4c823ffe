"""Physical address ranges and the page, section and size arithmetic everything else shares.

Ranges are half-open and in bytes; the kernel's inclusive print form exists only in `PhysRange.__str__`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

PAGE_SHIFT = 12
PAGE_SIZE = 1 << PAGE_SHIFT
SECTION_SIZE = 1 << 27
"""Bytes in a sparsemem section (arch/x86/include/asm/sparsemem.h, SECTION_SIZE_BITS 27)."""
ADDRESS_LIMIT = 1 << 64
KIB, MIB, GIB, TIB = 1 << 10, 1 << 20, 1 << 30, 1 << 40

_UNITS = {"": 1, "K": KIB, "M": MIB, "G": GIB, "T": TIB}
_SIZE = re.compile(r"(0x[0-9a-fA-F]+|[0-9]+)([KMGT]?)(?:i?B)?", re.IGNORECASE)


@dataclass(frozen=True, slots=True, order=True)
class PhysRange:
    """Physical bytes [start, end), 0 <= start <= end <= 2**64.

    Raises:
        ValueError: the bounds are out of order or out of the 64-bit space.
    """

    start: int
    end: int

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.end <= ADDRESS_LIMIT:
            raise ValueError(f"not a physical range: start {self.start:#x}, end {self.end:#x}")

    def __reduce__(self) -> tuple[type[PhysRange], tuple[int, int]]:
        """Pickled by its bounds, so that the compiled class can be, too."""
        return PhysRange, (self.start, self.end)

    def __str__(self) -> str:
        """The kernel's inclusive form, `[mem 0x00100000-0x3fffffff]`."""
        return f"[mem {self.start:#010x}-{self.end - 1:#010x}]" if self.end else "[mem empty]"

    @property
    def size(self) -> int:
        """Length in bytes."""
        return self.end - self.start

    def overlaps(self, other: PhysRange) -> bool:
        """Whether the two share at least one byte."""
        return self.start < other.end and other.start < self.end

    def intersect(self, other: PhysRange) -> PhysRange | None:
        """The shared bytes, or None where there are none."""
        start, end = max(self.start, other.start), min(self.end, other.end)
        return PhysRange(start, end) if start < end else None


def pfn_down(address: int) -> int:
    """Page frame number holding byte `address` (PFN_DOWN)."""
    return address >> PAGE_SHIFT


def pfn_up(address: int) -> int:
    """First page frame number at or above byte `address` (PFN_UP)."""
    return (address + PAGE_SIZE - 1) >> PAGE_SHIFT


def align_down(value: int, alignment: int) -> int:
    """Largest multiple of `alignment` (a power of two) not above `value`."""
    return value & -alignment


def align_up(value: int, alignment: int) -> int:
    """Smallest multiple of `alignment` (a power of two) not below `value`."""
    return (value + alignment - 1) & -alignment


def parse_size(text: str) -> int:
    """Bytes in `512M`, `4G`, `0x1000` or `4096`; units are binary, K M G T.

    Raises:
        ValueError: `text` is not a size.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"not a size: {text!r} (try 512M, 4G or 0x20000000)")
    return int(match[1], 0 if match[1].lower().startswith("0x") else 10) * _UNITS[match[2].upper()]


def parse_range(text: str) -> PhysRange:
    """The half-open range in `0-2G` or `0x0-0x20000000`.

    Raises:
        ValueError: `text` is not START-END, or END is below START.
    """
    start, dash, end = text.partition("-")
    if not dash:
        raise ValueError(f"not a range: {text!r} (try 0-2G or 0x0-0x20000000, end exclusive)")
    return PhysRange(parse_size(start), parse_size(end))


def format_size(size: int) -> str:
    """The shortest exact form with a binary unit: 536870912 -> `512M`, 654336 -> `639K`, 5 -> `5`."""
    for unit in ("T", "G", "M", "K"):
        if size and size % _UNITS[unit] == 0:
            return f"{size // _UNITS[unit]}{unit}"
    return str(size)


def readable_size(size: int) -> str:
    """`format_size` where that is short, else one decimal of the largest unit: 536739840 -> `511.9M`."""
    exact = format_size(size)
    if len(exact) <= 5:
        return exact
    unit = next(unit for unit in ("T", "G", "M", "K") if size >= _UNITS[unit])
    return f"{size / _UNITS[unit]:.1f}{unit}"
