"""Boot the gate's cases on real kernels and bundle what they print: `python tests/oracle/record.py`.

Needs QEMU and the fetched kernels. Writes `acpitk/oracle/boots/*.json.xz`.
"""

from __future__ import annotations

import json
import lzma
from pathlib import Path

import acpitk.oracle
from acpitk.corpus import load_corpus
from acpitk.machine import Case, case_from_json
from acpitk.oracle.gate import kernel_lines
from acpitk.qemu.argv import undeliverable
from acpitk.qemu.image import list_kernels
from acpitk.qemu.runner import boot

TESTS = Path(__file__).resolve().parent.parent
BOOTS = Path(acpitk.oracle.__file__).with_name("boots")
GOLDEN = ("accepted", "bad-slit", "coverage", "numa-off", "one-page-uncovered", "overlap", "zero-length")
CORPUS = ("four-socket", "hot-above-4g", "initrd-on-hot-node", "half-hot-node", "cxl-memoryless")


def cases() -> list[Case]:
    """What is booted."""
    out = []
    for name in GOLDEN:
        document = json.loads((TESTS / "klog" / "logs" / name / "case.json").read_text())
        out.append(case_from_json(document, source=name))
    stored = load_corpus(TESTS.parent / "corpus").cases
    out += [each.case for path, each in stored if path.name.startswith(CORPUS)]
    return [case for case in out if not undeliverable(case)]


if __name__ == "__main__":
    BOOTS.mkdir(exist_ok=True)
    for image in list_kernels():
        boots = [
            {"case": case.to_json(), "lines": kernel_lines(boot(case, image, timeout=120).console)}
            for case in cases()
        ]
        document = {"release": image.version, "boots": boots}
        data = lzma.compress(json.dumps(document).encode(), preset=9)
        (BOOTS / f"{image.name}.json.xz").write_bytes(data)
        print(f"{image.name}: {len(boots)} boots of {image.version}, {len(data)} bytes")
