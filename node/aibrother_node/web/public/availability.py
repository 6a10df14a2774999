"""What of a blob is here and may be served: all of it, some of its chunks, or nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aibrother_node.errors import Gone, NotFound
from aibrother_node.store.fills import Incomplete, open_fill
from aibrother_node.store.withheld import first_withheld
from aibrother_node.web.ranges import Slice

if TYPE_CHECKING:
    from aibrother_node.content.digest import Digest
    from aibrother_node.store.blobs import BlobReader
    from aibrother_node.store.open_blob import OpenBlob
    from aibrother_node.store.withheld import Withheld
    from aibrother_node.web.answer import Answer
    from aibrother_node.web.public.catalog_files import CatalogFiles


def open_served(reader: BlobReader, catalog: CatalogFiles, digest: Digest) -> OpenBlob:
    """Open a blob that may be served, whole or damaged. Blocks: the folder may have to be read from disk.

    Raises:
        Gone: it was withdrawn.
        NotFound: it is not here.
        Incomplete: it is damaged, and nothing of it can be served.
    """
    reason = catalog.withdrawn(digest)
    if reason is not None:
        raise Gone(reason)
    try:
        return reader.open_blob(digest)
    except NotFound:
        pass
    try:
        fill = open_fill(reader.layout, digest)
    except NotFound:
        return reader.open_blob(digest)  # it may have become whole in between
    if fill.state.why == "damaged" and fill.state.certain:
        return fill
    fill.close()
    if fill.state.why == "damaged":
        raise Incomplete(f"{digest} is damaged here, and is being repaired")
    raise NotFound(f"{digest} is not here")


def refuse_unfinishable(withheld: Withheld, blob: OpenBlob, answer: Answer) -> None:
    """Begin no body that can't be finished.

    Raises:
        Incomplete: it needs bytes that are not here, or withheld.
    """
    ranges = withheld.ranges(blob.digest, blob.inode)
    if blob.is_whole and not ranges:
        return
    for part in answer.parts:
        if isinstance(part, Slice) and (
            first_withheld(ranges, *part) is not None or not blob.holds(part.offset, part.length)
        ):
            raise Incomplete(f"a part of {blob.digest} is damaged here, and is being repaired: try another range")
