"""The catalog as a node or a client believes it: by python-tuf's ngclient rules, from a root it was given.

A `TrustedCatalog` holds two things apart. What was *seen* (newest verified timestamp, snapshot, roles) is what nothing
may fall behind, as TUF asks. What is *good* is the last catalog that was verified as a whole, and is what `target` and
`document` answer from: an attack, a lagging mirror or a lost connection in the middle of a refresh never takes it away.

Sources are callables: `fetch(path, max_length)` returns the body of `path` (`metadata/timestamp.json`,
`targets/models/<sha256>.catalog.json`; already quoted for a URL). Of a longer body it reads, and returns, no more than
`max_length + 1` bytes. It raises `NotFound` for 404, and `Temporary` when the source can't be reached or is too slow;
what it returns is never believed.

Not promised: that the catalog is the newest there is (a source may withhold, until the timestamp expires); use from
several threads at once. Processes may share a state folder.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from tuf.api.metadata import Root, Snapshot, Targets, Timestamp

from aibrother_node.catalog.trust_answers import CatalogStatus, Fetch, Refreshed, TargetInfo, info_of, status_of
from aibrother_node.catalog.trust_pass import Pass
from aibrother_node.catalog.trust_rules import Rule, TrustError, TrustLimits, check_target_path
from aibrother_node.catalog.trust_state import Known, State, TrustFolder
from aibrother_node.errors import DiskFull, NodeError, NotFound, Temporary
from aibrother_node.store.disk import Disk

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence
    from datetime import datetime
    from pathlib import Path

    from aibrother_node.content.digest import Digest

__all__ = ["CatalogStatus", "Fetch", "Refreshed", "Rule", "TargetInfo", "TrustError", "TrustLimits", "TrustedCatalog"]

_TOP_LEVEL: Final = frozenset({Root.type, Timestamp.type, Snapshot.type, Targets.type})


class TrustedCatalog:
    """One catalog, known by its first root; made by `open`."""

    def __init__(self, first_root: bytes, folder: TrustFolder, limits: TrustLimits) -> None:
        self._first_root = first_root
        self._folder = folder
        self._limits = limits
        self._state = folder.load()
        self._good = self._last_good()

    @classmethod
    def open(
        cls, state: Path, first_root: bytes, *, limits: TrustLimits | None = None, disk: Disk | None = None
    ) -> TrustedCatalog:
        """Begin from a root that was given out of band, and what was verified since.

        Args:
            state: folder of state folders, one a first root (named by the first 16 hex digits of its SHA-256).
            first_root: the bytes of the root file. It may have expired and been followed by others.
            limits: ceilings; python-tuf's by default.
            disk: how the state is written.

        Raises:
            TrustError: these bytes are no root, or not signed by their own keys. A damaged state raises nothing: it is
                as if there were none.
        """
        limits = limits or TrustLimits()
        folder = state / hashlib.sha256(first_root).hexdigest()[:16]
        trust_folder = TrustFolder(folder, disk or Disk(), max(limits.document_bytes, limits.targets_bytes))
        return cls(first_root, trust_folder, limits)

    def refresh(
        self,
        fetch: Fetch,
        now: datetime,
        *,
        documents: Collection[str] = (),
        everything: bool = False,
        allow_stale: bool = False,
    ) -> Refreshed:
        """Ask one source for the newest catalog, and believe it if all of it is valid.

        Args:
            fetch: the source.
            now: UTC; nothing may have expired then.
            documents: target names that are part of "all of it": their bytes are fetched and verified too, and kept.
                A name that the catalog doesn't have is fine.
            everything: whether all delegated roles are part of it; without, they are fetched when they are needed.
            allow_stale: whether to answer with the last good catalog if what the source has is expired.

        Raises:
            TrustError: the source's metadata or a document must not be believed.
            NotFound: the source lacks a file that its metadata names.
            Temporary: as `fetch` raises it; `DiskFull`.
            In every case the last good catalog is still what `target` and `document` answer from.
        """
        with self._folder.locked():
            self._state = self._folder.load()
            before = self._state.good
            attempt = Pass(self._first_root, self._state.seen, self._folder, self._limits, now)
            good = None
            try:
                attempt.run(fetch)
                if everything:
                    for _ in attempt.tree(fetch):
                        pass
                kept = self._documents(attempt, fetch, documents)
                good = Known(tuple(attempt.roots), dict(attempt.roles), kept)
            except TrustError as error:
                if not (allow_stale and error.rule is Rule.EXPIRED and self._good is not None):
                    raise
                return Refreshed(status_of(self._good), changed=False, expired=error, alarms=tuple(attempt.alarms))
            finally:
                self._remember(attempt, good, now)
        self._good = attempt
        changed = before is None or before.roles != good.roles or before.roots != good.roots
        return Refreshed(status_of(attempt), changed, alarms=tuple(attempt.alarms))

    def refresh_any(
        self,
        sources: Sequence[tuple[str, Fetch]],
        now: datetime,
        *,
        documents: Collection[str] = (),
        everything: bool = False,
        allow_stale: bool = False,
    ) -> Refreshed:
        """Ask every source in turn and believe the newest valid catalog, by (root version, timestamp version).

        Args:
            sources: (name for reports, source) pairs. One that lags behind is a failure of rule `rollback`.
            now, documents, everything, allow_stale: as in `refresh`.

        Raises:
            TrustError: no source could be believed; the first one's reason.
            Temporary: none could be reached, or there are none.
        """
        failures: dict[str, NodeError] = {}
        alarms: list[TrustError] = []
        best: Refreshed | None = None
        for name, fetch in sources:
            try:
                one = self.refresh(fetch, now, documents=documents, everything=everything)
            except DiskFull:
                raise
            except NodeError as error:
                failures[name] = error
                continue
            alarms.extend(one.alarms)
            best = replace(one, changed=one.changed or (best is not None and best.changed))
        if best is not None:
            return replace(best, alarms=tuple(alarms), failures=failures)
        refused = [error for error in failures.values() if isinstance(error, TrustError)]
        expired = [error for error in refused if error.rule is Rule.EXPIRED]
        if allow_stale and expired and self._good is not None:
            return Refreshed(status_of(self._good), changed=False, expired=expired[0], failures=failures)
        if refused:
            raise refused[0]
        reasons = "; ".join(f"{name}: {error}" for name, error in failures.items()) or "there are none"
        raise Temporary(f"no source of the catalog could be reached: {reasons}")

    def status(self) -> CatalogStatus:
        """The last good catalog.

        Raises:
            NotFound: there was none yet.
        """
        return status_of(self._have())

    def target(self, path: str, fetch: Fetch | None = None) -> TargetInfo:
        """What the last good catalog says of a target.

        Args:
            path: its name.
            fetch: a source of delegated roles that weren't fetched yet; they belong to this catalog or are refused.

        Raises:
            InvalidInput: this is no target name.
            NotFound: the catalog has no such target; or its role isn't here, and there is no `fetch`.
            TrustError: the role's file must not be believed.
            Temporary: as `fetch` raises it.
        """
        return self._look_up(self._have(), path, fetch)

    def document(self, path: str, fetch: Fetch | None = None, max_bytes: int | None = None) -> bytes:
        """The verified bytes of a target of the last good catalog, from the state folder or else the source.

        Args:
            path: its name.
            fetch: the source.
            max_bytes: the ceiling; `TrustLimits.document_bytes` by default.

        Raises:
            InvalidInput, NotFound, TrustError, Temporary: as `target`, and the same for the file itself.
        """
        good = self._have()
        info = self._look_up(good, path, fetch)
        data = self._folder.get(info.sha256)
        if data is not None:
            return info.check(data)
        with self._folder.locked():
            data = self._fetch_document(good, info, fetch, max_bytes)
            self._keep_more(good, {path: info.sha256})
        return data

    def targets(self) -> Iterator[TargetInfo]:
        """Every target of the last good catalog, role by role.

        Raises:
            NotFound: a role isn't here: the last refresh was not for `everything`.
        """
        for _, targets in self._have().tree(None):
            for found in targets.targets.values():
                yield info_of(found)

    def metadata(self) -> Iterator[tuple[str, bytes]]:
        """The files of the last good catalog as a repository names them, in the order in which one is to be written:
        every root, then delegated roles and targets, snapshot, and `timestamp.json` last.

        Raises:
            NotFound: a role isn't here: the last refresh was not for `everything`.
        """
        good = self._have()
        version = good.trusted.root.version - len(good.roots)
        yield f"{version}.root.json", self._first_root
        for number, digest in enumerate(good.roots, version + 1):
            yield f"{number}.root.json", self._object(digest, Root.type)
        roles = [(role, targets.version) for role, targets in good.tree(None)]
        for role, number in [*reversed(roles), (Snapshot.type, good.trusted.snapshot.version)]:
            yield f"{number}.{quote(role, '')}.json", self._object(good.roles[role], role)
        yield "timestamp.json", self._object(good.roles[Timestamp.type], Timestamp.type)

    def seen(self) -> Iterator[tuple[str, bytes]]:
        """(role, bytes) of the newest verified file of each role, whether or not a whole catalog came with it."""
        roots = self._state.seen.roots
        yield Root.type, self._object(roots[-1], Root.type) if roots else self._first_root
        for role, digest in self._state.seen.roles.items():
            yield role, self._object(digest, role)

    def _last_good(self) -> Pass | None:
        good = self._state.good
        if good is None:
            # Still refuses a first root that isn't one.
            Pass(self._first_root, Known(), self._folder, self._limits, self._state.good_at)
            return None
        loaded = Pass(self._first_root, good, self._folder, self._limits, self._state.good_at)
        try:
            loaded.run(None)
        except (TrustError, NotFound):
            return None
        return loaded

    def _have(self) -> Pass:
        if self._good is None:
            raise NotFound("there is no verified catalog yet")
        return self._good

    def _look_up(self, good: Pass, path: str, fetch: Fetch | None) -> TargetInfo:
        check_target_path(path)
        known = dict(good.roles)
        if fetch is None:
            found = good.search(path, None)
        else:
            with self._folder.locked():
                found = good.search(path, fetch)
                if good.roles != known:
                    self._keep_more(good, {})
        if found is None:
            raise NotFound(f"the catalog has no target {path}")
        return info_of(found)

    def _documents(self, attempt: Pass, fetch: Fetch, wanted: Collection[str]) -> dict[str, Digest]:
        """Fetch and verify what is wanted; keep what else is here and still said to be the same."""
        kept: dict[str, Digest] = {}
        for path in wanted:
            found = attempt.search(check_target_path(path), fetch)
            if found is not None:
                info = info_of(found)
                if self._folder.get(info.sha256) is None:
                    self._fetch_document(attempt, info, fetch, None)
                kept[path] = info.sha256
        for path, digest in (self._state.good.documents if self._state.good else {}).items():
            try:
                found = attempt.search(path, None)
            except (NotFound, TrustError):
                continue
            if found is not None and found.hashes.get("sha256") == digest.hex:
                kept.setdefault(path, digest)
        return kept

    def _fetch_document(self, of: Pass, info: TargetInfo, fetch: Fetch | None, max_bytes: int | None) -> bytes:
        ceiling = self._limits.document_bytes if max_bytes is None else max_bytes
        if info.length > ceiling:
            raise TrustError(f"target {info.path}", Rule.TOO_LARGE, f"at most {ceiling} bytes", info.length)
        if fetch is None:
            raise NotFound(f"target {info.path} is not here yet")
        name = info.path
        if of.trusted.root.consistent_snapshot:
            folder, slash, last = name.rpartition("/")
            name = f"{folder}{slash}{info.sha256.hex}.{last}"
        data = info.check(fetch(f"targets/{name}", info.length))
        self._folder.put(data)
        return data

    def _remember(self, attempt: Pass, good: Known | None, now: datetime) -> None:
        """Make durable what an attempt saw, and what is good now."""
        roots = tuple(attempt.roots)
        if self._state.seen.roots[: len(roots)] == roots:
            roots = self._state.seen.roots  # a damaged file in the middle must not shorten what is known
        seen = Known(roots, dict(attempt.roles))
        state = State(seen, good, now) if good is not None else replace(self._state, seen=seen)
        if state != self._state:
            self._folder.commit(state)
            self._state = state

    def _keep_more(self, good: Pass, documents: Mapping[str, Digest]) -> None:
        """Make durable what was fetched for the last good catalog, unless another process has a newer one already."""
        state = self._folder.load()
        if state.good is None or state.good.roles.get(Timestamp.type) != good.roles[Timestamp.type]:
            return
        known = Known(state.good.roots, {**state.good.roles, **good.roles}, {**state.good.documents, **documents})
        delegated = {role: digest for role, digest in good.roles.items() if role not in _TOP_LEVEL}
        seen = replace(state.seen, roles={**state.seen.roles, **delegated})
        self._state = replace(state, seen=seen, good=known)
        self._folder.commit(self._state)

    def _object(self, digest: Digest, role: str) -> bytes:
        data = self._folder.get(digest)
        if data is None:
            raise NotFound(f"the metadata of role {role} is not here")
        return data
