"""Topology files in YAML: the user's, and the presets that come with acpitk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from acpitk.cli.inputs import STDIN, read_stdin, size
from acpitk.errors import UsageError
from acpitk.topology import Topology, topology_from_mapping

_PRESETS = Path(__file__).parent.parent / "data" / "presets"


@dataclass(frozen=True, slots=True, kw_only=True)
class TopologyFile:
    """What a topology file says.

    Args:
        topology: nodes and distances.
        description: what it stands for, one line; may be empty.
        guest: bytes of a QEMU guest whose memory the nodes describe; None where the file names none.
    """

    topology: Topology
    description: str = ""
    guest: int | None = None


def read_topology(path: Path) -> TopologyFile:
    """Read a topology file, or standard input.

    Raises:
        UsageError: not YAML, or naming the key that is wrong.
        OSError: it cannot be read.
    """
    data = read_stdin() if path == STDIN else path.read_bytes()
    try:
        document = yaml.load(data, _UniqueKeys)  # noqa: S506 (a SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise UsageError(f"{path}: {where}{error.problem}") from None
    except (yaml.YAMLError, UnicodeError, RecursionError, ValueError) as error:
        raise UsageError(f"{path}: not YAML: {error}") from None
    about: dict[Any, Any] = {}
    if isinstance(document, dict):
        about = {key: document.pop(key) for key in ("description", "guest") if key in document}
    return TopologyFile(
        topology=topology_from_mapping(document, source=str(path)),
        description=str(about.get("description", "")),
        guest=size(str(about["guest"])) if "guest" in about else None,
    )


def presets() -> Mapping[str, Path]:
    """The files of the presets, by name."""
    return {path.stem: path for path in sorted(_PRESETS.glob("*.yaml"))}


def read_preset(name: str) -> TopologyFile:
    """Read a preset.

    Raises:
        UsageError: there is none of this name.
    """
    known = presets()
    if name not in known:
        raise UsageError(f"no preset is called {name!r}; known: {', '.join(known)}")
    return read_topology(known[name])


class _UniqueKeys(yaml.SafeLoader):
    """A safe loader that does not let a key silently replace an earlier one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if str(key) in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{key} appears twice", key_node.start_mark
                )
            seen.add(str(key))
        return super().construct_mapping(node, deep)
