"""Oracles of Debian's packages: gated, equal to the model on fuzzed cases, and the same every time."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from acpitk.checks.differential import compare
from acpitk.cli import run
from acpitk.errors import ToolError
from acpitk.fuzz.campaign import Campaign
from acpitk.kernel.boot import boot, predict
from acpitk.kernel.memblock import REGION_ARRAYS
from acpitk.kernel.policy import POLICIES
from acpitk.machine import Case, E820Entry, E820Type, Machine, Reserved
from acpitk.oracle.client import End
from acpitk.oracle.judge import Judge, large_slit
from acpitk.oracle.store import OracleBuild, _unpack, build_packaged, build_tree, find_oracle
from acpitk.qemu.image import find_kernel
from acpitk.ranges import MIB, PAGE_SIZE
from acpitk.tables.srat import MemoryAffinity, MemoryFlags, build_srat, encode_srat

KERNELS = ("v6.1", "v7.3")


@pytest.fixture(scope="module", params=[pytest.param(k, marks=pytest.mark.kernel(k)) for k in KERNELS])
def build(request: pytest.FixtureRequest) -> OracleBuild:
    """The oracle of a fetched kernel, built first where CI asks for everything."""
    try:
        return find_oracle(request.param)
    except ToolError as error:
        if "kernel" not in os.environ.get("ACPITK_REQUIRE", ""):
            pytest.skip(str(error))
        return build_packaged(request.param)


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    campaign = Campaign(seed=11, iterations=None, oracles=())
    return [campaign.case(index)[0] for index in range(1500)]


def test_it_repeated_the_recorded_boots(build: OracleBuild) -> None:
    assert build.gated >= 6


def test_the_model_says_the_same(build: OracleBuild, cases: list[Case]) -> None:
    judge = Judge(build)
    judge.ahead(cases)
    compared = 0
    for case in cases:
        prediction = boot(case, POLICIES[build.row])
        kernel = judge.disagrees(case, prediction)
        if kernel is not None:
            assert compare(prediction, kernel).agrees, case
        compared += 1
    assert compared == len(cases)


def test_what_is_sifted_out_is_what_agrees(build: OracleBuild, cases: list[Case]) -> None:
    """Of another row's predictions exactly those cases come through that also differ one by one."""
    judge = Judge(build)
    assert judge.sift(cases) == []
    other = Judge(replace(build, row="v6.12"))
    wanted = [
        number
        for number, case in enumerate(cases)
        if not large_slit(case) and judge.disagrees(case, boot(case, POLICIES["v6.12"])) is not None
    ]
    # The other row brings the other image along, so that more than the policy differs; nothing may be lost.
    assert set(other.sift(cases)) >= set(wanted) != set()


def _crowded(rng: Random) -> Case:
    """memblock's arrays as good as full: many reserved pages, many stripes of two domains."""
    top = rng.choice((512, 1024)) * MIB
    first, step = rng.choice((2 * MIB, 64 * MIB)), rng.choice((2, 3, 8)) * PAGE_SIZE
    count = rng.choice((rng.randint(55, 65), rng.randint(118, 130)))
    reserved = [(at, at + PAGE_SIZE) for at in range(first, first + count * step, step)]
    rows = sorted([(0, MIB), (0x1000000, 0x3811000), *reserved])
    stripes, width = rng.choice((4, rng.randint(118, 132), rng.randint(250, 262))), rng.choice((1, 2, 16))
    edges = [MIB + n * width * PAGE_SIZE for n in range(stripes + 1)]
    flags = [MemoryFlags.ENABLED | rng.choice((MemoryFlags(0), MemoryFlags.HOT_PLUGGABLE)) for _ in edges]
    spans = list(zip(edges, [*edges[1:], top], flags, strict=True))[: stripes + rng.randint(0, 1)]
    if rng.random() < 0.3:
        rng.shuffle(spans)
    entries = [
        MemoryAffinity(proximity_domain=n % 2, base=start, length=end - start, flags=flag)
        for n, (start, end, flag) in enumerate(spans)
    ]
    usable = (E820Entry(0, 0x9F000, E820Type.USABLE), E820Entry(MIB, top, E820Type.USABLE))
    machine = Machine(e820=usable, reserved=tuple(Reserved(*row, "firmware") for row in rows))
    srat = encode_srat(build_srat(tuple(entries)))
    return Case(machine=machine, tables=(srat,), cmdline=rng.choice(("", "movable_node", "numa=off")))


def test_arrays_that_fill_up_grow_as_the_kernels(build: OracleBuild) -> None:
    rng = Random(7)
    crowded = [_crowded(rng) for _ in range(400)]
    grown = [
        case
        for case in crowded
        if any(a.purpose in REGION_ARRAYS for a in predict(case, POLICIES[build.row]).allocations)
    ]
    assert len(grown) > 100
    assert Judge(build).sift(crowded) == []


def test_order_and_log_make_no_difference(build: OracleBuild, cases: list[Case]) -> None:
    some = [case for case in cases[:300] if not case.table(b"SLIT")]
    with build.worker() as worker:
        first = worker.ask_many(some)
        shuffled = list(range(len(some)))
        Random(1).shuffle(shuffled)
        again = dict(zip(shuffled, worker.ask_many(some[i] for i in shuffled), strict=True))
        assert [again[i] for i in range(len(some))] == first
        for case, report in list(zip(some, first, strict=True))[:40]:
            logged = worker.ask(case, log=True)
            if report.end in (End.DONE, End.PANIC):
                assert (logged.counts, logged.rows) == (report.counts, report.rows)
                assert logged.log.startswith("Command line: ")


def test_a_worker_that_is_killed_is_started_again(build: OracleBuild, cases: list[Case]) -> None:
    with build.worker() as worker:
        before = worker.ask(cases[0])
        process = worker._process
        assert process is not None
        process.kill()
        process.wait()
        assert worker.ask(cases[0]) == before


@pytest.mark.qemu
@pytest.mark.kernel("v6.1")
@pytest.mark.kernel("v7.3")
def test_boots_confirm_where_two_kernels_differ(
    kernel_image: Callable[[str], Path], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for name in KERNELS:
        kernel_image(name)
        try:
            find_oracle(name)
        except ToolError as error:
            pytest.skip(str(error))
    status = run(("diff", "--oracle", *KERNELS, "--campaign", "400", "--out", str(tmp_path), "--json"))
    found = json.loads(capsys.readouterr().out)["differences"]
    assert status == 1
    assert {"DIFF-ZONES", "DIFF-NUMA"} <= {row["id"] for row in found}
    for row in found:
        assert row["confirmed"].startswith("confirmed"), row
        assert row["minimised"]
    # No boot prints distances: they are vouched for by what differs besides.
    assert {row["confirmed"] == "confirmed" for row in found if row["id"] == "DIFF-DISTANCES"} <= {False}


@pytest.mark.kernel("v6.1")
def test_a_tree_that_was_prepared_in_place(
    kernel_image: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of Debian's packages, laid together as `make prepare` leaves a clone."""
    release = find_kernel("v6.1").version
    if "kernel" not in os.environ.get("ACPITK_REQUIRE", ""):
        pytest.skip("downloads a kernel's source")
    kernel_image("v6.1")
    tree = _unpack("v6.1", release, tmp_path, print)
    (headers,) = tree.headers
    for name in ("include", "arch"):
        shutil.copytree(headers / name, tree.source / name, dirs_exist_ok=True)
    monkeypatch.setenv("ACPITK_CACHE", str(tmp_path / "cache"))
    built = build_tree(tree.source, (), "mine", progress=print)
    assert (built.name, built.release, built.row) == ("mine", release, "v6.1")
    assert built.gated >= 6
