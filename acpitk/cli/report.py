"""`acpitk report`: findings as one HTML file."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from acpitk.checks.invariants import check
from acpitk.cli.campaign import load_summary
from acpitk.cli.inputs import PATH
from acpitk.cli.oracles import BOOT
from acpitk.cli.output import check_file_target, note, write_file
from acpitk.corpus import StoredCase, load, load_corpus
from acpitk.errors import UsageError
from acpitk.kernel.boot import predict
from acpitk.kernel.policy import POLICIES
from acpitk.machine import Q35, Case
from acpitk.qemu.argv import qemu_argv, shell_line, undeliverable
from acpitk.qemu.runner import PROGRAM
from acpitk.report.html import Entry, render_report, second_row
from acpitk.report.summary import Summary

_CONSOLE_LIMIT = 4 << 20


@click.command("report")
@click.argument("sources", nargs=-1, required=True, type=PATH, metavar="DIR|FINDING...")
@click.option("-o", "--output", type=PATH, required=True, help="The HTML file to write.")
@click.option("--title", default="acpitk findings", help="Heading.  [default: acpitk findings]")
def command(sources: tuple[Path, ...], output: Path, title: str) -> int:
    """Write findings as one HTML file that needs no network and no server.

    A DIR is what `acpitk fuzz --out` wrote; its numbers come along. A case without a stored finding stands
    for what the model finds in it. A console log beside a finding, `NAME.log` beside `NAME.json`, is quoted.

    \b
    Examples:
      acpitk report findings -o report.html
      acpitk report findings/pol-swept-1f0c6f6e-89127e2f4bd4.json -o swept.html --title "Board 7"
    """
    check_file_target(output)
    entries: list[Entry] = []
    problems: list[str] = []
    summaries: list[Summary] = []
    for source in sources:
        counts: Mapping[str, int] = {}
        if source.is_dir():
            corpus = load_corpus(source)
            stored, left_out = corpus.cases, corpus.problems
            problems += left_out
            if (numbers := load_summary(source)) is not None:
                summaries.append(numbers[0])
                counts = numbers[1]
        else:
            stored = ((source, load(source)),)
        for path, each in stored:
            entries += _entries(path, each, counts)
    if not entries and problems:
        raise UsageError(problems[0])
    for problem in problems:
        note(f"left out: {problem}")
    summary = summaries[0] if len(summaries) == 1 else None
    text = render_report(entries, title=title, summary=summary, problems=problems)
    write_file(output, text.encode())
    note(f"{output}: {len(entries)} findings, {len(text.encode()) / 1e6:.1f} MB")
    return 0


def _entries(path: Path, stored: StoredCase, counts: Mapping[str, int]) -> Iterator[Entry]:
    """The finding of a file, or what the model finds in its case."""
    kernel = _row(stored)
    found = [stored.finding] if stored.finding is not None else None
    if found is None:
        found = [f.to_json() for f in check(stored.case, predict(stored.case, POLICIES[kernel]))]
    for finding in found:
        yield Entry(
            case=stored.case,
            finding=finding,
            file=str(path),
            kernel=kernel,
            provenance=stored.provenance,
            count=counts.get(str(finding.get("signature"))),
            commands=tuple(_commands(path, stored.case, kernel, finding)),
            console=_console(path),
        )


def _row(stored: StoredCase) -> str:
    """The row of the model a finding is drawn with: the kernel it names, else v6.1."""
    kernels = (stored.finding or {}).get("kernels")
    named = (stored.kernel, *(kernels if isinstance(kernels, list) else ()))
    return next((name for name in named if isinstance(name, str) and name in POLICIES), "v6.1")


def _commands(path: Path, case: Case, kernel: str, finding: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    boot = " --boot" if str(finding.get("oracle", "")).startswith(BOOT) else ""
    quoted = shlex.quote(str(path))
    other = second_row(finding, kernel)
    compare = f" --compare {other}" if other else boot
    yield "Replay", f"acpitk replay {quoted}{boot}"
    yield "Explain", f"acpitk explain {quoted} --kernel {kernel}{compare}"
    if isinstance(case.machine, Q35) and not undeliverable(case):
        tables = [Path(f"{table[:4].decode('ascii', 'replace').lower()}.bin") for table in case.tables]
        if len(set(tables)) != len(tables) or not all(str(name).isascii() for name in tables):
            return  # `gen --from` writes one file for each signature
        initrd = Path("initrd.img") if case.machine.initrd else None
        line = shell_line(
            qemu_argv(case, qemu=PROGRAM, kernel=Path("vmlinux"), table_paths=tables, initrd=initrd)
        )
        make = f"head -c {case.machine.initrd} /dev/zero > initrd.img && " if initrd else ""
        yield "QEMU, with your vmlinux", f"acpitk gen --from {quoted} -o . && {make}{line}"


def _console(path: Path) -> str:
    """The console log beside a finding; empty where there is none."""
    try:
        with path.with_suffix(".log").open("rb") as file:
            return file.read(_CONSOLE_LIMIT).decode("utf-8", "replace")
    except OSError:
        return ""
