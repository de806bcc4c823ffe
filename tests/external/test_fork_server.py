"""Quick ways to boot against fresh ones: the same logs, whatever the tables, and nothing left behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from acpitk.corpus import load_corpus
from acpitk.errors import ToolError
from acpitk.fuzz.campaign import Campaign
from acpitk.machine import Q35, Case
from acpitk.qemu import boots as ways
from acpitk.qemu import forkserver
from acpitk.qemu.argv import CMDLINE
from acpitk.qemu.boots import Boots, delivery_of, unbootable
from acpitk.qemu.firmware import host_machine
from acpitk.qemu.image import KernelImage, find_kernel
from acpitk.qemu.runner import BootEnd, BootResult, Delivery, Via, boot
from acpitk.ranges import GIB, MIB
from acpitk.tables.header import seal
from acpitk.tables.slit import build_slit, encode_slit
from acpitk.tables.srat import Entry, MemoryAffinity, MemoryFlags, build_srat, encode_srat

pytestmark = [pytest.mark.qemu, pytest.mark.kernel]
KERNELS = ("v5.10", "v6.1", "v6.12", "v7.3")
HOT = MemoryFlags.ENABLED | MemoryFlags.HOT_PLUGGABLE
CORPUS = Path(__file__).resolve().parents[2] / "corpus"
_OWN = re.compile(r"tsc: |---\[ end trace ")
"""Lines of a log that no two boots share: what the clock runs at, and random numbers of oopses."""


def _srat(*entries: Entry) -> bytes:
    return encode_srat(build_srat(entries))


PLAIN = MemoryAffinity(proximity_domain=0, base=0, length=512 * MIB)
SRAT = _srat(PLAIN, MemoryAffinity(proximity_domain=1, base=512 * MIB, length=512 * MIB, flags=HOT))
CASE = Case(machine=Q35(GIB), tables=(SRAT,), cmdline="movable_node")


@pytest.fixture(params=KERNELS)
def image(
    request: pytest.FixtureRequest, qemu_path: Path, kernel_image: Callable[[str], Path]
) -> KernelImage:
    kernel_image(request.param)
    return find_kernel(request.param)


@pytest.fixture
def v6_1(qemu_path: Path, kernel_image: Callable[[str], Path]) -> KernelImage:
    kernel_image("v6.1")
    return find_kernel("v6.1")


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """No descriptor and no process, zombies included, outlives a test."""
    before = set(os.listdir("/proc/self/fd"))
    yield
    assert set(os.listdir("/proc/self/fd")) <= before
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def _log(result: BootResult) -> list[str]:
    """The log without times."""
    lines = (re.sub(r"^\[ *\d+\.\d+\] ", "", line) for line in result.console.splitlines())
    return [line for line in lines if not _OWN.match(line)]


def _same(case: Case, image: KernelImage, quick: BootResult) -> None:
    fresh = boot(case, image, delivery=delivery_of(case))
    assert _log(quick) == _log(fresh)
    assert (quick.ended, quick.memory) == (fresh.ended, fresh.memory)


@pytest.mark.parametrize(("via", "count"), [(Via.FORK, 16), (Via.SNAPSHOT, 5)])
def test_logs_of_random_cases_are_those_of_fresh_boots(image: KernelImage, via: Via, count: int) -> None:
    campaign = Campaign(seed=20, iterations=0, oracles=())
    cases = [case for index in range(count) if not unbootable(case := campaign.case(index)[0])]
    with Boots(image, via=via) as boots:
        quick = [boots.boot(case) for case in cases]
    assert sum(result.via is via for result in quick) > 0.7 * count
    for case, result in zip(cases, quick, strict=True):
        if result.via is via:
            assert result.delivery is Delivery.GUEST_MEMORY
            _same(case, image, result)


def _hostile() -> dict[str, Case]:
    other = _srat(replace(PLAIN, length=GIB))
    many = _srat(*([replace(PLAIN, flags=MemoryFlags(0))] * 1700), PLAIN, replace(PLAIN, base=512 * MIB))
    longer = SRAT[:4] + (len(SRAT) + 200).to_bytes(4, "little") + SRAT[8:]
    shorter = SRAT[:4] + (len(SRAT) - 39).to_bytes(4, "little") + SRAT[8:]
    tables = {
        "checksum": (SRAT[:9] + bytes([SRAT[9] ^ 1]) + SRAT[10:],),
        "too long": (longer,),
        "too short": (shorter,),
        "length 0": (SRAT[:4] + bytes(4) + SRAT[8:],),
        "20 bytes": (SRAT[:20],),
        "over 64 KiB": (many,),
        "none": (),
        "two": (SRAT, other),
        "two, the other way": (other, SRAT),
    }
    return {name: replace(CASE, tables=each) for name, each in tables.items()}


def test_hostile_tables_reach_the_kernel_as_they_are(image: KernelImage) -> None:
    assert len(_hostile()["over 64 KiB"].tables[0]) > 65535
    with Boots(image, via="fork") as boots:
        for name, case in _hostile().items():
            result = boots.boot(case)
            assert result.via is Via.FORK, name
            _same(case, image, result)


def test_panics_halts_and_loops_end_and_the_next_case_is_unaffected(image: KernelImage) -> None:
    stored = {path.name: each.case for path, each in load_corpus(CORPUS).cases}
    deadly = next(case for name, case in stored.items() if name.startswith("top-page-without-node"))
    counted = encode_slit(build_slit([[10]]))
    counted = seal(counted[:36] + b"\xff" * 8 + counted[44:])  # 2^64-1 localities: 2^33 steps in all
    endless = Case(machine=Q35(GIB), tables=(_srat(replace(PLAIN, length=GIB)), counted))
    with Boots(image, via="fork") as boots:
        before = boots.boot(CASE)
        died = boots.boot(deadly)
        assert died.ended is BootEnd.PANIC
        assert died.outcome().panic
        assert died.rerun in (None, "halted", "an oops shows the code it met")
        assert _log(boots.boot(CASE)) == _log(before)
        hung = boots.boot(endless, timeout=3)
        assert (hung.via, hung.rerun, hung.ended) == (Via.FRESH, "time limit", BootEnd.TIMEOUT)
        assert hung.outcome().panic == "hang"
        assert _log(boots.boot(CASE)) == _log(before)
        assert before.ended is BootEnd.MARKER


def test_a_copy_that_uses_up_its_time_is_gone(v6_1: KernelImage, qemu_path: Path) -> None:
    server = forkserver.Server(host_machine(Q35(GIB)), v6_1, qemu=qemu_path)
    try:
        assert server.run(CASE, cpu=0.002, use=lambda ran: ran.end) is None
        assert server.run(CASE, use=lambda ran: ran.end) == "mem_init"
        assert 0 < server.spent < 1_000_000
    finally:
        server.close()


def test_a_dead_server_is_replaced(v6_1: KernelImage) -> None:
    with Boots(v6_1, via="fork") as boots:
        first = boots.boot(CASE)
        ((_, server),) = boots._idle
        assert isinstance(server, forkserver.Server)
        os.kill(server.pid, signal.SIGKILL)
        again = boots.boot(CASE)
        assert (again.via, _log(again)) == (Via.FORK, _log(first))


def test_guests_kept_ready_are_bounded(v6_1: KernelImage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ways, "GUESTS_MAX", 1)
    with Boots(v6_1, via="fork") as boots:
        for memory in (GIB, 6 * GIB, GIB):
            assert boots.boot(Case(machine=Q35(memory))).via is Via.FORK
            assert len(boots._idle) == 1


_HOST = """
import sys
from acpitk.machine import Q35, Case
from acpitk.qemu.boots import Boots
from acpitk.qemu.image import find_kernel
boots = Boots(find_kernel("v6.1"), via=sys.argv[1])
boots.boot(Case(machine=Q35(1 << 30)))
print(boots._idle[0][1].pid, flush=True)
while True:
    boots.boot(Case(machine=Q35(1 << 30)))
"""


@pytest.mark.parametrize("via", ["fork", "snapshot"])
def test_nothing_outlives_a_killed_host(
    v6_1: KernelImage,
    via: str,
    running_in: Callable[[int], list[int]],
    all_ended: Callable[[int], bool],
) -> None:
    host = subprocess.Popen([sys.executable, "-c", _HOST, via], stdout=subprocess.PIPE, text=True)
    assert host.stdout is not None
    with host:
        session = int(host.stdout.readline())
        assert running_in(session)
        host.kill()
    assert all_ended(session)


def test_without_a_compiler_the_next_way_is_taken_and_said_once(
    v6_1: KernelImage, tmp_path: Path, qemu_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACPITK_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    said: list[str] = []
    with Boots(v6_1, qemu=qemu_path, note=said.append) as boots:
        assert {boots.boot(CASE).via for _ in range(2)} == {Via.SNAPSHOT}
    assert len(said) == 1
    assert "C compiler" in said[0]
    with pytest.raises(ToolError, match="--boot-via fork: forking a guest takes a C compiler"):
        Boots(v6_1, via="fork", qemu=qemu_path)


def test_a_qemu_without_the_symbols_is_told_apart() -> None:
    with pytest.raises(ToolError, match="does not export qemu_add_machine_init_done_notifier"):
        forkserver.probe(Path("/bin/true"))


def test_the_clock_is_not_measured_and_everything_else_is_said(v6_1: KernelImage) -> None:
    with Boots(v6_1, via="fork") as boots:
        console = boots.boot(CASE).console
    assert "tsc: Detected 1000.000 MHz processor" in console
    assert f"Command line: {CMDLINE} {CASE.cmdline}\n" in console
