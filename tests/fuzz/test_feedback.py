"""Laws of feedback: what counts as news, whatever the order or the process it is met in."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from itertools import combinations, combinations_with_replacement
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from acpitk.fuzz.feedback import Feedback, Known, News, signature, smallest_cover
from acpitk.machine import Q35, Case
from acpitk.ranges import GIB

behaviours = st.frozensets(st.sampled_from("abcdefghij"), min_size=1, max_size=5)


def news(*names: str, size: int = 0) -> News:
    case = Case(machine=Q35(GIB), tables=(bytes(size),), cmdline=" ".join(names))
    return News(iteration=0, behaviour=frozenset(names), case=case, mutators=())


@given(st.lists(behaviours, max_size=12))
def test_news_is_an_unseen_decision_or_pair(shown: list[frozenset[str]]) -> None:
    known, seen, pairs, counted = Known(), set[str](), set[tuple[str, ...]](), 0
    for each in shown:
        mine = set(combinations(sorted(each), 2))
        assert known.has_news(each) == (not (each <= seen and mine <= pairs))
        counted += known.learn(each)
        seen |= each
        pairs |= mine
        assert not known.has_news(each)
        assert counted == len(pairs)
        assert known.decisions.keys() == seen


@given(st.lists(behaviours, max_size=12), st.randoms(use_true_random=False))
def test_what_is_known_does_not_depend_on_the_order(shown: list[frozenset[str]], rng: Random) -> None:
    one, other = Feedback([]), Feedback([])
    for each in shown:
        one.learn(news(*each))
    rng.shuffle(shown)
    for each in shown:
        other.learn(news(*each))
    assert one.known.decisions.keys() == other.known.decisions.keys()
    assert one.pairs == other.pairs


def test_signatures_are_the_same_in_every_process() -> None:
    behaviour = {"numa: srat, accepted", "zones: True, DMA DMA32"}
    code = f"from acpitk.fuzz.feedback import signature; print(signature({behaviour!r}))"
    for hash_seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        assert int(done.stdout) == signature(behaviour)


def test_energy_goes_to_the_rare() -> None:
    base = Case(machine=Q35(2 * GIB))
    feedback = Feedback([base])
    assert set(feedback.choose(Random(1), 50)) == {base}
    common, rare = news("common"), news("common", "rare")
    feedback.learn(common)
    feedback.learn(rare)
    feedback.count({"common": 10_000, "rare": 4}, ())
    chosen = Counter(feedback.choose(Random(1), 1000))
    assert chosen[rare.case] > 5 * chosen[common.case]
    assert min(chosen[common.case], chosen[base]) > 0


def test_of_two_that_show_the_same_the_small_one_is_preferred() -> None:
    feedback = Feedback([Case(machine=Q35(2 * GIB))])
    small, large = news("a", "b"), news("a", "c", size=10_000)
    feedback.learn(small)
    feedback.learn(large)
    feedback.count({"a": 1, "b": 10**12, "c": 10**12}, ())
    chosen = Counter(feedback.choose(Random(1), 1000))
    assert chosen[small.case] > 2 * chosen[large.case]


@given(st.lists(st.tuples(behaviours, st.integers(0, 9)), max_size=10))
def test_a_cover_shows_all_and_has_nothing_needless(cases: list[tuple[frozenset[str], int]]) -> None:
    def pairs(indices: list[int]) -> set[tuple[str, ...]]:
        return {pair for i in indices for pair in combinations_with_replacement(sorted(cases[i][0]), 2)}

    kept = smallest_cover([shown for shown, _ in cases], [size for _, size in cases])
    assert kept == sorted(set(kept))
    everything = pairs(list(range(len(cases))))
    assert pairs(kept) == everything
    for index in kept:
        assert pairs([other for other in kept if other != index]) != everything


def test_of_cases_that_show_the_same_the_smallest_is_kept() -> None:
    shown = [frozenset("ab"), frozenset("abc"), frozenset("abc"), frozenset("c")]
    assert smallest_cover(shown, [1, 9, 5, 1]) == [2]
