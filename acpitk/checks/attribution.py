"""Two rows of the model on one case: in what they differ, and which behaviours make the difference.

One row becomes the other by switching behaviours one at a time, the kernel build counting as one more. The
causes of a difference are a smallest set of switches that removes it: each is needed, all are enough.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

from acpitk.checks.differential import Comparison, Verdict, compare, findings
from acpitk.checks.finding import Finding, Severity
from acpitk.kernel.boot import boot
from acpitk.kernel.policy import BUILDS, KernelBuild, KernelPolicy, policy_diff
from acpitk.machine import Case
from acpitk.outcome import Outcome

BUILD = "kernel build"
"""The switch for everything that compiling fixed: image size, structure sizes, limits."""
_OPTION = re.compile(r'(?<![^\s"])movable[_-]?node(?=[\s="]|$)')


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """Switches that together make the listed fields differ: names of `KernelPolicy` fields, or `BUILD`."""

    switches: tuple[str, ...]
    fields: tuple[str, ...]

    def __str__(self) -> str:
        """`hotplug_start: zone_movable_start, zones`."""
        return f"{' + '.join(self.switches)}: {', '.join(self.fields)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Attribution:
    """Two rows on one case.

    Args:
        comparison: the two outcomes field by field.
        causes: what makes them differ; every field that differs is in exactly one.
    """

    comparison: Comparison
    causes: tuple[Cause, ...]


def with_option(case: Case, policy: KernelPolicy) -> Case:
    """The case with the movable_node option, where it is given, spelled as `policy` spells it."""
    return replace(case, cmdline=_OPTION.sub(policy.hotplug_option, case.cmdline))


def attribute(case: Case, old: KernelPolicy, new: KernelPolicy) -> Attribution:
    """What the rows `old` and `new` of `POLICIES` make of `case`, and why they differ.

    Each row gets its own word for the movable_node option (`with_option`).
    """
    switches = _switches(old, new)
    outcomes: dict[frozenset[str], Outcome] = {}

    def verdicts(switched: frozenset[str]) -> Comparison:
        if switched not in outcomes:
            policy, build = _between(old, new, switched)
            outcomes[switched] = boot(with_option(case, policy), policy, build)
        return compare(outcomes[switched], target)

    target = boot(with_option(case, new), new)
    comparison = verdicts(frozenset())
    causes: dict[tuple[str, ...], list[str]] = {}
    for name, verdict in comparison.fields.items():
        if verdict is not Verdict.DIFFER:
            continue
        needed = frozenset(switches)
        for switch in switches:
            if verdicts(needed - {switch}).fields[name] is Verdict.AGREE:
                needed -= {switch}
        causes.setdefault(tuple(each for each in switches if each in needed), []).append(name)
    return Attribution(
        comparison=comparison,
        causes=tuple(Cause(switches=key, fields=tuple(names)) for key, names in causes.items()),
    )


def attributed_findings(case: Case, old: KernelPolicy, new: KernelPolicy) -> Iterator[Finding]:
    """One finding for each cause of a difference: that of its first field, its signature the cause."""
    attribution = attribute(case, old, new)
    rules = findings(attribution.comparison, severity=Severity.WARNING)
    differing = [n for n, verdict in attribution.comparison.fields.items() if verdict is Verdict.DIFFER]
    by_field = dict(zip(differing, rules, strict=True))
    for cause in attribution.causes:
        yield replace(by_field[cause.fields[0]], cause=f"{old.name} and {new.name}: {cause}")


def _switches(old: KernelPolicy, new: KernelPolicy) -> tuple[str, ...]:
    """The build first: where a behaviour explains a difference alone, the build is not named."""
    behaviours = [change.field for change in policy_diff(old, new)]
    return (*([BUILD] if BUILDS[old.name] is not BUILDS[new.name] else ()), *behaviours)


@lru_cache(maxsize=512)
def _between(
    old: KernelPolicy, new: KernelPolicy, switched: frozenset[str]
) -> tuple[KernelPolicy, KernelBuild]:
    """`old` with the switched behaviours, and the build, of `new`."""
    policy = replace(old, **{name: getattr(new, name) for name in switched - {BUILD}})
    return policy, BUILDS[(new if BUILD in switched else old).name]
