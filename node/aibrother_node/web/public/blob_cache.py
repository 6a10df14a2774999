"""Open blobs that were asked for lately, so that a request costs no open, stat and close.

Blobs never change, so a descriptor, a size and the header fields laid out from them stay right for as long as they are
kept. (Of a fill, chunks come and go: it is forgotten when that is told.) What is being sent is kept open however full
the cache is.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from aibrother_node.web.answer import Representation, blob_representation

if TYPE_CHECKING:
    from collections.abc import Iterable

    from aibrother_node.content.digest import Digest
    from aibrother_node.store.open_blob import OpenBlob

DEFAULT_CAPACITY: Final = 512


class CachedBlob:
    """An open blob with its representation.

    Attributes:
        blob: the open file, of a whole blob or of a fill.
        representation: what HTTP says of it, without a file name.
        is_sound: all of it is here, and nothing of it is withheld; it is forgotten when that may have changed.
    """

    __slots__ = ("blob", "dropped", "is_sound", "representation", "users")

    def __init__(self, blob: OpenBlob, *, is_sound: bool) -> None:
        self.blob = blob
        self.is_sound = is_sound
        self.representation: Representation = blob_representation(blob.digest, blob.size)
        self.users = 0
        self.dropped = False


class BlobCache:
    """Least recently used open blobs of one worker; used on its event loop only.

    Args:
        capacity: how many descriptors are kept open while nobody uses them.
    """

    def __init__(self, capacity: int = DEFAULT_CAPACITY) -> None:
        self._capacity = capacity
        self._entries: OrderedDict[Digest, CachedBlob] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, digest: Digest) -> CachedBlob | None:
        """A cached blob, marked as in use: give it back with `release`."""
        entry = self._entries.get(digest)
        if entry is not None:
            self._entries.move_to_end(digest)
            entry.users += 1
        return entry

    def put(self, blob: OpenBlob, *, is_sound: bool = True) -> CachedBlob:
        """Take over an open blob, marked as in use; where another request was faster, its entry is used."""
        entry = self._entries.get(blob.digest)
        if entry is not None:
            blob.close()
        else:
            entry = self._entries[blob.digest] = CachedBlob(blob, is_sound=is_sound)
        self._entries.move_to_end(blob.digest)
        entry.users += 1
        while len(self._entries) > self._capacity:
            self._drop(next(iter(self._entries)))
        return entry

    def release(self, entry: CachedBlob) -> None:
        """End one use."""
        entry.users -= 1
        if entry.dropped and entry.users == 0:
            entry.blob.close()

    def digests(self) -> list[Digest]:
        """What is cached now."""
        return list(self._entries)

    def drop(self, digests: Iterable[Digest]) -> None:
        """Forget entries; what is being sent is sent to its end."""
        for digest in digests:
            if digest in self._entries:
                self._drop(digest)

    def close(self) -> None:
        """Forget all."""
        self.drop(self.digests())

    def _drop(self, digest: Digest) -> None:
        entry = self._entries.pop(digest)
        entry.dropped = True
        if entry.users == 0:
            entry.blob.close()
