"""The attack table: what a mirror, or the holder of a stolen key, may try.

Each attack ends in a named error, and the last good catalog is still there, in this process and after a restart.
"""

from __future__ import annotations

import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import DelegatedRole, Delegations, Metadata

from aibrother_node.catalog.trust import Rule, TrustedCatalog, TrustError
from aibrother_node.catalog.trust_rules import TrustLimits
from aibrother_node.content.chunks import ChunkManifest, build_manifest
from aibrother_node.errors import InvalidInput, NotFound
from catalog.simulator import BINS, CATALOG, LIVES, NOW, PART, Mirror, with_catalog

if TYPE_CHECKING:
    from pathlib import Path

DOCUMENT = b'{"catalog":1}\n'
BIN = "models-0"


class Victim:
    """A client that has a good catalog, and is attacked."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.simulator = with_catalog()
        self.simulator.publish("targets", "models", *BINS, "staging", "fleet")
        self.good = self.simulator.frozen()
        self.catalog = TrustedCatalog.open(state, self.simulator.first_root)
        self.refresh(self.simulator)
        self.before = self.catalog.status()
        self.roots = 1

    def refresh(self, mirror: Mirror, **options: Any) -> Any:
        return self.catalog.refresh(mirror.fetch, options.pop("now", NOW), documents=[CATALOG], everything=True)

    def refuses(self, role: str, rule: Rule, mirror: Mirror | None = None, **options: Any) -> TrustError:
        with pytest.raises(TrustError) as caught:
            self.refresh(mirror or self.simulator, **options)
        error = caught.value
        assert (error.role, error.rule) == (role, rule), str(error)
        assert role in str(error)
        assert rule in str(error)
        assert error.expected in str(error)
        assert error.actual in str(error)
        assert error.expected != error.actual
        self.still_has_the_good_one()
        return error

    def still_has_the_good_one(self) -> None:
        for catalog in (self.catalog, TrustedCatalog.open(self.state, self.simulator.first_root)):
            assert catalog.status() == self.before
            assert catalog.document(CATALOG) == DOCUMENT
            assert catalog.target(PART).length == 9
            assert len(list(catalog.metadata())) == self.roots + 20 + 2

    def recovers(self) -> None:
        assert self.refresh(self.simulator).changed
        assert self.catalog.document(CATALOG) == DOCUMENT
        assert self.catalog.target(PART).length == 9


@pytest.fixture
def victim(tmp_path: Path) -> Victim:
    return Victim(tmp_path)


class TestRollback:
    def test_of_the_timestamp(self, victim: Victim) -> None:
        victim.simulator.publish("targets")
        assert victim.refresh(victim.simulator).changed
        victim.before = victim.catalog.status()
        error = victim.refuses("timestamp", Rule.ROLLBACK, victim.good)
        assert (error.expected, error.actual) == ("version 4 or later", "version 3")

    def test_of_the_snapshot_by_a_timestamp_key(self, victim: Victim) -> None:
        simulator = victim.simulator
        simulator.signed["snapshot"].version = 1
        simulator.write("snapshot")
        simulator.write("timestamp")
        error = victim.refuses("snapshot", Rule.ROLLBACK)
        assert (error.expected, error.actual) == ("version 3 or later", "version 2")

    @pytest.mark.parametrize("role", ["targets", "models", BIN, "staging", "fleet"])
    def test_of_a_role_by_a_snapshot_key(self, victim: Victim, role: str) -> None:
        simulator = victim.simulator
        simulator.signed["snapshot"].meta[f"{role}.json"].version = 1
        simulator.publish()
        error = victim.refuses(role, Rule.ROLLBACK)
        assert (error.expected, error.actual) == ("version 2 or later", "version 1")

    @pytest.mark.parametrize("role", ["targets", "models", BIN, "staging", "fleet"])
    def test_of_a_role_by_leaving_it_out(self, victim: Victim, role: str) -> None:
        del victim.simulator.signed["snapshot"].meta[f"{role}.json"]
        victim.simulator.publish()
        assert victim.refuses(role, Rule.ROLLBACK).actual == "none"

    def test_of_the_root(self, victim: Victim) -> None:
        victim.simulator.files["metadata/2.root.json"] = victim.simulator.first_root
        error = victim.refuses("root", Rule.ROOT_SEQUENCE)
        assert (error.expected, error.actual) == ("version 2", "version 1")

    def test_a_newer_root_that_was_seen_is_not_forgotten(self, victim: Victim) -> None:
        victim.simulator.rotate_in_root("timestamp")
        victim.simulator.publish()
        victim.recovers()
        victim.before, victim.roots = victim.catalog.status(), 2
        victim.refuses("timestamp", Rule.SIGNATURES, victim.good)


class TestFreeze:
    @pytest.mark.parametrize("role", ["root", "timestamp", "snapshot", "targets", "models", BIN, "staging", "fleet"])
    def test_past_the_expiry_of_a_role(self, victim: Victim, role: str) -> None:
        simulator = victim.simulator
        expiry = NOW + timedelta(days=LIVES.get(role, 180))
        for other in ("timestamp", "snapshot", "targets", "models", *BINS, "staging", "fleet"):
            if other != role:
                simulator.signed[other].expires = NOW + timedelta(days=800)
        if role != "root":
            simulator.signed["root"].expires = NOW + timedelta(days=800)
            simulator.write("root")
        simulator.publish("targets", "models", *BINS, "staging", "fleet")
        victim.refresh(simulator)
        victim.before = victim.catalog.status()
        victim.roots = simulator.signed["root"].version
        error = victim.refuses(role, Rule.EXPIRED, now=expiry)
        assert error.expected == f"expiry after {expiry:%Y-%m-%dT%H:%M:%SZ}"
        assert error.actual == f"{expiry:%Y-%m-%dT%H:%M:%SZ}"
        assert victim.catalog.status().expires == expiry
        assert victim.catalog.status().stale(expiry)
        simulator.signed[role].expires = expiry + timedelta(days=1)
        if role == "root":
            simulator.write("root")
            simulator.publish()
        else:
            simulator.publish(*({role} - {"snapshot", "timestamp"}))
        assert victim.refresh(simulator, now=expiry).changed

    def test_an_old_timestamp_that_has_not_expired_can_not_be_told_from_the_newest(self, victim: Victim) -> None:
        victim.simulator.publish("targets")
        assert not victim.refresh(victim.good).changed


class TestMixAndMatch:
    @pytest.mark.parametrize("role", ["snapshot", "targets", "models", BIN, "staging", "fleet"])
    def test_an_old_file_under_the_new_name(self, victim: Victim, role: str) -> None:
        simulator = victim.simulator
        version = simulator.signed[role].version
        old = simulator.files[f"metadata/{version}.{role}.json"]
        simulator.publish(*({role} - {"snapshot"}))
        simulator.files[f"metadata/{version + 1}.{role}.json"] = old
        error = victim.refuses(role, Rule.MIX_AND_MATCH)
        assert error.expected.startswith(f"version {version + 1}, ")
        assert error.actual.startswith(f"version {version}, ")

    @pytest.mark.parametrize("role", ["snapshot", "targets", "models"])
    def test_also_where_the_metadata_gives_no_hashes(self, victim: Victim, role: str) -> None:
        simulator = victim.simulator
        version = simulator.signed[role].version
        old = simulator.files[f"metadata/{version}.{role}.json"]
        for name in [role, "snapshot"] if role != "snapshot" else ["snapshot"]:
            simulator.write(name)
            signed = simulator.signed["timestamp" if name == "snapshot" else "snapshot"]
            meta = signed.snapshot_meta if name == "snapshot" else signed.meta[f"{name}.json"]
            meta.hashes = meta.length = None
        simulator.write("timestamp")
        simulator.files[f"metadata/{version + 1}.{role}.json"] = old
        error = victim.refuses(role, Rule.MIX_AND_MATCH)
        assert error.expected.startswith(f"version {version + 1} ")
        assert error.actual == f"version {version}"

    def test_one_bin_for_another(self, victim: Victim) -> None:
        simulator = victim.simulator
        simulator.signed["models-3"].expires += timedelta(days=1)
        simulator.publish("models-3", "models-4")
        simulator.files["metadata/3.models-3.json"], simulator.files["metadata/3.models-4.json"] = (
            simulator.files["metadata/3.models-4.json"],
            simulator.files["metadata/3.models-3.json"],
        )
        victim.refuses("models-3", Rule.MIX_AND_MATCH)

    def test_a_role_of_another_kind(self, victim: Victim) -> None:
        simulator = victim.simulator
        simulator.files["metadata/timestamp.json"] = simulator.files["metadata/3.snapshot.json"]
        victim.refuses("timestamp", Rule.MALFORMED)

    def test_a_delegated_role_that_the_snapshot_does_not_name(self, victim: Victim) -> None:
        simulator = victim.simulator
        roles = simulator.signed["targets"].delegations.roles
        roles["extra"] = DelegatedRole("extra", roles["fleet"].keyids, 1, terminating=True, paths=["extra/*"])
        simulator.publish("targets")
        victim.refuses("extra", Rule.MIX_AND_MATCH)


ROLES = ["root", "timestamp", "snapshot", "targets", "models", BIN, "staging", "fleet"]


class TestSignatures:
    def resign(self, victim: Victim, role: str, signers: list[CryptoSigner]) -> None:
        simulator = victim.simulator
        simulator.write(role, signers=signers)
        for above in ("snapshot", "timestamp"):
            if role not in {"root", "timestamp"} and role != above:
                simulator.write(above)

    @pytest.mark.parametrize("role", ROLES)
    @pytest.mark.parametrize("signers", [0, 1, 3])
    def test_of_keys_that_nobody_named(self, victim: Victim, role: str, signers: int) -> None:
        self.resign(victim, role, [CryptoSigner.generate_ed25519() for _ in range(signers)])
        assert victim.refuses(role, Rule.SIGNATURES).actual == "0"

    @pytest.mark.parametrize("role", ROLES)
    def test_of_another_role(self, victim: Victim, role: str) -> None:
        other = "staging" if role != "staging" else "models"
        self.resign(victim, role, victim.simulator.signers[other])
        victim.refuses(role, Rule.SIGNATURES)

    @pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets"])
    def test_fewer_than_the_threshold(self, victim: Victim, role: str) -> None:
        simulator = victim.simulator
        signers = [*simulator.signers[role], CryptoSigner.generate_ed25519(), CryptoSigner.generate_ed25519()]
        for signer in signers[1:]:
            simulator.signed["root"].add_key(signer.public_key, role)
        simulator.signed["root"].roles[role].threshold = 2
        simulator.write("root")
        simulator.signers[role] = signers[:1]
        simulator.publish("targets")
        with pytest.raises(TrustError) as caught:
            victim.refresh(simulator)
        assert (caught.value.role, caught.value.rule) == (role, Rule.SIGNATURES)
        assert caught.value.expected == "2 of the 3 keys that root v2 names"
        assert caught.value.actual == "1"
        victim.still_has_the_good_one()
        simulator.signers[role] = signers[1:]
        simulator.publish("targets")
        victim.recovers()

    @pytest.mark.parametrize("role", ["models", "staging", "fleet"])
    def test_fewer_than_the_threshold_of_a_delegation(self, victim: Victim, role: str) -> None:
        simulator = victim.simulator
        second = CryptoSigner.generate_ed25519()
        simulator.signed["targets"].add_key(second.public_key, role)
        simulator.signed["targets"].delegations.roles[role].threshold = 2
        simulator.publish("targets", role)
        victim.refuses(role, Rule.SIGNATURES)
        simulator.signers[role] = [*simulator.signers[role], second]
        simulator.publish(role)
        victim.recovers()

    def test_one_key_counts_once_under_two_names(self, victim: Victim) -> None:
        simulator = victim.simulator
        root, signer = simulator.signed["root"], simulator.signers["timestamp"][0]
        root.keys["alias"] = root.keys[signer.public_key.keyid]
        root.roles["timestamp"].keyids.append(signer.public_key.keyid)
        root.roles["timestamp"].threshold = 2
        simulator.write("root")
        victim.refuses("root", Rule.MALFORMED)

    def test_a_root_signed_by_its_new_keys_alone(self, victim: Victim) -> None:
        simulator = victim.simulator
        simulator.rotate("root")
        simulator.write("root")
        assert victim.refuses("root", Rule.SIGNATURES).expected.endswith("root v1 names")

    def test_a_root_signed_by_its_old_keys_alone(self, victim: Victim) -> None:
        simulator = victim.simulator
        old = simulator.rotate("root")
        simulator.write("root", signers=old)
        assert victim.refuses("root", Rule.SIGNATURES).expected.endswith("root v2 names")

    def test_bytes_that_were_changed_after_signing(self, victim: Victim) -> None:
        simulator = victim.simulator
        simulator.write("timestamp")
        data = simulator.files["metadata/timestamp.json"]
        simulator.files["metadata/timestamp.json"] = data.replace(b'"version":4', b'"version":9')
        victim.refuses("timestamp", Rule.SIGNATURES)


class TestFastForward:
    def test_of_the_timestamp_is_undone_by_a_root(self, victim: Victim) -> None:
        simulator = victim.simulator
        honest = simulator.signed["timestamp"].version
        simulator.signed["timestamp"].version = 2**31 - 2
        simulator.write("timestamp")
        assert victim.refresh(simulator).status.timestamp_version == 2**31 - 1
        victim.before = victim.catalog.status()
        simulator.signed["timestamp"].version = honest
        simulator.write("timestamp")
        victim.refuses("timestamp", Rule.ROLLBACK)
        simulator.rotate_in_root("timestamp")
        simulator.publish()
        victim.recovers()
        assert victim.catalog.status().order == (2, honest + 2)

    def test_of_the_snapshot_is_undone_by_a_root(self, victim: Victim) -> None:
        simulator = victim.simulator
        simulator.signed["snapshot"].version = 1_000_000
        simulator.publish()
        victim.refresh(simulator)
        victim.before = victim.catalog.status()
        simulator.signed["snapshot"].version = 10
        simulator.publish()
        victim.refuses("snapshot", Rule.ROLLBACK)
        simulator.rotate_in_root("timestamp", "snapshot")
        simulator.signed["snapshot"].version = 10
        simulator.publish()
        victim.recovers()
        assert victim.catalog.status().snapshot_version == 11

    @pytest.mark.parametrize("role", ["targets", "models", BIN, "staging", "fleet"])
    def test_of_a_role_is_undone_by_a_root_with_a_new_snapshot_key(self, victim: Victim, role: str) -> None:
        simulator = victim.simulator
        simulator.signed[role].version = 1_000_000
        simulator.publish(role)
        victim.refresh(simulator)
        victim.before = victim.catalog.status()
        simulator.signed[role].version = 10
        simulator.publish(role)
        victim.refuses(role, Rule.ROLLBACK)
        simulator.rotate_in_root("timestamp", "snapshot")
        simulator.publish(role)
        victim.recovers()


class Endless(Mirror):
    """Sends as much as is asked for, of one file."""

    def __init__(self, honest: Mirror, path: str, byte: bytes = b" ") -> None:
        super().__init__(honest.files)
        self.path, self.byte, self.asked = path, byte, 0

    def fetch(self, path: str, max_length: int) -> bytes:
        if path != self.path:
            return super().fetch(path, max_length)
        self.asked = max_length
        return self.byte * (max_length + 1)


class TestSizes:
    @pytest.mark.parametrize(
        ("role", "most"),
        [
            ("root", 512_000),
            ("timestamp", 16_384),
            ("snapshot", None),
            ("targets", None),
            ("models", None),
            (BIN, None),
        ],
    )
    def test_an_endless_file_is_cut_off_at_the_ceiling(self, victim: Victim, role: str, most: int | None) -> None:
        simulator = victim.simulator
        simulator.publish(*({role} - {"root", "timestamp", "snapshot"}))
        version = 2 if role == "root" else simulator.signed[role].version
        name = "timestamp.json" if role == "timestamp" else f"{version}.{role}.json"
        if most is None:
            most = len(simulator.files[f"metadata/{name}"])
        endless = Endless(simulator, f"metadata/{name}")
        error = victim.refuses(role, Rule.TOO_LARGE, endless)
        assert endless.asked == most
        assert error.expected == f"at most {most} bytes"

    @pytest.mark.parametrize(("role", "most"), [("snapshot", 2_000_000), ("targets", 5_000_000), ("models", 5_000_000)])
    def test_an_oversized_file_that_was_signed_for(self, victim: Victim, role: str, most: int) -> None:
        simulator = victim.simulator
        simulator.signed[role].unrecognized_fields["ballast"] = "x" * most
        simulator.publish(*({role} - {"snapshot"}))
        victim.refuses(role, Rule.TOO_LARGE)

    def test_a_document_that_does_not_end(self, victim: Victim) -> None:
        simulator = victim.simulator
        simulator.publish(simulator.put(CATALOG, b"{}"))
        endless = Endless(simulator, simulator.target_file(CATALOG, b"{}"))
        victim.refuses(f"target {CATALOG}", Rule.CONTENT, endless)
        assert endless.asked == 2

    def test_a_document_above_the_ceiling_is_not_asked_for(self, victim: Victim) -> None:
        simulator = victim.simulator
        simulator.publish(simulator.put("models/big.json", b"x" * 101))
        victim.recovers()
        simulator.requests.clear()
        with pytest.raises(TrustError) as caught:
            victim.catalog.document("models/big.json", simulator.fetch, max_bytes=100)
        assert caught.value.rule is Rule.TOO_LARGE
        assert simulator.requests == []

    @pytest.mark.parametrize("start", [b"[", b'{"a":', b'[{"":'])
    @pytest.mark.parametrize("role", ["root", "timestamp", "targets"])
    def test_ten_megabytes_of_depth(self, victim: Victim, role: str, start: bytes) -> None:
        simulator = victim.simulator
        simulator.publish("targets")
        version = 2 if role == "root" else 3
        name = "timestamp.json" if role == "timestamp" else f"{version}.{role}.json"
        simulator.files[f"metadata/{name}"] = start * (10_000_000 // len(start))
        began = time.process_time()
        with pytest.raises(TrustError) as caught:
            victim.refresh(simulator)
        assert caught.value.role == role
        assert caught.value.rule is Rule.TOO_LARGE
        assert time.process_time() - began < 2
        victim.still_has_the_good_one()

    @pytest.mark.parametrize("data", [b"[", b'{"a":', b'"', b'"\\', b'\\"', b'["]', b"]", b'"["', b"\x00"])
    def test_depth_within_the_ceiling_of_bytes(self, tmp_path: Path, data: bytes) -> None:
        simulator = with_catalog()
        limits = TrustLimits(timestamp_bytes=10_000_000)
        catalog = TrustedCatalog.open(tmp_path, simulator.first_root, limits=limits)
        simulator.files["metadata/timestamp.json"] = data * (10_000_000 // len(data))
        began = time.process_time()
        with pytest.raises(TrustError) as caught:
            catalog.refresh(simulator.fetch, NOW)
        assert (caught.value.role, caught.value.rule) == ("timestamp", Rule.MALFORMED)
        assert time.process_time() - began < 2

    def test_more_roles_than_anybody_needs(self, victim: Victim) -> None:
        simulator = victim.simulator
        limits = TrustLimits(roles=19)
        catalog = TrustedCatalog.open(victim.state / "other", simulator.first_root, limits=limits)
        with pytest.raises(TrustError) as caught:
            catalog.refresh(simulator.fetch, NOW, everything=True)
        assert caught.value.rule is Rule.TOO_LARGE

    def test_four_thousand_million_bins(self, victim: Victim) -> None:
        simulator = victim.simulator
        succinct = simulator.signed["models"].delegations.succinct_roles
        succinct.bit_length, succinct.suffix_len, succinct.number_of_bins = 32, 8, 2**32
        simulator.publish("models")
        victim.refuses("models-00000000", Rule.MIX_AND_MATCH)

    def test_delegations_in_a_circle(self, victim: Victim) -> None:
        simulator = victim.simulator
        fleet = simulator.signed["targets"].delegations.roles["fleet"]
        fleet.terminating = False
        key = simulator.signed["targets"].delegations.keys[fleet.keyids[0]]
        role = DelegatedRole("fleet", [key.keyid], 1, terminating=False, paths=["*", "*/*"])
        simulator.signed["fleet"].delegations = Delegations({key.keyid: key}, {"fleet": role})
        simulator.publish("fleet", "targets")
        victim.recovers()
        with pytest.raises(NotFound, match=r"no target fleet\.json"):
            victim.catalog.target("fleet.json")


class TestWhoMaySignWhat:
    def test_a_staging_key_can_not_add_to_models(self, victim: Victim) -> None:
        simulator = victim.simulator
        simulator.put("models/evil-1.0-q4_0.gguf", b"evil", role="staging")
        simulator.put(PART, b"evil", role="staging")
        simulator.publish("staging")
        victim.recovers()
        with pytest.raises(NotFound, match=r"no target models/evil"):
            victim.catalog.target("models/evil-1.0-q4_0.gguf")

    def test_nor_sign_the_role_or_its_bins(self, victim: Victim) -> None:
        simulator = victim.simulator
        role = simulator.put("models/evil-1.0-q4_0.gguf", b"evil")
        simulator.signers[role] = simulator.signers["staging"]
        simulator.publish(role)
        victim.refuses(role, Rule.SIGNATURES)

    def test_nor_delegate_them_to_itself(self, victim: Victim) -> None:
        simulator = victim.simulator
        staging = simulator.signed["staging"]
        signer = simulator.signers["staging"][0]
        role = DelegatedRole("mine", [], 1, terminating=True, paths=["models/*"])
        staging.delegations = Delegations({}, {"mine": role})
        staging.add_key(signer.public_key, "mine")
        from tuf.api.metadata import Targets

        simulator.signed["mine"] = Targets(expires=NOW + timedelta(days=9))
        simulator.signers["mine"] = [signer]
        simulator.put("models/evil-1.0-q4_0.gguf", b"evil", role="mine")
        simulator.publish("mine", "staging")
        victim.recovers()
        with pytest.raises(NotFound, match=r"no target models/evil"):
            victim.catalog.target("models/evil-1.0-q4_0.gguf")

    def test_a_bin_can_not_hold_what_belongs_to_another(self, victim: Victim) -> None:
        simulator = victim.simulator
        path = "models/other-1.0-q4_0.gguf"
        wrong = next(name for name in BINS if name != simulator.role_of(path))
        simulator.publish(simulator.put(path, b"evil", role=wrong))
        victim.recovers()
        with pytest.raises(NotFound):
            victim.catalog.target(path)

    def test_targets_themselves_come_first(self, victim: Victim) -> None:
        """The top-level targets key is above all delegations: DESIGN keeps it offline."""
        simulator = victim.simulator
        simulator.put("models/top.json", b"top", role="targets")
        simulator.publish("targets")
        victim.recovers()
        assert victim.catalog.document("models/top.json", simulator.fetch) == b"top"


def fixed_manifest(data: bytes) -> ChunkManifest:
    return build_manifest(lambda offset, length: data[offset : offset + length], len(data), chunker="fixed/1")


class TestContent:
    def test_a_swapped_document(self, victim: Victim) -> None:
        simulator = victim.simulator
        simulator.publish(simulator.put(CATALOG, b'{"catalog":2}\n'))
        simulator.files[simulator.target_file(CATALOG, b'{"catalog":2}\n')] = b'{"catalog":3}\n'
        victim.refuses(f"target {CATALOG}", Rule.CONTENT)

    def test_a_swapped_manifest(self, tmp_path: Path) -> None:
        part, other = b"GGUF part", b"GGUF evil"
        manifests = {data: fixed_manifest(data) for data in (part, other)}
        simulator = with_catalog()
        custom = {"name": "phi", "version": "2.0", "variant": "q4_k_m"}
        for name, manifest in (("right", manifests[part]), ("wrong", manifests[other])):
            simulator.publish(simulator.put(f"models/{name}.gguf", part, {**custom, "chunks": str(manifest.digest())}))
        catalog = TrustedCatalog.open(tmp_path, simulator.first_root)
        catalog.refresh(simulator.fetch, NOW, everything=True)
        right = catalog.target("models/right.gguf")
        assert right.manifest(manifests[part].encode()).blob == right.sha256
        with pytest.raises(TrustError) as caught:
            right.manifest(manifests[other].encode())
        assert caught.value.rule is Rule.CONTENT
        assert caught.value.expected == str(manifests[part].digest())
        assert caught.value.actual == str(manifests[other].digest())
        with pytest.raises(TrustError) as caught:
            catalog.target("models/wrong.gguf").manifest(manifests[other].encode())
        assert caught.value.rule is Rule.MIX_AND_MATCH

    @pytest.mark.parametrize("chunks", ["../../etc/passwd", "sha512:00", 7, ["sha256:"], ""])
    def test_a_manifest_digest_that_is_none(self, tmp_path: Path, chunks: Any) -> None:
        simulator = with_catalog()
        simulator.publish(simulator.put("models/x.gguf", b"x", {"chunks": chunks}))
        catalog = TrustedCatalog.open(tmp_path, simulator.first_root)
        catalog.refresh(simulator.fetch, NOW)
        with pytest.raises(TrustError) as caught:
            _ = catalog.target("models/x.gguf", simulator.fetch).chunks
        assert caught.value.rule is Rule.MALFORMED

    @pytest.mark.parametrize(
        "path",
        [
            "",
            "/etc/passwd",
            "../keys/root",
            "models/../../x",
            "models/./x",
            "models//x",
            "models/",
            "a\x00b",
            "a\nb",
            "..",
            "models\\x",
            chr(0xD800),
            "x" * 1025,
        ],
    )
    def test_a_hostile_target_name(self, victim: Victim, path: str) -> None:
        with pytest.raises(InvalidInput, match="a target name"):
            victim.catalog.target(path, victim.simulator.fetch)
        with pytest.raises(InvalidInput, match="a target name"):
            victim.catalog.document(path, victim.simulator.fetch)
        victim.still_has_the_good_one()

    @pytest.mark.parametrize("path", ["../../outside", "/outside", "models/../../outside", "a\0b"])
    def test_a_hostile_target_name_that_was_signed(self, victim: Victim, path: str) -> None:
        simulator = victim.simulator
        simulator.put(path, b"outside", role="targets")
        simulator.publish("targets")
        simulator.requests.clear()
        with pytest.raises(InvalidInput, match="a target name"):
            victim.catalog.refresh(simulator.fetch, NOW, documents=[path])
        assert not any("outside" in request for request in simulator.requests)
        victim.still_has_the_good_one()

    @pytest.mark.parametrize(
        "hashes",
        [{"sha512": "0" * 128}, {"sha256": "A" * 64}, {"sha256": "../x"}, {"sha256": ""}, {"sha256": "0" * 63}],
    )
    def test_a_target_without_a_sha256(self, victim: Victim, hashes: dict[str, str]) -> None:
        simulator = victim.simulator
        role = simulator.put(CATALOG, b"{}")
        simulator.signed[role].targets[CATALOG].hashes = hashes
        simulator.publish(role)
        victim.refuses(f"target {CATALOG}", Rule.MALFORMED)


class TestTwoContents:
    def test_of_one_released_name(self, victim: Victim) -> None:
        simulator = victim.simulator
        custom = dict(simulator.signed[simulator.role_of(PART)].targets[PART].custom)
        role = simulator.put(PART, b"GGUF evil", custom)
        simulator.publish(role)
        error = victim.refuses(role, Rule.TWO_CONTENTS)
        assert PART in error.expected
        simulator.put(PART, b"GGUF part", custom)
        simulator.publish(role)
        victim.recovers()

    def test_of_a_projector(self, victim: Victim) -> None:
        simulator = victim.simulator
        path = "models/mmproj-phi-1.0-q4_k_m.gguf"
        custom = {"name": "phi", "version": "1.0", "variant": "q4_k_m"}
        simulator.publish(simulator.put(path, b"GGUF eyes", custom))
        victim.recovers()
        victim.before = victim.catalog.status()
        role = simulator.put(path, b"GGUF evil", {**custom, "version": "2.0"})
        simulator.publish(role)
        victim.refuses(role, Rule.TWO_CONTENTS)

    def test_a_moving_name_moves(self, victim: Victim) -> None:
        simulator = victim.simulator
        for number in (1, 2):
            custom = {"name": "phi", "version": f"{number}.0", "variant": "q4_k_m"}
            simulator.publish(simulator.put("models/phi-q4_k_m.gguf", b"GGUF %d" % number, custom))
            victim.recovers()

    @pytest.mark.parametrize("role", ["targets", "models", BIN, "staging", "fleet"])
    def test_of_one_version_of_a_role(self, victim: Victim, role: str) -> None:
        simulator = victim.simulator
        simulator.signed[role].unrecognized_fields["changed"] = "in silence"
        simulator.signed[role].version -= 1
        simulator.publish(role)
        assert victim.refuses(role, Rule.TWO_CONTENTS).expected == "v2 to stay as it was"
        simulator.publish(role)
        victim.recovers()

    def test_of_one_version_of_the_timestamp_is_an_alarm(self, victim: Victim) -> None:
        simulator = victim.simulator
        simulator.signed["timestamp"].expires = NOW + timedelta(days=3)
        simulator.write("timestamp", bump=False)
        result = victim.refresh(simulator)
        assert not result.changed
        (alarm,) = result.alarms
        assert (alarm.role, alarm.rule) == ("timestamp", Rule.TWO_CONTENTS)
        assert result.status.expires == NOW + timedelta(days=7)
        simulator.publish()
        assert victim.refresh(simulator).alarms == ()


class TestStolenKeys:
    """The drill for each key: what its thief can make a client believe, and that a rotation ends it."""

    def drill(self, victim: Victim, role: str) -> None:
        simulator = victim.simulator
        if role in {"models", "staging", "fleet"}:
            simulator.rotate(role)
            simulator.publish(role, *(BINS if role == "models" else []), "targets")
        else:
            simulator.rotate_in_root(role)
            simulator.publish("targets")

    @pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets", "models", "staging", "fleet"])
    def test_after_a_rotation_the_stolen_key_signs_nothing(self, victim: Victim, role: str) -> None:
        simulator = victim.simulator
        stolen = simulator.signers[role]
        self.drill(victim, role)
        victim.refresh(simulator)
        honest = simulator.frozen()
        simulator.signers[role] = stolen
        simulator.publish(*({role} - {"timestamp", "snapshot"}))
        with pytest.raises(TrustError) as caught:
            victim.refresh(simulator)
        assert (caught.value.role, caught.value.rule) == (role, Rule.SIGNATURES)
        assert victim.catalog.document(CATALOG) == DOCUMENT
        assert TrustedCatalog.open(victim.state / "new", simulator.first_root).refresh(honest.fetch, NOW).changed

    @pytest.mark.parametrize("role", ["models", "staging"])
    def test_what_a_thief_published_is_gone_after_the_drill(self, victim: Victim, role: str) -> None:
        simulator = victim.simulator
        path = f"{role}/evil-1.0-q4_0.gguf"
        simulator.publish(simulator.put(path, b"evil", {"name": "evil", "version": "1.0", "variant": "q4_0"}))
        victim.recovers()
        assert victim.catalog.target(path).length == 4
        del simulator.signed[simulator.role_of(path)].targets[path]
        self.drill(victim, role)
        victim.recovers()
        with pytest.raises(NotFound):
            victim.catalog.target(path)

    def test_a_release_that_a_thief_replaced_can_be_put_right_under_new_keys(self, tmp_path: Path) -> None:
        """A client that met the false content first takes the true one once the thief's key counts no more."""
        simulator = with_catalog()
        role = simulator.role_of(PART)
        custom = dict(simulator.signed[role].targets[PART].custom)
        simulator.put(PART, b"GGUF evil", custom)
        simulator.publish(role)
        catalog = TrustedCatalog.open(tmp_path, simulator.first_root)
        catalog.refresh(simulator.fetch, NOW, everything=True)
        simulator.put(PART, b"GGUF part", custom)
        simulator.rotate("models")
        simulator.publish("models", *BINS, "targets")
        assert catalog.refresh(simulator.fetch, NOW, everything=True).changed
        assert catalog.target(PART).check(b"GGUF part")

    def test_one_of_three_root_keys_makes_no_root(self, tmp_path: Path) -> None:
        simulator = with_catalog()
        root = simulator.signed["root"]
        keys = [CryptoSigner.generate_ed25519() for _ in range(3)]
        first = simulator.signers["root"]
        for key in keys:
            root.add_key(key.public_key, "root")
        root.revoke_key(first[0].public_key.keyid, "root")
        root.roles["root"].threshold = 2
        simulator.write("root", signers=[*first, *keys])
        catalog = TrustedCatalog.open(tmp_path, simulator.files["metadata/2.root.json"])
        catalog.refresh(simulator.fetch, NOW)
        honest = Metadata.from_bytes(simulator.files["metadata/2.root.json"])
        simulator.write("root", signers=keys[:1])
        with pytest.raises(TrustError) as caught:
            catalog.refresh(simulator.fetch, NOW)
        assert (caught.value.expected, caught.value.actual) == ("2 of the 3 keys that root v2 names", "1")
        root.version = honest.signed.version
        root.revoke_key(keys[0].public_key.keyid, "root")
        simulator.write("root", signers=keys[1:])
        simulator.publish()
        assert catalog.refresh(simulator.fetch, NOW).status.root_version == 3
