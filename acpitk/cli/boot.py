"""`acpitk boot`: what a real kernel makes of a case."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import click
from rich.console import RenderableType

from acpitk.checks.differential import Comparison, compare, panic_class
from acpitk.checks.differential import findings as differences
from acpitk.checks.invariants import check
from acpitk.cli.inputs import (
    PATH,
    boot_via_option,
    case_options,
    find_image,
    json_option,
    kernel_option,
    read_case,
    size,
)
from acpitk.cli.kernel_boots import row_for
from acpitk.cli.output import check_file_target, emit, emit_json, note, write_file
from acpitk.cli.predict import exit_status
from acpitk.errors import UsageError
from acpitk.images import build_for, predict_image
from acpitk.kernel.cmdline import parse_cmdline
from acpitk.kernel.hotplug import hot_added
from acpitk.kernel.policy import POLICIES, KernelBuild
from acpitk.klog import lines
from acpitk.machine import Q35, Case
from acpitk.outcome import Outcome
from acpitk.qemu.argv import qemu_argv, shell_line, undeliverable
from acpitk.qemu.boots import AUTO, Boots, unbootable
from acpitk.qemu.hot_add import HotAdd, device_address, hot_add
from acpitk.qemu.image import KernelImage
from acpitk.qemu.kaslr import Landing, kaslr
from acpitk.qemu.remove import remove
from acpitk.qemu.runner import PROGRAM, BootResult, Via, find_qemu
from acpitk.report.text import render_comparison, render_findings, render_outcome, span, table

_LAST_LINES = 12
"""Of the console of a kernel that died or hung."""


class _Booted(NamedTuple):
    """One boot of any kind: the case that was really booted, what it gave, and what is special about it."""

    case: Case
    outcome: Outcome
    console: str
    document: dict[str, Any]
    report: list[RenderableType]


def _device(text: str) -> HotAdd:
    """Option type: `1G`, or `1G@2` for proximity domain 2; without one, the SRAT decides."""
    bytes_, at, domain = str(text).partition("@")
    if at and not (domain.isascii() and domain.isdigit()):
        raise click.BadParameter(f"{text!r}: expected SIZE@DOMAIN, for example 1G@1")
    try:
        return HotAdd(size=size(bytes_), domain=int(domain) if at else None)
    except UsageError as error:
        raise click.BadParameter(str(error)) from None


@click.command("boot")
@case_options
@click.option("--kernel-image", "image_spec", default="v6.1", help="Fetched kernel or path.  [default: v6.1]")
@kernel_option(None)
@click.option("--remove", "removing", is_flag=True, help="Boot to userspace and offline every memory block.")
@click.option(
    "--hot-add",
    "device",
    type=_device,
    metavar="SIZE[@DOMAIN]",
    help="Plug memory into the running guest, then offline and unplug it.",
)
@click.option(
    "--kaslr",
    "boots",
    type=click.IntRange(1, 1000),
    metavar="N",
    help="Boot N times with the kernel placed at random and count what happens.",
)
@click.option("--check", "compare_model", is_flag=True, help="Compare with the model field by field.")
@click.option("--console", "console_file", type=PATH, help="Save the console log here.")
@click.option("--timeout", type=click.FloatRange(0.1, 3600), default=60, help="Seconds.  [default: 60]")
@boot_via_option("fresh")
@click.option("--dry-run", is_flag=True, help="Print the QEMU line and stop.")
@json_option
def command(
    image_spec: str,
    kernel: str | None,
    removing: bool,
    device: HotAdd | None,
    boots: int | None,
    compare_model: bool,
    console_file: Path | None,
    timeout: float,
    via: str,
    dry_run: bool,
    as_json: bool,
    **inputs: Any,
) -> int:
    """Boot a real kernel in QEMU with these tables and print the outcome.

    Exit status 1: the kernel panicked or hung, or, with --check, it differs from the model or the model has
    findings of severity error or warning. An image that is no row of the model is compared with the nearest
    row at or below its version, or with --kernel.

    --remove and --hot-add boot to a userspace of 2 KB: an initrd, compiled here with gcc, that lands at the
    top of low RAM and makes its node a kernel node. The model is asked about that machine. --hot-add lets the
    SRAT in through the initrd, because QEMU then has one of its own. --kaslr ends with 1 where boots differ.

    \b
    Examples:
      acpitk boot case.json --kernel-image v7.3 --remove --check
      acpitk boot --srat srat.bin --mem 1G --cmdline movable_node --hot-add 1G@1 --check
      acpitk boot --srat srat.bin --mem 3G --cmdline movable_node --kaslr 8
      acpitk boot --srat srat.bin --mem 1G --cmdline movable_node --check
      acpitk boot case.json --kernel-image /boot/vmlinuz --kernel v6.1 --check
      acpitk boot case.json --dry-run
    """
    case = read_case(**inputs)
    special = removing or device or boots or dry_run
    if reasons := (undeliverable if special else unbootable)(case):
        raise UsageError(f"this case cannot be booted: {reasons[0]}")
    if console_file is not None:
        check_file_target(console_file)
    qemu = None if dry_run else find_qemu()
    image = find_image(image_spec)
    if len([True for mode in (removing, device, boots, dry_run) if mode]) > 1:
        raise UsageError("--remove, --hot-add, --kaslr and --dry-run exclude one another")
    if special and not dry_run and via not in (AUTO, Via.FRESH):
        raise UsageError(f"--boot-via {via} goes no further than the zones: leave it out here")
    if boots and (compare_model or console_file):
        raise UsageError("--kaslr is many boots: leave out --check and --console")
    if dry_run:
        print(_shell_line(case, image, (inputs["srat"], inputs["slit"])))
        return 0
    if boots:
        landings = kaslr(case, image, boots, qemu=qemu, timeout=timeout, progress=note)
        return _report_landings(image, landings, as_json)

    if removing:
        booted = _remove(case, image, qemu, timeout)
    elif device:
        booted = _hot_add(case, image, device, qemu, timeout)
    else:
        with Boots(image, via=via, qemu=qemu, note=note) as ways:
            result = ways.boot(case, timeout=timeout)
        how: dict[str, Any] = {"via": result.via, "delivery": result.delivery}
        booted = _Booted(case, result.outcome(), result.console, how | _rerun(result), [])
    if console_file is not None:
        write_file(console_file, booted.console.encode())
    outcome = booted.outcome
    failed = outcome.panic is not None
    document = outcome.to_json() | booted.document
    report = [render_outcome(outcome), *booted.report]
    if failed:
        last = [line for line in lines(booted.console) if line.strip()][-_LAST_LINES:]
        document |= {"signature": panic_class(outcome.panic or ""), "last_lines": last}
        report.append(table("Last lines of the console", ("",), ((line,) for line in last)))
    if compare_model:
        row = POLICIES[kernel] if kernel else row_for(image.name)
        prediction = predict_image(booted.case, image, row)
        expected = prediction.outcome
        if device:
            expected = _with_device(expected, booted.case, device, build_for(image, row))
        comparison = compare(expected, outcome)
        findings = [*differences(comparison), *check(booted.case, prediction)]
        document |= {"check": _check_document(comparison), "findings": [f.to_json() for f in findings]}
        report += [render_comparison(comparison), render_findings(findings)]
        failed = failed or exit_status(findings) > 0
    if as_json:
        emit_json(document)
    else:
        emit(*report)
    return int(failed)


def _rerun(result: BootResult) -> dict[str, str]:
    if result.rerun is None:
        return {}
    note(f"booted fresh: {result.rerun}")
    return {"rerun": result.rerun}


def _remove(case: Case, image: KernelImage, qemu: Path | None, timeout: float) -> _Booted:
    result = remove(case, image, qemu=qemu, timeout=timeout, progress=note)
    initrd = _note_initrd(result.case)
    document: dict[str, Any] = {"initrd": initrd}
    report: list[RenderableType] = []
    if (deadly := result.deadly) is not None:
        document["died_offlining"] = {"start": deadly.start, "end": deadly.end}
        report.append(f"The kernel died while block {span(deadly.start, deadly.end)} was offlined.")
    return _Booted(result.case, result.outcome, result.console, document, report)


def _hot_add(case: Case, image: KernelImage, device: HotAdd, qemu: Path | None, timeout: float) -> _Booted:
    result = hot_add(case, image, device, qemu=qemu, timeout=timeout, progress=note)
    document = {"initrd": _note_initrd(result.case), "hot_add": result.to_json()}
    report: list[RenderableType] = []
    if result.added:
        offered = " or ".join(sorted(set(result.valid_zones.values())))
        place = span(result.added[0].start, result.added[-1].end)
        fate = "unplugged again" if result.unplugged else "NOT released by the guest"
        report.append(f"Memory plugged in at {place}: zones offered {offered}; {fate}.")
    return _Booted(result.case, result.outcome, result.console, document, report)


def _note_initrd(case: Case) -> int:
    assert isinstance(case.machine, Q35)  # noqa: S101
    size = case.machine.initrd
    note(f"the machine booted has an initrd of {size} bytes at the top of low RAM: a kernel node there")
    return size


def _with_device(outcome: Outcome, case: Case, device: HotAdd, build: KernelBuild) -> Outcome:
    """The forecast with the device's memory blocks. Where QEMU's own tables lie then is not modelled."""
    if outcome.blocks is None:
        return outcome
    at = device_address(case)
    domain = device.domain_in(case, at)
    added = hot_added(outcome, at, device.size, domain, parse_cmdline(case.cmdline), build)
    return replace(outcome, reserved=None, blocks=(*outcome.blocks, *added))


def _report_landings(image: KernelImage, landings: Sequence[Landing], as_json: bool) -> int:
    """Print how often each fate came up; 1 where there is more than one, or a panic."""
    fates: dict[str, list[Landing]] = {}
    for landing in landings:
        fates.setdefault(repr(landing.fate), []).append(landing)
    groups = sorted(fates.values(), key=lambda group: -len(group))
    if as_json:
        rows = [
            {
                "count": len(group),
                "node": group[0].nid,
                "hotplug_lost": list(group[0].lost),
                "zone_movable_start": group[0].outcome.to_json().get("zone_movable_start", {}),
                "images": [{"start": at.start, "end": at.end} for landing in group if (at := landing.image)],
            }
            | ({"panic": group[0].outcome.panic} if group[0].outcome.panic is not None else {})
            for group in groups
        ]
        emit_json({"schema": 1, "kernel": image.name, "boots": len(landings), "kaslr": rows})
    else:
        columns = ("boots>", "kernel on node>", "hotplug lost on", "ZONE_MOVABLE", "image at")
        emit(table(f"{image.name}, placed at random", columns, map(_landing_row, groups)))
    return int(len(groups) > 1 or groups[0][0].outcome.panic is not None)


def _landing_row(group: Sequence[Landing]) -> tuple[object, ...]:
    first = group[0]
    movable = (first.outcome.zone_movable_start or {}).items()
    return (
        len(group),
        "-" if first.nid is None else first.nid,
        ", ".join(f"node {nid}" for nid in first.lost) or "-",
        first.outcome.panic or ", ".join(f"node {nid} from {at:#x}" for nid, at in movable) or "none",
        ", ".join(f"{at.start:#x}" for landing in group if (at := landing.image)),
    )


def _check_document(comparison: Comparison) -> dict[str, Any]:
    return {
        "fields": {name: verdict.value for name, verdict in comparison.fields.items()},
        "differences": [asdict(difference) for difference in comparison.differences],
    }


def _shell_line(case: Case, image: KernelImage, given: Iterable[Path | None]) -> str:
    """The QEMU line for a person to run: a table that is no file of its own gets a name to fill."""
    files = {path.read_bytes(): path for path in given if path is not None and path.is_file()}
    paths = [files.get(blob, Path(f"table{index}.bin")) for index, blob in enumerate(case.tables)]
    for path, blob in zip(paths, case.tables, strict=True):
        if blob not in files:
            note(f"write table {blob[:4]!r} to {path} first, for example with acpitk gen --from")
    initrd = None
    if isinstance(case.machine, Q35) and case.machine.initrd:
        initrd = Path("initrd.img")
        note(f"initrd.img stands for a file of {case.machine.initrd} bytes")
    return shell_line(qemu_argv(case, qemu=PROGRAM, kernel=image.path, table_paths=paths, initrd=initrd))
