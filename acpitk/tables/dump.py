"""Files that hold ACPI tables -> table bytes: acpidump text, raw blobs, a directory such as sysfs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from acpitk.errors import DecodeError, UsageError
from acpitk.tables.header import HEADER_SIZE

MAX_SIZE = 16 << 20
"""Bytes of the largest file read; a SLIT of 4,000 localities fits."""
_GIVE = "give a raw table or acpidump text"
_SIGNATURE = re.compile(rb"[A-Z0-9_]{4}")
_TITLE = re.compile(r"([A-Z0-9_]{4}) @ (?:0x)?[0-9A-Fa-f]+\s*")
_HEX_LINE = re.compile(r"\s*([0-9A-Fa-f]{4,8}): ((?:[0-9A-Fa-f]{2} ?){1,16})(?:\s.*)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class TableBlob:
    """One table as found: at least 36 bytes, which may contradict their own header.

    Args:
        signature: its first four bytes.
        data: all its bytes.
        source: where it came from, for messages.
    """

    signature: bytes
    data: bytes
    source: str


def parse_dump(data: bytes, *, source: str) -> tuple[TableBlob, ...]:
    """The tables in the bytes of one file: acpidump text, or one or more raw tables back to back.

    A raw table ends where its header says if another table starts there; otherwise it takes the rest.

    Raises:
        DecodeError: no table here, or a broken line in acpidump text; the message names `source`.
    """
    lines = data.decode("latin-1").split("\n") if b"\0" not in data else []
    if any(map(_TITLE.fullmatch, lines)):
        return tuple(_parse_text(lines, source))
    if len(data) < HEADER_SIZE:
        raise DecodeError(
            f"{len(data)} bytes, but an ACPI table has at least {HEADER_SIZE}: {_GIVE}",
            path=source,
            offset=len(data),
        )
    if not _starts_table(data):
        raise DecodeError(
            f"starts with {data[:4]!r}, not a table signature: {_GIVE}",
            path=source,
            offset=0,
        )
    return tuple(_split(data, source))


def load(path: Path) -> tuple[TableBlob, ...]:
    """The tables in a file, or in the regular files of a directory such as /sys/firmware/acpi/tables.

    In a directory, files that hold no table are passed over; subdirectories are not entered.

    Raises:
        UsageError: missing, unreadable or too large; or a directory without tables.
        DecodeError: a file that holds no table.
    """
    if not path.is_dir():
        return parse_dump(_read(path), source=_shown(path))
    blobs: list[TableBlob] = []
    for file in _listing(path):
        data = _read(file)
        if _starts_table(data):
            blobs += parse_dump(data, source=_shown(file))
    if not blobs:
        raise UsageError(
            f"{_shown(path)}: no ACPI table in this directory: give a file, or a directory of tables"
        )
    return tuple(blobs)


def _listing(path: Path) -> list[Path]:
    try:
        return sorted(file for file in path.iterdir() if file.is_file())
    except OSError as error:
        raise UsageError(f"{_shown(path)}: {error.strerror}") from None


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_SIZE + 1)
    except PermissionError:
        raise UsageError(f"{_shown(path)}: permission denied: run as root, or copy the table first") from None
    except (OSError, ValueError) as error:
        raise UsageError(f"{_shown(path)}: {getattr(error, 'strerror', None) or error}") from None
    if len(data) > MAX_SIZE:
        raise UsageError(f"{_shown(path)}: more than {MAX_SIZE >> 20} MiB: not a file of ACPI tables")
    return data


def _shown(path: Path) -> str:
    """A name fit for one line of a message: control characters are escaped."""
    return str(path) if str(path).isprintable() else ascii(str(path))


def _starts_table(data: bytes, at: int = 0) -> bool:
    return len(data) - at >= HEADER_SIZE and _SIGNATURE.match(data, at) is not None


def _split(data: bytes, source: str) -> Iterator[TableBlob]:
    start = 0
    while start < len(data):
        end = start + int.from_bytes(data[start + 4 : start + 8], "little")
        if end - start < HEADER_SIZE or not _starts_table(data, end):
            end = len(data)
        yield _blob(data[start:end], source)
        start = end


def _blob(data: bytes, source: str) -> TableBlob:
    return TableBlob(signature=data[:4], data=data, source=source)


def _parse_text(lines: list[str], source: str) -> Iterator[TableBlob]:
    """The tables of acpidump text, each `SRAT @ 0x...` and lines of offset, 16 bytes, ASCII."""
    table: bytearray | None = None
    for number, line in enumerate(lines, start=1):
        where = f"{source}: line {number}"
        if _TITLE.fullmatch(line):
            if table is not None:
                yield _finished(bytes(table), source, where)
            table = bytearray()
        elif line.strip() and table is not None:
            match = _HEX_LINE.fullmatch(line)
            if match is None:
                raise DecodeError(f"{line[:60]!r} is not a line of acpidump", path=where, offset=len(table))
            if int(match[1], 16) != len(table):
                raise DecodeError(
                    f"offset {match[1]}, expected {len(table):04X}: a line is missing or doubled",
                    path=where,
                    offset=len(table),
                )
            table += bytes.fromhex(match[2])
    if table is not None:
        yield _finished(bytes(table), source, f"{source}: last line")


def _finished(table: bytes, source: str, where: str) -> TableBlob:
    if not _starts_table(table):
        raise DecodeError(
            f"the table before this has {len(table)} bytes and starts with {table[:4]!r}: not an ACPI table",
            path=where,
            offset=len(table),
        )
    return _blob(table, source)
