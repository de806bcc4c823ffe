"""`acpitk lint`: judge tables by the specification, each other and the memory map."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from acpitk.checks.finding import Finding
from acpitk.checks.selection import parse_selection
from acpitk.checks.spec import lint
from acpitk.cli.findings import chosen_format, emit_located, format_options, selection_options
from acpitk.cli.inputs import PATH, STDIN, describe, load_tables, read_machine, size
from acpitk.cli.output import emit, emit_json
from acpitk.cli.predict import exit_status
from acpitk.machine import Q35
from acpitk.report.located import Located
from acpitk.report.text import render_findings
from acpitk.tables.dump import TableBlob


@click.command("lint")
@click.argument("files", type=PATH, nargs=-1, required=True)
@click.option("--machine", type=PATH, help="Judge the SRAT against this memory map too (JSON).")
@click.option("--mem", type=size, metavar="SIZE", help="Instead of --machine: a QEMU q35 guest of this size.")
@selection_options
@format_options
def command(
    files: tuple[Path, ...],
    machine: Path | None,
    mem: int | None,
    select: tuple[str, ...],
    ignore: tuple[str, ...],
    output_format: str | None,
    as_json: bool,
) -> int:
    """Judge the tables in FILES, which together are the tables of one machine; - is standard input.

    Exit status 1: there are findings of severity error or warning; notes alone are clean.

    \b
    Examples:
      acpitk lint srat.bin slit.bin
      acpitk lint acpidump.txt --machine server.json
      acpitk lint srat.bin --mem 4G --ignore MAP- --format sarif
    """
    format_, selection = chosen_format(output_format, as_json), parse_selection(select, ignore)
    loaded = [placed for path in files for placed in _placed(path)]
    against = read_machine(machine, mem, None) if machine is not None or mem is not None else None
    if isinstance(against, Q35):
        against = against.resolve([blob.data for _, blob, _ in loaded])
    names = _names([blob for _, blob, _ in loaded])
    tables = {name: blob.data for name, (_, blob, _) in zip(names, loaded, strict=True)}
    findings = selection.of(lint(tables, machine=against))
    if format_ == "json":
        emit_json([finding.to_json() for finding in findings])
    elif format_ == "text":
        emit(render_findings(findings))
    else:
        places = {name: (path, base) for name, (path, _, base) in zip(names, loaded, strict=True)}
        located = [_located(finding, places) for finding in findings]
        emit_located(format_, located, suite="acpitk lint", examined=map(str, files))
    return exit_status(findings)


def _placed(path: Path) -> Iterator[tuple[Path, TableBlob, int | None]]:
    """Each table of one of FILES with its file, and where it starts there if the file holds its bytes."""
    ends: dict[Path, int] = {}
    for blob in load_tables(path):
        file = Path(blob.source) if path.is_dir() else path
        start = ends.get(file, 0)
        ends[file] = start + len(blob.data)
        held = file != STDIN and file.is_file() and file.read_bytes()[start : ends[file]] == blob.data
        yield file, blob, start if held else None


def _names(blobs: Sequence[TableBlob]) -> list[str]:
    """Tables by signature; of a signature that comes again, with its place among all tables."""
    names: list[str] = []
    for index, blob in enumerate(blobs, start=1):
        name = describe(blob.signature)
        names.append(f"{name} (table {index})" if name in names else name)
    return names


def _located(finding: Finding, places: dict[str, tuple[Path, int | None]]) -> Located:
    """The finding with the file of the table that its `where` begins with."""
    named = max((name for name in places if finding.where.startswith(name)), key=len, default=None)
    if named is None or places[named][0] == STDIN:
        return Located(finding=finding)
    path, base = places[named]
    return Located(finding=finding, path=str(path), base=base)
