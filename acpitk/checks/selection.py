"""Which rules count: IDs and prefixes of IDs to select and to ignore."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from acpitk.checks.catalogue import RULES
from acpitk.checks.finding import Finding
from acpitk.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Prefixes of rule IDs; the longer match of the two lists decides, `ignore` where both are as long.

    Args:
        select: what counts; empty is everything.
        ignore: what does not.
    """

    select: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()

    def allows(self, rule_id: str) -> bool:
        """Whether findings of this rule count."""
        return _longest(rule_id, self.select or ("",)) > _longest(rule_id, self.ignore)

    def of(self, findings: Iterable[Finding]) -> list[Finding]:
        """The findings that count, in their order."""
        return [finding for finding in findings if self.allows(finding.id)]


def _longest(rule_id: str, prefixes: Iterable[str]) -> int:
    return max((len(prefix) for prefix in prefixes if rule_id.startswith(prefix)), default=-1)


def parse_selection(select: Iterable[str], ignore: Iterable[str]) -> Selection:
    """Read words such as `POL-` or `SRAT-LENGTH,SRAT-CHECKSUM`.

    Raises:
        UsageError: a word matches no rule of the catalogue.
    """
    return Selection(select=_words(select, "--select"), ignore=_words(ignore, "--ignore"))


def _words(texts: Iterable[str], option: str) -> tuple[str, ...]:
    words = tuple(word for text in texts for word in text.split(",") if word)
    for word in words:
        if not any(rule.startswith(word) for rule in RULES):
            raise UsageError(f"{option}: no rule is called or begins with {word!r}; see: acpitk rule")
    return words
