"""Boots with the kernel placed at random: how often hotplug survives.

The boot stub of a vmlinuz reads the SRAT itself and keeps out of hotpluggable memory
(arch/x86/boot/compressed/acpi.c, count_immovable_mem_regions()), but not where all memory is hotpluggable and
not where another entry of the node is not: a node with the kernel on it loses its marks.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from acpitk import klog
from acpitk.machine import Case
from acpitk.outcome import Outcome, Region
from acpitk.qemu.image import KernelImage
from acpitk.qemu.runner import boot, find_qemu
from acpitk.ranges import MIB

_HOT = re.compile(r"(?:ACPI: )?SRAT: Node (\d+) PXM \d+ \[mem .*\] hotplug")
_ALIGN = 2 * MIB
"""CONFIG_PHYSICAL_ALIGN of every distribution's kernel; reservations of that alignment below are none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Landing:
    """One boot.

    Args:
        image: where the kernel image landed, None where the log does not say.
        nid: its node.
        lost: nodes with memory that the SRAT calls hotpluggable and the kernel does not.
        outcome: everything else observed.
    """

    image: Region | None
    nid: int | None
    lost: tuple[int, ...]
    outcome: Outcome

    @property
    def fate(self) -> tuple[int | None, tuple[int, ...], Mapping[int, int], str | None]:
        """What makes two boots the same: the node of the image, lost marks, ZONE_MOVABLE, panic."""
        return self.nid, self.lost, self.outcome.zone_movable_start or {}, self.outcome.panic


def kaslr(
    case: Case,
    image: KernelImage,
    count: int,
    *,
    qemu: Path | None = None,
    timeout: float = 60,
    stop: threading.Event | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> tuple[Landing, ...]:
    """Boot `case` `count` times without `nokaslr`; `timeout` is for each boot.

    Raises:
        UsageError, ToolError: as `runner.boot`, or the vmlinuz is not here.
    """
    qemu = qemu or find_qemu()
    landings = []
    for number in range(1, count + 1):
        result = boot(case, image, qemu=qemu, timeout=timeout, kaslr=True, stop=stop)
        landings.append(_landing(result.console, result.outcome()))
        progress(f"boot {number} of {count}")
    return tuple(landings)


def _landing(console: str, outcome: Outcome) -> Landing:
    image = _image(console)
    memory = outcome.memory or ()
    promised = {int(match[1]) for text in outcome.messages if (match := _HOT.match(text))}
    marked = {region.nid for region in memory if "hotplug" in region.flags}
    present = {region.nid for region in memory}
    return Landing(
        image=image,
        nid=next((r.nid for r in memory if image and r.start <= image.start < r.end), None),
        lost=tuple(sorted(promised & present - marked)),
        outcome=outcome,
    )


def _image(console: str) -> Region | None:
    """The kernel image with its brk: reserve_brk() is the first reservation printed at `_ALIGN`, and what is
    reserved below it without a gap is the image."""
    brk = next(
        (
            call
            for call in klog.memblock_trace(console)
            if call.call == "reserve" and call.start >= MIB and not call.start % _ALIGN
        ),
        None,
    )
    if brk is None:
        return None
    start = brk.start
    for region in reversed(klog.firmware_facts(console).reserved or ()):
        if region.start < start <= region.end:
            start = region.start
    return Region(start, brk.end)
