"""Blobs of which a chunk is bad: ranges in good chunks as ever, nothing that needs the bad one is begun."""

import asyncio
import os
import random
from pathlib import Path

from aibrother_node.store.fills import FillState
from aibrother_node.store.layout import Layout
from aibrother_node.store.scrubbing import damage
from aibrother_node.store.withheld import WithheldWriter
from store.helpers import add, open_store
from store.test_fills import small_manifest
from web.public.test_server import serving

_SIZES = (3000, 200_000, 1, 70_000, 4096)
_DATA = os.urandom(sum(_SIZES))
_MANIFEST = small_manifest(_DATA, _SIZES)
_TARGET = f"/v1/blobs/{_MANIFEST.blob}"


async def ask(port: int, fields: str = "", method: str = "GET") -> tuple[int, dict[str, str], bytes]:
    """One request on a connection of its own: status, header fields, body."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(f"{method} {_TARGET} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{fields}\r\n".encode())
        head, _, body = (await reader.read(-1)).partition(b"\r\n\r\n")
        status, *lines = head.decode().split("\r\n")
        return int(status.split()[1]), dict(line.split(": ", 1) for line in lines), body
    finally:
        writer.close()


def _store(folder: Path, *bad: int, served: bool = True) -> Layout:
    layout = Layout(folder)
    (folder.parent / "source").write_bytes(_DATA)
    with open_store(layout) as store:
        add(store, folder.parent / "source")
        if bad:
            damage.demote(store, _MANIFEST, bad, FillState("damaged", 0.0, served))
    return layout


def _ranges(made: random.Random) -> list[tuple[int, int]]:
    """Ranges whose ends lie near those of chunks, mostly."""
    ends = [0, *(sum(_SIZES[:n]) for n in range(1, len(_SIZES) + 1))]
    found = []
    for _ in range(made.choice((1, 1, 1, 2, 3))):
        start = min(max(made.choice(ends) + made.choice((-1, 0, 0, 1)), 0), len(_DATA) - 1)
        stop = min(max(made.choice(ends) + made.choice((-1, 0, 0, 1)), start + 1), len(_DATA))
        found.append((start, stop))
    return found


async def test_any_ranges_against_the_chunks(tmp_path: Path) -> None:
    """206 with exactly these bytes if all of them lie in good chunks, else 503 and no body of the blob."""
    made = random.Random(5)
    async with serving(tmp_path / "data") as (_, _, port):
        for bad in ((1,), (0, 3), (4,), (0, 1, 2, 3)):
            layout = tmp_path / "data"
            for path in layout.glob("fills/sha256/*/*"):
                path.unlink()
            for path in layout.glob("fills/sha256/*"):
                path.rmdir()
            _store(layout, *bad)
            WithheldWriter(layout / "run/withheld").changed()
            good = set(range(len(_DATA)))
            for chunk in _MANIFEST:
                if chunk.index in bad:
                    good -= set(range(chunk.offset, chunk.offset + chunk.length))
            seen = set()
            for _ in range(60):
                ranges = _ranges(made)
                wanted = ",".join(f"{start}-{stop - 1}" for start, stop in ranges)
                status, fields, body = await ask(port, f"Range: bytes={wanted}\r\n")
                if status == 416:  # too many that overlap
                    continue
                whole = all(place in good for start, stop in ranges for place in (start, stop - 1)) and all(
                    good.issuperset(range(start, stop)) for start, stop in ranges
                )
                assert status == (206 if whole else 503), (bad, ranges)
                seen.add(status)
                if not whole:
                    assert int(fields["Retry-After"]) > 0
                    assert fields["Content-Type"] == "application/problem+json"
                elif "Content-Range" in fields:
                    first, last = fields["Content-Range"].split()[1].split("/")[0].split("-")
                    assert body == _DATA[int(first) : int(last) + 1]
                    assert fields["ETag"] == f'"{_MANIFEST.blob}"'
                else:
                    assert all(_DATA[start:stop] in body for start, stop in ranges)
            assert 206 in seen
            assert 503 in seen
            assert (await ask(port))[0] == 503
            status, fields, body = await ask(port, method="HEAD")
            assert (status, fields["Content-Length"], body) == (200, str(len(_DATA)), b"")
            assert (await ask(port, f'If-None-Match: "{_MANIFEST.blob}"\r\n'))[0] == 304
            assert (await ask(port, "Range: bytes=9999999-\r\n"))[0] == 416
            assert (await ask(port, "Cache-Control: only-if-cached\r\n"))[0] == 504


async def test_what_is_withheld_of_a_whole_blob_is_not_begun(tmp_path: Path) -> None:
    """Between the finding and the demotion, and where there is no room on disk for a demotion."""
    async with serving(tmp_path / "data") as (_, _, port):
        layout = _store(tmp_path / "data")
        assert (await ask(port))[2] == _DATA
        writer = WithheldWriter(layout.withheld)
        writer.withhold(_MANIFEST.blob, layout.blob(_MANIFEST.blob).stat().st_ino, [(3000, 203_000)])
        assert (await ask(port))[0] == 503
        assert (await ask(port, "Range: bytes=0-2999\r\n"))[2] == _DATA[:3000]
        assert (await ask(port, "Range: bytes=0-3000\r\n"))[0] == 503
        assert (await ask(port, "Range: bytes=203000-\r\n"))[2] == _DATA[203_000:]
        writer.withhold(_MANIFEST.blob, layout.blob(_MANIFEST.blob).stat().st_ino, [])
        assert (await ask(port))[2] == _DATA


async def test_a_demotion_and_the_way_back_without_a_moment_of_404(tmp_path: Path) -> None:
    async with serving(tmp_path / "data") as (_, _, port):
        layout = _store(tmp_path / "data")
        writer = WithheldWriter(layout.withheld)
        statuses, over = set(), asyncio.Event()

        async def look() -> None:
            while not over.is_set():
                status, _, body = await ask(port, "Range: bytes=0-2999\r\n")
                statuses.add(status)
                assert status != 206 or body == _DATA[:3000]

        clients = [asyncio.create_task(look()) for _ in range(3)]

        def there_and_back() -> None:
            with open_store(layout) as store:
                for _ in range(25):
                    inode = layout.blob(_MANIFEST.blob).stat().st_ino
                    writer.withhold(_MANIFEST.blob, inode, [(3000, 203_000)])
                    damage.demote(store, _MANIFEST, [1], FillState("damaged", 0.0))
                    writer.changed()
                    damage.put(store, _MANIFEST.blob, 1, _DATA[3000:203_000])
                    damage.promote(store, _MANIFEST.blob, inode)
                    writer.withhold(_MANIFEST.blob, inode, [])

        await asyncio.to_thread(there_and_back)
        over.set()
        await asyncio.gather(*clients)
        assert statuses == {206}
        assert (await ask(port))[2] == _DATA


async def test_nothing_is_served_under_a_manifest_that_is_only_advice(tmp_path: Path) -> None:
    async with serving(tmp_path / "data") as (_, _, port):
        _store(tmp_path / "data", 1, served=False)
        assert (await ask(port, "Range: bytes=0-10\r\n"))[0] == 503
        assert (await ask(port, method="HEAD"))[0] == 200


async def test_a_fill_that_is_being_fetched_is_not_here(tmp_path: Path) -> None:
    async with serving(tmp_path / "data") as (_, _, port):
        layout = _store(tmp_path / "data", 1)
        (layout.fill(_MANIFEST.blob) / "state").write_bytes(FillState("filling", 0.0).encode())
        assert (await ask(port, "Range: bytes=0-10\r\n"))[0] == 404
