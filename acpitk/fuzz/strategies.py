"""Hypothesis strategies for firmware tables and cases: realistic topologies first, oddities after.

Everything here is well-formed and shrinks towards one node that is not hot on the smallest machine. Malformed
tables are made from these by `acpitk.fuzz.mutators`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as hypothesis_seed
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from acpitk.errors import UsageError
from acpitk.machine import Q35, Case
from acpitk.ranges import ADDRESS_LIMIT, GIB, KIB, MIB, PAGE_SIZE, SECTION_SIZE, PhysRange, format_size
from acpitk.tables.slit import Slit, build_slit, encode_slit
from acpitk.tables.srat import (
    Entry,
    GenericFlags,
    GenericInitiatorAffinity,
    GenericPortAffinity,
    MemoryAffinity,
    MemoryFlags,
    PciHandle,
    ProcessorAffinity,
    ProcessorFlags,
    Srat,
    UnknownEntry,
    X2ApicAffinity,
    build_srat,
    encode_srat,
)

HOT = MemoryFlags.ENABLED | MemoryFlags.HOT_PLUGGABLE
MIN_MEMORY, MAX_MEMORY = 512 * MIB, 16 * GIB


def proximity_domains(*, max_value: int = 0xFFFFFFFF) -> SearchStrategy[int]:
    """Proximity domain numbers: mostly small, sometimes anything up to `max_value`."""
    return st.integers(0, min(7, max_value)) | st.integers(0, max_value)


def memory_affinities(
    *, domains: SearchStrategy[int] | None = None, max_end: int = ADDRESS_LIMIT
) -> SearchStrategy[MemoryAffinity]:
    """Memory affinity entries in whole pages that end at or below `max_end` (bytes).

    Raises:
        UsageError: `max_end` leaves no room for a page.
    """
    if not PAGE_SIZE <= max_end <= ADDRESS_LIMIT:
        raise UsageError(f"memory_affinities: max_end={max_end}: use {PAGE_SIZE} to 2**64")
    pages = st.integers(0, max_end // PAGE_SIZE)
    bounds = st.tuples(pages, pages).map(sorted).filter(lambda b: b[0] < b[1] and b[1] - b[0] < 1 << 52)
    return st.builds(
        lambda domain, bound, flags: MemoryAffinity(
            proximity_domain=domain,
            base=bound[0] * PAGE_SIZE,
            length=(bound[1] - bound[0]) * PAGE_SIZE,
            flags=flags,
        ),
        proximity_domains() if domains is None else domains,
        bounds,
        st.sampled_from((MemoryFlags.ENABLED, HOT)) | st.integers(0, 15).map(MemoryFlags),
    )


def processor_affinities(
    *, domains: SearchStrategy[int] | None = None
) -> SearchStrategy[ProcessorAffinity | X2ApicAffinity]:
    """Processor entries by local APIC ID (type 0) or x2APIC ID (type 2), mostly enabled."""
    domains = proximity_domains() if domains is None else domains
    flags = st.sampled_from((ProcessorFlags.ENABLED, ProcessorFlags(0)))
    return st.builds(
        ProcessorAffinity, proximity_domain=domains, apic_id=st.integers(0, 254), flags=flags
    ) | st.builds(X2ApicAffinity, proximity_domain=domains, x2apic_id=st.integers(0, 0xFFFFFFFF), flags=flags)


def generic_affinities(
    *, domains: SearchStrategy[int] | None = None
) -> SearchStrategy[GenericInitiatorAffinity | GenericPortAffinity]:
    """Generic initiator and generic port entries of PCI devices."""
    handles = st.builds(
        PciHandle, segment=st.integers(0, 0xFFFF), bus=st.integers(0, 255), devfn=st.integers(0, 255)
    )
    domains = proximity_domains() if domains is None else domains
    flags = st.sampled_from((GenericFlags.ENABLED, GenericFlags(0), GenericFlags(3)))
    return st.builds(
        GenericInitiatorAffinity, proximity_domain=domains, handle=handles, flags=flags
    ) | st.builds(GenericPortAffinity, proximity_domain=domains, handle=handles, flags=flags)


def unknown_entries() -> SearchStrategy[UnknownEntry]:
    """Entries of types ACPI 6.6 does not define, with a true length."""
    return st.builds(
        lambda kind, body: UnknownEntry(raw=bytes([kind, 2 + len(body)]) + body),
        st.integers(8, 255),
        st.binary(max_size=38),
    )


def entries(*, domains: SearchStrategy[int] | None = None) -> SearchStrategy[Entry]:
    """Affinity entries of every type an x86 machine has, and of unknown types."""
    return st.one_of(
        memory_affinities(domains=domains),
        processor_affinities(domains=domains),
        generic_affinities(domains=domains),
        unknown_entries(),
    )


def machines(
    *, min_memory: int = MIN_MEMORY, max_memory: int = MAX_MEMORY, initrd: bool = True
) -> SearchStrategy[Q35]:
    """Q35 guests with `min_memory` to `max_memory` bytes of RAM in whole MiB, round sizes first.

    Raises:
        UsageError: the bounds are out of order, or not whole MiB.
    """
    if min_memory > max_memory or min_memory % MIB or max_memory % MIB:
        raise UsageError(
            f"machines: min_memory={format_size(min_memory)}, max_memory={format_size(max_memory)}:"
            " use whole MiB, in order"
        )
    round_sizes = (512 * MIB, GIB, 3 * GIB, 4 * GIB, 8 * GIB, 16 * GIB)
    sizes = st.integers(min_memory // MIB, max_memory // MIB).map(lambda size: size * MIB)
    if fitting := [size for size in round_sizes if min_memory <= size <= max_memory]:
        sizes = st.sampled_from(fitting) | sizes
    initrds = st.sampled_from((0, 0, 0, MIB, 300_000)) if initrd else st.just(0)
    return st.builds(Q35, sizes, initrds)


def cmdlines() -> SearchStrategy[str]:
    """Kernel command lines that steer nodes and zones, often plain `movable_node`."""
    amounts = st.sampled_from(("512M", "1G", "1500M", "25%", "50%", "100%"))
    options = st.one_of(
        st.just("movable_node"),
        st.builds("kernelcore={}".format, amounts),
        st.just("kernelcore=mirror"),
        st.builds("movablecore={}".format, amounts),
        st.builds("mem={}".format, st.sampled_from(("768M", "1G", "3G"))),
        st.sampled_from(("numa=off", "numa=noacpi")),
    )
    mixtures = st.lists(options, max_size=3, unique_by=lambda option: option.split("=")[0])
    with_movable_node = options.map(lambda option: f"movable_node {option}")
    return st.just("movable_node") | mixtures.map(" ".join) | with_movable_node


@st.composite
def srats(draw: DrawFn, *, machine: Q35 | None = None, max_nodes: int = 8) -> Srat:
    """Well-formed SRATs whose nodes cover the RAM of a guest (default: any of `machines()`).

    Nodes may be hot, unevenly sized, numbered out of order or sparsely; there may be promises of memory
    beyond RAM, disabled entries, generic initiators and unknown entries.
    """
    machine = machine or draw(machines())
    numbers = draw(st.sampled_from(_NUMBERINGS))
    pieces = _pieces(machine, draw(_cuts(machine.memory, max_nodes)), draw(st.booleans()))
    domains = [numbers[node] for node in range(1 + max(node for node, _, _ in pieces))]
    memory = [
        MemoryAffinity(
            proximity_domain=numbers[node],
            base=span.start,
            length=span.size,
            flags=HOT if hot else MemoryFlags.ENABLED,
        )
        for node, hot, span in pieces
    ]
    return build_srat(
        (*draw(_processors(domains)), *memory, *draw(st.lists(_extras(machine, domains), max_size=2))),
        revision=draw(st.sampled_from((3, 3, 2, 1))),
    )


_NUMBERINGS = (tuple(range(64)), (1, 0, *range(2, 64)), tuple(range(63, -1, -1)), tuple(range(0, 1024, 16)))
"""Node in address order -> proximity domain."""


def _cuts(memory: int, max_nodes: int) -> SearchStrategy[list[tuple[int, bool, bool]]]:
    """Where pieces start (bytes of RAM, counted without holes), whether each is hot, and opens a new node."""
    units = st.sampled_from([unit for unit in (SECTION_SIZE, 64 * MIB, 4 * MIB, MIB) if unit < memory])
    starts = units.flatmap(lambda unit: st.integers(1, memory // unit - 1).map(lambda at: at * unit))
    usual = st.just(True)
    return st.lists(
        st.tuples(starts, st.booleans(), usual | usual | st.booleans()),
        max_size=max_nodes - 1,
        unique_by=lambda cut: cut[0],
    ).map(sorted)


def _pieces(
    machine: Q35, cuts: Sequence[tuple[int, bool, bool]], split_bios: bool
) -> list[tuple[int, bool, PhysRange]]:
    """(node in address order, hot, range) of all RAM; `split_bios` leaves out 640 KiB to 1 MiB."""
    out = []
    bios = [PhysRange(0, 640 * KIB), PhysRange(MIB, machine.low_end)]
    ram = [*(bios if split_bios else [machine.ram[0]]), *machine.ram[1:]]
    above = 4 * GIB - machine.low_end
    starts = [0, *(at if at < machine.low_end else at + above for at, _, _ in cuts), ADDRESS_LIMIT]
    node = 0
    for index, (_, hot, opens) in enumerate([(0, False, False), *cuts]):
        node += opens
        span = PhysRange(starts[index], starts[index + 1])
        out += [(node, hot, part) for r in ram if (part := r.intersect(span)) is not None]
    return out


def _processors(domains: Sequence[int]) -> SearchStrategy[list[Entry]]:
    """Enabled processors with consecutive IDs; the first node first, so that node 0 is where it should be."""
    kinds = st.sampled_from((_apic, _x2apic))
    order = st.just(list(domains)) | st.lists(st.sampled_from(domains), min_size=1, max_size=8)
    return st.builds(lambda make, chosen: [make(d, i) for i, d in enumerate(chosen)], kinds, order)


def _apic(domain: int, index: int) -> Entry:
    return ProcessorAffinity(proximity_domain=domain, apic_id=index)


def _x2apic(domain: int, index: int) -> Entry:
    return X2ApicAffinity(proximity_domain=domain, x2apic_id=index)


def _extras(machine: Q35, domains: Sequence[int]) -> SearchStrategy[Entry]:
    chosen = st.sampled_from((*domains, max(domains) + 1))
    end = machine.ram[-1].end
    beyond = st.builds(
        lambda domain, gap, length, flags: MemoryAffinity(
            proximity_domain=domain, base=end + gap, length=length, flags=flags
        ),
        chosen,
        st.sampled_from((0, SECTION_SIZE, 64 * GIB)),
        st.sampled_from((SECTION_SIZE, GIB, 1 << 40)),
        st.sampled_from((HOT, MemoryFlags.ENABLED)),
    )
    disabled = st.builds(
        MemoryAffinity,
        proximity_domain=chosen,
        base=st.just(0),
        length=st.just(0),
        flags=st.just(MemoryFlags(0)),
    )
    return st.one_of(beyond, disabled, generic_affinities(domains=chosen), unknown_entries())


def slits(*, min_localities: int = 1, max_localities: int = 8) -> SearchStrategy[Slit]:
    """Well-formed SLITs: 10 on the diagonal, 20 elsewhere, and up to four of 11 to 255 set apart."""
    sizes = st.integers(min_localities, max_localities)
    cell = st.integers(0, max_localities - 1)
    special = st.lists(st.tuples(cell, cell, st.integers(11, 255), st.booleans()), max_size=4)
    return st.builds(_slit, sizes, special)


def _slit(size: int, special: Sequence[tuple[int, int, int, bool]]) -> Slit:
    rows = [[10 if i == j else 20 for j in range(size)] for i in range(size)]
    for i, j, distance, one_way in special:
        if i != j and max(i, j) < size:
            rows[i][j] = distance
            if not one_way:
                rows[j][i] = distance
    return build_slit(rows)


@st.composite
def cases(draw: DrawFn, *, machine: Q35 | None = None, max_nodes: int = 8) -> Case:
    """Bootable cases: a guest (default: any of `machines()`), an SRAT that covers it, perhaps a SLIT."""
    machine = machine or draw(machines())
    srat = draw(srats(machine=machine, max_nodes=max_nodes))
    highest = max((entry.proximity_domain for entry in srat.memory_affinities()), default=0)
    fitting = slits(min_localities=highest + 1, max_localities=highest + 1) if highest < 8 else slits()
    matching = draw(st.none() | fitting)
    tables = [encode_srat(srat)] + ([] if matching is None else [encode_slit(matching)])
    return Case(machine=machine, tables=tuple(tables), cmdline=draw(cmdlines()))


@lru_cache(maxsize=4)
def draw_cases(seed: int, count: int) -> tuple[Case, ...]:
    """`count` cases drawn with a fixed seed: the same ones for the same hypothesis in the same program."""
    drawn: list[Case] = []

    @hypothesis_seed(seed)
    @settings(
        max_examples=count,
        phases=(Phase.generate,),
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(cases())
    def collect(case: Case) -> None:
        drawn.append(case)

    collect()
    return tuple(drawn[:count])
