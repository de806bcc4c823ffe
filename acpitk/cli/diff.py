"""`acpitk diff`: in what kernels differ, on paper, on one case, on fuzzed ones; or the model and kernels."""

from __future__ import annotations

import os
import re
import shlex
import signal
from collections.abc import Iterator
from dataclasses import asdict, fields, replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import click
from rich.console import RenderableType
from rich.text import Text

from acpitk.checks.attribution import BUILD, Attribution, attribute, attributed_findings, with_option
from acpitk.checks.differential import Comparison, compare
from acpitk.cli import kernel_boots, oracle_diff
from acpitk.cli.inputs import PATH, boot_via_option, case_options, find_image, json_option, read_case
from acpitk.cli.oracles import example_line
from acpitk.cli.output import emit, emit_json, note
from acpitk.corpus import StoredCase, load_case, load_corpus, save
from acpitk.errors import UsageError
from acpitk.fuzz.campaign import Campaign, CampaignResult, Found, Oracle
from acpitk.fuzz.strategies import draw_cases
from acpitk.kernel.boot import boot as model_boot
from acpitk.kernel.policy import BUILDS, KernelPolicy, policy_diff
from acpitk.machine import Case
from acpitk.outcome import Outcome
from acpitk.qemu.boots import AUTO, Boots, unbootable
from acpitk.qemu.runner import Via
from acpitk.report.text import printable, render_comparison, table

MODEL = "model"
_ENDLESS = 1_000_000
"""Cases of a campaign on the model that only a time limit ends."""
_EXAMPLES = 8
"""Cases drawn for --dry-run; nearly every one boots."""
_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600}


def duration(text: str) -> float:
    """Option type: seconds in `90`, `90s`, `30m` or `2h`."""
    match = re.fullmatch(r"(\d{1,9}(?:\.\d+)?)([smh]?)", str(text))
    if match is None or float(match[1]) == 0:
        raise click.BadParameter(f"{text!r} is no time: use 90, 90s, 30m or 2h")
    return float(match[1]) * _UNITS[match[2]]


@click.command("diff")
@click.argument("old", metavar="A")
@click.argument("new", metavar="B")
@case_options
@click.option("--oracle", is_flag=True, help="A and B are oracles, see `acpitk oracle`; or A is model.")
@click.option("--real", is_flag=True, help="Boot the case on both kernels, too.")
@click.option("--campaign", type=click.IntRange(1), metavar="N", help="Fuzz N cases.")
@click.option("--time-limit", type=duration, metavar="TIME", help="Fuzz this long: 90, 90s, 30m, 2h.")
@click.option("--seed", type=int, default=0, help="Everything random follows from it.  [default: 0]")
@click.option("--start", type=click.IntRange(0), default=0, help="With A=model: go on at this iteration.")
@click.option("--jobs", type=click.IntRange(1, 256), help="At a time.  [default: one for each core]")
@click.option("--from", "sources", multiple=True, type=PATH, help="Fuzz this case or directory of cases.")
@click.option("--out", type=PATH, help="Where cases go.  [default: differences]")
@click.option("--timeout", type=duration, default=30, help="Of one boot; tried again with 4x.  [default: 30]")
@boot_via_option(AUTO)
@click.option("--dry-run", is_flag=True, help="Print a QEMU line for each kernel to boot, and stop.")
@json_option
def command(
    old: str,
    new: str,
    oracle: bool,
    real: bool,
    campaign: int | None,
    time_limit: float | None,
    seed: int,
    start: int,
    jobs: int | None,
    sources: tuple[Path, ...],
    out: Path | None,
    timeout: float,
    via: str,
    dry_run: bool,
    as_json: bool,
    **inputs: Any,
) -> int:
    """Compare two kernels A and B: rows of the model (v5.10 ... v7.3, seed-2013) or versions (6.6).

    Without a case: the behaviours in which they differ, with their sources. With a CASE file, or tables and a
    machine: both outcomes field by field, and the behaviours each difference comes from. With --campaign or
    --time-limit: the smallest case found for every difference and its causes.

    A = model compares the model with the real kernels listed in B: fields, and every boot-time allocation.
    Cases that disagree are saved, the first of each kind minimised. An interrupt keeps what was found, and
    --start goes on from there.

    With --oracle the kernels' own code is compared, or A = model with it; what a campaign finds is booted.

    Exit status 1: they differ.

    \b
    Examples:
      acpitk diff v5.10 v7.3
      acpitk diff 6.1 7.3 case.json --real
      acpitk diff v5.10 seed-2013 --srat srat.bin --mem 4G --cmdline movable_node
      acpitk diff v6.1 v6.12 --campaign 5000 --seed 1 --out differences
      acpitk diff model v6.1,v7.3 --time-limit 30m --jobs 2 --json
      acpitk diff model v6.1 --campaign 100 --seed 7 --start 100
      acpitk diff model v6.1 case.json
      acpitk diff model v6.1 --dry-run
      acpitk diff --oracle v6.1 v7.3 --campaign 5000
    """
    fuzzing = campaign is not None or time_limit is not None
    case_given = any(value is not None for value in inputs.values())
    if fuzzing and case_given:
        raise UsageError("a campaign makes its own cases: start from one with --from FILE")
    if fuzzing and real:
        raise UsageError(f"--real boots one case; to fuzz real kernels use: acpitk diff {MODEL} {new}")
    if real and not case_given:
        raise UsageError("--real boots a case: give one, or tables and a machine")
    case = read_case(**inputs) if case_given else None
    jobs = jobs or len(os.sched_getaffinity(0))
    out = out or Path("differences")
    if dry_run:
        if old != MODEL and not real:
            raise UsageError(f"nothing would be booted: --dry-run goes with --real or with {MODEL}")
        examples = (case,) if case is not None else (*_seeds(sources), *draw_cases(seed, _EXAMPLES))
        rows = [] if old == MODEL else [kernel_boots.row_for(name).name for name in (old, new)]
        for name in rows or new.split(","):
            print(example_line(examples, find_image(name)))
        return 0
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if oracle:
        fuzzed = Campaign(
            seed=seed,
            iterations=campaign or _ENDLESS,
            oracles=(),
            seeds=tuple(_seeds(sources)),
            max_seconds=time_limit,
        )
        return oracle_diff.run(
            old,
            new,
            case=case,
            campaign=fuzzed,
            fuzzing=fuzzing,
            jobs=jobs,
            out=out,
            timeout=timeout,
            as_json=as_json,
        )
    if old == MODEL:
        return kernel_boots.run(
            new.split(","),
            case=case,
            iterations=campaign if fuzzing else 1,
            time_limit=time_limit,
            seed=seed,
            start=start,
            jobs=jobs,
            seeds=tuple(_seeds(sources)),
            out=out,
            timeout=timeout,
            via=via if fuzzing or via != AUTO else Via.FRESH,
            as_json=as_json,
        )
    if start:
        raise UsageError(f"--start goes on with a campaign on real kernels: acpitk diff {MODEL} {new}")
    before, after = kernel_boots.row_for(old), kernel_boots.row_for(new)
    if fuzzing:
        fuzzed = Campaign(
            seed=seed,
            iterations=campaign or _ENDLESS,
            oracles=(Oracle(name="rows", check=partial(attributed_findings, old=before, new=after)),),
            seeds=tuple(_seeds(sources)),
            max_seconds=time_limit,
        )
        return _campaign(fuzzed, before, after, jobs, out, as_json)
    if case is None:
        return _changelog(before, after, as_json)
    outcomes = _boots(case, before, after, timeout, via) if real else ()
    return _case(case, before, after, outcomes, as_json)


def _seeds(paths: tuple[Path, ...]) -> Iterator[Case]:
    for path in paths:
        if not path.is_dir():
            yield load_case(path)
            continue
        stored = load_corpus(path)
        for problem in stored.problems:
            note(f"left out: {problem}")
        yield from (each.case for _, each in stored.cases)


def _changes(old: KernelPolicy, new: KernelPolicy) -> dict[str, Any]:
    before, after = BUILDS[old.name], BUILDS[new.name]
    names = [each.name for each in fields(before)]
    return {
        "schema": 1,
        "from": old.name,
        "to": new.name,
        "changes": [asdict(change) for change in policy_diff(old, new)],
        "build": [
            {"field": name, "before": getattr(before, name), "after": getattr(after, name)}
            for name in names
            if getattr(before, name) != getattr(after, name)
        ],
    }


def _changelog(old: KernelPolicy, new: KernelPolicy, as_json: bool) -> int:
    document = _changes(old, new)
    if as_json:
        emit_json(document)
    else:
        title = f"{old.name} ({old.source}) -> {new.name} ({new.source})"
        rows = (
            row
            for each in policy_diff(old, new)
            for row in ((f"{each.title}: {each.before} -> {each.after}",), (f"    {each.source}",))
        )
        emit(table(title, ("",), rows))
        build = ((each["field"], *map(_value, (each["before"], each["after"]))) for each in document["build"])
        emit(table(f"{BUILD}: Debian cloud", ("size or address", old.name, new.name), build))
    return int(bool(document["changes"] or document["build"]))


def _value(value: int) -> str:
    return str(value) if isinstance(value, bool) else hex(value)


def _boots(
    case: Case, old: KernelPolicy, new: KernelPolicy, timeout: float, via: str
) -> tuple[Outcome, Outcome]:
    """The case on the real kernels of both rows."""
    if reasons := unbootable(case):
        raise UsageError(f"this case cannot be booted: {reasons[0]}")
    outcomes = []
    for row in (old, new):
        with Boots(find_image(row.name), via=Via.FRESH if via == AUTO else via, note=note) as boots:
            outcomes.append(boots.boot(with_option(case, row), timeout=timeout).outcome())
    return outcomes[0], outcomes[1]


def _case(
    case: Case,
    old: KernelPolicy,
    new: KernelPolicy,
    booted: tuple[Outcome, ...],
    as_json: bool,
) -> int:
    attribution = attribute(case, old, new)
    comparisons = [attribution.comparison]
    if booted:
        comparisons += [compare(*booted), *_against_model(case, (old, new), booted)]
    if as_json:
        document = _changes(old, new) | _comparison_document(attribution.comparison)
        document["causes"] = [asdict(cause) for cause in attribution.causes]
        if booted:
            names = ("kernels", f"model_{old.name}", f"model_{new.name}")
            document["real"] = {
                name: _comparison_document(each) for name, each in zip(names, comparisons[1:], strict=True)
            }
        emit_json(document)
    else:
        _say_option(case, old, new)
        emit(render_comparison(attribution.comparison))
        if attribution.causes:
            emit(_causes_table(attribution, old, new))
        emit(*(render_comparison(comparison) for comparison in comparisons[1:]))
    return int(not all(comparison.agrees for comparison in comparisons))


def _against_model(
    case: Case, rows: tuple[KernelPolicy, ...], booted: tuple[Outcome, ...]
) -> Iterator[Comparison]:
    for row, outcome in zip(rows, booted, strict=True):
        yield compare(model_boot(with_option(case, row), row), outcome)


def _say_option(case: Case, old: KernelPolicy, new: KernelPolicy) -> None:
    lines = {row.name: with_option(case, row).cmdline for row in (old, new)}
    if old.hotplug_option != new.hotplug_option and lines[old.name] != lines[new.name]:
        note(
            f"each row gets its own word: {old.hotplug_option} for {old.name}, "
            f"{new.hotplug_option} for {new.name}"
        )


def _comparison_document(comparison: Comparison) -> dict[str, Any]:
    return {
        "fields": {name: verdict.value for name, verdict in comparison.fields.items()},
        "differences": [asdict(difference) for difference in comparison.differences],
    }


def _causes_table(attribution: Attribution, old: KernelPolicy, new: KernelPolicy) -> RenderableType:
    changes = {change.field: change for change in policy_diff(old, new)}
    rows: list[str] = []
    for cause in attribution.causes:
        rows.append(f"{', '.join(cause.fields)}:")
        for name in cause.switches:
            if change := changes.get(name):
                rows += [f"    {change.title}: {change.before} -> {change.after}", f"        {change.source}"]
            else:
                rows.append(f"    {BUILD}: {', '.join(_build_words(old, new))}")
    return table("Why they differ", ("",), ((row,) for row in rows))


def _build_words(old: KernelPolicy, new: KernelPolicy) -> Iterator[str]:
    for each in _changes(old, new)["build"]:
        yield f"{each['field']} {_value(each['before'])} -> {_value(each['after'])}"


def _campaign(
    campaign: Campaign, old: KernelPolicy, new: KernelPolicy, jobs: int, out: Path, as_json: bool
) -> int:
    result, interrupted = CampaignResult(), False
    try:
        for so_far in campaign.run(jobs=jobs):
            result = so_far
    except KeyboardInterrupt:
        interrupted = True
    where = {found.finding.signature: _save(out, found, campaign.seed, old, new) for found in result.found}
    rows = [
        {
            "cause": found.finding.cause,
            "count": found.count,
            "case": str(where[found.finding.signature]),
            "minimised": found.minimised,
            "replay": _replay(old, new, where[found.finding.signature]),
            "expected": found.finding.expected,
            "actual": found.finding.actual,
        }
        for found in sorted(result.found, key=lambda each: -each.count)
    ]
    if as_json:
        emit_json(
            {
                "schema": 1,
                "from": old.name,
                "to": new.name,
                "seed": campaign.seed,
                "iterations": result.done,
                "seconds": round(result.seconds, 3),
                "differences": rows,
            }
        )
    else:
        emit(
            f"{result.done} cases in {result.seconds:.1f} s, seed {campaign.seed}: {len(rows)} differences\n"
        )
        shown = ((row["count"], row["cause"], row["case"]) for row in rows)
        emit(table(f"{old.name} against {new.name}", ("cases>", "causes: fields", "saved as"), shown))
        if rows:
            emit(Text(printable(f"See one: {rows[0]['replay']}")))
    if interrupted:
        raise KeyboardInterrupt
    return int(bool(rows))


def _replay(old: KernelPolicy, new: KernelPolicy, path: Path) -> str:
    return f"acpitk diff {old.name} {new.name} {shlex.quote(str(path))}"


def _save(out: Path, found: Found, seed: int, old: KernelPolicy, new: KernelPolicy) -> Path:
    signature = found.finding.signature
    how = " ".join(found.mutators) or "a seed as it is"
    stored = StoredCase(
        case=found.case,
        provenance=f"acpitk diff {old.name} {new.name} --seed {seed}, iteration {found.iteration}: {how}",
        findings=(signature,),
        finding=replace(found.finding, kernels=(old.name, new.name)).to_json(),
    )
    return save(out, stored, slug=f"{old.name}-{new.name}-{sha256(signature.encode()).hexdigest()[:8]}")
