"""The partial file: locked, resumed by hashing, never believing its own state, and gone when it is done."""

from __future__ import annotations

import hashlib
import os
import random
from typing import TYPE_CHECKING

import msgpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aibrother_node.content.digest import Digest
from aibrother_node.errors import DiskFull, InvalidInput, Temporary
from aibrother_node.store.disk import Disk
from aibrother_replicator.partial import Partial, sha256_at
from replicator.sources import even_lengths

if TYPE_CHECKING:
    from pathlib import Path

CHUNK = 64 << 10
DATA = random.Random(3).randbytes(10 * CHUNK - 100)
DIGEST = Digest(hashlib.sha256(DATA).digest())
LENGTHS = even_lengths(len(DATA), CHUNK)
PIECES = [DATA[at : at + CHUNK] for at in range(0, len(DATA), CHUNK)]
HASHES = b"".join(hashlib.sha256(piece).digest() for piece in PIECES)
MANIFEST = b"any bytes"


def hashes_of(indices: list[int]) -> list[bytes]:
    return [HASHES[32 * index : 32 * index + 32] for index in indices]


def put(partial: Partial, indices: list[int]) -> None:
    for index in indices:
        partial.write(memoryview(PIECES[index]), CHUNK * index)
    partial.mark(indices, hashes_of(indices))


def begun(target: Path, indices: list[int], manifest: bytes | None = MANIFEST, *, sync: bool = True) -> None:
    """Leave a partial file with these chunks behind."""
    with Partial(DIGEST, target) as partial:
        partial.begin(len(DATA), LENGTHS, manifest)
        put(partial, indices)
        if sync:
            partial.sync()


def recovered(target: Path, manifest: bytes | None = MANIFEST) -> list[int]:
    with Partial(DIGEST, target) as partial:
        try:
            saved = partial.saved()
        except InvalidInput:
            saved = None
        partial.begin(len(DATA), LENGTHS, manifest)
        return partial.recover(LENGTHS, HASHES if manifest is not None else None, saved)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_what_was_stored_is_found_again(tmp_path: Path) -> None:
    begun(tmp_path / "x", [0, 3, 9])
    assert names(tmp_path) == {"x.part", "x.part.have"}
    assert recovered(tmp_path / "x") == [0, 3, 9]


def test_what_no_state_tells_of_is_found_as_well(tmp_path: Path) -> None:
    begun(tmp_path / "x", [1, 2], sync=False)
    assert names(tmp_path) == {"x.part"}
    assert recovered(tmp_path / "x") == [1, 2]


def test_claims_are_hashed_before_they_count(tmp_path: Path) -> None:
    begun(tmp_path / "x", list(range(10)))
    with (tmp_path / "x.part").open("r+b") as file:
        file.seek(4 * CHUNK + 17)
        file.write(b"not what it was")
    assert recovered(tmp_path / "x") == [0, 1, 2, 3, 5, 6, 7, 8, 9]


def test_without_a_manifest_a_piece_counts_if_it_is_as_it_was_received(tmp_path: Path) -> None:
    begun(tmp_path / "x", [0, 1, 8], None)
    with (tmp_path / "x.part").open("r+b") as file:
        file.write(b"not what it was")
    assert recovered(tmp_path / "x", None) == [1, 8]


def test_without_a_manifest_nothing_counts_that_no_state_tells_of(tmp_path: Path) -> None:
    begun(tmp_path / "x", [0, 1], None, sync=False)
    assert recovered(tmp_path / "x", None) == []
    begun(tmp_path / "y", [0, 1])
    assert recovered(tmp_path / "y", None) == []


def test_another_size_keeps_nothing_wrong(tmp_path: Path) -> None:
    begun(tmp_path / "x", [0, 9])
    with Partial(DIGEST, tmp_path / "x") as partial:
        partial.begin(2 * CHUNK, [CHUNK, CHUNK], b"another")
        assert partial.recover([CHUNK, CHUNK], HASHES[:64], None) == [0]
        assert os.fstat(partial.fd).st_size == 2 * CHUNK


def test_the_data_is_synchronised_before_its_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    fdatasync = os.fdatasync

    def noting(fd: int) -> None:
        order.append("data")
        fdatasync(fd)

    monkeypatch.setattr(os, "fdatasync", noting)

    class Noting(Disk):
        def write_file(self, path: Path, data: bytes, *, aside: Path, mode: int = 0o644) -> None:
            order.append("bits")
            super().write_file(path, data, aside=aside, mode=mode)

    with Partial(DIGEST, tmp_path / "x", disk=Noting()) as partial:
        partial.begin(len(DATA), LENGTHS, MANIFEST)
        put(partial, [0])
        partial.sync()
    assert order == ["data", "bits"]


_STATE: dict[str, object] = {
    "v": 1,
    "blob": DIGEST.raw,
    "size": 1,
    "manifest": None,
    "chunks": 0,
    "have": b"",
    "sha256": b"",
}


@pytest.mark.parametrize(
    "state",
    [
        b"",
        b"\xff" * 100,
        b"\x81\xa1v\x01",
        b"\x91" * 10_000,
        b"\xdd\xff\xff\xff\xff",
        msgpack.packb([1, 2]),
        *(
            msgpack.packb(_STATE | wrong)
            for wrong in ({"v": 2}, {"blob": bytes(32)}, {"size": -1}, {"size": "1"}, {"chunks": 9}, {"manifest": 5})
        ),
    ],
)
def test_a_state_that_is_none_is_refused_and_does_no_harm(tmp_path: Path, state: bytes) -> None:
    begun(tmp_path / "x", [2])
    (tmp_path / "x.part.have").write_bytes(state)
    with Partial(DIGEST, tmp_path / "x") as partial, pytest.raises(InvalidInput, match="not the state"):
        partial.saved()
    assert recovered(tmp_path / "x") == [2]


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(flips=st.lists(st.tuples(st.integers(0, 10_000), st.integers(1, 255)), min_size=1, max_size=4))
def test_a_damaged_state_never_makes_wrong_bytes_count(tmp_path: Path, flips: list[tuple[int, int]]) -> None:
    begun(tmp_path / "x", [0, 5], None)
    state = bytearray((tmp_path / "x.part.have").read_bytes())
    for at, mask in flips:
        state[at % len(state)] ^= mask
    (tmp_path / "x.part.have").write_bytes(state)
    found = recovered(tmp_path / "x", None)
    # a claimed hole is zeros, whose hash a flipped bit can't hit
    assert set(found) <= {0, 5}


def test_a_state_that_is_a_folder_or_a_link_loop_is_ignored(tmp_path: Path) -> None:
    begun(tmp_path / "x", [2], sync=False)
    (tmp_path / "x.part.have").mkdir()
    with Partial(DIGEST, tmp_path / "x") as partial, pytest.raises(InvalidInput):
        partial.saved()


def test_two_downloads_of_one_target_exclude_each_other(tmp_path: Path) -> None:
    with Partial(DIGEST, tmp_path / "x"):
        with pytest.raises(Temporary, match="another download"):
            Partial(DIGEST, tmp_path / "x").open()
        with Partial(DIGEST, tmp_path / "y"):
            pass
    with Partial(DIGEST, tmp_path / "x"):
        pass


def test_opening_in_vain_leaves_nothing(tmp_path: Path) -> None:
    with Partial(DIGEST, tmp_path / "x"):
        assert names(tmp_path) == {"x.part"}
    assert names(tmp_path) == set()


@pytest.mark.parametrize("kind", ["link", "folder", "fifo"])
def test_something_else_in_its_place_is_left_alone(tmp_path: Path, kind: str) -> None:
    part = tmp_path / "x.part"
    if kind == "link":
        (tmp_path / "precious").write_bytes(b"precious")
        part.symlink_to(tmp_path / "precious")
    elif kind == "folder":
        part.mkdir()
    else:
        os.mkfifo(part)
    with pytest.raises(InvalidInput, match="in the way"):
        Partial(DIGEST, tmp_path / "x").open()
    if kind == "link":
        assert (tmp_path / "precious").read_bytes() == b"precious"


def test_room_is_looked_for_first(tmp_path: Path) -> None:
    class Small(Disk):
        def free_bytes(self, path: Path) -> int:
            return 1000

    with Partial(DIGEST, tmp_path / "x", disk=Small()) as partial, pytest.raises(DiskFull, match="1000 are free"):
        partial.begin(len(DATA), LENGTHS, MANIFEST)
    assert names(tmp_path) == set()


def test_finish_gives_the_name_and_leaves_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"old")
    with Partial(DIGEST, tmp_path / "x") as partial:
        partial.begin(len(DATA), LENGTHS, MANIFEST)
        put(partial, list(range(10)))
        partial.sync()
        assert (tmp_path / "x").read_bytes() == b"old"
        partial.finish()
    assert names(tmp_path) == {"x"}
    assert (tmp_path / "x").read_bytes() == DATA


def test_a_state_folder_on_another_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Elsewhere(Disk):
        def rename(self, source: Path, target: Path) -> None:
            if source.parent != target.parent:
                raise OSError(18, "Invalid cross-device link")
            super().rename(source, target)

    def right(fd: int) -> bool:
        return sha256_at(fd, 0, len(DATA)) == DIGEST.raw

    with Partial(DIGEST, tmp_path / "x", folder=tmp_path / "state", disk=Elsewhere()) as partial:
        partial.begin(len(DATA), LENGTHS, MANIFEST)
        put(partial, list(range(10)))
        assert names(tmp_path / "state") == {f"{DIGEST.hex}.part"}
        with pytest.raises(Temporary, match="came out wrong"):
            partial.finish(lambda _: False)
        assert names(tmp_path) == {"state"}
        partial.finish(right)
    assert names(tmp_path) == {"state", "x"}
    assert names(tmp_path / "state") == set()
    assert (tmp_path / "x").read_bytes() == DATA


def test_forget_and_discard(tmp_path: Path) -> None:
    begun(tmp_path / "x", [0, 1], None)
    with Partial(DIGEST, tmp_path / "x") as partial:
        partial.forget()
        assert partial.saved() is None
        assert os.fstat(partial.fd).st_size == 0
        partial.begin(len(DATA), LENGTHS, None)
        partial.discard()
        assert names(tmp_path) == set()
    assert names(tmp_path) == set()


def test_a_blob_of_no_bytes(tmp_path: Path) -> None:
    with Partial(DIGEST, tmp_path / "x") as partial:
        partial.begin(0, [], MANIFEST)
        assert partial.recover([], b"", None) == []
        partial.finish()
    assert (tmp_path / "x").read_bytes() == b""
    assert names(tmp_path) == {"x"}
