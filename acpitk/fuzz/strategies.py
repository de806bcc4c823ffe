"""Hypothesis strategies for firmware tables and cases: realistic topologies first, oddities after.

Everything here is well-formed and shrinks towards one node that is not hot on the smallest machine. Malformed
tables are made from these by `acpitk.fuzz.mutators`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as hypothesis_seed
from hypothesis import strategies as st
from hypothesis.internal.conjecture.providers import AVAILABLE_PROVIDERS, HypothesisProvider
from hypothesis.strategies import SearchStrategy

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
_BACKEND = "acpitk-seeded"
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
    others = st.one_of(
        st.builds("kernelcore={}".format, amounts),
        st.just("kernelcore=mirror"),
        st.builds("movablecore={}".format, amounts),
        st.builds("mem={}".format, st.sampled_from(("768M", "1G", "3G"))),
        st.sampled_from(("numa=off", "numa=noacpi")),
    )
    movable_node = st.just("movable_node")
    mixtures = st.lists(movable_node | others, max_size=3, unique_by=lambda option: option.split("=")[0])
    return movable_node | mixtures.map(" ".join) | others.map("movable_node {}".format)


def srats(*, machine: Q35 | None = None, max_nodes: int = 8) -> SearchStrategy[Srat]:
    """Well-formed SRATs whose nodes cover the RAM of a guest (default: any of `machines()`).

    Nodes may be hot, unevenly sized, numbered out of order or sparsely; there may be promises of memory
    beyond RAM, disabled entries, generic initiators and unknown entries.
    """
    machines_used = machines() if machine is None else st.just(machine)
    return st.builds(_realise, machines_used, _plans(max_nodes))


@dataclass(frozen=True, slots=True)
class _Cut:
    """Where a piece of RAM starts: `at` times `unit` bytes, holes not counted, modulo the size of RAM."""

    unit: int
    at: int
    hot: bool
    opens_node: bool


@dataclass(frozen=True, slots=True)
class _Plan:
    """A topology before it meets a machine, so that all its parts are drawn from constant strategies.

    Args:
        cuts: the pieces after the first, which starts at 0 and is not hot.
        numbering: node in address order -> proximity domain.
        split_bios: leave 640 KiB to 1 MiB out of the first range, as firmware does.
        processors: nodes of the processors, modulo the number of nodes; none means one on each node.
        wide: processors by x2APIC ID.
        extras: makes entries from (end of RAM, domain); the domain is that of the node, or a new one.
    """

    cuts: Sequence[_Cut]
    numbering: Sequence[int]
    split_bios: bool
    processors: Sequence[int]
    wide: bool
    extras: Sequence[tuple[int, Callable[[int, int], Entry]]]
    revision: int


@lru_cache
def _plans(max_nodes: int) -> SearchStrategy[_Plan]:
    units = st.sampled_from((SECTION_SIZE, 64 * MIB, 4 * MIB, MIB))
    cuts = st.builds(_Cut, units, st.integers(1, 0xFFFF), st.booleans(), st.sampled_from((True, True, False)))
    nodes = st.integers(0, 63)
    return st.builds(
        _Plan,
        cuts=st.lists(cuts, max_size=max_nodes - 1),
        numbering=st.sampled_from(
            (range(64), (1, 0, *range(2, 64)), range(63, -1, -1), range(0, 1024, 16)),
        ),
        split_bios=st.booleans(),
        processors=st.lists(nodes, max_size=8),
        wide=st.booleans(),
        extras=st.lists(st.tuples(nodes, st.one_of(_beyond_ram(), _disabled(), _others())), max_size=2),
        revision=st.sampled_from((3, 3, 2, 1)),
    )


def _beyond_ram() -> SearchStrategy[Callable[[int, int], Entry]]:
    return st.builds(
        lambda gap, length, flags: (
            lambda end, domain: MemoryAffinity(
                proximity_domain=domain, base=end + gap, length=length, flags=flags
            )
        ),
        st.sampled_from((0, SECTION_SIZE, 64 * GIB)),
        st.sampled_from((SECTION_SIZE, GIB, 1 << 40)),
        st.sampled_from((HOT, MemoryFlags.ENABLED)),
    )


def _disabled() -> SearchStrategy[Callable[[int, int], Entry]]:
    return st.just(
        lambda end, domain: MemoryAffinity(proximity_domain=domain, base=0, length=0, flags=MemoryFlags(0))
    )


def _others() -> SearchStrategy[Callable[[int, int], Entry]]:
    def settle(entry: Entry) -> Callable[[int, int], Entry]:
        if isinstance(entry, UnknownEntry):
            return lambda end, domain: entry
        return lambda end, domain: replace(entry, proximity_domain=domain)

    return (generic_affinities(domains=st.just(0)) | unknown_entries()).map(settle)


def _realise(machine: Q35, plan: _Plan) -> Srat:
    pieces = _pieces(machine, plan)
    nodes = 1 + max(node for node, _, _ in pieces)
    memory = [
        MemoryAffinity(
            proximity_domain=plan.numbering[node],
            base=span.start,
            length=span.size,
            flags=HOT if hot else MemoryFlags.ENABLED,
        )
        for node, hot, span in pieces
    ]
    homes = [plan.numbering[node % nodes] for node in plan.processors or range(nodes)]
    processors: list[Entry] = [
        X2ApicAffinity(proximity_domain=domain, x2apic_id=index)
        if plan.wide
        else ProcessorAffinity(proximity_domain=domain, apic_id=index)
        for index, domain in enumerate(homes)
    ]
    end = machine.ram[-1].end
    extras = [make(end, plan.numbering[node % (nodes + 1)]) for node, make in plan.extras]
    return build_srat((*processors, *memory, *extras), revision=plan.revision)


def _pieces(machine: Q35, plan: _Plan) -> list[tuple[int, bool, PhysRange]]:
    """(node in address order, hot, range), covering all RAM in address order."""
    above = 4 * GIB - machine.low_end
    cuts = {0: (False, False)}
    for cut in plan.cuts:
        offset = cut.at * cut.unit % machine.memory
        start = offset if offset < machine.low_end else offset + above
        cuts.setdefault(start, (cut.hot, cut.opens_node))
    bios = [PhysRange(0, 640 * KIB), PhysRange(MIB, machine.low_end)]
    ram = [*(bios if plan.split_bios else machine.ram[:1]), *machine.ram[1:]]
    node, out = 0, []
    for start, end in pairwise([*sorted(cuts), ADDRESS_LIMIT]):
        hot, opens = cuts[start]
        node += opens
        out += [(node, hot, part) for r in ram if (part := r.intersect(PhysRange(start, end))) is not None]
    return out


_Distance = tuple[int, int, int, bool]
_SPECIAL: SearchStrategy[list[_Distance]] = st.lists(
    st.tuples(st.integers(0, 7), st.integers(0, 7), st.integers(11, 255), st.booleans()), max_size=4
)
"""Distances that are not 20: from, to, distance, and whether the way back differs."""


def slits(*, min_localities: int = 1, max_localities: int = 8) -> SearchStrategy[Slit]:
    """Well-formed SLITs: 10 on the diagonal, 20 elsewhere, and up to four of 11 to 255 set apart."""
    return st.builds(_slit, st.integers(min_localities, max_localities), _SPECIAL)


def _slit(size: int, special: Sequence[_Distance]) -> Slit:
    rows = [[10 if i == j else 20 for j in range(size)] for i in range(size)]
    for i, j, distance, one_way in special:
        if i != j and max(i, j) < size:
            rows[i][j] = distance
            if not one_way:
                rows[j][i] = distance
    return build_slit(rows)


def cases(*, machine: Q35 | None = None, max_nodes: int = 8) -> SearchStrategy[Case]:
    """Bootable cases: a guest (default: any of `machines()`), an SRAT that covers it, perhaps a SLIT."""
    machines_used = machines() if machine is None else st.just(machine)
    return st.builds(_case, machines_used, _plans(max_nodes), st.none() | _SPECIAL, cmdlines())


def _case(machine: Q35, plan: _Plan, special: Sequence[_Distance] | None, cmdline: str) -> Case:
    srat = _realise(machine, plan)
    tables = [encode_srat(srat)]
    if special is not None:
        highest = max(entry.proximity_domain for entry in srat.memory_affinities())
        tables.append(encode_slit(_slit(min(highest + 1, 8), special)))
    return Case(machine=machine, tables=tuple(tables), cmdline=cmdline)


class SeededProvider(HypothesisProvider):
    """Hypothesis's own source of choices without constants from the modules that happen to be loaded."""

    def _maybe_draw_constant(self, *_: Any, **__: Any) -> None:
        return None


AVAILABLE_PROVIDERS[_BACKEND] = f"{__name__}.{SeededProvider.__name__}"


@lru_cache(maxsize=4)
def draw_cases(seed: int, count: int) -> tuple[Case, ...]:
    """`count` cases drawn with a fixed seed: the same ones for the same hypothesis."""
    drawn: list[Case] = []

    @hypothesis_seed(seed)
    @settings(
        max_examples=count,
        phases=(Phase.generate,),
        database=None,
        deadline=None,
        derandomize=False,
        backend=_BACKEND,
        suppress_health_check=list(HealthCheck),
    )
    @given(cases())
    def collect(case: Case) -> None:
        drawn.append(case)

    collect()
    return tuple(drawn[:count])
