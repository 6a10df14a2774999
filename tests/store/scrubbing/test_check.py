"""One pass over one blob: decay in every place, manifests that lie, disks that fail; and how fast a pass is."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aibrother_node.content.chunks import ChunkManifest, build_manifest
from aibrother_node.store.disk import Disk
from aibrother_node.store.scrubbing import evidence
from aibrother_node.store.scrubbing.book import Checked, ScrubBook, Sound, is_sha_due, next_pass
from aibrother_node.store.scrubbing.check import BadChunk, Finding, check
from aibrother_node.store.scrubbing.direct import DirectFile
from aibrother_node.store.scrubbing.pace import LOWEST, Bucket, Pressure, pressure_now, share
from store.helpers import digest_of, new_layout
from store.test_fills import small_manifest

_SIZES = (700, 300, 5000, 1, 4096, 12_000)
_DATA = os.urandom(sum(_SIZES))
_MANIFEST = small_manifest(_DATA, _SIZES)


def _check(
    path: Path,
    manifest: ChunkManifest | None = _MANIFEST,
    *,
    sha: bool = False,
    named: bool = True,
    missing: frozenset[int] = frozenset(),
) -> tuple[Finding, list[int], int]:
    """The finding, the bad chunks in the order they were told of, the bytes that count as checked."""
    bad: list[BadChunk] = []
    size = 0
    with DirectFile(path) as opened:
        steps = check(opened, _MANIFEST.blob, manifest, sha=sha, named=named, missing=missing)
        while True:
            try:
                step = next(steps)
            except StopIteration as end:
                return end.value, [one.index for one in bad], size
            bad += step.bad
            size += step.size


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "blob").write_bytes(_DATA)
    return tmp_path / "blob"


def _flip(path: Path, *offsets: int) -> None:
    with path.open("r+b") as file:
        for offset in offsets:
            file.seek(offset)
            file.write(bytes([_DATA[offset] ^ 0x10]))


@pytest.mark.parametrize("sha", [False, True])
@pytest.mark.parametrize("named", [False, True])
def test_sound(path: Path, sha: bool, named: bool) -> None:
    assert _check(path, sha=sha, named=named) == (Finding("sound", sha=sha), [], len(_DATA))


def test_without_a_manifest(path: Path) -> None:
    assert _check(path, None) == (Finding("sound", sha=True), [], len(_DATA))
    _flip(path, 77)
    finding, bad, _ = _check(path, None)
    assert (finding.verdict, bad) == ("damaged", [])


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sets(st.integers(0, len(_DATA) - 1), min_size=1, max_size=4), st.booleans(), st.booleans())
def test_a_flipped_bit_anywhere(tmp_path: Path, offsets: set[int], sha: bool, named: bool) -> None:
    path = tmp_path / "blob"
    path.write_bytes(_DATA)
    _flip(path, *offsets)
    expected = sorted({index for offset in offsets for index in _MANIFEST.chunks_covering(offset, offset + 1)})
    finding, bad, size = _check(path, sha=sha, named=named)
    assert (finding.verdict, bad, size) == ("damaged", expected, len(_DATA))


def test_what_is_missing_of_a_fill_is_not_looked_at(path: Path) -> None:
    _flip(path, 0, 1000)
    assert _check(path, missing=frozenset({0, 2})) == (Finding("sound"), [], len(_DATA) - 5700)
    finding, bad, _ = _check(path, missing=frozenset({0}))
    assert (finding.verdict, bad) == ("damaged", [2])


@pytest.mark.parametrize("sha", [False, True])
def test_a_manifest_that_lies_takes_no_good_blob_out_of_service(path: Path, sha: bool) -> None:
    other = small_manifest(_DATA[:1200] + bytes(100) + _DATA[1300:], _SIZES)
    lying = replace(other, blob=_MANIFEST.blob)
    finding, bad, _ = _check(path, lying, sha=sha, named=False)
    assert (finding.verdict, finding.sha, bad) == ("lied", True, [])
    longer = replace(small_manifest(_DATA + b"more", (*_SIZES, 4)), blob=_MANIFEST.blob)
    assert _check(path, longer, sha=sha, named=False)[0].verdict == "lied"
    shorter = replace(small_manifest(_DATA[:6001], _SIZES[:4]), blob=_MANIFEST.blob)
    assert _check(path, shorter, sha=sha, named=False)[0].verdict == "lied"
    # where the blob is bad too, it is believed: it is the only word there is
    _flip(path, 5900)
    finding, bad, _ = _check(path, lying, sha=sha, named=False)
    assert (finding.verdict, bad) == ("damaged", [2])


@pytest.mark.parametrize("named", [False, True])
def test_a_file_that_got_shorter_or_longer(path: Path, named: bool) -> None:
    path.write_bytes(_DATA[:-1])
    finding, bad, _ = _check(path, named=named)
    assert (finding.verdict, bad) == ("damaged", [5])
    path.write_bytes(_DATA + b"x")
    finding, bad, _ = _check(path, named=named)
    assert (finding.verdict, finding.reason, bad) == ("damaged", "1 bytes follow its end", [])


def test_xxh3_that_is_wrong_alone_is_nothing(path: Path) -> None:
    assert _check(path, replace(_MANIFEST, xxh3=bytes(16 * len(_SIZES))))[0] == Finding("sound")


def test_what_xxh3_does_not_find_the_sha_256_of_the_whole_does(path: Path) -> None:
    """As if two contents had one XXH3: the manifest's XXH3 are those of what stands there."""
    _flip(path, 6500)
    forged = replace(_MANIFEST, xxh3=small_manifest(path.read_bytes(), _SIZES).xxh3)
    assert _check(path, forged)[0] == Finding("sound")
    finding, bad, _ = _check(path, forged, sha=True)
    assert (finding.verdict, bad) == ("damaged", [4])


class _Failing(DirectFile):
    """A disk of which some bytes can't be read, the first time or always."""

    def __init__(self, path: Path, offset: int, *, always: bool) -> None:
        super().__init__(path)
        self._bad, self._always = offset, always

    def _fill(self, memory: memoryview, start: int, wanted: int) -> int:
        if start <= self._bad < start + wanted:
            if not self._always:
                self._bad = -1
            raise OSError(5, "Input/output error")
        return super()._fill(memory, start, wanted)


def test_bytes_that_can_not_be_read_are_bad(tmp_path: Path) -> None:
    data = os.urandom(40_000)
    (tmp_path / "blob").write_bytes(data)
    sizes = (8192, 8192, 8192, 8192, 7232)
    manifest = small_manifest(data, sizes)
    for always, expected in ((True, [2]), (False, [])):
        with _Failing(tmp_path / "blob", 17_000, always=always) as file:
            found = []
            for step in check(file, manifest.blob, manifest, sha=False, named=False):
                found += [one.index for one in step.bad]
        assert found == expected


def test_reading_past_the_page_cache_is_reading(tmp_path: Path) -> None:
    data = os.urandom(100_001)
    (tmp_path / "blob").write_bytes(data)
    for direct in (True, False):
        with DirectFile(tmp_path / "blob", direct=direct) as file:
            assert file.size == len(data)
            assert file.is_direct == direct
            for offset, length in (
                (0, 1),
                (0, 4096),
                (4095, 2),
                (12_345, 80_000),
                (99_999, 2),
                (100_000, 50),
                (0, 10**6),
            ):
                with file.read(offset, length) as view:
                    assert bytes(view) == data[offset : offset + length]


# -- pace


def test_a_bucket_gives_what_its_rate_says() -> None:
    now, read = 100.0, 0
    bucket = Bucket(1000, now)
    while now < 160:
        now += bucket.take(300, 1.0, now)
        read += 300
    assert 60_000 <= read <= 62_000
    assert Bucket(0, 0.0).take(10**12, 1.0, 0.0) == 0.0


@given(st.floats(0, 100), st.floats(0, 50))
def test_a_busy_machine_slows_it_and_never_stops_it(io: float, load: float) -> None:
    taken = share(Pressure(io, load))
    assert LOWEST <= taken <= 1.0
    assert share(Pressure(io + 1, load)) <= taken
    assert share(Pressure(io, load + 1)) <= taken


def test_the_ends_of_the_scale() -> None:
    assert share(Pressure()) == 1.0
    assert share(Pressure(io=90)) == share(Pressure(load=9)) == LOWEST
    assert pressure_now().load >= 0


# -- when


def test_when_the_whole_is_checked_again() -> None:
    day = 86_400.0
    assert is_sha_due(None, 0, 30 * day, 4)
    assert is_sha_due(Checked(0, None, None), 0, 30 * day, 4)
    checked = Checked(100 * day, 10 * day, None)
    assert not is_sha_due(checked, 101 * day, 30 * day, 4)
    assert is_sha_due(checked, 129 * day, 30 * day, 4)
    assert is_sha_due(checked, 5 * day, 30 * day, 4), "a clock that was set back"


def test_when_a_pass_begins() -> None:
    assert next_pass(None, 1000, 100, 0) == 1100
    assert next_pass(5000, 1000, 100, 0) == 5100
    assert next_pass(5000, 1000, 100, 1) == 5080


def test_the_book_keeps_what_was_checked(tmp_path: Path) -> None:
    one, other = digest_of(b"one"), digest_of(b"other")
    book = ScrubBook.open(tmp_path / "index.sqlite3")
    assert book.get(one) is None
    assert book.last_completed() is None
    book.put([Sound(one, 10.0, other, True), Sound(other, 11.0, None, False)])
    book.put([Sound(one, 20.0, None, False)])
    book.close()
    book = ScrubBook.open(tmp_path / "index.sqlite3")
    assert book.get(one) == Checked(20.0, 10.0, other)
    assert book.get(other) == Checked(11.0, None, None)
    book.completed(30.0, [one])
    assert (book.get(one), book.get(other), book.last_completed()) == (Checked(20.0, 10.0, other), None, 30.0)
    book.close()


# -- evidence


def test_the_newest_evidence_stays(tmp_path: Path) -> None:
    layout = new_layout(tmp_path / "data")
    (layout.quarantine / "mine").write_bytes(bytes(5000))
    for number in range(6):
        path = evidence.keep(
            *(layout, Disk(), digest_of(b"")),
            index=number,
            data=bytes([number]) * 100,
            facts={"reason": "r"},
            now=1000 + number,
            ceiling=350,
        )
        os.utime(path, (number, number))
    names = sorted(path.name for path in layout.quarantine.iterdir())
    assert names == sorted(
        ["mine", *(f"chunk-{digest_of(b'').hex}-{n}-{1000 + n}{end}" for n in (3, 4, 5) for end in ("", ".json"))]
    )


def test_a_manifest_of_the_real_chunker(path: Path) -> None:
    manifest = build_manifest(lambda offset, length: _DATA[offset : offset + length], len(_DATA))
    assert _check(path, manifest, sha=True)[0] == Finding("sound", sha=True)
