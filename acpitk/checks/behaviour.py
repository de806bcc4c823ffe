"""What kind of boot a prediction describes: the decisions taken, without addresses and sizes."""

from __future__ import annotations

from hashlib import blake2b

from acpitk.checks.differential import message_class
from acpitk.kernel.prediction import Prediction


def behaviour(prediction: Prediction) -> str:
    """A short name of the decisions the kernel took; cases of one name were treated alike.

    It covers why the NUMA configuration stands or falls, what became of the memory affinity entries, which
    owners cost a node its hotplug marks, which zones and block verdicts there are, where node data went,
    what was warned about and how the boot ended.
    """
    outcome = prediction.outcome
    zones: dict[int, list[str]] = {}
    for zone in outcome.zones or ():
        zones.setdefault(zone.nid, []).append(zone.zone)
    decisions = (
        outcome.numa,
        outcome.numa_reason,
        sorted({(entry.use.value, entry.hotplug) for entry in prediction.entries}),
        sorted(set(prediction.kernel_nodes.values())),
        sorted({tuple(names) for names in zones.values()}),
        sorted({(block.zone or "", block.reason) for block in outcome.blocks or ()}),
        sorted({node.nid == node.on_nid for node in outcome.node_data or ()}),
        sorted({message_class(text) for text in outcome.messages}),
        outcome.panic and message_class(outcome.panic),
    )
    return blake2b(repr(decisions).encode(), digest_size=8).hexdigest()
