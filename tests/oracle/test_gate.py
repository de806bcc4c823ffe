"""What of a console is compared, and the boots that come with acpitk."""

from __future__ import annotations

from pathlib import Path

import pytest

from acpitk.oracle.gate import kernel_lines, recording
from acpitk.qemu.argv import undeliverable
from acpitk.qemu.image import SUITES

LOGS = Path(__file__).parent.parent / "klog" / "logs"


@pytest.mark.parametrize("kernel", SUITES)
def test_boots_are_recorded_of_every_kernel(kernel: str) -> None:
    recorded = recording(kernel)
    assert recorded is not None
    assert recorded.release.startswith(kernel[1:])
    assert len(recorded.boots) >= 6
    for boot in recorded.boots:
        assert not undeliverable(boot.case)
        assert boot.lines[0].startswith("Command line: ")
        assert any(line.startswith("MEMBLOCK configuration") for line in boot.lines)


@pytest.mark.parametrize("log", sorted(LOGS.glob("*/v*.log")), ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_the_recording_is_what_a_console_gives(log: Path) -> None:
    lines = kernel_lines(log.read_text())
    recorded = recording(log.stem)
    assert recorded is not None
    assert lines in {boot.lines for boot in recorded.boots}


def test_times_callers_and_other_drivers_are_left_out() -> None:
    text = (
        "[    0.000000] Linux version 6.1.0\n[    0.000000] Command line: x\n[    0.100000] tsc: Detected\n"
        "[    0.006619] memblock_reserve: [0x10-0x1f] setup_arch+0x792/0xd40\n"
        "ACPI: RSDP 0x00000000000F59E0 000014 (v00 BOCHS )\n"
    )
    assert kernel_lines(text) == (
        "Command line: x",
        "memblock_reserve: [0x10-0x1f]",
        "ACPI: RSDP 000014 (v00 BOCHS )",
    )
