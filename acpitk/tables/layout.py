"""One fixed-size structure of a table: its construct layout, parsed and built with acpitk's own errors."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntFlag
from operator import itemgetter
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
    field = construct.ExprAdapter(
        construct.Int32ul, lambda value, _context: flags(value), lambda value, _context: int(value)
    )
    field.flags = flags
    return field


def _plain(part: Any) -> Any:
    while isinstance(part, construct.Renamed):
        part = part.subcon
    return part


def _code(part: Any) -> str:
    """The field in the words of the struct module; a 24-bit integer is three bytes there."""
    plain = _plain(part)
    if isinstance(plain, construct.FormatField):
        return str(plain.fmtstr).removeprefix("<")
    return "I" if hasattr(plain, "flags") else f"{plain.sizeof()}s"


class Layout:
    """A construct Struct whose little-endian fields are declared as `"name" / Type * "Label"`.

    The declaration names fields, labels and errors; bytes go through a `struct.Struct` made from it, which
    takes a tenth of the time.
    """

    def __init__(self, declared: Any) -> None:
        self.struct = declared
        self.size: int = declared.sizeof()
        self.names: tuple[str, ...] = tuple(part.name for part in declared.subcons)
        self._codec = struct.Struct("<" + "".join(map(_code, declared.subcons)))
        self._values: Callable[[Mapping[str, Any]], Any] = itemgetter(*self.names)
        plain = list(enumerate(map(_plain, declared.subcons)))
        self._flags = [(i, part.flags) for i, part in plain if hasattr(part, "flags")]
        self._wide = [i for i, part in plain if isinstance(part, construct.BytesInteger)]
        self._strings = [(i, part.sizeof()) for i, part in plain if isinstance(part, construct.Bytes)]

    def parse(self, data: bytes, at: int = 0) -> dict[str, Any]:
        """Field values of the `size` bytes at `at`, which must be there."""
        values: list[Any] = list(self._codec.unpack_from(data, at))
        for index, flags in self._flags:
            values[index] = flags(values[index])
        for index in self._wide:
            values[index] = int.from_bytes(values[index], "little")
        return dict(zip(self.names, values, strict=True))

    def build(self, fields: Mapping[str, Any], *, path: str) -> bytes:
        """The bytes of `fields`; `path` names the structure in errors.

        Raises:
            EncodeError: a value does not fit its field.
        """
        values = self._values(fields) if len(self.names) > 1 else (fields[self.names[0]],)
        return self.build_values(values, path=path)

    def build_values(self, values: Sequence[Any], *, path: str) -> bytes:
        """As `build`, from the values in field order."""
        packed: Sequence[Any] = values
        try:
            for index, size in self._strings:
                if len(values[index]) != size:
                    return self._build_checked(values, path)
            if self._wide:
                packed = list(values)
                for index in self._wide:
                    packed[index] = values[index].to_bytes(3, "little")
            return self._codec.pack(*packed)
        except (struct.error, OverflowError, AttributeError, TypeError):
            return self._build_checked(values, path)

    def _build_checked(self, values: Sequence[Any], path: str) -> bytes:
        """The plain form of construct, which says which field it is."""
        for part, value in zip(self.struct.subcons, values, strict=True):
            try:
                part.build(value)
            except (construct.ConstructError, struct.error, ValueError, TypeError):
                raise EncodeError(
                    f"{value!r} does not fit its {part.sizeof()}-byte field", path=f"{path}.{part.name}"
                ) from None
        return bytes(self.struct.build(dict(zip(self.names, values, strict=True))))

    def fields(self, data: bytes, offset: int) -> Iterator[Field]:
        """The fields of the structure at byte `offset` of the table `data`."""
        values = self.parse(data, offset)
        for part in self.struct.subcons:
            size = part.sizeof()
            yield Field(name=part.name, label=part.docs, offset=offset, size=size, value=values[part.name])
            offset += size
