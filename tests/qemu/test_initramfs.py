"""newc archives, read back by a reader written here."""

from __future__ import annotations

import stat

from hypothesis import given
from hypothesis import strategies as st

from acpitk.qemu.initramfs import Entry, archive, padded

names = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=40).filter(
    lambda name: name != "TRAILER!!!"
)
entries = st.builds(
    Entry,
    name=names,
    mode=st.sampled_from([stat.S_IFREG | 0o755, stat.S_IFDIR | 0o755, stat.S_IFCHR | 0o600]),
    data=st.binary(max_size=50),
    device=st.tuples(st.integers(0, 255), st.integers(0, 255)),
)


def members(data: bytes) -> list[Entry]:
    """Every member up to the trailer; offsets as the kernel's unpacker counts them (init/initramfs.c)."""
    out, at = [], 0
    while True:
        assert data[at : at + 6] == b"070701"
        field = [int(data[at + 6 + 8 * i : at + 14 + 8 * i], 16) for i in range(13)]
        start = at + 110
        name = data[start : start + field[11] - 1].decode()
        body = (start + field[11] + 3) & ~3
        if name == "TRAILER!!!":
            return out
        entry = Entry(
            name=name, mode=field[1], data=data[body : body + field[6]], device=(field[9], field[10])
        )
        out.append(entry)
        at = (body + field[6] + 3) & ~3


@given(st.lists(entries, max_size=5))
def test_an_archive_reads_back(given_entries: list[Entry]) -> None:
    data = archive(given_entries)
    assert members(data) == given_entries
    assert archive(given_entries) == data
    assert len(data) % 4 == 0


@given(st.integers(0, 5000))
def test_padding_has_exactly_the_size_asked_for(size: int) -> None:
    data = padded(size)
    assert len(data) == size
    if size >= 124:
        assert members(data) == []
