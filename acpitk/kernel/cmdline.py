"""The kernel command line options that decide where memory goes.

Sources (6.1): parse_args()/next_arg() in kernel/params.c and lib/cmdline.c, parse_memopt() and
parse_memmap_one() in arch/x86/kernel/e820.c, numa_setup() in arch/x86/mm/numa.c,
cmdline_parse_core() in mm/page_alloc.c, cmdline_parse_movable_node() in mm/memory_hotplug.c,
parse_crashkernel() in kernel/crash_core.c.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from acpitk.machine import E820Type
from acpitk.ranges import PAGE_SHIFT

_NUMBER = re.compile(r"0[xX][0-9a-fA-F]+|[0-9]+")
_SUFFIXES = {"K": 10, "M": 20, "G": 30, "T": 40, "P": 50, "E": 60}
_MEMMAP_TYPES = {
    "@": E820Type.USABLE,
    "#": E820Type.ACPI_DATA,
    "$": E820Type.RESERVED,
    "!": E820Type.PERSISTENT,
}
_U64 = (1 << 64) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class MapEdit:
    """One change to the e820 map, half-open bytes: set [start, end) to `type`; None removes usable RAM."""

    start: int
    end: int
    type: E820Type | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandLine:
    """The parsed options.

    Args:
        movable_node: any form of the word, also `movable_node=off`.
        movablenode: the same for the word first proposed.
        numa_off, srat_disabled: `numa=off`, `numa=noacpi`.
        acpi_off: `acpi=off`.
        kernelcore, movablecore: pages; 0 is not given.
        kernelcore_percent, movablecore_percent: percent; 0 is not given.
        mirror: `kernelcore=mirror`.
        crashkernel_given: any `crashkernel=`.
        crashkernel: bytes of a plain `crashkernel=SIZE`; 0 is none, or a form that is not modelled.
        map_edits: `mem=` and `memmap=` in order.
    """

    movable_node: bool = False
    movablenode: bool = False
    numa_off: bool = False
    srat_disabled: bool = False
    acpi_off: bool = False
    kernelcore: int = 0
    movablecore: int = 0
    kernelcore_percent: int = 0
    movablecore_percent: int = 0
    mirror: bool = False
    crashkernel_given: bool = False
    crashkernel: int = 0
    map_edits: tuple[MapEdit, ...] = ()

    def given(self, option: str) -> bool:
        """Whether the flag `option` (a field's name) is there."""
        return bool(getattr(self, option))


@lru_cache(maxsize=1024)
def parse_cmdline(text: str) -> CommandLine:
    """What the early parameters in `text` ask for; unknown words and bad values are passed over."""
    fields: dict[str, bool | int] = {}
    edits: list[MapEdit] = []
    for name, value in _arguments(text):
        match name:
            case "movable_node" | "movablenode":
                fields[name] = True
            case "numa" if value is not None:
                if value.startswith("off"):
                    fields["numa_off"] = True
                if value.startswith("noacpi"):
                    fields["srat_disabled"] = True
            case "acpi" if value == "off":
                fields["acpi_off"] = True
            case "mem" if value is not None:
                size = _memparse(value)[0]
                if size:
                    edits.append(MapEdit(start=size, end=_U64, type=None))
            case "memmap" if value is not None:
                edits.extend(_memmap(value))
            case "crashkernel" if value is not None:
                size, rest = _memparse(value)
                fields |= {"crashkernel_given": True, "crashkernel": 0 if rest else size}
            case "kernelcore" | "movablecore" if value is not None:
                if name == "kernelcore" and "mirror" in value.split(","):
                    fields["mirror"] = True
                else:
                    fields |= _core(name, value)
    return CommandLine(**fields, map_edits=tuple(edits))  # type: ignore[arg-type]


def _arguments(text: str) -> Iterator[tuple[str, str | None]]:
    for word in re.findall(r'(?:"[^"]*"?|\S)+', text):
        name, equals, value = word.replace('"', "").partition("=")
        if name == "--" and not equals:
            return
        yield name.replace("-", "_"), value if equals else None


def _memparse(text: str) -> tuple[int, str]:
    """Bytes at the head of `text` and what follows (lib/cmdline.c memparse)."""
    match = _NUMBER.match(text)
    if match is None:
        return 0, text
    digits = match[0]
    base = (
        16 if digits[:2] in ("0x", "0X") else 8 if digits[0] == "0" and set(digits) <= set("01234567") else 10
    )
    number, rest = int(digits, base), text[match.end() :]
    if rest and (shift := _SUFFIXES.get(rest[0].upper())) is not None:
        return number << shift & _U64, rest[1:]
    return number & _U64, rest


def _core(name: str, value: str) -> dict[str, int]:
    size = _memparse(value)[0]
    match = _NUMBER.match(value)
    if match and value[match.end() :].startswith("%"):
        return {f"{name}_percent": size}
    return {name: size >> PAGE_SHIFT, f"{name}_percent": 0}


def _memmap(value: str) -> Iterator[MapEdit]:
    for part in value.split(","):
        size, rest = _memparse(part)
        if rest == part:
            if part.startswith("exactmap"):
                yield MapEdit(start=0, end=_U64, type=None)
        elif rest[:1] in _MEMMAP_TYPES and rest:
            start = _memparse(rest[1:])[0]
            yield MapEdit(start=start, end=min(start + size, _U64), type=_MEMMAP_TYPES[rest[0]])
        elif not rest and size:
            yield MapEdit(start=size, end=_U64, type=None)
