"""The judges of cases that `fuzz` and `replay` share: the model, iasl, and real kernels against the model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from itertools import combinations
from pathlib import Path

from acpitk import klog
from acpitk.checks.behaviour import behaviour, console_behaviour
from acpitk.checks.catalogue import RULES
from acpitk.checks.crash import crash_findings, short_of_memory
from acpitk.checks.differential import Comparison, compare, foretold, message_class, unforetold
from acpitk.checks.differential import findings as differences
from acpitk.checks.finding import Finding, Severity
from acpitk.checks.invariants import check
from acpitk.checks.promise import broken_promises
from acpitk.cli.output import note, write_file
from acpitk.crashes import Crash, CrashKind, crashes
from acpitk.errors import DecodeError, UsageError
from acpitk.fuzz.campaign import Oracle
from acpitk.iasl import Iasl
from acpitk.images import predict_image
from acpitk.kernel.boot import predict
from acpitk.kernel.cmdline import parse_cmdline
from acpitk.kernel.policy import POLICIES
from acpitk.kernel.prediction import Prediction
from acpitk.machine import Q35, Case
from acpitk.oracle.judge import Judge
from acpitk.oracle.store import OracleBuild
from acpitk.outcome import Outcome
from acpitk.qemu.argv import qemu_argv, shell_line, undeliverable
from acpitk.qemu.boots import shared, unbootable
from acpitk.qemu.image import KernelImage
from acpitk.qemu.runner import PROGRAM, Marker, Via
from acpitk.report.dossier import Fate

MODEL, IASL, BOOT, KERNELS, KERNEL = "model", "iasl", "boot", "booted kernels", "kernel code"
"""What oracles are called, or how their names begin; all that boot begin like BOOT."""

BOOT_TIMEOUT = 10.0
"""Seconds for one boot, many times what it takes on a machine that is busy with others."""
_PATIENCE = 4
"""How many times longer a boot gets before it counts as hanging."""
_SLOW_TIMEOUT = 20.0
"""Seconds where a SLIT claims 2^31 localities or more: a walk takes seven for each domain it meets."""
_IASL_MINIMISE, _BOOT_MINIMISE, _BOOT_MINIMISE_SECONDS = 60, 40, 90.0
"""Questions a minimisation may ask where each costs a process or a boot."""
SIZED_BY_BUILD = ("DIFF-RESERVED", "DIFF-NODE-DATA")
"""Differ between any two kernels, because their images and structures differ in size."""


def model_oracle(kernels: Sequence[str]) -> Oracle:
    """Policy findings on each kernel's row of the model, and where two rows disagree."""
    rows = tuple(kernels)
    return Oracle(name=MODEL, check=partial(_check_model, rows), behaviour=partial(_behaviour, rows))


def iasl_oracle(iasl: Iasl, *, every: int = 1) -> Oracle:
    """Whether iasl reads and writes the tables as acpitk does."""
    return Oracle(name=IASL, check=partial(_check_iasl, iasl), every=every, minimise_budget=_IASL_MINIMISE)


def boot_oracle(
    image: KernelImage,
    row: str,
    *,
    every: int = 1,
    novel: bool = False,
    timeout: float = BOOT_TIMEOUT,
    console: Path | None = None,
    via: str = Via.FRESH,
) -> Oracle:
    """Whether a real kernel lives, and does what row `row` of the model says; its console goes to `console`.

    Where the model says that too little memory is left, the kernel boots on until it looks for a disk. `via`
    is as for `Boots`. Cases that no guest can be given are passed over.
    """
    return Oracle(
        name=f"{BOOT} {row}",
        check=partial(_check_boot, image, row, timeout, console, via),
        behaviour=partial(_booted_behaviour, row),
        every=every,
        novel=novel,
        minimise_budget=_BOOT_MINIMISE,
        minimise_seconds=_BOOT_MINIMISE_SECONDS,
        guide=partial(_forecast, image, row),
        way=partial(_booted_via, row),
    )


def kernels_oracle(
    images: Sequence[KernelImage],
    *,
    every: int = 1,
    novel: bool = False,
    timeout: float = BOOT_TIMEOUT,
    via: str = Via.FRESH,
) -> Oracle:
    """Whether real kernels, each with a row of its name, differ in a way that their rows do not.

    Comes after their boot oracles, and then boots nothing itself. Differences that the rows foretell are the
    model oracle's findings; here they are behaviours.
    """
    fates = partial(_fates, tuple(images), timeout, via)
    return Oracle(
        name=" ".join((KERNELS, *(image.name for image in images))),
        check=partial(_check_kernels, fates),
        behaviour=partial(_known_differences, fates),
        every=every,
        novel=novel,
        minimise_budget=_BOOT_MINIMISE,
        minimise_seconds=_BOOT_MINIMISE_SECONDS,
    )


Fates = Callable[[Case], list[Fate]]


def _fates(images: tuple[KernelImage, ...], timeout: float, via: str, case: Case) -> list[Fate]:
    """What became of the case on each kernel; none where one cannot be had, or takes minutes."""
    if unbootable(case):
        return []
    out = []
    for image in images:
        fate = _just_booted(image.name, case) or boot_fate(case, image, image.name, timeout=timeout, via=via)
        _last_boot[image.name] = case, fate
        out.append(fate)
    return [] if any(_is_slow(fate.prediction) for fate in out) else out


def _compared(fates: Iterable[Fate]) -> Iterator[tuple[Comparison, Comparison]]:
    """Every two kernels, and their rows."""
    for one, other in combinations(fates, 2):
        yield (
            compare(one.outcome, other.outcome),
            compare(one.prediction.outcome, other.prediction.outcome),
        )


def _check_kernels(fates: Fates, case: Case) -> list[Finding]:
    return [found for booted, rows in _compared(fates(case)) for found in unforetold(booted, rows)]


def _known_differences(fates: Fates, case: Case) -> frozenset[str]:
    return frozenset(
        f"{booted.sides}: {name} as foretold"
        for booted, rows in _compared(fates(case))
        for name, known in foretold(booted, rows).items()
        if known
    )


def kernel_oracle(build: OracleBuild) -> Oracle:
    """Whether the kernel's own code does what its row of the model says."""
    judge = Judge(build)
    return Oracle(
        name=f"{KERNEL} {build.name}",
        check=partial(_check_kernel, judge),
        ahead=judge.ahead,
    )


def _check_kernel(judge: Judge, case: Case) -> list[Finding]:
    prediction = _prediction(judge.build.row, case).outcome
    kernel = judge.disagrees(case, prediction)
    return [] if kernel is None else differences(compare(prediction, kernel))


def example_line(cases: Iterable[Case], image: KernelImage) -> str:
    """The QEMU line that boots the first of `cases` that boots; its table files are to be written first.

    Raises:
        UsageError: none of them can be booted.
    """
    case = next((case for case in cases if not undeliverable(case)), None)
    if case is None:
        raise UsageError("--dry-run: there is no case that QEMU can boot as it is")
    tables = [Path(f"table{index}.bin") for index in range(len(case.tables))]
    initrd = Path("initrd.img") if isinstance(case.machine, Q35) and case.machine.initrd else None
    argv = qemu_argv(case, qemu=PROGRAM, kernel=image.path, table_paths=tables, initrd=initrd)
    return shell_line(argv)


@lru_cache(maxsize=len(POLICIES))
def _prediction(kernel: str, case: Case) -> Prediction:
    return predict(case, POLICIES[kernel])


def _predictions(kernels: tuple[str, ...], case: Case) -> list[Prediction]:
    return [_prediction(kernel, case) for kernel in kernels]


def _behaviour(kernels: tuple[str, ...], case: Case) -> frozenset[str]:
    """The decisions of the first kernel, and where another one decides otherwise."""
    first, *others = map(behaviour, _predictions(kernels, case))
    named = [first]
    for kernel, decisions in zip(kernels[1:], others, strict=True):
        named.append(frozenset(f"{kernel} {name}" for name in decisions - first))
    return frozenset().union(*named)


def _check_model(kernels: tuple[str, ...], case: Case) -> list[Finding]:
    predictions = _predictions(kernels, case)
    found: dict[str, Finding] = {}
    for prediction in predictions:
        for finding in check(case, prediction):
            before = found.get(finding.signature)
            together = (*(before.kernels if before else ()), *finding.kernels)
            found[finding.signature] = replace(before or finding, kernels=tuple(dict.fromkeys(together)))
    for one, other in combinations(predictions, 2):
        comparison = compare(one.outcome, other.outcome)
        differ = differences(comparison, severity=Severity.WARNING)
        found |= {f.signature: f for f in differ if f.id not in SIZED_BY_BUILD}
    return list(found.values())


def _check_iasl(iasl: Iasl, case: Case) -> Iterable[Finding]:
    for table in case.tables:
        try:
            yield from iasl.round_trip(table).findings()
        except DecodeError:
            continue  # not a table that iasl is asked about


def _check_boot(
    image: KernelImage, row: str, timeout: float, console: Path | None, via: str, case: Case
) -> list[Finding]:
    if unbootable(case):
        return []
    fate = boot_fate(case, image, row, timeout=timeout, via=via)
    if console is not None:
        write_file(console, fate.console.encode())
    _last_boot[row] = case, fate
    return list(fate.findings)


_last_boot: dict[str, tuple[Case, Fate]] = {}
"""The case each row booted last, and what became of it: a campaign asks about it right after."""


def _just_booted(row: str, case: Case) -> Fate | None:
    last, fate = _last_boot.get(row, (None, None))
    return fate if last == case else None


def _booted_behaviour(row: str, case: Case) -> frozenset[str]:
    fate = _just_booted(row, case)
    return frozenset() if fate is None else console_behaviour(fate.console, kernel=f"boot {row}")


def _booted_via(row: str, case: Case) -> str | None:
    fate = _just_booted(row, case)
    return None if fate is None else fate.via


def boot_fate(
    case: Case, image: KernelImage, row: str, *, timeout: float = BOOT_TIMEOUT, via: str = Via.FRESH
) -> Fate:
    """Boot a case as the boot oracle does, and what became of it.

    Raises:
        UsageError, ToolError: as `qemu.runner.boot`.
    """
    prediction = predict_image(case, image, POLICIES[row])
    foreseen = _foreseen(case, prediction)
    short = foreseen is not None and prediction.outcome.panic is None
    slow = _is_slow(prediction)
    boots, marker = shared(image, via, note), Marker.ROOT if short else Marker.ZONES
    result = boots.boot(case, timeout=max(timeout, _SLOW_TIMEOUT) if slow else timeout, marker=marker)
    reports = crashes(result.console, ended=result.ended.value)
    if _hangs(reports) and slow:
        reports = reports[:-1]  # it takes its time, and is not seen to its end
    elif _hangs(reports):  # or the machine is busy
        result = boots.boot(case, timeout=_PATIENCE * timeout, marker=marker)
        reports = crashes(result.console, ended=result.ended.value)
    if short:
        reports = short_of_memory(reports)
    outcome = result.to(Marker.ZONES).outcome()
    return Fate(
        kernel=row,
        version=image.version,
        outcome=outcome,
        prediction=prediction,
        crashes=reports,
        findings=(
            *crash_findings(reports, kernel=row, foreseen=foreseen),
            *differences(compare(prediction.outcome, outcome)),
            *_broken_promises(case, row, result.console, outcome, prediction),
        ),
        foretold=tuple(check(case, prediction)),
        console=result.console,
        via=result.via.value,
    )


def _broken_promises(
    case: Case, row: str, console: str, outcome: Outcome, prediction: Prediction
) -> list[Finding]:
    if not parse_cmdline(case.cmdline).given(POLICIES[row].hotplug_option):
        return []
    return broken_promises(klog.memblock_trace(console), klog.firmware_facts(console), outcome, prediction)


def _foreseen(case: Case, prediction: Prediction) -> str | None:
    """The death that the model foresees; of too little memory it is only a likely one."""
    if prediction.outcome.panic is not None:
        return prediction.outcome.panic
    short = (found for found in check(case, prediction) if found.id == "POL-KERNEL-MEMORY")
    return next((f"{RULES[found.id].title}: {found.actual}" for found in short), None)


def _is_slow(prediction: Prediction) -> bool:
    """Whether the model expects a walk of seconds for each domain."""
    return any("localities to go through" in text for text in prediction.outcome.messages)


def _hangs(reports: Sequence[Crash]) -> bool:
    return bool(reports) and reports[-1].kind is CrashKind.HANG


def _forecast(image: KernelImage, row: str, case: Case) -> str | None:
    """The class of the death that the model foresees: cases of one class tend to die in one place."""
    foreseen = _foreseen(case, predict_image(case, image, POLICIES[row]))
    return foreseen and message_class(foreseen)
