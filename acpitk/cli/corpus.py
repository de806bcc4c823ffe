"""`acpitk corpus`: cases to begin with. List them, import them from elsewhere, keep the few that matter."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import click

from acpitk.checks.behaviour import behaviour
from acpitk.cli.inputs import PATH, guest_of, is_case, json_option, size
from acpitk.cli.output import emit, emit_json, note
from acpitk.corpus import Corpus, StoredCase, load, load_corpus, save
from acpitk.errors import AcpitkError, UsageError
from acpitk.fuzz.feedback import smallest_cover
from acpitk.fuzz.journal import JOURNAL, SqliteJournal
from acpitk.kernel.boot import predict
from acpitk.kernel.policy import POLICIES
from acpitk.machine import Q35, Case
from acpitk.ranges import GIB
from acpitk.report.text import table
from acpitk.tables.dump import load as load_tables

_FALLBACK = Q35(GIB)
"""The guest for tables that do not say how much memory there is."""

_kernels = click.option(
    "--kernel", "kernels", multiple=True, default=("v6.1",), help="Rows of the model; may repeat."
)


@click.group("corpus")
def command() -> None:
    """Directories of cases, for `fuzz --from`.

    \b
    Example:
      acpitk corpus import afl-out/default/queue -o seeds
    """


@command.command("list")
@click.argument("directory", type=PATH, metavar="DIR")
@_kernels
@json_option
def list_command(directory: Path, kernels: tuple[str, ...], as_json: bool) -> int:
    """The cases in DIR: how many decisions each leads to in the model, and how many of them only it does.

    \b
    Example:
      acpitk corpus list findings
    """
    corpus = _load(directory)
    shown = [_behaviour(stored.case, kernels) for _, stored in corpus.cases]
    alone = [mine - set().union(*shown[:i], *shown[i + 1 :]) for i, mine in enumerate(shown)]
    if as_json:
        cases = [
            {"case": str(path), "decisions": sorted(mine), "alone": sorted(only)}
            | {"findings": list(stored.findings), "provenance": stored.provenance}
            for (path, stored), mine, only in zip(corpus.cases, shown, alone, strict=True)
        ]
        emit_json({"schema": 1, "decisions": len(set().union(*shown)), "cases": cases})
        return 0
    rows = (
        (path.name, _bytes(stored.case), len(mine), len(only) or "", stored.provenance)
        for (path, stored), mine, only in zip(corpus.cases, shown, alone, strict=True)
    )
    emit(
        f"{len(corpus.cases)} cases, {len(set().union(*shown))} decisions\n",
        table("Cases", ("case", "bytes>", "decisions>", "alone>", "provenance"), rows),
    )
    return 0


@command.command("import")
@click.argument("sources", nargs=-1, required=True, type=PATH, metavar="SOURCE...")
@click.option(
    "--out", "-o", type=PATH, required=True, help="The corpus they go to; made where it is missing."
)
@click.option(
    "--mem", type=size, metavar="SIZE", help="Memory of the guest.  [default: up to the SRAT's end, or 1G]"
)
@click.option("--cmdline", default="movable_node", help="Kernel command line.  [default: movable_node]")
def import_command(sources: tuple[Path, ...], out: Path, mem: int | None, cmdline: str) -> int:
    """Make cases of what is in SOURCEs: files, or directories with all that is below them.

    A file is a case or finding, a raw table (as AFL and libFuzzer keep them in their directories), or
    acpidump text. Of the directory of `fuzz --out` the cases that were news come along. Cases that are there
    already are not stored twice. --mem and --cmdline are for tables; a case brings its own.

    \b
    Examples:
      acpitk corpus import /sys/firmware/acpi/tables -o seeds
      acpitk corpus import afl-out/default/queue crashes srat.dump --mem 4G -o seeds
      acpitk corpus import findings -o seeds
    """
    there = load_corpus(out).cases if out.is_dir() else ()
    known = {stored.case: stored for _, stored in there}
    paths = {stored.case: path for path, stored in there}
    slugs: dict[Case, str] = {}
    passed = 0
    for source in sources:
        found = False
        for path in _files(source):
            try:
                for stored in _cases(path, mem, cmdline):
                    found = True
                    before = known.get(stored.case)
                    if before is None or not set(stored.findings) <= set(before.findings):
                        known[stored.case] = stored if before is None else _merged(before, stored)
                        slugs[stored.case] = _slug(path)
            except AcpitkError as error:
                if path == source:
                    raise
                passed += 1
                note(f"passed over: {error}")
        if not found:
            raise UsageError(f"{source}: neither a case nor a table in it")
    for case, slug in slugs.items():
        saved = save(out, known[case], slug=slug)
        if (old := paths.get(case, saved)) != saved:
            old.unlink()
    more = f", {passed} files passed over" if passed else ""
    emit(f"{len(known) - len(there)} new cases in {out}, {len(known)} in all{more}")
    return 0


def _merged(one: StoredCase, other: StoredCase) -> StoredCase:
    """What both know of the same case; of one that stands for a finding, all the rest."""
    main = one if one.findings else other
    return replace(main, findings=tuple(dict.fromkeys((*one.findings, *other.findings))))


@command.command("minimise")
@click.argument("directory", type=PATH, metavar="DIR")
@click.option("--out", "-o", type=PATH, required=True, help="Where the few go; DIR stays as it is.")
@_kernels
def minimise_command(directory: Path, out: Path, kernels: tuple[str, ...]) -> int:
    """Copy the few cases of DIR that do all that its cases do.

    Every decision in the model, every two decisions together, and every finding a case was stored for is
    still shown by one of them; small cases are preferred.

    \b
    Example:
      acpitk corpus minimise seeds -o few
    """
    if out.exists() and (not out.is_dir() or any(out.glob("*.json"))):
        raise UsageError(f"{out}: has cases already; name a new directory")
    corpus = _load(directory)
    shown = [
        _behaviour(stored.case, kernels) | {f"finding: {name}" for name in stored.findings}
        for _, stored in corpus.cases
    ]
    kept = smallest_cover(shown, [_bytes(stored.case) for _, stored in corpus.cases])
    for index in kept:
        path, stored = corpus.cases[index]
        save(out, stored, slug=_slug(path))
    decisions = len(set().union(*(_behaviour(stored.case, kernels) for _, stored in corpus.cases)))
    emit(f"{len(kept)} of {len(corpus.cases)} cases kept in {out}: {decisions} decisions as before")
    return 0


def _load(directory: Path) -> Corpus:
    corpus = load_corpus(directory)
    for problem in corpus.problems:
        note(f"left out: {problem}")
    if not corpus.cases:
        raise UsageError(f"{directory}: no case in it")
    return corpus


def _behaviour(case: Case, kernels: Sequence[str]) -> frozenset[str]:
    rows = [name for text in kernels for name in text.split(",")]
    if unknown := [name for name in rows if name not in POLICIES]:
        raise UsageError(f"--kernel: no row is called {unknown[0]!r}; known: {', '.join(POLICIES)}")
    shown = (
        frozenset(f"{row} {name}" if at else name for name in behaviour(predict(case, POLICIES[row])))
        for at, row in enumerate(rows)
    )
    return frozenset().union(*shown)


def _bytes(case: Case) -> int:
    return sum(map(len, case.tables))


def _slug(path: Path) -> str:
    """The name a file had, without the part that tells its content."""
    head, _, tail = path.stem.rpartition("-")
    return head if head and len(tail) == 12 else path.stem


def _files(source: Path) -> Iterator[Path]:
    """The file itself, or those below the directory, hidden ones aside."""
    if not source.is_dir():
        yield source
        return
    for path in sorted(source.rglob("*")):
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(source).parts):
            yield path


def _cases(path: Path, mem: int | None, cmdline: str) -> Iterator[StoredCase]:
    if path.parts[-2:] == JOURNAL.parts:
        with closing(SqliteJournal(path)) as journal:
            for part in journal.parts():
                for news in part.news:
                    how = " ".join(news.mutators) or "a seed as it is"
                    yield StoredCase(
                        case=news.case, provenance=f"iteration {news.iteration} of {path}: {how}"
                    )
    elif path.parts[-2:-1] == JOURNAL.parts[:-1]:
        return  # numbers of a campaign
    elif is_case(path):
        stored = load(path)
        yield stored if stored.provenance else replace(stored, provenance=f"imported from {path}")
    else:
        blobs = load_tables(path)
        tables = tuple(blob.data for blob in blobs if blob.signature in (b"SRAT", b"SLIT"))
        if tables:
            case = Case(machine=_guest(tables, mem), tables=tables, cmdline=cmdline)
            yield StoredCase(case=case, provenance=f"imported from {path}")


def _guest(tables: Sequence[bytes], mem: int | None) -> Q35:
    if mem is not None:
        return Q35(mem)
    try:
        return guest_of(next(table for table in tables if table[:4] == b"SRAT"))
    except (AcpitkError, StopIteration):
        return _FALLBACK
