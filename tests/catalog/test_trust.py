"""A catalog that is believed: from a first root on, over restarts, rotations, several sources and damaged disks."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tuf.ngclient import Updater
from tuf.ngclient.fetcher import FetcherInterface

from aibrother_node.catalog.trust import Rule, TrustedCatalog, TrustError
from aibrother_node.catalog.trust_rules import TrustLimits, check_shape, check_target_path
from aibrother_node.errors import InvalidInput, NotFound, Temporary
from aibrother_node.store.disk import Disk
from catalog.simulator import BINS, CATALOG, NOW, PART, Mirror, Simulator, with_catalog

DOCUMENT = b'{"catalog":1}\n'


def opened(state: Path, simulator: Simulator, **options: Any) -> TrustedCatalog:
    return TrustedCatalog.open(state, simulator.first_root, **options)


def refreshed(state: Path, simulator: Simulator) -> TrustedCatalog:
    catalog = opened(state, simulator)
    catalog.refresh(simulator.fetch, NOW, documents=[CATALOG], everything=True)
    return catalog


def unreachable(path: str, max_length: int) -> bytes:
    raise Temporary("connection refused")


def test_a_client_begins_with_nothing_but_the_root(tmp_path: Path) -> None:
    simulator = with_catalog()
    catalog = opened(tmp_path, simulator)
    with pytest.raises(NotFound, match="no verified catalog yet"):
        catalog.target(PART)
    result = catalog.refresh(simulator.fetch, NOW)
    assert result.changed
    assert (result.status.root_version, result.status.timestamp_version) == (1, 2)
    info = catalog.target(PART, simulator.fetch)
    assert (info.path, info.length) == (PART, 9)
    assert info.custom["chunks"] == f"sha256:{'1' * 64}"
    assert catalog.document(CATALOG, simulator.fetch) == DOCUMENT
    with pytest.raises(NotFound, match=r"no target models/other\.gguf"):
        catalog.target("models/other.gguf", simulator.fetch)


def test_only_what_is_needed_is_fetched_and_only_once(tmp_path: Path) -> None:
    simulator = with_catalog()
    catalog = opened(tmp_path, simulator)
    catalog.refresh(simulator.fetch, NOW)
    assert simulator.requests == [
        "metadata/2.root.json",
        "metadata/timestamp.json",
        "metadata/2.snapshot.json",
        "metadata/1.targets.json",
    ]
    simulator.requests.clear()
    assert catalog.document(CATALOG, simulator.fetch) == DOCUMENT
    number = simulator.signed[simulator.role_of(CATALOG)].version
    assert simulator.requests == [
        "metadata/1.models.json",
        f"metadata/{number}.{simulator.role_of(CATALOG)}.json",
        simulator.target_file(CATALOG, DOCUMENT),
    ]
    simulator.requests.clear()
    again = opened(tmp_path, simulator)
    assert not again.refresh(simulator.fetch, NOW, documents=[CATALOG]).changed
    assert simulator.requests == ["metadata/2.root.json", "metadata/timestamp.json"]


def test_a_restart_reads_the_last_good_catalog_without_a_source(tmp_path: Path) -> None:
    simulator = with_catalog()
    before = refreshed(tmp_path, simulator)
    after = opened(tmp_path, simulator)
    assert after.status() == before.status()
    assert after.target(PART) == before.target(PART)
    assert after.document(CATALOG) == DOCUMENT
    assert {info.path for info in after.targets()} == {CATALOG, PART}


def test_what_was_fetched_later_survives_a_restart_too(tmp_path: Path) -> None:
    simulator = with_catalog()
    catalog = opened(tmp_path, simulator)
    catalog.refresh(simulator.fetch, NOW)
    catalog.document(CATALOG, simulator.fetch)
    assert opened(tmp_path, simulator).document(CATALOG) == DOCUMENT
    simulator.publish()
    catalog.refresh(simulator.fetch, NOW)
    assert opened(tmp_path, simulator).document(CATALOG) == DOCUMENT


def test_each_first_root_has_a_state_of_its_own(tmp_path: Path) -> None:
    one, two = with_catalog(), with_catalog()
    refreshed(tmp_path, one)
    with pytest.raises(NotFound):
        opened(tmp_path, two).status()
    refreshed(tmp_path, two)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_new_catalog_takes_the_place_of_the_old_one_when_all_of_it_is_there(tmp_path: Path) -> None:
    simulator = with_catalog()
    catalog = refreshed(tmp_path, simulator)
    simulator.publish(simulator.put(CATALOG, b'{"catalog":2}\n'))
    missing = simulator.files.pop(simulator.target_file(CATALOG, b'{"catalog":2}\n'))
    with pytest.raises(NotFound):
        catalog.refresh(simulator.fetch, NOW, documents=[CATALOG])
    assert catalog.document(CATALOG) == DOCUMENT
    assert opened(tmp_path, simulator).document(CATALOG) == DOCUMENT
    simulator.files[simulator.target_file(CATALOG, missing)] = missing
    assert catalog.refresh(simulator.fetch, NOW, documents=[CATALOG]).changed
    assert catalog.document(CATALOG) == b'{"catalog":2}\n'


def test_objects_that_nothing_names_are_removed(tmp_path: Path) -> None:
    simulator = with_catalog()
    catalog = refreshed(tmp_path, simulator)
    (folder,) = tmp_path.iterdir()
    count = len(list((folder / "objects").iterdir()))
    for number in range(5):
        simulator.publish(simulator.put(CATALOG, b'{"catalog":%d}\n' % (number + 2)))
        catalog.refresh(simulator.fetch, NOW, documents=[CATALOG], everything=True)
    assert len(list((folder / "objects").iterdir())) == count


@pytest.mark.parametrize("role", ["root", "timestamp", "snapshot", "targets", "models", "staging", "fleet"])
def test_a_client_follows_a_rotation_of_every_role(tmp_path: Path, role: str) -> None:
    simulator = with_catalog()
    catalog = refreshed(tmp_path, simulator)
    if role in {"models", "staging", "fleet"}:
        simulator.rotate(role)
        simulator.publish(role, *(BINS if role == "models" else []), "targets")
    else:
        simulator.rotate_in_root(role)
        simulator.publish("targets")
    assert catalog.refresh(simulator.fetch, NOW, everything=True).changed
    assert catalog.target(PART).length == 9
    assert opened(tmp_path, simulator).target(PART).length == 9


def test_twenty_roots_are_walked_from_the_first(tmp_path: Path) -> None:
    simulator = with_catalog()
    for _ in range(19):
        simulator.rotate_in_root("root", "timestamp")
        simulator.publish()
    catalog = refreshed(tmp_path, simulator)
    assert catalog.status().root_version == 20
    assert opened(tmp_path, simulator).document(CATALOG) == DOCUMENT


def test_one_refresh_takes_a_bounded_number_of_roots_and_the_next_goes_on(tmp_path: Path) -> None:
    simulator = with_catalog()
    for _ in range(5):
        simulator.rotate_in_root("root")
    catalog = opened(tmp_path, simulator, limits=TrustLimits(root_rotations=2))
    versions = [catalog.refresh(simulator.fetch, NOW).status.root_version for _ in range(4)]
    assert versions == [3, 5, 6, 6]


def test_a_first_root_may_have_expired(tmp_path: Path) -> None:
    simulator = with_catalog()
    simulator.signed["root"].expires = NOW + timedelta(days=800)
    simulator.write("root")
    for role in ("targets", "models", *BINS):
        simulator.signed[role].expires = NOW + timedelta(days=800)
    for role in ("snapshot", "timestamp"):
        simulator.signed[role].expires = NOW + timedelta(days=800)
    simulator.publish("targets", "models", *BINS)
    catalog = opened(tmp_path, simulator)
    assert catalog.refresh(simulator.fetch, NOW + timedelta(days=700)).status.root_version == 2


@pytest.mark.parametrize("root", [b"", b"{}", b"[" * 100, b"no json", b'{"signed":{"_type":"root"},"signatures":[]}'])
def test_what_is_no_root_is_not_begun_with(tmp_path: Path, root: bytes) -> None:
    with pytest.raises(TrustError) as caught:
        TrustedCatalog.open(tmp_path, root)
    assert (caught.value.role, caught.value.rule) == ("root", Rule.MALFORMED)


def test_a_root_that_did_not_sign_itself_is_not_begun_with(tmp_path: Path) -> None:
    simulator = with_catalog()
    unsigned = simulator.write("root", signers=simulator.signers["timestamp"])
    with pytest.raises(TrustError) as caught:
        TrustedCatalog.open(tmp_path, unsigned)
    assert (caught.value.role, caught.value.rule) == ("root", Rule.SIGNATURES)


@pytest.mark.parametrize(
    "damage", [b"", b"\0" * 500, b"[]", b"{}", b'{"schema":"aibrother.trust/1"}', b"[" * 100_000, b"\xff"]
)
def test_a_damaged_state_is_as_none_and_never_less_trust(tmp_path: Path, damage: bytes) -> None:
    simulator = with_catalog()
    refreshed(tmp_path, simulator)
    (folder,) = tmp_path.iterdir()
    (folder / "state.json").write_bytes(damage)
    catalog = opened(tmp_path, simulator)
    with pytest.raises(NotFound):
        catalog.status()
    stranger = with_catalog()
    with pytest.raises(TrustError, match="signature threshold"):
        catalog.refresh(stranger.fetch, NOW)
    assert catalog.refresh(simulator.fetch, NOW).status.timestamp_version == 2


def test_a_damaged_object_is_fetched_again(tmp_path: Path) -> None:
    simulator = with_catalog()
    simulator.rotate_in_root("root", "snapshot")
    simulator.rotate_in_root("root")
    simulator.publish()
    refreshed(tmp_path, simulator)
    (folder,) = tmp_path.iterdir()
    for path in sorted((folder / "objects").iterdir()):
        whole = path.read_bytes()
        path.write_bytes(whole[:-1])
        catalog = opened(tmp_path, simulator)
        catalog.refresh(simulator.fetch, NOW, documents=[CATALOG], everything=True)
        assert catalog.status().order == (3, 3)
        assert catalog.document(CATALOG) == DOCUMENT
        assert path.read_bytes() == whole


class Stopping(Disk):
    """A disk that stops the process at the n-th change."""

    def __init__(self, left: int) -> None:
        self.left = left

    def _count(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt

    def create(self, path: Path, mode: int = 0o600) -> Any:
        self._count()
        return super().create(path, mode)

    def rename(self, source: Path, target: Path) -> None:
        self._count()
        super().rename(source, target)

    def unlink(self, path: Path) -> None:
        self._count()
        super().unlink(path)

    def sync_folder(self, path: Path) -> None:
        self._count()
        super().sync_folder(path)


def test_stopped_at_any_change_of_the_disk_the_old_or_the_new_catalog_is_there(tmp_path: Path) -> None:
    simulator = with_catalog()
    refreshed(tmp_path / "whole", simulator)
    old = simulator.frozen()
    simulator.publish(simulator.put(CATALOG, b'{"catalog":2}\n'))
    outcomes = set()
    for left in range(200):
        state = tmp_path / str(left)
        opened(state, simulator).refresh(old.fetch, NOW, documents=[CATALOG], everything=True)
        try:
            opened(state, simulator, disk=Stopping(left)).refresh(
                simulator.fetch, NOW, documents=[CATALOG], everything=True
            )
            finished = True
        except KeyboardInterrupt:
            finished = False
        catalog = opened(state, simulator)
        outcomes.add((catalog.status().timestamp_version, catalog.document(CATALOG)))
        assert len(list(catalog.targets())) == 2
        catalog.refresh(simulator.fetch, NOW, documents=[CATALOG], everything=True)
        assert catalog.document(CATALOG) == b'{"catalog":2}\n'
        if finished:
            break
    assert finished
    assert outcomes == {(2, DOCUMENT), (3, b'{"catalog":2}\n')}


class TestSeveralSources:
    def test_the_newest_valid_one_is_believed_whatever_the_order(self, tmp_path: Path) -> None:
        simulator = with_catalog()
        lagging = simulator.frozen()
        simulator.publish(simulator.put(CATALOG, b'{"catalog":2}\n'))
        sources = [("new", simulator.fetch), ("old", lagging.fetch), ("gone", unreachable)]
        for number, order in enumerate([sources, sources[::-1]]):
            catalog = opened(tmp_path / str(number), simulator)
            result = catalog.refresh_any(order, NOW, documents=[CATALOG])
            assert result.changed
            assert catalog.document(CATALOG) == b'{"catalog":2}\n'
            assert isinstance(result.failures["gone"], Temporary)
        catalog = opened(tmp_path / "1", simulator)
        behind = catalog.refresh_any(sources, NOW).failures["old"]
        assert isinstance(behind, TrustError)
        assert (behind.role, behind.rule) == ("timestamp", Rule.ROLLBACK)
        assert (behind.expected, behind.actual) == ("version 3 or later", "version 2")

    def test_a_forger_among_them_is_reported_and_the_others_count(self, tmp_path: Path) -> None:
        simulator, forger = with_catalog(), with_catalog()
        catalog = opened(tmp_path, simulator)
        result = catalog.refresh_any([("forger", forger.fetch), ("honest", simulator.fetch)], NOW)
        error = result.failures["forger"]
        assert isinstance(error, TrustError)
        assert error.rule is Rule.SIGNATURES
        assert catalog.target(PART, simulator.fetch).length == 9

    def test_without_one_that_counts_the_reason_is_raised(self, tmp_path: Path) -> None:
        simulator, forger = with_catalog(), with_catalog()
        catalog = opened(tmp_path, simulator)
        with pytest.raises(Temporary, match="gone: connection refused"):
            catalog.refresh_any([("gone", unreachable)], NOW)
        with pytest.raises(TrustError, match="signature threshold"):
            catalog.refresh_any([("gone", unreachable), ("forger", forger.fetch)], NOW)
        with pytest.raises(Temporary, match="there are none"):
            catalog.refresh_any([], NOW)

    def test_a_root_counts_for_more_than_a_timestamp(self, tmp_path: Path) -> None:
        simulator = with_catalog()
        simulator.signed["timestamp"].version = 1_000_000
        simulator.write("timestamp")
        forwarded = simulator.frozen()
        simulator.rotate_in_root("timestamp")
        simulator.signed["timestamp"].version = 2
        simulator.publish()
        sources = [("stolen key", forwarded.fetch), ("recovered", simulator.fetch)]
        for number, order in enumerate([sources, sources[::-1]]):
            result = opened(tmp_path / str(number), simulator).refresh_any(order, NOW)
            assert result.status.order == (2, 3)


def test_a_stale_catalog_is_given_on_request_with_its_age(tmp_path: Path) -> None:
    simulator = with_catalog()
    catalog = refreshed(tmp_path, simulator)
    later = NOW + timedelta(days=8)
    with pytest.raises(TrustError) as caught:
        catalog.refresh(simulator.fetch, later)
    assert (caught.value.role, caught.value.rule) == ("timestamp", Rule.EXPIRED)
    assert caught.value.expected == "expiry after 2026-12-02T12:00:00Z"
    assert caught.value.actual == "2026-12-01T12:00:00Z"
    result = catalog.refresh(simulator.fetch, later, allow_stale=True)
    assert result.expired is not None
    assert result.status.stale(later)
    assert not result.status.stale(NOW)
    assert result.status.age(later) == timedelta(days=8)
    assert catalog.refresh_any([("mirror", simulator.fetch)], later, allow_stale=True).expired is not None
    assert catalog.document(CATALOG) == DOCUMENT


def test_what_is_believed_can_be_served_to_others(tmp_path: Path) -> None:
    simulator = with_catalog()
    simulator.rotate_in_root("root", "snapshot")
    simulator.publish("targets")
    catalog = refreshed(tmp_path, simulator)
    files = list(catalog.metadata())
    assert files[0][0] == "1.root.json"
    assert files[-1][0] == "timestamp.json"
    assert all(simulator.files[f"metadata/{name}"] == data for name, data in files)
    mirror = Mirror({f"metadata/{name}": data for name, data in files})
    follower = opened(tmp_path / "follower", simulator)
    assert follower.refresh(mirror.fetch, NOW, everything=True).status.order == (2, 3)


class Fetcher(FetcherInterface):
    def __init__(self, simulator: Simulator) -> None:
        self.simulator = simulator

    def _fetch(self, url: str) -> Any:
        from tuf.api.exceptions import DownloadHTTPError

        try:
            yield self.simulator.files[url.removeprefix("http://node/")]
        except KeyError:
            raise DownloadHTTPError("not found", 404) from None


def test_the_simulator_is_a_repository_to_python_tuf_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    simulator = with_catalog()
    updater = Updater(
        str(tmp_path),
        "http://node/metadata",
        str(tmp_path),
        "http://node/targets",
        Fetcher(simulator),
        bootstrap=simulator.first_root,
    )
    updater._trusted_set.reference_time = NOW
    info = updater.get_targetinfo(CATALOG)
    assert info is not None
    assert Path(updater.download_target(info)).read_bytes() == DOCUMENT


@given(st.text())
def test_a_target_name_that_is_taken_stays_inside_any_folder(text: str) -> None:
    try:
        check_target_path(text)
    except InvalidInput:
        return
    path = Path("/a/b") / text
    assert Path("/a/b") in path.parents
    assert ".." not in path.parts


@given(
    st.recursive(
        st.none() | st.text(alphabet='[]{}"\\a\n'),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(alphabet='[]{}"\\'), inner, max_size=3),
        max_leaves=30,
    )
)
def test_depth_is_measured_as_a_parser_would(value: Any) -> None:
    def depth(of: Any) -> int:
        if isinstance(of, dict):
            of = list(of.values())
        return 1 + max(map(depth, of), default=0) if isinstance(of, list) else 0

    data = json.dumps(value).encode()
    check_shape("targets", data, TrustLimits(depth=depth(value)))
    if depth(value):
        with pytest.raises(TrustError):
            check_shape("targets", data, TrustLimits(depth=depth(value) - 1))
