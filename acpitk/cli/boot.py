"""`acpitk boot`: what a real kernel makes of a case."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from acpitk.checks.differential import Comparison, compare
from acpitk.checks.differential import findings as differences
from acpitk.checks.invariants import check
from acpitk.cli.inputs import PATH, case_options, find_image, json_option, kernel_option, read_case
from acpitk.cli.output import check_file_target, emit, emit_json, note, write_file
from acpitk.cli.predict import exit_status
from acpitk.errors import UsageError
from acpitk.kernel.boot import predict
from acpitk.kernel.policy import POLICIES
from acpitk.machine import Q35, Case
from acpitk.qemu.argv import qemu_argv, shell_line, undeliverable
from acpitk.qemu.image import KernelImage
from acpitk.qemu.runner import PROGRAM, boot, find_qemu
from acpitk.report.text import render_comparison, render_findings, render_outcome


@click.command("boot")
@case_options
@click.option("--kernel-image", "image_spec", default="v6.1", help="Fetched kernel or path.  [default: v6.1]")
@kernel_option(None)
@click.option("--check", "compare_model", is_flag=True, help="Compare with the model field by field.")
@click.option("--console", "console_file", type=PATH, help="Save the console log here.")
@click.option("--timeout", type=click.FloatRange(0.1, 3600), default=60, help="Seconds.  [default: 60]")
@click.option("--dry-run", is_flag=True, help="Print the QEMU line and stop.")
@json_option
def command(
    image_spec: str,
    kernel: str | None,
    compare_model: bool,
    console_file: Path | None,
    timeout: float,
    dry_run: bool,
    as_json: bool,
    **inputs: Any,
) -> int:
    """Boot a real kernel in QEMU with these tables and print the outcome.

    Exit status 1: the kernel panicked or hung, or, with --check, it differs from the model or the model has
    findings of severity error or warning. --kernel names the row to compare where the image is a path.

    \b
    Examples:
      acpitk boot --srat srat.bin --mem 1G --cmdline movable_node --check
      acpitk boot case.json --kernel-image /boot/vmlinuz --kernel v6.1 --check
      acpitk boot case.json --dry-run
    """
    case = read_case(**inputs)
    if reasons := undeliverable(case):
        raise UsageError(f"this case cannot be booted: {reasons[0]}")
    if console_file is not None:
        check_file_target(console_file)
    qemu = None if dry_run else find_qemu()
    image = find_image(image_spec)
    row = kernel or image.name
    if compare_model and row not in POLICIES:
        raise UsageError(f"{image_spec} is Linux {row}: say which row of the model it is with --kernel")
    if dry_run:
        print(_shell_line(case, image, (inputs["srat"], inputs["slit"])))
        return 0

    result = boot(case, image, qemu=qemu, timeout=timeout)
    if console_file is not None:
        write_file(console_file, result.console.encode())
    outcome = result.outcome()
    failed = outcome.panic is not None
    document, report = outcome.to_json(), [render_outcome(outcome)]
    if compare_model:
        prediction = predict(case, POLICIES[row])
        comparison = compare(prediction.outcome, outcome)
        findings = [*differences(comparison), *check(case, prediction)]
        document |= {"check": _check_document(comparison), "findings": [f.to_json() for f in findings]}
        report += [render_comparison(comparison), render_findings(findings)]
        failed = failed or exit_status(findings) > 0
    if as_json:
        emit_json(document)
    else:
        emit(*report)
    return int(failed)


def _check_document(comparison: Comparison) -> dict[str, Any]:
    return {
        "fields": {name: verdict.value for name, verdict in comparison.fields.items()},
        "differences": [asdict(difference) for difference in comparison.differences],
    }


def _shell_line(case: Case, image: KernelImage, given: Iterable[Path | None]) -> str:
    """The QEMU line for a person to run: a table that is no file of its own gets a name to fill."""
    files = {path.read_bytes(): path for path in given if path is not None and path.is_file()}
    paths = [files.get(table, Path(f"table{index}.bin")) for index, table in enumerate(case.tables)]
    for path, table in zip(paths, case.tables, strict=True):
        if table not in files:
            note(f"write table {table[:4]!r} to {path} first, for example with acpitk gen --from")
    initrd = None
    if isinstance(case.machine, Q35) and case.machine.initrd:
        initrd = Path("initrd.img")
        note(f"initrd.img stands for a file of {case.machine.initrd} bytes")
    return shell_line(qemu_argv(case, qemu=PROGRAM, kernel=image.path, table_paths=paths, initrd=initrd))
