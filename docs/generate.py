"""Write the generated parts of this directory anew: `python docs/generate.py`."""

from __future__ import annotations

import re
from pathlib import Path

from acpitk.report.reference import findings_page, rows_table

DOCS = Path(__file__).parent
_ROWS = re.compile(r"(<!-- rows -->\n).*?(<!-- end of rows -->\n)", re.DOTALL)


def pages() -> dict[Path, str]:
    """Every page with a generated part, and what it should hold."""
    model = DOCS / "model.md"
    return {
        DOCS / "findings.md": findings_page(),
        model: _ROWS.sub(lambda found: found[1] + "\n" + rows_table() + "\n" + found[2], model.read_text()),
    }


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text)
