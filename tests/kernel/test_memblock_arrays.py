"""memblock's own arrays when they are full: what makes them grow, and what their growth runs into."""

from __future__ import annotations

from acpitk.kernel.boot import predict
from acpitk.kernel.memblock import ARRAYS_OVERLAP, INIT_REGIONS, MAX_NID, Memblock
from acpitk.kernel.policy import POLICIES
from acpitk.machine import Case, E820Entry, E820Type, Machine, Reserved
from acpitk.ranges import GIB, KIB, MIB, PAGE_SIZE
from tests.kernel.test_scenarios import HOT, C, mem, srat


def full(regions: int, *, no_nid: int = -1) -> Memblock:
    """`regions` single pages reserved in the first MiB, RAM up to 1 GiB."""
    mb = Memblock(skips_hotplug=False, bottom_up=False, marks_kernel=False, no_nid=no_nid)
    mb.add(0, GIB)
    for page in range(regions):
        mb.reserve(2 * page * PAGE_SIZE, (2 * page + 1) * PAGE_SIZE)
    return mb


def test_nodes_are_reset_only_where_a_region_could_be_split() -> None:
    for regions, size in ((INIT_REGIONS - 2, INIT_REGIONS), (INIT_REGIONS - 1, 2 * INIT_REGIONS)):
        mb = full(regions)
        mb.reset_nodes(keep_marks=False)
        assert mb.reserved_max == size


def test_memory_is_freed_only_where_a_region_could_be_split() -> None:
    mb = full(INIT_REGIONS - 1)
    mb.free(0, PAGE_SIZE)
    assert mb.reserved_max == 2 * INIT_REGIONS
    mb.memory = []  # nowhere to grow
    mb.reserved_max = len(mb.reserved)
    before = mb.reserved[:]
    mb.free(2 * PAGE_SIZE, 3 * PAGE_SIZE)
    assert mb.reserved == before


def test_what_is_reserved_already_takes_no_room() -> None:
    mb = full(INIT_REGIONS)
    mb.reserve(0, PAGE_SIZE)
    assert mb.reserved_max == INIT_REGIONS
    mb.reserve(PAGE_SIZE, 2 * PAGE_SIZE)
    assert mb.reserved_max == 2 * INIT_REGIONS


def test_regions_reserved_before_and_after_the_reset_stay_apart_on_6_12() -> None:
    for no_nid, rows in ((-1, 1), (MAX_NID, 2)):
        mb = full(1, no_nid=no_nid)
        mb.reset_nodes(keep_marks=False)
        mb.reserve(PAGE_SIZE, 2 * PAGE_SIZE)
        assert len(mb.reserved) == rows
    assert {name for name, policy in POLICIES.items() if policy.late_reserves_apart} == {"v6.12"}


def test_an_array_that_grows_while_the_other_is_freed_takes_the_same_memory() -> None:
    """The third array of memory regions is not reserved yet when freeing the second one makes
    memblock.reserved grow. The kernels' own code then faults, panics or goes on with other regions."""
    pages = [Reserved(at, at + PAGE_SIZE, "firmware") for at in range(2 * MIB, 3 * MIB, 8 * KIB)]
    e820 = (E820Entry(0, 0x9F000, E820Type.USABLE), E820Entry(MIB, GIB, E820Type.USABLE))
    entries = [mem(n % 2, n * MIB, (n + 1) * MIB, HOT if n > 64 else 1) for n in range(64)]
    stripes = [mem(n % 2, 64 * MIB + n * PAGE_SIZE, 64 * MIB + (n + 1) * PAGE_SIZE) for n in range(260)]
    tables = (srat(C, *entries, *stripes, mem(0, 64 * MIB + 260 * PAGE_SIZE, GIB)),)
    for regions in (100, 126):
        machine = Machine(e820=e820, reserved=tuple(pages[:regions]))
        case = Case(machine=machine, tables=tables, cmdline="movable_node")
        for name in ("v5.10", "v6.1", "v6.12", "v7.3"):
            panic = predict(case, POLICIES[name]).outcome.panic
            assert (panic == ARRAYS_OVERLAP) is (regions == 126), (name, regions, panic)


def test_what_cannot_be_reserved_is_not_allocated() -> None:
    mb = full(INIT_REGIONS)
    mb.memory = [(MIB, MIB + PAGE_SIZE, -1, 0)]  # no room for a second array
    assert mb.find(PAGE_SIZE, PAGE_SIZE, 0, 0, -1) == MIB
    assert mb.allocate("anything", PAGE_SIZE, PAGE_SIZE) == 0
    assert mb.allocate_pieces("anything", PAGE_SIZE, 1, start=0, nid=-1) == 0
    assert mb.log == []
