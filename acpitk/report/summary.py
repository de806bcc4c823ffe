"""A fuzzing campaign in numbers, as reports show it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """A fuzzing campaign in numbers.

    Args:
        timeline: (seconds, cases done, findings known, behaviours seen), ascending.
        runs, mutators: how often each oracle was asked, and each mutator was applied.
    """

    seed: int
    iterations: int
    seconds: float
    timeline: tuple[tuple[float, int, int, int], ...] = ()
    runs: Mapping[str, int] = field(default_factory=dict)
    mutators: Mapping[str, int] = field(default_factory=dict)
