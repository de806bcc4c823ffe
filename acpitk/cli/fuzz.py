"""`acpitk fuzz`: a campaign, its progress, and its findings saved for replay."""

from __future__ import annotations

import shlex
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from types import FrameType
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from acpitk.checks.finding import Finding, Severity
from acpitk.checks.selection import Selection, parse_selection
from acpitk.cli.campaign import Timeline, save_summary
from acpitk.cli.findings import chosen_format, emit_located, format_options, selection_options
from acpitk.cli.inputs import PATH, find_image, guest_of, is_case, load_tables, read_stored, shipped_corpus
from acpitk.cli.oracles import BOOT, boot_oracle, example_line, iasl_oracle, model_oracle
from acpitk.cli.output import emit, emit_json, note
from acpitk.corpus import StoredCase, load_corpus, save
from acpitk.errors import UsageError
from acpitk.fuzz.campaign import Campaign, CampaignResult, Found, Oracle
from acpitk.iasl import find_iasl
from acpitk.kernel.policy import POLICIES
from acpitk.machine import Case
from acpitk.qemu.runner import find_qemu
from acpitk.report.located import Located
from acpitk.report.text import table


@click.command("fuzz")
@click.argument("seeds", nargs=-1, type=PATH, metavar="[FILE]...")
@click.option("--iterations", type=click.IntRange(1), default=5000, help="How many cases.  [default: 5000]")
@click.option("--seed", type=int, default=0, help="Everything random follows from it.  [default: 0]")
@click.option(
    "--from", "sources", multiple=True, type=PATH, help="Seed: case, directory of cases, or tables."
)
@click.option("--kernel", "kernels", multiple=True, default=("v6.1",), help="Rows of the model; may repeat.")
@click.option("--jobs", type=click.IntRange(1, 256), default=1, help="Processes.  [default: 1]")
@click.option("--iasl-every", type=click.IntRange(1), metavar="K", help="Every K-th case also through iasl.")
@click.option("--boot-every", type=click.IntRange(1), metavar="K", help="Boot every K-th case.")
@click.option("--boot", "boot_all", type=click.Choice(["all"]), help="Boot every case.")
@click.option(
    "--kernel-image", "images", multiple=True, default=("v6.1",), help="What boots.  [default: v6.1]"
)
@click.option("--out", type=PATH, default=Path("findings"), help="Where findings go.  [default: findings]")
@click.option("--time-limit", type=click.FloatRange(0.1), metavar="SECONDS", help="Stop after this long.")
@click.option("--dry-run", is_flag=True, help="Print the QEMU line of one boot and stop.")
@selection_options
@format_options
def command(
    seeds: tuple[Path, ...],
    iterations: int,
    seed: int,
    sources: tuple[Path, ...],
    kernels: tuple[str, ...],
    jobs: int,
    iasl_every: int | None,
    boot_every: int | None,
    boot_all: str | None,
    images: tuple[str, ...],
    out: Path,
    time_limit: float | None,
    dry_run: bool,
    select: tuple[str, ...],
    ignore: tuple[str, ...],
    output_format: str | None,
    as_json: bool,
) -> int:
    """Mutate cases, judge each on the model, and keep one minimised case for every cause found.

    Seeds are the FILEs and --from, else the shipped corpus. Findings are saved as they come up, so an
    interrupt (exit status 130) loses none. Exit status 1: there are findings of severity error or warning.
    An oracle that fails (FUZZ-ORACLE-ERROR) is reported whatever is selected.

    \b
    Examples:
      acpitk fuzz --iterations 5000 --seed 1
      acpitk fuzz --from srat.bin --kernel v6.1 --jobs 2 --iasl-every 50 --out findings
      acpitk fuzz --boot-every 20 --kernel-image v6.1 --time-limit 600 --json
      acpitk fuzz --select POL- --ignore POL-MEMORYLESS --format junit
    """
    format_, selection = chosen_format(output_format, as_json), parse_selection(select, ignore)
    rows = tuple(name for text in kernels for name in text.split(","))
    if unknown := [name for name in rows if name not in POLICIES]:
        raise UsageError(f"--kernel: no row is called {unknown[0]!r}; known: {', '.join(POLICIES)}")
    booting = bool(boot_all) or boot_every is not None
    if dry_run:
        if not booting:
            raise UsageError("--dry-run shows how a case boots: add --boot all or --boot-every")
        print(example_line(_seed_cases((*sources, *seeds)), find_image(images[0])))
        return 0
    oracles = [model_oracle(rows)]
    if iasl_every is not None:
        oracles.append(iasl_oracle(find_iasl(), every=iasl_every))
    if booting:
        oracles += _boot_oracles(images, 1 if boot_all else boot_every or 1)
    campaign = Campaign(
        seed=seed,
        iterations=iterations,
        oracles=tuple(_selecting(oracle, selection) for oracle in oracles),
        seeds=tuple(_seed_cases((*sources, *seeds))),
        max_seconds=time_limit,
    )
    out.mkdir(parents=True, exist_ok=True)
    store, timeline = _Store(out, seed), Timeline()
    result = CampaignResult()
    with _interrupts() as interrupted, _progress(iterations) as show:
        for result in campaign.run(jobs=jobs):
            store.update(result.found)
            timeline.add(result)
            show(result)
            if interrupted():
                break
    save_summary(out, result, timeline, seed)
    if format_ == "json":
        emit_json(_document(result, store, seed))
    elif format_ == "text":
        _report(result, store, seed)
    else:
        located = [Located(finding=each.finding, path=str(store.path(each))) for each in result.found]
        emit_located(format_, located, suite=f"acpitk fuzz --seed {seed}", examined=[])
    if interrupted():
        raise KeyboardInterrupt
    return int(any(found.finding.severity is not Severity.NOTE for found in result.found))


def _selecting(oracle: Oracle, selection: Selection) -> Oracle:
    """The oracle without the findings that do not count."""
    return replace(oracle, check=partial(_select, oracle.check, selection))


def _select(check: Callable[[Case], Iterable[Finding]], selection: Selection, case: Case) -> list[Finding]:
    return selection.of(check(case))


def _boot_oracles(images: Iterable[str], every: int) -> Iterator[Oracle]:
    find_qemu()
    for spec in images:
        image = find_image(spec)
        if image.name not in POLICIES:
            raise UsageError(f"--kernel-image {spec}: the model has no row for Linux {image.name}")
        yield boot_oracle(image, image.name, every=every)


def _seed_cases(paths: tuple[Path, ...]) -> Iterator[Case]:
    if not paths:
        paths = tuple(filter(None, [shipped_corpus()]))
    for path in paths:
        if is_case(path):
            yield read_stored(path).case
        elif path.is_dir() and any(file.suffix == ".json" for file in path.iterdir()):
            corpus = load_corpus(path)
            for problem in corpus.problems:
                note(f"left out: {problem}")
            yield from (stored.case for _, stored in corpus.cases)
        else:
            yield _guest_with(path)


def _guest_with(path: Path) -> Case:
    """Tables of a real machine on a guest whose RAM ends where they say."""
    tables = tuple(blob.data for blob in load_tables(path) if blob.signature in (b"SRAT", b"SLIT"))
    srat = next((data for data in tables if data[:4] == b"SRAT"), None)
    if srat is None:
        raise UsageError(f"{path}: no SRAT in it to begin with")
    return Case(machine=guest_of(srat), tables=tables, cmdline="movable_node")


class _Store:
    """The files of one campaign's findings: one for each signature, rewritten when its case gets smaller."""

    def __init__(self, directory: Path, seed: int) -> None:
        self._directory, self._seed = directory, seed
        self._saved: dict[str, tuple[Found, Path]] = {}

    def update(self, found: Iterable[Found]) -> None:
        """Save what is new or has changed."""
        for each in found:
            signature = each.finding.signature
            before = self._saved.get(signature)
            if before is not None and before[0].case == each.case:
                continue
            slug = f"{each.finding.id}-{sha256(signature.encode()).hexdigest()[:8]}"
            path = save(self._directory, self._stored(each), slug=slug)
            self._saved[signature] = (each, path)
            if before is not None and before[1] != path:
                before[1].unlink(missing_ok=True)

    def path(self, found: Found) -> Path:
        """Where `found` was saved."""
        return self._saved[found.finding.signature][1]

    def replay(self, found: Found) -> str:
        """The command that reruns it."""
        boot = " --boot" if found.oracle.startswith(BOOT) else ""
        return f"acpitk replay {shlex.quote(str(self.path(found)))}{boot}"

    def _stored(self, found: Found) -> StoredCase:
        how = " ".join(found.mutators) or "a seed as it is"
        return StoredCase(
            case=found.case,
            provenance=f"acpitk fuzz --seed {self._seed}, iteration {found.iteration}: {how}",
            findings=(found.finding.signature,),
            finding=found.finding.to_json() | {"oracle": found.oracle},
            kernel=found.kernels[0] if found.kernels else None,
        )


@contextmanager
def _interrupts() -> Iterator[Any]:
    """Turns the first Ctrl-C into a flag, so that what is known is shown; the second one ends at once."""
    hit = False

    def handle(_signal: int, _frame: FrameType | None) -> None:
        nonlocal hit
        if hit:
            raise KeyboardInterrupt
        hit = True
        note("stopping after the cases under way; interrupt again to stop at once")

    previous = signal.signal(signal.SIGINT, handle)
    try:
        yield lambda: hit
    finally:
        signal.signal(signal.SIGINT, previous)


@contextmanager
def _progress(iterations: int) -> Iterator[Any]:
    """A progress line on stderr where that is a terminal."""
    bar = Progress(
        BarColumn(),
        TextColumn("{task.completed}/{task.total} cases, {task.fields[rate]:.0f} it/s, {task.fields[more]}"),
        console=Console(stderr=True),
        transient=True,
        disable=not sys.stderr.isatty(),
    )
    with bar:
        line = bar.add_task("", total=iterations, rate=0.0, more="")

        def show(result: CampaignResult) -> None:
            minimised = sum(found.minimised for found in result.found)
            more = f"{len(result.found)} findings, {result.behaviours} behaviours" + (
                f", {minimised} minimised" if minimised else ""
            )
            rate = result.done / result.seconds if result.seconds else 0.0
            bar.update(line, completed=result.done, rate=rate, more=more)

        yield show


def _boots(result: CampaignResult) -> int:
    return sum(count for name, count in result.runs.items() if name.startswith(BOOT))


def _document(result: CampaignResult, store: _Store, seed: int) -> dict[str, Any]:
    return {
        "schema": 1,
        "seed": seed,
        "iterations": result.done,
        "seconds": round(result.seconds, 3),
        "boots": _boots(result),
        "behaviours": result.behaviours,
        "findings": [
            found.finding.to_json()
            | {
                "count": found.count,
                "kernels": list(found.kernels),
                "case": str(store.path(found)),
                "replay": store.replay(found),
            }
            for found in result.found
        ],
    }


def _report(result: CampaignResult, store: _Store, seed: int) -> None:
    rate = result.done / result.seconds if result.seconds else 0.0
    ordered = sorted(result.found, key=lambda each: (each.finding.severity.rank, each.finding.signature))
    rows = (
        (
            each.finding.severity.value,
            each.count,
            ",".join(each.kernels),
            each.finding.signature,
            store.path(each),
        )
        for each in ordered
    )
    emit(
        f"{result.done} cases in {result.seconds:.1f} s ({rate:.0f} a second), {_boots(result)} boots, "
        f"seed {seed}: {len(ordered)} findings, {result.behaviours} behaviours\n",
        table("Findings", ("severity", "cases>", "kernels", "finding", "saved as"), rows),
    )
    if ordered:
        emit(f"Rerun one: {store.replay(ordered[0])}")
