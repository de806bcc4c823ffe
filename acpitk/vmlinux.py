"""A kernel image's own description of itself: ELF sections and BTF type information.

Sources: the ELF64 layout; Documentation/bpf/btf.rst.
"""

from __future__ import annotations

import mmap
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass

from acpitk.errors import DecodeError

_BTF_INT, _BTF_ARRAY, _BTF_STRUCT, _BTF_UNION, _BTF_ENUM = 1, 3, 4, 5, 6
_BTF_ITEM_BYTES = {_BTF_STRUCT: 12, _BTF_UNION: 12, _BTF_ENUM: 8, 13: 8, 15: 12, 19: 12}
"""Bytes per member after the 12-byte type record; other kinds have `_BTF_FIXED_BYTES`."""
_BTF_FIXED_BYTES = {_BTF_INT: 4, _BTF_ARRAY: 12, 14: 4, 17: 4}


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """An ELF section: link address, offset in the file and size, all bytes."""

    address: int
    offset: int
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Struct:
    """A C structure: size and field offsets, bytes."""

    size: int
    fields: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Types:
    """The structures and enumerations asked of BTF; enumerators in the order of their values."""

    structs: Mapping[str, Struct]
    enums: Mapping[str, tuple[str, ...]]


def elf_sections(elf: bytes | mmap.mmap) -> Mapping[str, Section]:
    """The sections of an ELF64 little-endian file by name.

    Raises:
        DecodeError: not such a file, or its headers do not fit.
    """
    try:
        if elf[:6] != b"\x7fELF\x02\x01":
            raise DecodeError("not an ELF64 little-endian file", path="elf.ident", offset=0)
        (table,) = struct.unpack_from("<Q", elf, 0x28)
        size, count, names_index = struct.unpack_from("<3H", elf, 0x3A)
        headers = [struct.unpack_from("<IIQQQQ", elf, table + i * size) for i in range(count)]
        names = headers[names_index][4]
        return {
            _name(elf, names + header[0]): Section(address=header[3], offset=header[4], size=header[5])
            for header in headers
        }
    except (struct.error, IndexError, ValueError):
        raise DecodeError("the section headers do not fit the file", path="elf.sections", offset=0) from None


def btf_types(elf: bytes | mmap.mmap, structs: frozenset[str], enums: frozenset[str] = frozenset()) -> Types:
    """The named structures and enumerations from the image's .BTF section.

    Raises:
        DecodeError: no BTF, or a name is missing.
    """
    section = elf_sections(elf).get(".BTF")
    if section is None:
        raise DecodeError("no section .BTF", path="elf.sections", offset=0)
    btf = bytes(elf[section.offset : section.offset + section.size])
    try:
        if btf[:2] != b"\x9f\xeb":
            raise DecodeError("not BTF", path="btf.magic", offset=0)
        header, type_at, type_size, name_at, name_size = struct.unpack_from("<5I", btf, 4)
        names = btf[header + name_at : header + name_at + name_size]
        found = _scan(btf[header + type_at : header + type_at + type_size], names, structs, enums)
    except (struct.error, ValueError):
        raise DecodeError("the type section is cut off", path="btf.types", offset=0) from None
    if missing := sorted((structs - found.structs.keys()) | (enums - found.enums.keys())):
        raise DecodeError(f"no type {missing[0]}", path="btf.types", offset=0)
    return found


def _name(data: bytes | mmap.mmap, at: int) -> str:
    end = data.find(b"\0", at, at + 256)
    if end < 0:
        raise ValueError("a name without end")
    return bytes(data[at:end]).decode("ascii", "replace")


def _scan(types: bytes, names: bytes, structs: frozenset[str], enums: frozenset[str]) -> Types:
    """One pass over the type records."""

    def offsets(wanted: frozenset[str]) -> dict[int, str]:
        pattern = b"|".join(re.escape(name.encode()) for name in sorted(wanted)) or b"\\Z."
        return {m.start() + 1: m[1].decode() for m in re.finditer(rb"\0(?=(" + pattern + rb")\0)", names)}

    struct_at, enum_at = offsets(structs), offsets(enums)
    found: dict[str, Struct] = {}
    found_enums: dict[str, tuple[str, ...]] = {}
    record = struct.Struct("<III")
    at = 0
    while at < len(types):
        name, info, size = record.unpack_from(types, at)
        at += 12
        kind, count, bitfields = info >> 24 & 0x1F, info & 0xFFFF, info >> 31
        if kind == _BTF_STRUCT and name in struct_at:
            members = [record.unpack_from(types, at + 12 * i) for i in range(count)]
            mask = 0xFFFFFF if bitfields else 0xFFFFFFFF
            fields = {_name(names, member): (offset & mask) // 8 for member, _, offset in members}
            found.setdefault(struct_at[name], Struct(size=size, fields=fields))
        elif kind == _BTF_ENUM and name in enum_at:
            values = [struct.unpack_from("<Ii", types, at + 8 * i) for i in range(count)]
            ordered = sorted(values, key=lambda value: value[1])
            found_enums[enum_at[name]] = tuple(_name(names, offset) for offset, _ in ordered)
        at += _BTF_ITEM_BYTES[kind] * count if kind in _BTF_ITEM_BYTES else _BTF_FIXED_BYTES.get(kind, 0)
    return Types(structs=found, enums=found_enums)
