"""The mutators by name, and the decorators that make a function one.

A mutator draws from the generator it is given only, and gives back a case it finds nothing to change in. Its
name is the function's with dashes, its description the docstring.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from types import MappingProxyType

from acpitk.fuzz import raw
from acpitk.fuzz.raw import RawSrat
from acpitk.kernel.policy import BUILDS
from acpitk.machine import Case
from acpitk.ranges import MIB

Apply = Callable[[Case, Random], Case]
Entries = list[bytes]
EditTable = Callable[[bytes, Case, Random], bytes]
EditEntries = Callable[[Entries, Case, Random], Entries | None]

KERNEL_START = 16 * MIB
"""Where an x86-64 kernel without KASLR is loaded (CONFIG_PHYSICAL_START)."""
KERNEL_ENDS = tuple(sorted({build.image_end for build in BUILDS.values()}))
"""Where the kernel images that the model knows end."""
MAX_ENTRIES = 400
"""No mutator grows an SRAT beyond this: the kernel's work, and the model's, is quadratic in the entries."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutator:
    """One named mutation.

    Args:
        name: stable, lower-case words and dashes.
        description: what it does to a case.
        apply: the mutation; it draws from the given generator only.
    """

    name: str
    description: str
    apply: Apply


_REGISTRY: dict[str, Mutator] = {}
MUTATORS: Mapping[str, Mutator] = MappingProxyType(_REGISTRY)
"""Every mutator by name."""


def register(source: Callable[..., object], apply: Apply) -> None:
    """Add `apply` to `MUTATORS` under the name of `source`, described by its docstring."""
    name = source.__name__.replace("_", "-")
    description = (source.__doc__ or "").removesuffix(".")
    _REGISTRY[name] = Mutator(name=name, description=description, apply=apply)


def case_mutator(function: Apply) -> Apply:
    """A mutator of the whole case."""
    register(function, function)
    return function


def table_mutator(signature: bytes) -> Callable[[EditTable], EditTable]:
    """A mutator of the bytes of the first table with this signature; the header is its own business."""

    def decorate(function: EditTable) -> EditTable:
        def apply(case: Case, rng: Random) -> Case:
            table = case.table(signature)
            return case if table is None else with_table(case, table, function(table, case, rng))

        register(function, apply)
        return function

    return decorate


def on_entries(function: EditEntries) -> Apply:
    """What edits the SRAT's list of entries, as a mutation of the case; None means: nothing to change."""

    def apply(case: Case, rng: Random) -> Case:
        table = case.table(b"SRAT")
        if table is None:
            return case
        srat = raw.cut(table)
        entries = function(list(srat.entries), case, rng)
        if entries is None or len(entries) > MAX_ENTRIES:
            return case
        after = RawSrat(srat.head, tuple(entries), srat.tail).encode()
        return with_table(case, table, raw.keep_header_truth(table, after))

    return apply


def entries_mutator(function: EditEntries) -> EditEntries:
    """A mutator of the SRAT's list of entries; None means: nothing to change."""
    register(function, on_entries(function))
    return function


def with_table(case: Case, before: bytes, after: bytes) -> Case:
    """The case with its first table equal to `before` replaced."""
    at = case.tables.index(before)
    tables = (*case.tables[:at], after, *case.tables[at + 1 :])
    return Case(machine=case.machine, tables=tables, cmdline=case.cmdline)
