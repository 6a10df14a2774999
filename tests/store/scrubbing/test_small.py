"""Many small blobs in one step: only what is certainly sound is passed, all else is left to a look of its own."""

import os
from pathlib import Path

from aibrother_node.content.chunks import ChunkManifest, chunk_hashes
from aibrother_node.store.scrubbing.book import ScrubBook
from aibrother_node.store.scrubbing.scrubber import Planned
from aibrother_node.store.scrubbing.small import LARGEST, MOST, look, small_ones
from store.helpers import CEILING, digest_of
from store.scrubbing.test_scrubber import world

A = digest_of(b"a")


def test_small_ones_that_follow_one_another_are_one_step() -> None:
    plan = [
        *(Planned((0, str(n)), A, 100) for n in range(3)),
        *(Planned((1, str(n)), A, LARGEST) for n in range(MOST + 1)),
        Planned((1, "x"), A, LARGEST + 1),
        Planned((1, "y"), A, 0),
    ]
    begun, steps = 0, []
    while begun < len(plan):
        steps.append(len(small_ones(plan, begun)))
        begun += steps[-1] or 1
    assert steps == [3, MOST, 1, 0, 1], "manifests alone, then no more than a step takes, then what stands alone"


async def test_what_is_not_sound_is_left(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        digests = [await it.add(os.urandom(300)) for _ in range(6)]
        sound, decayed, gone, longer, shorter, lied = digests
        own = {digest: it.thread.store.manifests_of(digest)[0].manifest for digest in digests}
        sha256, xxh3 = chunk_hashes(b"something else")
        await it.add(ChunkManifest(lied, 300, "fixed/1", (300,), sha256, xxh3).encode())
        it.layout.blob(own[lied]).unlink()
    for path in it.layout.root.glob("index.sqlite3*"):
        path.unlink()  # made again, it holds every blob for a manifest that looks like one
    async with world(tmp_path) as it:
        it.decay(decayed, 7)
        it.layout.blob(gone).unlink()
        for digest, size in ((longer, LARGEST + 1), (shorter, 299)):
            it.layout.blob(digest).chmod(0o600)
            os.truncate(it.layout.blob(digest), size)
        plan = [Planned((1, digest.hex), digest, 300) for digest in digests]
        looked = look(it.layout, plan, CEILING, 60.0)
        assert (looked.count, looked.read, looked.sound) == (6, 300, {sound: own[sound]})

        hurried = look(it.layout, plan, CEILING, 0.0)
        assert (hurried.count, hurried.sound) == (1, {sound: own[sound]}), "it comes forward all the same"
        it.layout.index.rename(tmp_path / "index")
        assert look(it.layout, plan, CEILING, 60.0).sound == {}, "nobody can be asked for manifests"
        (tmp_path / "index").rename(it.layout.index)


async def test_what_was_found_is_remembered(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        digest = await it.add(b"content")
        plan = await it.scrubber.plan()
        assert (await it.scrubber.check_small(plan[:1])).sound == {plan[0].digest: None}
        assert (await it.scrubber.check_small(plan[1:])).sound == {digest: plan[0].digest}
        assert it.counts.bytes == sum(one.size for one in plan)
        await it.scrubber.flush()
        book = ScrubBook.open(it.layout.index)
        known = book.get(digest)
        book.close()
        assert known is not None
        assert (known.sha_at, known.manifest) == (known.at, plan[0].digest)
