"""The drawn cases depend on the seed alone, not on what else a program has loaded."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

_DRAW = "from acpitk.fuzz.strategies import draw_cases; print(hash(str(draw_cases(5, 30))))"


@pytest.mark.parametrize("module", ["", "NUMBERS = [123456789, 987654321, 0xABCDEF012]\nWORD = 'a word'\n"])
def test_a_seed_draws_the_same_with_any_module_loaded(module: str, tmp_path: Path) -> None:
    (tmp_path / "loaded.py").write_text(module)
    draws = {
        subprocess.run(
            [sys.executable, "-c", program],
            cwd=tmp_path,
            env={"PYTHONHASHSEED": "0", "PYTHONPATH": str(tmp_path)},
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        ).stdout
        for program in (_DRAW, f"import loaded; {_DRAW}", f"import acpitk.cli; {_DRAW}")
    }
    assert len(draws) == 1
