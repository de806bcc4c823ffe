"""Selecting rules by ID and prefix."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acpitk.checks.catalogue import RULES, finding
from acpitk.checks.selection import parse_selection
from acpitk.errors import UsageError

IDS = st.sampled_from(sorted(RULES))
PREFIXES = st.builds(lambda rule, size: rule[: 1 + size % len(rule)], IDS, st.integers(0, 40))


def test_everything_is_selected_unless_asked() -> None:
    assert all(parse_selection((), ()).allows(rule) for rule in RULES)


@given(select=st.lists(PREFIXES), ignore=st.lists(PREFIXES))
def test_the_longer_match_decides(select: list[str], ignore: list[str]) -> None:
    selection = parse_selection(select, [",".join(ignore)])
    for rule in RULES:
        chosen = max((len(p) for p in select or [""] if rule.startswith(p)), default=None)
        left_out = max((len(p) for p in ignore if rule.startswith(p)), default=-1)
        assert selection.allows(rule) is (chosen is not None and chosen > left_out)


def test_findings_keep_their_order() -> None:
    found = [finding(rule, where="", expected="", actual="") for rule in ("SRAT-LENGTH", "POL-PANIC")]
    assert parse_selection(["POL-,SRAT-"], ["SRAT-CHECKSUM"]).of(found) == found
    assert parse_selection(["POL-,SRAT-"], ["SRAT-LENGTH"]).of(found) == found[1:]


@pytest.mark.parametrize("word", ["SRAT_LENGTH", "pol-", "POL-NOTHING-AT-ALL"])
def test_a_word_that_matches_nothing_is_refused(word: str) -> None:
    with pytest.raises(UsageError, match=word):
        parse_selection([word], ())
    with pytest.raises(UsageError, match=word):
        parse_selection((), ["POL-", word])
