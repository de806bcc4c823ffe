"""Reference pages in Markdown, from the data they describe: the catalogue and the rows of the model."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum

from acpitk.checks.catalogue import RULES, Rule
from acpitk.kernel.policy import BEHAVIOURS, POLICIES

_GROUPS = {
    "TABLE-": "Any table",
    "SRAT-": "One SRAT",
    "SLIT-": "One SLIT",
    "MAP-": "Tables against the memory map",
    "POL-": "What Linux makes of a case",
    "DIFF-": "Two outcomes that should agree",
    "BOOT-": "What a real kernel made of the boot",
    "FUZZ-": "The fuzzing itself",
    "IASL-": "iasl as a second reader",
}

_INTRODUCTION = """\
# Findings

What acpitk can say, and what to do about it. IDs are never removed, renamed or reused. `acpitk rule ID` shows
one with an example; `--select` and `--ignore` take IDs and prefixes. The severity is the usual one; a finding
may carry another where its context changes it. Generated from the catalogue by `make docs`."""


def findings_page() -> str:
    """`docs/findings.md`: every rule of the catalogue, by group."""
    return "\n".join(_findings()) + "\n"


def rows_table() -> str:
    """The behaviours in `docs/model.md`: a line for each, with the value of every row and its sources."""
    rows = list(POLICIES)
    lines = [f"| behaviour | {' | '.join(rows)} | read in |", f"|---|{'---|' * len(rows)}---|"]
    for name, behaviour in BEHAVIOURS.items():
        values = " | ".join(_value(getattr(policy, name)) for policy in POLICIES.values())
        sources = "; ".join(dict.fromkeys(_code(place) for place in behaviour.read.values()))
        lines.append(f"| {behaviour.title} | {values} | {sources} |")
    return "\n".join(lines) + "\n"


def _findings() -> Iterator[str]:
    yield _INTRODUCTION
    for prefix, title in _GROUPS.items():
        yield f"\n## {title} (`{prefix}*`)"
        for rule in RULES.values():
            if rule.id.startswith(prefix):
                yield from _rule(rule)


def _rule(rule: Rule) -> Iterator[str]:
    yield f"\n### {rule.id}\n"
    yield f"{rule.severity.value.capitalize()}: {rule.title}.\n"
    yield f"{rule.explanation}\n"
    yield f"- Advice: {rule.advice}"
    yield f"- Mechanism: {rule.mechanism}"


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value.value if isinstance(value, Enum) else value).replace("|", "\\|")


def _code(place: str) -> str:
    """`function(), file` with both in code type; other words as they are."""
    function, comma, file = place.partition(", ")
    return f"`{function}`, `{file}`" if comma and function.endswith(")") and "/" in file else place
