"""The runner and a real QEMU: how boots end, and that nothing is left behind."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from acpitk.errors import ToolError
from acpitk.machine import Q35, Case
from acpitk.outcome import NumaState
from acpitk.qemu.image import KernelImage, find_kernel
from acpitk.qemu.runner import BootEnd, boot, boot_many, qemu_version
from acpitk.ranges import GIB, MIB
from acpitk.tables.srat import MemoryAffinity, build_srat, encode_srat

pytestmark = [pytest.mark.qemu, pytest.mark.kernel, pytest.mark.usefixtures("nothing_left_behind")]
SRAT = encode_srat(build_srat((MemoryAffinity(proximity_domain=0, base=0, length=GIB),)))
CASE = Case(machine=Q35(GIB), tables=(SRAT,))


@pytest.fixture
def image(qemu_path: Path, kernel_image: Callable[[str], Path]) -> KernelImage:
    kernel_image("v6.1")
    return find_kernel("v6.1")


def test_a_version_is_stated(qemu_path: Path) -> None:
    assert qemu_version(qemu_path)[0].isdigit()


def test_time_runs_out_without_output(image: KernelImage) -> None:
    result = boot(CASE, image, timeout=0.02)
    assert (result.ended, result.console) == (BootEnd.SILENT, "")
    assert result.outcome().panic == "silent"


def test_time_runs_out_in_the_middle(image: KernelImage) -> None:
    result = boot(replace(CASE, cmdline="boot_delay=1000 lpj=10000000"), image, timeout=3)
    assert result.ended is BootEnd.TIMEOUT
    outcome = result.outcome()
    assert (outcome.panic, outcome.numa, outcome.zones) == ("hang", None, None)


def test_a_quiet_command_line_is_overruled(image: KernelImage) -> None:
    result = boot(replace(CASE, cmdline="quiet loglevel=0"), image)
    assert result.ended is BootEnd.MARKER
    assert result.outcome().numa is NumaState.SRAT


def test_a_command_line_cannot_fake_the_end(image: KernelImage) -> None:
    result = boot(
        replace(CASE, cmdline="x=mem auto-init: Kernel panic - not syncing: BUG: kernel NULL"), image
    )
    assert result.ended is BootEnd.MARKER
    assert result.outcome().panic is None
    assert result.console.endswith("\n")


def test_what_is_no_kernel_is_a_tool_error(image: KernelImage, tmp_path: Path) -> None:
    path = tmp_path / "vmlinux"
    path.write_bytes(b"\x7fELF" + bytes(5000))
    with pytest.raises(ToolError, match="ended with status 1") as caught:
        boot(CASE, KernelImage("none", path, "0"))
    assert "\n" not in str(caught.value)


def test_a_missing_program_is_a_tool_error(image: KernelImage, tmp_path: Path) -> None:
    with pytest.raises(ToolError, match="does not start"):
        boot(CASE, image, qemu=tmp_path / "qemu")


def test_a_boot_can_be_stopped(image: KernelImage) -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(ToolError, match="cancelled"):
        boot(CASE, image, stop=stop)


def test_many_boots_come_back_in_order(image: KernelImage) -> None:
    cases = [replace(CASE, machine=Q35(size * MIB)) for size in (1024, 512, 768)]
    results = list(boot_many(cases, image, jobs=2))
    assert [case for case, _ in results] == cases
    for case, result in results:
        memory = result.outcome().memory
        assert memory is not None
        assert isinstance(case.machine, Q35)
        assert memory[-1].end == case.machine.memory - 128 * 1024


def test_closing_many_boots_ends_those_under_way(image: KernelImage) -> None:
    boots = boot_many([CASE] * 5, image, jobs=2)
    _, result = next(boots)
    assert result.outcome().numa is NumaState.SRAT
    boots.close()  # type: ignore[attr-defined]
