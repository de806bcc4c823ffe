"""What a boot died of or warned about -> findings, one for each cause."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from acpitk.checks.catalogue import finding
from acpitk.checks.finding import Finding
from acpitk.crashes import Crash, CrashKind

_RULES = {
    CrashKind.PANIC: "BOOT-PANIC",
    CrashKind.OOPS: "BOOT-OOPS",
    CrashKind.WARN: "BOOT-WARN",
    CrashKind.HANG: "BOOT-HANG",
    CrashKind.RESET: "BOOT-RESET",
}
_SHOWN_FRAMES = 8
OUT_OF_MEMORY = "out of memory before init"


def crash_findings(found: Iterable[Crash], *, kernel: str, foreseen: str | None) -> list[Finding]:
    """The death of a boot, or else each of its warnings.

    A warning on the way to a death is part of that story and no finding of its own.

    Args:
        found: what the console shows, see `crashes.crashes`.
        kernel: what was booted.
        foreseen: the panic that the model predicts for the case, None where it predicts none.
    """
    reports = list(found)
    fatal = [crash for crash in reports if crash.fatal]
    return [_finding(crash, kernel, foreseen) for crash in fatal or reports]


def short_of_memory(found: Iterable[Crash]) -> tuple[Crash, ...]:
    """`found`, of a boot short of memory: a panic or a hang of it has one cause, wherever it was.

    Which allocation fails first is chance. A fault keeps its name: code that fails so is at fault itself.
    """
    ends = (CrashKind.PANIC, CrashKind.HANG)
    return tuple(replace(crash, cause=OUT_OF_MEMORY) if crash.kind in ends else crash for crash in found)


def _finding(crash: Crash, kernel: str, foreseen: str | None) -> Finding:
    said = (
        ""
        if not crash.fatal
        else "; the model foresees a panic"
        if foreseen
        else "; the model foresees no panic"
    )
    made = finding(
        _RULES[crash.kind],
        where=f"{crash.function}()" if crash.function else "boot",
        expected="the kernel boots, whatever the tables say",
        actual=f"{crash.text}{said}",
        cause=crash.cause,
        kernels=(kernel,),
    )
    if not crash.trace:
        return made
    return replace(made, mechanism=f"{trace_words(crash)}, Linux {kernel}")


def trace_words(crash: Crash) -> str:
    """The call trace on one line, the site first."""
    more = " <- ..." if len(crash.trace) > _SHOWN_FRAMES else ""
    return " <- ".join(f"{frame}()" for frame in crash.trace[:_SHOWN_FRAMES]) + more
