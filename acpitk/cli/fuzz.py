"""`acpitk fuzz`: a campaign, its progress, and its findings saved for replay."""

from __future__ import annotations

import json
import re
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
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
from acpitk.cli.export import fates
from acpitk.cli.findings import chosen_format, emit_located, format_options, selection_options
from acpitk.cli.inputs import (
    PATH,
    boot_via_option,
    find_image,
    guest_of,
    is_case,
    load_tables,
    read_stored,
    shipped_corpus,
)
from acpitk.cli.oracles import (
    BOOT,
    boot_oracle,
    example_line,
    iasl_oracle,
    kernel_oracle,
    kernels_oracle,
    model_oracle,
)
from acpitk.cli.output import emit, emit_json, note
from acpitk.corpus import StoredCase, load_corpus, save
from acpitk.errors import UsageError
from acpitk.fuzz.campaign import Campaign, CampaignResult, Found, Oracle
from acpitk.fuzz.journal import JOURNAL, SqliteJournal, begin
from acpitk.iasl import find_iasl
from acpitk.kernel.policy import POLICIES
from acpitk.machine import Case, case_from_json
from acpitk.oracle.store import find_oracle
from acpitk.qemu.boots import AUTO, check_via, unbootable
from acpitk.qemu.image import list_kernels
from acpitk.qemu.runner import find_qemu
from acpitk.report.located import Located
from acpitk.report.text import table

_FREE = frozenset(
    {"seeds", "sources", "out", "resume", "jobs", "dask", "iterations", "time_limit", "dry_run", "verbose"}
    | {"output_format", "as_json"}
)
"""Options that a campaign may be gone on with under another value; the others make it what it is."""
_ITERATIONS = 5000
_GENERATION, _BOOTED_GENERATION = 256, 32
_SHARD, _BOOTED_SHARD = 256, 4
_SAY_EVERY = 10.0
_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


def duration(text: str) -> float:
    """Option type: seconds in `600`, `90s`, `10m`, `1.5h` or `2d`."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", str(text))
    if match is None or not float(match[1]):
        raise click.BadParameter(f"{text!r}: use a time like 90s, 10m or 1.5h")
    return float(match[1]) * _UNITS[match[2]]


@dataclass(frozen=True, kw_only=True)
class _Options:
    """The command line."""

    seeds: tuple[Path, ...]
    sources: tuple[Path, ...]
    iterations: int | None
    time_limit: float | None
    seed: int
    kernels: tuple[str, ...]
    jobs: int
    dask: str | None
    iasl_every: int | None
    boot_every: int | None
    boot_all: str | None
    via: str
    images: tuple[str, ...]
    oracle_names: tuple[str, ...]
    generation: int | None
    out: Path
    resume: Path | None
    dry_run: bool
    verbose: bool
    select: tuple[str, ...]
    ignore: tuple[str, ...]
    output_format: str | None
    as_json: bool

    @property
    def booting(self) -> bool:
        return bool(self.boot_all) or self.boot_every is not None

    def campaign(self) -> dict[str, Any]:
        """What makes the campaign what it is, as JSON gives it back."""
        kept = {name: value for name, value in vars(self).items() if name not in _FREE}
        out: dict[str, Any] = json.loads(json.dumps(kept))
        return out

    def budget(self) -> dict[str, Any]:
        """When it ends."""
        endless = self.iterations is None and self.time_limit is not None
        iterations = None if endless else self.iterations or _ITERATIONS
        return {"iterations": iterations, "time_limit": self.time_limit}


@click.command("fuzz")
@click.argument("seeds", nargs=-1, type=PATH, metavar="[FILE]...")
@click.option("--iterations", type=click.IntRange(1), help="How many cases.  [default: 5000, or --time]")
@click.option(
    "--time", "--time-limit", "time_limit", type=duration, metavar="TIME", help="Stop after 90s, 10m, 2h ..."
)
@click.option("--seed", type=int, default=0, help="Everything random follows from it.  [default: 0]")
@click.option(
    "--from", "sources", multiple=True, type=PATH, help="Seed: case, directory of cases, or tables."
)
@click.option("--kernel", "kernels", multiple=True, default=("v6.1",), help="Rows of the model; may repeat.")
@click.option("--jobs", type=click.IntRange(1, 256), default=1, help="Processes.  [default: 1]")
@click.option(
    "--dask", metavar="ADDRESS", help="Instead: workers of this dask scheduler, or local:2 for two here."
)
@click.option("--iasl-every", type=click.IntRange(1), metavar="K", help="Every K-th case also through iasl.")
@click.option("--boot-every", type=click.IntRange(1), metavar="K", help="Boot every K-th case.")
@boot_via_option(AUTO)
@click.option(
    "--boot", "boot_all", type=click.Choice(["all", "new"]), help="Boot every case, or what is news."
)
@click.option(
    "--kernel-image", "images", multiple=True, help="What boots.  [default: the kernels of --kernel]"
)
@click.option(
    "--oracle",
    "oracle_names",
    multiple=True,
    metavar="NAME",
    help="Also the kernel's own code, see `acpitk oracle`; may repeat.",
)
@click.option(
    "--generation",
    type=click.IntRange(1),
    metavar="N",
    help="Look at what was seen every N cases.  [default: 256, or 32 with --boot all]",
)
@click.option("--out", type=PATH, default=Path("findings"), help="Where findings go.  [default: findings]")
@click.option(
    "--resume", type=PATH, metavar="DIR", help="Go on with the campaign in DIR; it knows its options."
)
@click.option("--dry-run", is_flag=True, help="Print the QEMU line of one boot and stop.")
@click.option("-v", "--verbose", is_flag=True, help="Progress on stderr also where that is no terminal.")
@selection_options
@format_options
@click.pass_context
def command(context: click.Context, /, **given: Any) -> int:
    """Mutate cases, judge each on the model, and keep one minimised case for every cause found.

    Seeds are the FILEs and --from, else the shipped corpus. Cases that show something new are mutated again.
    Findings are saved as they come up, so an interrupt (exit status 130) or a crash loses none: the same
    command again, or --resume, goes on where it stopped. Exit status 1: there are findings of severity error
    or warning. An oracle that fails (FUZZ-ORACLE-ERROR) is reported whatever is selected.

    \b
    Examples:
      acpitk fuzz --iterations 5000 --seed 1
      acpitk fuzz --from srat.bin --kernel v6.1 --jobs 2 --iasl-every 50 --out findings
      acpitk fuzz --boot-every 20 --kernel-image v6.1 --time 10m --json
      acpitk fuzz --oracle v6.1 --iterations 100000
      acpitk fuzz --resume findings --time 20m
      acpitk fuzz --select POL- --ignore POL-MEMORYLESS --format junit
    """
    options = _Options(**given)
    if options.resume is not None:
        options = _stored_options(options, context, options.resume)
    format_ = chosen_format(options.output_format, options.as_json)
    oracles = _oracles(options)
    if options.dry_run:
        if not options.booting:
            raise UsageError("--dry-run shows how a case boots: add --boot all or --boot-every")
        paths = (*options.sources, *options.seeds)
        print(example_line(_seed_cases(paths), find_image(_images(options)[0])))
        return 0
    options.out.mkdir(parents=True, exist_ok=True)
    with _journal(options) as journal:
        campaign = _campaign(options, journal, oracles)
        store, timeline = _Store(options.out, options.seed, resumed=journal.done > 0), Timeline()
        result = CampaignResult()
        running = campaign.run(jobs=options.jobs, cluster=options.dask, journal=journal)
        with _interrupts() as interrupted, _progress(campaign, options) as show, closing(running):
            for result in running:
                timeline.add(result)
                show(result)
                if not result.recalled:
                    store.update(result.found)
                if interrupted():
                    break
        journal.finished = not interrupted()
    if options.booting and not interrupted():
        store.confirm(result.found)
    save_summary(options.out, result, timeline, options.seed)
    if format_ == "json":
        emit_json(_document(result, store, options.seed))
    elif format_ == "text":
        _report(result, store, options.seed)
    else:
        located = [Located(finding=each.finding, path=str(store.path(each))) for each in result.found]
        emit_located(format_, located, suite=f"acpitk fuzz --seed {options.seed}", examined=[])
    if interrupted():
        raise KeyboardInterrupt
    return int(any(found.finding.severity is not Severity.NOTE for found in result.found))


def _stored_options(options: _Options, context: click.Context, place: Path) -> _Options:
    """The options of the campaign that is gone on with; what was given must not contradict them."""
    commandline = click.core.ParameterSource.COMMANDLINE
    given = {name for name in context.params if context.get_parameter_source(name) is commandline}
    if given & {"seeds", "sources", "out"}:
        raise UsageError(f"--resume: the campaign knows its seeds and that it is in {place}: leave them out")
    with closing(SqliteJournal(place / JOURNAL)) as journal:
        stored: dict[str, Any] = journal.started_with["options"]
        budget: dict[str, Any] = journal.started_with["budget"]
    asked = {name: value for name, value in options.campaign().items() if name in given}
    if name := _differing(stored, asked):
        known_as = stored.get(name)
        raise UsageError(f"--resume: the campaign in {place} has {name} {known_as}, not {asked[name]}")
    known: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in stored.items()
    }
    if not given & {"iterations", "time_limit"}:
        known |= budget
    return replace(options, out=place, **known)


def _differing(stored: Mapping[str, Any], asked: Mapping[str, Any]) -> str | None:
    return next((name for name, value in asked.items() if stored.get(name) != value), None)


@contextmanager
def _journal(options: _Options) -> Iterator[SqliteJournal]:
    """The journal to go on with, or a new one in place of that of a finished campaign."""
    path = options.out / JOURNAL
    started_with: dict[str, Any] = {"options": options.campaign(), "budget": options.budget()}
    if options.resume is None:
        cases = _seed_cases((*options.sources, *options.seeds))
        started_with["seeds"] = [case.to_json() for case in cases]
        if not _goes_on(path, started_with):
            path.parent.mkdir(exist_ok=True)
            begin(path, started_with)
    with closing(SqliteJournal(path)) as journal:
        if journal.done:
            note(f"going on with the campaign in {options.out} after {journal.done} cases")
        yield journal


def _goes_on(path: Path, started_with: Mapping[str, Any]) -> bool:
    """Whether a campaign started like this was interrupted there.

    Raises:
        UsageError: another one was.
    """
    if not path.exists():
        return False
    with closing(SqliteJournal(path)) as journal:
        if journal.finished or not journal.done:
            return False
        before = journal.started_with
    differing = _differing(
        before["options"] | {"seed cases": before["seeds"]},
        started_with["options"] | {"seed cases": started_with["seeds"]},
    )
    if differing is not None:
        raise UsageError(
            f"{path.parent.parent}: holds a campaign with other {differing} that was interrupted: "
            "go on with it by --resume, or choose another --out"
        )
    return True


def _campaign(options: _Options, journal: SqliteJournal, oracles: Iterable[Oracle]) -> Campaign:
    seeds = journal.started_with["seeds"]
    budget = options.budget()
    return Campaign(
        seed=options.seed,
        iterations=budget["iterations"],
        oracles=tuple(oracles),
        seeds=tuple(case_from_json(case, source=f"{options.out}: seed {i}") for i, case in enumerate(seeds)),
        generation=options.generation or (_BOOTED_GENERATION if options.boot_all == "all" else _GENERATION),
        max_seconds=budget["time_limit"],
        shard=_BOOTED_SHARD if options.boot_all == "all" else _SHARD,
    )


def _oracles(options: _Options) -> list[Oracle]:
    selection = parse_selection(options.select, options.ignore)
    rows = _rows(options)
    if unknown := [name for name in rows if name not in POLICIES]:
        raise UsageError(f"--kernel: no row is called {unknown[0]!r}; known: {', '.join(POLICIES)}")
    if options.dry_run:
        return []
    oracles = [model_oracle(rows)]
    oracles += [kernel_oracle(find_oracle(name)) for name in options.oracle_names]
    if options.iasl_every is not None:
        oracles.append(iasl_oracle(find_iasl(), every=options.iasl_every))
    if options.booting:
        oracles += _boot_oracles(options)
    return [_selecting(oracle, selection) for oracle in oracles]


def _selecting(oracle: Oracle, selection: Selection) -> Oracle:
    """The oracle without the findings that do not count."""
    return replace(oracle, check=partial(_select, oracle.check, selection))


def _select(check: Callable[[Case], Iterable[Finding]], selection: Selection, case: Case) -> list[Finding]:
    return selection.of(check(case))


def _rows(options: _Options) -> tuple[str, ...]:
    return tuple(name for text in options.kernels for name in text.split(","))


def _images(options: _Options) -> tuple[str, ...]:
    return options.images or _rows(options)


def _boot_oracles(options: _Options) -> Iterator[Oracle]:
    find_qemu()
    every = 1 if options.boot_all == "all" else options.boot_every or 1
    novel, images = options.boot_all == "new", []
    for spec in _images(options):
        image = find_image(spec)
        check_via(options.via, image)
        if image.name not in POLICIES:
            raise UsageError(f"--kernel-image {spec}: the model has no row for Linux {image.name}")
        images.append(image)
        yield boot_oracle(image, image.name, every=every, novel=novel, via=options.via)
    if len({image.name for image in images}) > 1:
        yield kernels_oracle(images, every=every, novel=novel, via=options.via)


def _seed_cases(paths: tuple[Path, ...]) -> Iterator[Case]:
    if not paths:
        paths = tuple(filter(None, [shipped_corpus()]))
    for path in paths:
        if is_case(path):
            yield read_stored(path).case
        elif path.is_dir() and not any(path.iterdir()):
            note(f"{path} is empty: beginning with drawn cases alone")
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

    def __init__(self, directory: Path, seed: int, *, resumed: bool) -> None:
        self._directory, self._seed, self._resumed = directory, seed, resumed
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
            elif before is None and self._resumed:  # what was saved before the interruption
                for other in self._directory.glob(f"{path.stem[:-12]}*.json"):
                    if other != path:
                        other.unlink()

    def confirm(self, found: Iterable[Found]) -> None:
        """Boot what real kernels died of on every fetched kernel, and save what becomes of it on each."""
        for each in found:
            if not each.finding.id.startswith("BOOT-") or unbootable(each.case):
                continue
            booted = list(fates(each.case, list_kernels()))
            shows = tuple(fate.kernel for fate in booted if fate.shows(each.finding.signature))
            stored = self._stored(replace(each, kernels=shows or each.kernels))
            told = {"kernels": list(shows or each.kernels), "booted": {f.kernel: f.words for f in booted}}
            stored = replace(stored, finding={**(stored.finding or {}), **told})
            path = self.path(each)
            save(self._directory, stored, slug=path.stem[:-13])

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
def _progress(campaign: Campaign, options: _Options) -> Iterator[Callable[[CampaignResult], None]]:
    """A progress line on stderr where that is a terminal; a line now and then where it is not, if wanted."""
    terminal = sys.stderr.isatty()
    bar = Progress(
        BarColumn(),
        TextColumn("{task.description}"),
        console=Console(stderr=True),
        transient=True,
        disable=not terminal,
    )
    by_time = campaign.iterations is None
    said = time.monotonic()
    with bar:
        line = bar.add_task("", total=campaign.max_seconds if by_time else campaign.iterations)

        def show(result: CampaignResult) -> None:
            nonlocal said
            if terminal:
                done = result.seconds if by_time else result.done
                bar.update(line, completed=done, description=_state(result, campaign))
            elif options.verbose and time.monotonic() - said >= _SAY_EVERY:
                said = time.monotonic()
                note(_state(result, campaign))

        yield show


def _state(result: CampaignResult, campaign: Campaign) -> str:
    per_second = 1 / result.seconds if result.seconds else 0.0
    of = "" if campaign.iterations is None else f"/{campaign.iterations}"
    parts = [f"{result.done}{of} cases", f"{result.done * per_second:.0f} it/s"]
    if boots := _boots(result):
        parts.append(f"{boots * per_second:.1f} boots/s")
    parts += [f"{len(result.found)} findings", f"{result.behaviours} behaviours"]
    if minimised := sum(found.minimised for found in result.found):
        parts.append(f"{minimised} minimised")
    return ", ".join(parts)


def _boots(result: CampaignResult) -> int:
    return sum(count for name, count in result.runs.items() if name.startswith(f"{BOOT} "))


def _ways(result: CampaignResult) -> str:
    """By which ways cases were booted; those that no guest can be given were not."""
    said = ", ".join(f"{count} {way}" for way, count in sorted(result.ways.items()))
    return said and f" ({said})"


def _document(result: CampaignResult, store: _Store, seed: int) -> dict[str, Any]:
    return {
        "schema": 1,
        "seed": seed,
        "iterations": result.done,
        "seconds": round(result.seconds, 3),
        "boots": _boots(result),
        "boots_via": dict(sorted(result.ways.items())),
        "behaviours": result.behaviours,
        "decisions": result.decisions,
        "pairs": result.pairs,
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
        f"{result.done} cases in {result.seconds:.1f} s ({rate:.0f} a second), "
        f"{_boots(result)} boots{_ways(result)}, seed {seed}: {len(ordered)} findings, "
        f"{result.behaviours} behaviours\n",
        table("Findings", ("severity", "cases>", "kernels", "finding", "saved as"), rows),
    )
    if ordered:
        emit(f"Rerun one: {store.replay(ordered[0])}")
