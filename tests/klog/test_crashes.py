"""Reports of real kernels that died, cut out of their consoles: one cause has one name on every version."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acpitk.checks.crash import crash_findings, short_of_memory
from acpitk.checks.finding import Severity
from acpitk.crashes import Crash, CrashKind, crashes, death

REPORTS = Path(__file__).parent / "crashes"
ALL = ("v5.10", "v6.1", "v6.12", "v7.3")


def report(name: str, kernel: str) -> tuple[Crash, ...]:
    return crashes((REPORTS / f"{name}-{kernel}.log").read_text(), ended="panic")


@pytest.mark.parametrize("kernel", ALL)
@pytest.mark.parametrize(
    ("name", "cause"),
    [
        ("uncovered-page", "null pointer dereference in memmap_init"),
        ("slit-count", "page fault in acpi_numa_slit_init"),
    ],
)
def test_one_cause_has_one_name_on_every_version(name: str, cause: str, kernel: str) -> None:
    (crash,) = report(name, kernel)
    assert (crash.kind, crash.cause) == (CrashKind.OOPS, cause)
    assert crash.trace
    assert crash.lines[0].startswith("BUG: ")
    assert "Kernel panic" not in crash.text


def test_running_short_of_memory_is_one_cause_but_a_fault_keeps_its_name() -> None:
    panic, oops = (short_of_memory(report("late-oom", kernel)) for kernel in ("v6.1", "v7.3"))
    other = crashes("Kernel panic - not syncing: bio: can't create integrity buf pool\n", ended="panic")
    hang = crashes("[    0.1] HugeTLB: allocating\n", ended="timeout")
    causes = [short_of_memory(found)[-1].cause for found in (panic, other, hang)]
    assert causes == ["out of memory before init"] * 3
    assert oops == report("late-oom", "v7.3")


@pytest.mark.parametrize(
    ("name", "kernel", "kind", "cause"),
    [
        ("starved", "v5.10", CrashKind.PANIC, "cannot initialize percpu area (err=N)"),
        ("starved", "v6.1", CrashKind.OOPS, "null pointer dereference in subsection_map_init"),
        ("starved", "v6.12", CrashKind.OOPS, "null pointer dereference in subsection_map_init"),
        ("starved", "v7.3", CrashKind.PANIC, "cannot allocate N bytes for node N data"),
        ("late-oom", "v6.1", CrashKind.PANIC, "system is deadlocked on memory"),
        ("late-oom", "v7.3", CrashKind.OOPS, "null pointer dereference in mem_cgroup_show_protected_memory"),
    ],
)
def test_helpers_and_echoes_are_not_the_cause(name: str, kernel: str, kind: CrashKind, cause: str) -> None:
    (crash,) = report(name, kernel)
    assert (crash.kind, crash.cause) == (kind, cause)


def test_a_panic_names_the_function_that_gave_up_and_not_the_one_behind_it_in_memory() -> None:
    (crash,) = report("starved", "v5.10")
    assert crash.trace[0] == "setup_per_cpu_areas"


def test_a_warning_on_the_way_to_a_death_is_seen_but_no_finding_of_its_own() -> None:
    found = report("uncovered-node", "v6.1")
    assert [(crash.kind, crash.cause) for crash in found] == [
        (CrashKind.WARN, "in memblock_alloc_range_nid"),
        (CrashKind.OOPS, "null pointer dereference in memmap_init"),
    ]
    (told,) = crash_findings(found, kernel="v6.1", foreseen=None)
    assert told.signature == "BOOT-OOPS:null pointer dereference in memmap_init"
    assert told.severity is Severity.ERROR
    assert "the model foresees no panic" in told.actual
    assert "free_area_init()" in told.mechanism
    (warning,) = crash_findings(found[:1], kernel="v6.1", foreseen=None)
    assert (warning.signature, warning.severity) == (
        "BOOT-WARN:in memblock_alloc_range_nid",
        Severity.WARNING,
    )


_ALLOC = "memblock_alloc_range_nid"


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        (f"WARNING: CPU: 0 PID: 0 at mm/memblock.c:1381 {_ALLOC}+0x55/0x13d", f"in {_ALLOC}"),
        (f"WARNING: mm/memblock.c:1461 at {_ALLOC}+0x5d/0x160, CPU#0: swapper/0", f"in {_ALLOC}"),
        ("PANIC: early exception 0x0d IP 10:ffffffff83e4b2a1 error 0", "early general protection fault"),
        (
            "Kernel panic - not syncing: Failed to allocate memmap for section 10",
            "failed to allocate memmap for section N",
        ),
    ],
)
def test_other_first_lines(line: str, cause: str) -> None:
    (crash,) = crashes(f"[    0.000000] {line}\n", ended="panic")
    assert crash.cause == cause


def test_what_prints_nothing_is_named_by_what_it_printed_last() -> None:
    log = (
        "[    0.1] a\nmemblock_reserve: [0x0000000000100000-0x0000000000100003] numa_set_distance+0x1c/0x2b\n"
    )
    hang = death(log, ended="timeout")
    assert hang is not None
    assert (hang.kind, hang.cause) == (CrashKind.HANG, "after: memblock_reserve: numa_set_distance")
    reset = death(log, ended="exited")
    assert reset is not None
    assert reset.kind is CrashKind.RESET
    assert death("", ended="silent") is not None
    assert death(log, ended="marker") is None


@given(st.text(), st.sampled_from(("marker", "panic", "timeout", "exited", "silent")))
def test_any_console_is_read(console: str, ended: str) -> None:
    found = crashes(console, ended=ended)
    assert sum(crash.fatal for crash in found) <= 1
    assert all(not crash.fatal for crash in found[:-1])


@given(st.integers(0, 1 << 20), st.sampled_from(ALL))
def test_a_report_cut_anywhere_never_gets_another_cause_of_death(at: int, kernel: str) -> None:
    console = (REPORTS / f"uncovered-page-{kernel}.log").read_text()
    cut = death(console[: at % len(console)], ended="panic")
    assert cut is None or cut.cause.startswith("null pointer dereference")
