"""Where a kernel's functions and variables are: its own symbol table (kallsyms), read from the vmlinux.

A vmlinux unpacked from a bzImage has no ELF symbols, but every kernel carries its names for oopses
(kernel/kallsyms.c, scripts/kallsyms.c), compressed with a table of 256 tokens. That table is found by its
single-character tokens; everything else lies at known places around it.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from acpitk.errors import DecodeError
from acpitk.vmlinux import elf_sections

_TOKENS = 256
_DIGITS = b"".join(b"%d\0" % digit for digit in range(10))
_DIGIT_TOKEN = ord("0")
_TOKEN_MAX = 128
_NAMES_MIN = 10_000
_MARKED = 256
"""Symbols between two markers."""
_INDEX = struct.Struct("<256H")
START: Final = "_text"
"""The first symbol of the image; decoding is judged by where it lands."""


def read_symbols(vmlinux: bytes | mmap.mmap, names: frozenset[str]) -> Mapping[str, int]:
    """Virtual addresses of those of `names` that are in the image's kallsyms; the first of a name counts.

    Raises:
        DecodeError: no table of tokens, or what surrounds it does not decode.
    """
    section = elf_sections(vmlinux).get(".rodata")
    if section is None:
        raise DecodeError("no section .rodata", path="elf.sections", offset=0)
    data = bytes(vmlinux[section.offset : section.offset + section.size])
    try:
        table = next(_token_tables(data))
        first, count = _names_before(data, table.start)
        found = {}
        for index, name in enumerate(_decode(data, first, count, table.tokens)):
            if name == START or (name in names and name not in found):
                found[name] = index
        return _addresses(data, section.address, table, first, count, found, names)
    except StopIteration:
        raise DecodeError("no table of kallsyms tokens", path="kallsyms.token_table", offset=0) from None
    except (struct.error, IndexError, ValueError):
        raise DecodeError("kallsyms does not decode", path="kallsyms", offset=0) from None


@dataclass(frozen=True, slots=True)
class _TokenTable:
    """Offsets of kallsyms_token_table and of the end of kallsyms_token_index, and the tokens."""

    start: int
    end: int
    tokens: tuple[bytes, ...]


def _token_tables(data: bytes) -> Iterator[_TokenTable]:
    at = data.find(_DIGITS)
    while at >= 0:
        start = at
        for _ in range(_DIGIT_TOKEN):
            start = data.rfind(b"\0", max(0, start - _TOKEN_MAX), start - 1) + 1
        tokens, places, end = [], [], start
        for _ in range(_TOKENS):
            places.append(end - start)
            stop = data.index(b"\0", end)
            tokens.append(data[end:stop])
            end = stop + 1
        for index in sorted({end + end % 2, _aligned(end)}):
            if places[-1] < 1 << 16 and data[index : index + _INDEX.size] == _INDEX.pack(*places):
                yield _TokenTable(start, index + _INDEX.size, tuple(tokens))
        at = data.find(_DIGITS, at + 1)


def _names_before(data: bytes, end: int) -> tuple[int, int]:
    """Offset of kallsyms_names and the number of symbols; both lie before the token table.

    kallsyms_num_syms, kallsyms_names, kallsyms_markers, and in some versions 3 bytes a symbol
    (kallsyms_seqs_of_names), each aligned to 8, or to its own size in newer ones.
    """
    for at in range(end - _NAMES_MIN & ~3, 0, -4):
        (count,) = struct.unpack_from("<I", data, at)
        if not _NAMES_MIN <= count <= (end - at) // 4:
            continue
        markers = -(-count // _MARKED)
        for seqs in (0, _aligned(3 * count)):
            for pad in (0, 4):
                for names in (at + 4, at + 8):
                    place = end - seqs - 4 * markers - pad
                    if place > at + count and _marks(data, names, place, min(markers, 64)):
                        return names, count
    raise ValueError("no names")


def _marks(data: bytes, names: int, markers: int, count: int) -> bool:
    """Whether `count` markers at `markers` say where every 256th name begins."""
    rows = struct.unpack_from(f"<{count}I", data, markers)
    if rows[0] or any(a >= b for a, b in pairwise(rows)):
        return False
    at = names
    for row in rows:
        if at - names != row:
            return False
        for _ in range(_MARKED):
            at = _next(data, at)[1]
            if at >= markers:
                return False
    return True


def _next(data: bytes, at: int) -> tuple[int, int]:
    """Where the tokens of the name at `at` begin, and where the next name does."""
    size, start = data[at], at + 1
    if size & 0x80:
        size, start = size & 0x7F | data[at + 1] << 7, at + 2
    return start, start + size


def _decode(data: bytes, at: int, count: int, tokens: tuple[bytes, ...]) -> Iterator[str]:
    for _ in range(count):
        start, at = _next(data, at)
        name = b"".join([tokens[token] for token in data[start:at]])
        yield name[1:].decode("ascii", "replace")  # the first character is the symbol's type


def _addresses(
    data: bytes,
    base: int,
    table: _TokenTable,
    first: int,
    count: int,
    found: Mapping[str, int],
    names: frozenset[str],
) -> Mapping[str, int]:
    """The addresses of `found` (name -> index), by the encoding that puts _text on the image's start."""
    for at in (table.end, _aligned(table.end), first - 16 - _aligned(4 * count)):
        if at < 0 or at + 4 * count > len(data):
            continue
        signed = struct.unpack_from(f"<{count}i", data, at)
        (relative,) = struct.unpack_from("<Q", data, at + _aligned(4 * count))
        here = base + at
        rows = {name: (index, signed[index]) for name, index in found.items()}
        for addresses in (
            {name: relative - 1 - offset if offset < 0 else offset for name, (_, offset) in rows.items()},
            {name: relative + (offset & 0xFFFFFFFF) for name, (_, offset) in rows.items()},
            {name: here + 4 * index + offset for name, (index, offset) in rows.items()},
        ):
            if addresses[START] & _ADDRESS == _IMAGE:
                return {name: at & _ADDRESS for name, at in addresses.items() if name in names}
    raise ValueError("no offsets")


_ADDRESS = (1 << 64) - 1
_IMAGE = 0xFFFFFFFF81000000
"""__START_KERNEL: where x86-64 links every kernel (CONFIG_PHYSICAL_START 16 MiB)."""


def _aligned(offset: int) -> int:
    return (offset + 7) & ~7
