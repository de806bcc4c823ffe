"""Mutators of the MADT against the SRAT: which processors there are, and which of them have a domain.

A case without a MADT of its own has QEMU's, with one processor of APIC ID 0. What these give is a whole
table, which Linux takes instead, see `machine.madt_at`. As in `acpitk.fuzz.mutators`, a mutator draws from
its generator only, and gives back a case it finds nothing to change in.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random
from typing import NamedTuple

from acpitk.fuzz import raw
from acpitk.fuzz.registry import case_mutator, on_entries, register, with_table
from acpitk.kernel.madt import ENTRIES, LAPIC, X2APIC
from acpitk.machine import MADT, Case
from acpitk.tables.header import seal

ENABLED, ONLINE_CAPABLE = 1, 2
_LAPIC_ADDRESS, _PCAT_COMPAT = 0xFEE00000, 1
_HEADER = b"APIC" + struct.pack("<IBB6s8sI4sI", 0, 3, 0, b"ACPITK", b"ACPITK  ", 1, b"ACTK", 1)
_IO_APIC = struct.pack("<BBBBII", 1, 12, 0, 0, 0xFEC00000, 0)
_MAX_PROCESSORS = 64


class Processor(NamedTuple):
    """One entry: a local APIC, or where `wide` a local x2APIC."""

    apic_id: int
    flags: int = ENABLED
    wide: bool = False


def encode_madt(processors: Sequence[Processor]) -> bytes:
    """A MADT of these processors, in order, and the I/O APIC of a q35; its header is right."""
    entries = b"".join(
        struct.pack("<BBHIII", X2APIC, 16, 0, each.apic_id & 0xFFFFFFFF, each.flags, uid)
        if each.wide
        else struct.pack("<BBBBI", LAPIC, 8, uid & 0xFF, each.apic_id & 0xFF, each.flags)
        for uid, each in enumerate(processors)
    )
    return seal(_HEADER + struct.pack("<II", _LAPIC_ADDRESS, _PCAT_COMPAT) + entries + _IO_APIC)


def processors_of(case: Case) -> list[Processor]:
    """The processors of the case's MADT, or the one of QEMU's."""
    table = case.table(MADT)
    if table is None:
        return [Processor(0)]
    out, at = [], ENTRIES
    while at + 2 <= len(table) and table[at + 1] >= 2:
        entry = table[at : at + table[at + 1]]
        if entry[0] == LAPIC and len(entry) >= 8:
            out.append(Processor(entry[3], int.from_bytes(entry[4:8], "little")))
        elif entry[0] == X2APIC and len(entry) >= 16:
            apic_id, flags = struct.unpack_from("<II", entry, 4)
            out.append(Processor(apic_id, flags, wide=True))
        at += len(entry)
    return out


def with_processors(case: Case, processors: Sequence[Processor]) -> Case:
    """The case with a MADT of these."""
    after = encode_madt(processors[:_MAX_PROCESSORS])
    before = case.table(MADT)
    if before is not None:
        return with_table(case, before, after)
    return replace(case, tables=(*case.tables, after))


def _named(case: Case) -> list[int]:
    """APIC IDs that the SRAT gives a domain."""
    table = case.table(b"SRAT")
    out = []
    for entry in () if table is None else raw.cut(table).entries:
        if entry[0] == raw.PROCESSOR and len(entry) >= 16:
            out.append(entry[3])
        elif entry[0] == raw.X2APIC and len(entry) >= 24:
            out.append(int.from_bytes(entry[8:12], "little"))
    return list(dict.fromkeys(out))


def _processor(apic_id: int) -> Processor:
    return Processor(apic_id, wide=apic_id > 254)


Edit = Callable[[list[Processor], Case, Random], list[Processor] | None]


def _madt_mutator(function: Edit) -> Edit:
    """A mutator of the processors in the MADT; None means: nothing to change."""

    def apply(case: Case, rng: Random) -> Case:
        after = function(processors_of(case), case, rng)
        return case if after is None or after == processors_of(case) else with_processors(case, after)

    register(function, apply)
    return function


@_madt_mutator
def processors_as_in_srat(processors: list[Processor], case: Case, rng: Random) -> list[Processor] | None:
    """Let the MADT list the processors that the SRAT gives a domain, the one of APIC ID 0 first."""
    return [_processor(apic_id) for apic_id in dict.fromkeys((0, *_named(case)))]


@_madt_mutator
def processor_without_domain(processors: list[Processor], case: Case, rng: Random) -> list[Processor] | None:
    """Add a processor to the MADT that the SRAT gives no domain."""
    known = {*_named(case), *(each.apic_id for each in processors)}
    free = [apic_id for apic_id in (1, 2, 3, 8, 127, 254, 255, 256, 300) if apic_id not in known]
    return [*processors, _processor(rng.choice(free))] if free else None


@_madt_mutator
def domain_without_processor(processors: list[Processor], case: Case, rng: Random) -> list[Processor] | None:
    """Leave one processor out of the MADT that the SRAT gives a domain."""
    named = [_processor(apic_id) for apic_id in _named(case)]
    if len(named) < 2:
        return None
    named.pop(rng.randrange(len(named)))
    return named


@_madt_mutator
def wide_processor(processors: list[Processor], case: Case, rng: Random) -> list[Processor] | None:
    """Describe a processor by an x2APIC entry, whatever its ID."""
    at = rng.randrange(len(processors)) if processors else 0
    return [each._replace(wide=each.wide or i == at) for i, each in enumerate(processors)]


@_madt_mutator
def disabled_processor(processors: list[Processor], case: Case, rng: Random) -> list[Processor] | None:
    """Add a processor that is not enabled, or make one so; some can come online later."""
    flags = rng.choice((0, ONLINE_CAPABLE))
    if len(processors) < 2 or rng.random() < 0.5:
        return [*processors, Processor(rng.choice((*_named(case), 1, 2)) & 0xFF, flags)]
    at = rng.randrange(len(processors))
    return [each._replace(flags=flags) if i == at else each for i, each in enumerate(processors)]


@_madt_mutator
def duplicate_processor(processors: list[Processor], case: Case, rng: Random) -> list[Processor] | None:
    """List a processor twice, the second time perhaps by the other kind of entry."""
    if not processors:
        return None
    again = rng.choice(processors)
    return [*processors, again._replace(wide=again.wide or rng.random() < 0.5)]


@_madt_mutator
def shuffle_processors(processors: list[Processor], case: Case, rng: Random) -> list[Processor] | None:
    """Put more processors in the MADT, in any order."""
    more = dict.fromkeys((*processors, *map(_processor, _named(case)), Processor(1)))
    return rng.sample(list(more), len(more))


@case_mutator
def domain_of_processors_only(case: Case, rng: Random) -> Case:
    """Give a processor of its own a domain without memory, in the SRAT and in the MADT."""
    used = {*_named(case), *(each.apic_id for each in processors_of(case))}
    apic_id = next(number for number in range(1, 256) if number not in used or number == 255)

    def add(entries: list[bytes], case: Case, rng: Random) -> list[bytes]:
        domains = {found for entry in entries if (found := raw.domain(entry)) is not None}
        new = next(number for number in range(len(domains) + 1) if number not in domains)
        return [raw.processor(new, apic_id & 0xFF), *entries]

    out = on_entries(add)(case, rng)
    return case if out == case else with_processors(out, [*processors_of(case), _processor(apic_id)])
