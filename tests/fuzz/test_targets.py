"""Mutators aimed at what is at stake: they hit it."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest

from acpitk.fuzz import raw, targets
from acpitk.fuzz.mutators import MUTATORS, mutate
from acpitk.fuzz.strategies import draw_cases
from acpitk.fuzz.targets import KERNEL_ENDS, KERNEL_START, splice, stakes
from acpitk.kernel.boot import predict
from acpitk.kernel.policy import POLICIES
from acpitk.machine import Q35, Case
from acpitk.ranges import GIB, MIB, SECTION_SIZE
from acpitk.tables.header import seal
from acpitk.tables.slit import build_slit, encode_slit

HOT = raw.ENABLED | raw.HOT_PLUGGABLE
TABLE = raw.RawSrat(
    draw_cases(1, 1)[0].tables[0][: raw.FIXED_SIZE],
    (
        raw.processor(0, 0),
        raw.processor(1, 1),
        raw.Memory(0, 0, GIB).encode(),
        raw.Memory(1, GIB, GIB, HOT).encode(),
        raw.Memory(1, 4 * GIB, GIB, HOT).encode(),
    ),
).encode()
CASE = Case(
    machine=Q35(3 * GIB, MIB),
    tables=(seal(TABLE), encode_slit(build_slit([[10, 20], [20, 10]]))),
    cmdline="movable_node",
)


def after(name: str, seeds: int = 60) -> list[Case]:
    return [MUTATORS[name].apply(CASE, Random(seed)) for seed in range(seeds)]


def memories(case: Case) -> list[raw.Memory]:
    return [entry for _, entry in raw.cut(case.table(b"SRAT") or b"").memories()]


def domains_with(case: Case, kinds: tuple[int, ...]) -> set[int | None]:
    return {raw.domain(e) for e in raw.cut(case.table(b"SRAT") or b"").entries if e[0] in kinds}


def test_stakes_are_those_of_the_machine() -> None:
    owners = {(r.start, r.end) for r in CASE.resolved().placed}
    assert len(owners) == 2
    assert owners <= set(stakes(CASE))
    assert (KERNEL_START, KERNEL_ENDS[0]) in stakes(CASE)
    assert (4 * GIB, 5 * GIB) in stakes(CASE)


@pytest.mark.parametrize("name", ["edge-at-stake", "split-at-stake", "uncover-stake"])
def test_edges_land_on_what_is_at_stake(name: str) -> None:
    edges = {edge for case in after(name, 200) for m in memories(case) for edge in (m.base, m.end)}
    wanted = {edge for span in stakes(CASE) for edge in span if MIB < edge < 5 * GIB}
    assert len(edges & wanted) >= len(wanted) // 2


def straddled(case: Case) -> bool:
    edges = {m.base for m in memories(case)}
    return any(KERNEL_START < edge < KERNEL_ENDS[-1] for edge in edges)


def only_little_is_plain(case: Case) -> bool:
    return sum(m.length for m in memories(case) if not m.hot) < 256 * MIB


def striped(case: Case) -> bool:
    return len(memories(case)) > 100


def bare_domain(case: Case) -> bool:
    with_memory = {m.domain for m in memories(case) if m.length and m.base < 5 * GIB}
    return bool(domains_with(case, (0, 2, 5)) - with_memory)


def boot_cpu_far(case: Case) -> bool:
    return bool(domains_with(case, (0, 2)) & {1024, 0xFFFFFFFF})


def beyond_the_limit(case: Case) -> bool:
    return any(m.domain >= 1023 for m in memories(case))


def collision(case: Case) -> bool:
    domains = {m.domain for m in memories(case)}
    revision = (case.table(b"SRAT") or b"")[8]
    return revision <= 1 and len({d & 0xFF for d in domains}) < len(domains)


def signed_count(case: Case) -> bool:
    count = int.from_bytes((case.table(b"SLIT") or b"")[36:44], "little")
    return count >= 1 << 32 and count & 0xFFFFFFFF == 0


def asymmetric(case: Case) -> bool:
    table = case.table(b"SLIT") or b""
    return table[45:46] != table[46:47] and table[36] == 2


@pytest.mark.parametrize(
    ("name", "reached"),
    [
        ("straddle-stake", straddled),
        ("only-stakes-plain", only_little_is_plain),
        ("plain-budget", only_little_is_plain),
        ("hot-stripes", striped),
        ("node-without-memory", bare_domain),
        ("boot-cpu-elsewhere", boot_cpu_far),
        ("many-domains", beyond_the_limit),
        ("masked-domains-collide", collision),
        ("slit-count-wraps", signed_count),
        ("slit-of-the-domains", asymmetric),
    ],
)
def test_a_mutator_reaches_what_it_is_for(name: str, reached: Callable[[Case], bool]) -> None:
    assert not reached(CASE)
    assert any(map(reached, after(name)))


def test_a_splice_has_parts_of_both() -> None:
    table = seal(TABLE[: raw.FIXED_SIZE] + raw.x2apic(7, 3))
    donor = Case(machine=Q35(GIB), tables=(table,), cmdline="numa=off")
    spliced = [splice(CASE, donor, Random(seed)) for seed in range(60)]
    assert all(case.machine == CASE.machine for case in spliced)
    assert any(7 in domains_with(case, (2,)) and memories(case) for case in spliced)
    assert any(case.cmdline == donor.cmdline for case in spliced)
    bare = Case(machine=Q35(GIB))
    assert splice(bare, CASE, Random(0)) == bare
    assert splice(CASE, bare, Random(0)) == CASE


def test_aimed_mutations_kill_the_modelled_kernels_in_every_known_way() -> None:
    """From drawn cases and these mutators alone, within 4000 cases."""
    names = [name for name in MUTATORS if name.replace("-", "_") in vars(targets)]
    assert len(names) >= 20
    bases, deaths = draw_cases(1, 64), set()
    for index in range(4000):
        rng = Random(index)
        case, _ = mutate(rng.choice(bases), rng, names=names, rounds=rng.choice((1, 2)))
        for kernel in ("v6.1", "v7.3"):
            if (panic := predict(case, POLICIES[kernel]).outcome.panic) is not None:
                deaths.add(panic.rpartition(" in ")[2].partition(" ")[0])
    assert {"memmap_init", "subsection_map_init", "acpi_numa_slit_init", "PANIC:", "Failed"} <= deaths


def test_section_edges_are_among_the_targets() -> None:
    edges = {m.base for case in after("edge-at-stake", 400) for m in memories(case)}
    assert any(edge % SECTION_SIZE == 0 and edge not in (0, GIB, 4 * GIB) for edge in edges)


def test_a_table_that_uses_every_domain_is_still_mutated() -> None:
    entries = (*tuple(raw.Memory(n, n * MIB, MIB).encode() for n in range(300)), raw.processor(1023, 0))
    full = Case(machine=Q35(GIB), tables=(seal(TABLE[: raw.FIXED_SIZE] + b"".join(entries)),))
    for mutator in MUTATORS.values():
        for seed in range(3):
            assert isinstance(mutator.apply(full, Random(seed)), Case)
