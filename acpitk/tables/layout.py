"""One fixed-size structure of a table: its construct layout, parsed and built with acpitk's own errors."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntFlag
from typing import Any

import construct

from acpitk.errors import EncodeError


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One field as it lies in a table.

    Args:
        name: the value class's attribute, or the layout's own name where the value class joins two fields.
        label: the specification's (and iasl's) words.
        offset: bytes from the start of the table.
        size: bytes.
        value: an integer (little-endian), an IntFlag, or bytes.
    """

    name: str
    label: str
    offset: int
    size: int
    value: int | bytes


def flags_field(flags: type[IntFlag]) -> Any:
    """A 32-bit flags field that keeps reserved bits, which construct.FlagsEnum drops."""
    return construct.ExprAdapter(
        construct.Int32ul, lambda value, _context: flags(value), lambda value, _context: int(value)
    )


def _is_bytes(part: Any) -> bool:
    while isinstance(part, construct.Renamed):
        part = part.subcon
    return isinstance(part, construct.Bytes)


@dataclass(frozen=True, slots=True)
class Layout:
    """A construct Struct whose fields are declared as `"name" / Type * "Label"`."""

    struct: Any
    size: int = field(init=False)
    _compiled: Any = field(init=False, repr=False, compare=False)
    _strings: tuple[tuple[str, int], ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", self.struct.sizeof())
        object.__setattr__(self, "_compiled", self.struct.compile())
        strings = ((part.name, part.sizeof()) for part in self.struct.subcons if _is_bytes(part))
        object.__setattr__(self, "_strings", tuple(strings))

    def parse(self, data: bytes) -> dict[str, Any]:
        """Field values of the first `size` bytes of `data`, which must be there."""
        return dict(self._compiled.parse(data))

    def build(self, fields: Mapping[str, Any], *, path: str) -> bytes:
        """The bytes of `fields`; `path` names the structure in errors.

        Raises:
            EncodeError: a value does not fit its field.
        """
        try:
            data: bytes = self._compiled.build(fields)
        except (struct.error, ValueError, TypeError):
            data = b""
        # The compiled form does not name the field or check byte strings; the plain form does both.
        fits = len(data) == self.size and all(len(fields[name]) == size for name, size in self._strings)
        return data if fits else self._build_checked(fields, path)

    def _build_checked(self, fields: Mapping[str, Any], path: str) -> bytes:
        for part in self.struct.subcons:
            try:
                part.build(fields[part.name])
            except (construct.ConstructError, struct.error, ValueError, TypeError):
                value = fields[part.name]
                raise EncodeError(
                    f"{value!r} does not fit its {part.sizeof()}-byte field", path=f"{path}.{part.name}"
                ) from None
        return bytes(self.struct.build(fields))

    def fields(self, data: bytes, offset: int) -> Iterator[Field]:
        """The fields of the structure at byte `offset` of the table `data`."""
        values = self.parse(data[offset : offset + self.size])
        for part in self.struct.subcons:
            size = part.sizeof()
            yield Field(name=part.name, label=part.docs, offset=offset, size=size, value=values[part.name])
            offset += size
