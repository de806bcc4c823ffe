"""What a campaign has seen, and what it tries next.

A behaviour is a set of named decisions (`checks.behaviour`). A case is news when it shows a decision, or two
of them together, that no case showed before; then it joins the cases that are mutated. Energy goes to rare
decisions: the fewer cases showed one, the more often a case that does is mutated again. As work grows with
the tables, of two cases the smaller is preferred, and so is a decision that a small case shows.
"""

from __future__ import annotations

from bisect import bisect
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, reduce
from hashlib import blake2b
from heapq import heapify, heappop, heappush
from itertools import accumulate, combinations_with_replacement
from operator import and_, or_, xor
from random import Random

from acpitk.machine import Case

_BIT = (1).__lshift__
_SMALL = 512
"""Bytes of tables that make little difference to the work."""
_RARE, _ANY = 0.8, 0.95
"""Shares: up to the first a case of a rare decision, up to the second any that was news, then a base case."""


@lru_cache(maxsize=1 << 16)
def _number(decision: str) -> int:
    return int.from_bytes(blake2b(decision.encode(), digest_size=8).digest(), "little")


def signature(behaviour: Iterable[str]) -> int:
    """A 64-bit name of a set of decisions, the same in every process: their hashes, XORed."""
    return reduce(xor, map(_number, behaviour), 0)


@dataclass(frozen=True, slots=True)
class Known:
    """The decisions seen, and which were seen together.

    Args:
        decisions: decision -> its bit.
        together: for each bit, the decisions that came with it.
    """

    decisions: dict[str, int] = field(default_factory=dict)
    together: list[int] = field(default_factory=list)

    def has_news(self, behaviour: Iterable[str]) -> bool:
        """Whether there is a decision, or two of them together, that is not known."""
        try:
            bits = [self.decisions[name] for name in behaviour]
        except KeyError:
            return True
        mask = reduce(or_, map(_BIT, bits), 0)
        # The decisions that all of these came with: these, if each came with every other.
        return reduce(and_, map(self.together.__getitem__, bits), mask) != mask

    def learn(self, behaviour: Iterable[str]) -> int:
        """Take in a behaviour; how many pairs of decisions that adds."""
        bits = []
        for name in sorted(behaviour):  # bits in an order that depends on the campaign alone
            bits.append(self.decisions.setdefault(name, len(self.together)))
            if bits[-1] == len(self.together):
                self.together.append(0)
        mask, added = reduce(or_, map(_BIT, bits), 0), 0
        for bit in bits:
            unseen = mask & ~self.together[bit]
            added += unseen.bit_count() - (unseen >> bit & 1)
            self.together[bit] |= mask
        return added // 2


@dataclass(frozen=True, slots=True, kw_only=True)
class News:
    """A case that showed something for the first time, as far as was known where it ran."""

    iteration: int
    behaviour: frozenset[str]
    case: Case
    mutators: tuple[str, ...]


class Feedback:
    """Everything seen so far, and the cases worth mutating.

    Args:
        bases: the cases there are before any was tried; at least one, if there is to be a choice.
    """

    def __init__(self, bases: Sequence[Case]) -> None:
        self.known = Known()
        self.pairs = 0
        self.signatures: set[int] = set()
        self.news: list[News] = []
        self._bases = bases
        self._hits: Counter[str] = Counter()
        self._showing: dict[str, list[News]] = {}
        self._smallest: dict[str, int] = {}

    def learn(self, news: News) -> None:
        """Take in a case, if it still is news."""
        if not self.known.has_news(news.behaviour):
            return
        self.pairs += self.known.learn(news.behaviour)
        self.news.append(news)
        size = _size(news)
        for name in news.behaviour:
            self._showing.setdefault(name, []).append(news)
            self._smallest[name] = min(size, self._smallest.get(name, size))

    def count(self, hits: Mapping[str, int], signatures: Iterable[int]) -> None:
        """How often each decision came up, and the behaviours there were."""
        self._hits.update(hits)
        self.signatures.update(signatures)

    def choose(self, rng: Random, count: int) -> list[Case]:
        """The cases to mutate next, one for each iteration."""
        names = list(self.known.decisions)
        energies = (self._hits[name] ** -0.5 / (_SMALL + self._smallest[name]) for name in names)
        total = list(accumulate(energies))
        return [self._pick(rng, names, total) for _ in range(count)]

    def _pick(self, rng: Random, names: Sequence[str], total: Sequence[float]) -> Case:
        share = rng.random()
        if not self.news or share >= _ANY:
            return rng.choice(self._bases)
        if share >= _RARE:
            shown: Sequence[News] = self.news
        else:
            shown = self._showing[names[bisect(total, rng.random() * total[-1], hi=len(names) - 1)]]
        return min(rng.choice(shown), rng.choice(shown), key=_size).case


def _size(news: News) -> int:
    return sum(map(len, news.case.tables))


def smallest_cover(shown: Sequence[frozenset[str]], sizes: Sequence[int]) -> list[int]:
    """Which of these behaviours show every decision, and every two together, that all of them show.

    Few of them, not always the fewest: each time the one that adds most is taken, of several the one of the
    smallest size, and in the end those that the others have made needless go.

    Args:
        shown: behaviours.
        sizes: of each, in any unit.

    Returns:
        Indices, in order.
    """
    parts = [frozenset(combinations_with_replacement(sorted(each), 2)) for each in shown]
    left, chosen = set().union(*parts), list[int]()
    queue = [(-len(part), sizes[index], index) for index, part in enumerate(parts)]
    heapify(queue)
    while left:
        _, size, index = heappop(queue)
        gain = len(left & parts[index])
        if queue and (-gain, size, index) > queue[0]:
            heappush(queue, (-gain, size, index))  # others have taken from it since it was weighed
            continue
        chosen.append(index)
        left -= parts[index]
    covers = Counter(pair for index in chosen for pair in parts[index])
    for index in sorted(chosen, key=lambda index: -sizes[index]):
        if all(covers[pair] > 1 for pair in parts[index]):
            covers.subtract(parts[index])
            chosen.remove(index)
    return sorted(chosen)
