"""A campaign's numbers beside its findings: `campaign/summary.json` in the directory of `fuzz --out`.

`{"schema":1,"seed":1,"iterations":5000,"seconds":..,"runs":{"model":5000},"mutators":{..},
"timeline":[[seconds,cases,findings,behaviours]..],"counts":{"signature":3}}`
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from acpitk.cli.output import write_file
from acpitk.errors import UsageError
from acpitk.fuzz.campaign import CampaignResult
from acpitk.report.summary import Summary

_PLACE = Path("campaign", "summary.json")
_MAX_BYTES = 16 << 20
_MAX_POINTS = 400


@dataclass(slots=True)
class Timeline:
    """How cases, findings and behaviours grew: a point each `step` seconds, fewer the longer it takes."""

    points: list[tuple[float, int, int, int]] = field(default_factory=list)
    step: float = 1.0

    def add(self, result: CampaignResult) -> None:
        """Note where the campaign is."""
        point = (round(result.seconds, 3), result.done, len(result.found), result.behaviours)
        if len(self.points) > 1 and point[0] - self.points[-2][0] < self.step:
            self.points[-1] = point
        else:
            self.points.append(point)
        if len(self.points) > _MAX_POINTS:
            self.points, self.step = self.points[::2], self.step * 2


def save_summary(directory: Path, result: CampaignResult, timeline: Timeline, seed: int) -> None:
    """Write the numbers of a campaign that ended or was cut short.

    Raises:
        OSError: the directory cannot be written.
    """
    document = {
        "schema": 1,
        "seed": seed,
        "iterations": result.done,
        "seconds": round(result.seconds, 3),
        "runs": dict(sorted(result.runs.items())),
        "mutators": dict(sorted(result.mutators.items())),
        "timeline": timeline.points,
        "counts": {found.finding.signature: found.count for found in result.found},
    }
    path = directory / _PLACE
    path.parent.mkdir(exist_ok=True)
    write_file(path, (json.dumps(document, indent=1) + "\n").encode())


def load_summary(directory: Path) -> tuple[Summary, Mapping[str, int]] | None:
    """The numbers and how often each signature came up; None where the directory has none.

    Raises:
        UsageError: the file is not what `save_summary` writes.
    """
    path = directory / _PLACE
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        return None
    try:
        document = json.loads(data)
        summary = Summary(
            seed=int(document["seed"]),
            iterations=int(document["iterations"]),
            seconds=float(document["seconds"]),
            timeline=tuple(
                (float(at), int(done), int(known), int(seen))
                for at, done, known, seen in document["timeline"]
            ),
            runs=_counted(document["runs"]),
            mutators=_counted(document["mutators"]),
        )
        return summary, _counted(document["counts"])
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError) as error:
        raise UsageError(f"{path}: not the summary of a campaign: {error!r}") from None


def _counted(value: Mapping[str, Any]) -> dict[str, int]:
    return {str(name): int(count) for name, count in value.items()}
