"""Makes docs/vectors/catalog: `cd tests && python -m catalog.make_vectors`.

Keys, times and contents are fixed and Ed25519 signatures are deterministic, so every run makes the same bytes. Cases
may be added; what is there never changes, since other implementations are checked against it.
"""

from __future__ import annotations

import hashlib
import json
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import MetaFile, TargetFile

from aibrother_node.catalog import editing
from aibrother_node.catalog.entries import (
    CatalogDocument,
    Entry,
    FleetDocument,
    FleetNode,
    GgufFacts,
    Part,
    ReleasesDocument,
    decode_releases,
    encode,
)
from aibrother_node.catalog.names import Reference
from aibrother_node.content.digest import Digest
from catalog.simulator import BINS, NOW, Simulator

if TYPE_CHECKING:
    from datetime import datetime

VECTORS = Path(__file__).parents[2] / "docs" / "vectors"
CATALOG = VECTORS / "catalog"
SPEC = "1.0.31"
CUSTOM_FILE = "models/tiny-1.1-f32.gguf"
DAY = timedelta(days=1)
SECOND = timedelta(seconds=1)

Step = dict[str, Any]


def fixed_key(number: int) -> CryptoSigner:
    """The n-th key of all vectors; its private half is the SHA-256 of `aibrother catalog vectors, key <n>`."""
    seed = hashlib.sha256(f"aibrother catalog vectors, key {number}".encode()).digest()
    return CryptoSigner(Ed25519PrivateKey.from_private_bytes(seed))


class Fixed(Simulator):
    """A repository of fixed keys; what it serves can be taken as a layer over what it served before."""

    def __init__(self) -> None:
        self._numbers = iter(range(1, 1000))
        super().__init__(lambda: fixed_key(next(self._numbers)))

    def write(self, role: str, **options: Any) -> bytes:
        self.signed[role].spec_version = SPEC  # not what the library that happens to be installed supports
        return super().write(role, **options)

    def name(self, path: str, target: editing.TargetEdit | None) -> str:
        """Let a target be named, or not any more; returns its role, which is still to be published."""
        role = self.role_of(path)
        if target is None:
            del self.signed[role].targets[path]
        else:
            custom = {} if target.custom is None else {"custom": dict(target.custom)}
            found = TargetFile(target.length, {"sha256": target.sha256.hex}, path, custom)
            self.signed[role].targets[path] = found
        return role

    def carry_out(self, edit: editing.Edit) -> None:
        roles = {self.name(path, target) for path, target in edit.targets.items()}
        for path, data in edit.documents.items():
            if data is not None:
                self.files[self.target_file(path, data)] = data
        self.publish(*sorted(roles))

    def resign(self, role: str, data: bytes) -> bytes:
        """Sign whatever JSON this is with the role's keys."""
        signed = json.loads(data)["signed"]
        canonical = json.dumps(signed, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
        signatures = [signer.sign(canonical).to_dict() for signer in self.signers[role]]
        return json.dumps({"signatures": signatures, "signed": signed}, ensure_ascii=False).encode()


def stored(name: str) -> tuple[Digest, int, Digest]:
    """Digest and length of one of the files in docs/vectors/files, and the digest of its manifest."""
    data = (VECTORS / "files" / name).read_bytes()
    manifest = (VECTORS / "files" / f"{name}.chunks.msgpack").read_bytes()
    return Digest(hashlib.sha256(data).digest()), len(data), Digest(hashlib.sha256(manifest).digest())


def release(version: str, file: str) -> Entry:
    sha256, size, chunks = stored(file)
    part = Part(f"tiny-{version}-f32.gguf", sha256, size, chunks, chunks)
    facts = GgufFacts(version=3, architecture="llama", context_length=4096, tensor_count=3)
    return Entry(
        "tiny", version, "f32", "2026-11-20T08:00:00Z", (part,), facts, license="mit", description='Grüße, "World"'
    )


def good() -> tuple[Fixed, editing.Content]:
    """Version 1.0 and 1.1 of one model, 1.2 yanked, one release in staging, one node."""
    made = Fixed()
    public = hashlib.sha256(b"aibrother catalog vectors, a node").digest()
    node = FleetNode(hashlib.sha256(public).hexdigest(), public.hex(), "eu", "https://mirror.example")
    fleet = encode(FleetDocument(1, (node,)))
    begun = editing.Content(CatalogDocument.empty("stable", NOW), CatalogDocument.empty("staging", NOW), lambda _: None)
    documents = {"models/catalog.json": encode(begun.stable), "staging/catalog.json": encode(begun.staging)}
    documents["fleet.json"] = fleet
    made.publish(*sorted({made.put(path, data) for path, data in documents.items()}))
    releases = [release("1.0", "v3.gguf"), release("1.1", "v2.gguf"), release("1.2", "big-endian.gguf")]
    edit = editing.publish(begun, releases, "stable", NOW)
    made.carry_out(edit)
    edit = editing.yank(edit.content, [Reference("tiny", "f32", "1.2")], "garbles numbers", NOW)
    made.carry_out(edit)
    edit = editing.publish(edit.content, [release("2.0", "unknown-type.gguf")], "staging", NOW)
    made.carry_out(edit)
    return made, edit.content


class Cases:
    """Collects layers (files that differ from a repository before) and the cases that use them."""

    def __init__(self) -> None:
        self.layers: dict[str, dict[str, bytes | None]] = {}
        self.cases: list[dict[str, Any]] = []

    def layer(self, name: str, before: dict[str, bytes], after: dict[str, bytes]) -> str:
        changed: dict[str, bytes | None] = {path: None for path in before if path not in after}
        changed.update((path, data) for path, data in after.items() if before.get(path) != data)
        assert changed
        assert name not in self.layers
        self.layers[name] = changed
        return name

    def case(self, name: str, about: str, *steps: Step, first_root: str = "good") -> None:
        self.cases.append({"name": name, "about": about, "first_root": first_root, "steps": list(steps)})


def ok(*files: str, now: datetime = NOW, **more: Any) -> Step:
    return {"files": list(files), "now": instant(now), "outcome": "ok", **more}


def bad(role: str, rule: str, *files: str, now: datetime = NOW, **more: Any) -> Step:
    return {"files": list(files), "now": instant(now), "outcome": {"role": role, "rule": rule}, **more}


def instant(when: datetime) -> str:
    return when.strftime("%Y-%m-%dT%H:%M:%SZ")


def versions(made: Fixed) -> dict[str, int]:
    return {role: made.signed[role].version for role in ("root", "timestamp", "snapshot", "targets")}


def found(made: Fixed, path: str) -> dict[str, Any]:
    target = made.signed[made.role_of(path)].targets.get(path)
    if target is None:
        return {"path": path, "target": None}
    return {"path": path, "role": made.role_of(path), "target": target.to_dict()}


def all_cases() -> Cases:
    cases = Cases()
    made, _ = good()
    cases.layer("good", {}, made.files)
    paths = ["models/catalog.json", "models/tiny.releases.json", "models/tiny-1.0-f32.gguf", CUSTOM_FILE]
    paths += [
        "models/tiny-f32.gguf",
        "models/tiny-1.2-f32.gguf",
        "staging/tiny-2.0-f32.gguf",
        "models/tiny-2.0-f32.gguf",
    ]
    paths += ["fleet.json", "other.json"]
    lookups = [found(made, path) if path != "other.json" else {"path": path, "target": None} for path in paths]
    names = ["../models/catalog.json", "models/../fleet.json", "/fleet.json", "models//catalog.json", "models/./x", ""]
    names += ["models\\catalog.json", "models/a\0.gguf", "models/a\n.gguf", "models/", "a" * 1025]
    wanted = {"name": "tiny", "variant": "f32"}
    resolved = {**wanted, "version": "1.1", "sha256": str(stored("v2.gguf")[0]), "chunks": str(stored("v2.gguf")[2])}
    documents = ["models/catalog.json", "models/tiny.releases.json", "staging/catalog.json", "fleet.json"]
    cases.case(
        "good",
        "a whole catalog: parts, documents, a yanked release (1.2), names that are refused before they are looked up",
        ok("good", versions=versions(made), lookups=lookups, refused=names, documents=documents, newest=resolved),
    )
    _expiry(cases)
    _roots(cases)
    _rotations(cases)
    _rollback(cases)
    _signatures(cases)
    _mixed(cases)
    _hostile(cases)
    _fast_forward(cases)
    return cases


def _expiry(cases: Cases) -> None:
    for role, days in (("timestamp", 7), ("root", 365)):
        ends = NOW + days * DAY
        steps = [bad(role, "expired", "good", now=ends)]
        if role == "timestamp":
            steps = [ok("good", now=ends - SECOND), *steps]
        cases.case(f"{role} expired", "a file is expired from the second on that it names", *steps)
    for role, days in (("snapshot", 14), ("targets", 180), ("models", 180), ("models-3", 180), ("fleet", 180)):
        made, _ = good()
        before = dict(made.files)
        now = NOW + days * DAY
        for other in ("snapshot", "timestamp"):
            made.signed[other].expires = now + DAY
        if role == "snapshot":
            made.signed[role].expires = now
        elif role != "targets":
            made.signed["targets"].expires = now + DAY
            made.write("targets")
        if role == "models-3":
            made.signed["models"].expires = now + DAY
            made.write("models")
        above = {"models-3": BINS[:3], "fleet": ["models", "staging", *BINS]}  # what is loaded before it
        for other in above.get(role, []):
            made.signed[other].expires = now + DAY
            made.write(other)
        made.publish()
        layer = cases.layer(f"expired-{role}", before, made.files)
        cases.case(f"{role} expired", "all that names it is fresh", bad(role, "expired", "good", layer, now=now))


def _roots(cases: Cases) -> None:
    made, _ = good()
    before = dict(made.files)
    made.signed["root"].expires = NOW - DAY
    made.rotate_in_root("root")
    made.signed["root"].expires = NOW + 365 * DAY
    made.rotate_in_root("timestamp", "snapshot", "targets")
    made.publish("targets")
    layer = cases.layer("rotated", before, made.files)
    cases.case(
        "root 1 to 3",
        "root 2 has another root key, and expired on the way; root 3 other keys of timestamp, snapshot and targets",
        ok("good", layer, versions=versions(made)),
    )
    cases.case(
        "root 1 to 3, seen before",
        "the same for who knew root 1",
        ok("good"),
        ok("good", layer, versions=versions(made)),
    )
    skipped = cases.layer("without-root-2", made.files, {k: v for k, v in made.files.items() if "2.root" not in k})
    cases.case(
        "a root is missing",
        "without root 2 the client stays at root 1, which knows other keys",
        bad("timestamp", "signature threshold", "good", layer, skipped),
    )

    made, _ = good()
    before = dict(made.files)
    made.rotate("root")
    made.write("root")
    layer = cases.layer("root-not-signed-by-old", before, made.files)
    cases.case("root not signed by the old keys", "only by its own", bad("root", "signature threshold", "good", layer))

    made, _ = good()
    before = dict(made.files)
    old = made.rotate("root")
    made.write("root", signers=old)
    layer = cases.layer("root-not-signed-by-new", before, made.files)
    cases.case("root not signed by its own keys", "only by the old", bad("root", "signature threshold", "good", layer))

    made, _ = good()
    before = dict(made.files)
    made.signed["root"].version = 2
    made.write("root")
    made.files["metadata/2.root.json"] = made.files.pop("metadata/3.root.json")
    layer = cases.layer("root-skips", before, made.files)
    cases.case(
        "2.root.json holds version 3", "versions follow one another", bad("root", "root sequence", "good", layer)
    )

    made, _ = good()
    before = dict(made.files)
    made.files["metadata/2.root.json"] = made.files["metadata/1.root.json"]
    layer = cases.layer("root-again", before, made.files)
    cases.case("2.root.json holds version 1", "the same", bad("root", "root sequence", "good", layer))

    made, _ = good()
    before = dict(made.files)
    root = made.signed["root"]
    made.signers["root"] = [*made.signers["root"], fixed_key(900), fixed_key(901)]
    for signer in made.signers["root"][1:]:
        root.add_key(signer.public_key, "root")
    root.roles["root"].threshold = 2
    made.write("root", signers=made.signers["root"][:2])
    layer = cases.layer("two-of-three", before, made.files)
    cases.case("two of three root keys", "from one key to two of three", ok("good", layer, versions=versions(made)))
    three = dict(made.files)
    made.write("root", signers=made.signers["root"][1:2])
    lone = cases.layer("one-of-three", three, made.files)
    cases.case("one of three root keys", "below the threshold", bad("root", "signature threshold", "good", layer, lone))


def _rotations(cases: Cases) -> None:
    for role in ("models", "staging", "fleet"):
        made, _ = good()
        before = dict(made.files)
        made.rotate(role)
        made.publish("targets", role, *(BINS if role == "models" else []))
        layer = cases.layer(f"rotated-{role}", before, made.files)
        cases.case(f"new keys of {role}", "named by targets", ok("good"), ok("good", layer, versions=versions(made)))


def _rollback(cases: Cases) -> None:
    made, _ = good()
    before = dict(made.files)
    made.publish()
    newer = cases.layer("newer", before, made.files)
    cases.case(
        "rollback of timestamp",
        "the older one was signed, too",
        ok("good", newer),
        bad("timestamp", "rollback", "good"),
    )

    made.signed["snapshot"].version -= 2
    newest = dict(made.files)
    made.publish()
    layer = cases.layer("older-snapshot", newest, made.files)
    cases.case(
        "rollback of snapshot",
        "a newer timestamp names an older snapshot",
        ok("good", newer),
        bad("snapshot", "rollback", "good", newer, layer),
    )
    for role in ("targets", "models", "models-3", "fleet"):
        made, _ = good()
        before = dict(made.files)
        old = made.signed["snapshot"].meta[f"{role}.json"]
        made.publish(role)
        newer_role = cases.layer(f"newer-{role}", before, made.files)
        newest = dict(made.files)
        made.signed["snapshot"].meta[f"{role}.json"] = old
        made.publish()
        layer = cases.layer(f"older-{role}", newest, made.files)
        cases.case(
            f"rollback of {role}",
            "a newer snapshot names an older file of the role",
            ok("good", newer_role),
            bad(role, "rollback", "good", newer_role, layer),
        )
    made, _ = good()
    before = dict(made.files)
    del made.signed["snapshot"].meta["staging.json"]
    made.publish()
    layer = cases.layer("snapshot-forgets-staging", before, made.files)
    cases.case("snapshot forgets a role", "", ok("good"), bad("staging", "rollback", "good", layer))
    cases.case("snapshot never named a role", "that targets delegates", bad("staging", "mix-and-match", "good", layer))


def _signatures(cases: Cases) -> None:
    for role in ("timestamp", "snapshot", "targets", "models", "models-3", "staging", "fleet"):
        made, _ = good()
        before = dict(made.files)
        made.signers[role] = [fixed_key(950)]
        made.publish(*([] if role in {"timestamp", "snapshot"} else [role]))
        layer = cases.layer(f"wrong-key-{role}", before, made.files)
        cases.case(
            f"wrong key of {role}",
            "signed with a key that nobody named",
            bad(role, "signature threshold", "good", layer),
        )
    made, _ = good()
    before = dict(made.files)
    wrong = made.signers["models"]
    made.write("staging", signers=wrong)
    made.publish()
    layer = cases.layer("staging-by-models", before, made.files)
    cases.case(
        "one role's key for another",
        "staging signed with the key of models",
        bad("staging", "signature threshold", "good", layer),
    )
    made, _ = good()
    before = dict(made.files)
    twice = json.loads(made.files["metadata/timestamp.json"])
    twice["signatures"] *= 2
    made.files["metadata/timestamp.json"] = json.dumps(twice).encode()
    layer = cases.layer("signature-twice", before, made.files)
    cases.case("a key id twice in signatures", "", bad("timestamp", "malformed", "good", layer))

    made, _ = good()
    before = dict(made.files)
    more = json.loads(made.files["metadata/timestamp.json"])
    more["signatures"] += [{"keyid": "0" * 64, "sig": "00" * 64}, {"keyid": "1" * 64, "sig": "no hex"}]
    made.files["metadata/timestamp.json"] = json.dumps(more, indent=2).encode()
    layer = cases.layer("signatures-of-strangers", before, made.files)
    cases.case("signatures of strangers", "are passed over; the file may have white space", ok("good", layer))

    made, _ = good()
    before = dict(made.files)
    bare = json.loads(made.files["metadata/timestamp.json"])
    bare["signatures"] = []
    made.files["metadata/timestamp.json"] = json.dumps(bare).encode()
    layer = cases.layer("no-signatures", before, made.files)
    cases.case("no signatures", "", bad("timestamp", "signature threshold", "good", layer))

    made, _ = good()
    before = dict(made.files)
    noted = json.loads(made.files["metadata/timestamp.json"])
    noted["signed"]["zz"] = {"b": ["Grüße \u2028 \U0001f600", True, None, -5], "a": 'quote " and \\', "B": 2**53 - 1}
    noted["signed"]["version"] += 1
    signed = made.resign("timestamp", json.dumps(noted).encode())
    text = json.dumps(json.loads(signed), indent=3)  # with \\u escapes, and members in another order than the canonical
    made.files["metadata/timestamp.json"] = text.encode()
    layer = cases.layer("unknown-members", before, made.files)
    cases.case(
        "members that nobody knows",
        "they are part of what is signed: canonical JSON sorts them and escapes only quote and backslash",
        ok("good", layer),
    )


def _mixed(cases: Cases) -> None:
    made, _ = good()
    before = dict(made.files)
    old_number = made.signed["models-3"].version
    old = made.files[f"metadata/{old_number}.models-3.json"]
    made.publish("models-3")
    made.files[f"metadata/{old_number + 1}.models-3.json"] = old
    layer = cases.layer("yesterdays-role", before, made.files)
    cases.case(
        "mix-and-match of roles",
        "yesterday's file of models-3 under today's number",
        bad("models-3", "mix-and-match", "good", layer),
    )

    made, _ = good()
    before = dict(made.files)
    number = made.signed["snapshot"].version
    made.publish()
    made.files[f"metadata/{number + 1}.snapshot.json"] = before[f"metadata/{number}.snapshot.json"]
    layer = cases.layer("yesterdays-snapshot", before, made.files)
    cases.case(
        "mix-and-match of snapshots", "the same with the snapshot", bad("snapshot", "mix-and-match", "good", layer)
    )

    for role in ("snapshot", "models-3"):
        made, _ = good()
        before = dict(made.files)
        version = made.signed[role].version
        data = made.files[f"metadata/{version}.{role}.json"]
        meta = MetaFile(version + 1, len(data), {"sha256": hashlib.sha256(data).hexdigest()})
        made.files[f"metadata/{version + 1}.{role}.json"] = data
        if role == "snapshot":
            made.signed["timestamp"].snapshot_meta = meta
            made.write("timestamp")
        else:
            made.signed["snapshot"].meta[f"{role}.json"] = meta
            made.publish()
        layer = cases.layer(f"version-of-{role}", before, made.files)
        cases.case(
            f"another version of {role} than was named",
            "length and hash are right, the version is not",
            bad(role, "mix-and-match", "good", layer),
        )

    made, _ = good()
    before = dict(made.files)
    role = made.role_of(CUSTOM_FILE)
    target = made.signed[role].targets[CUSTOM_FILE]
    name = f"metadata/{made.signed[role].version}.{role}.json"
    right = str(target.custom["chunks"])
    made.files[name] = made.files[name].replace(right.encode(), f"sha256:{'5' * 64}".encode())
    layer = cases.layer("swapped-manifest", before, made.files)
    cases.case(
        "swapped manifest",
        "a part's manifest digest exchanged by who has no key",
        bad(role, "length or hash", "good", layer),
    )
    made.signed["snapshot"].meta[f"{role}.json"] = MetaFile(
        made.signed[role].version, len(made.files[name]), {"sha256": hashlib.sha256(made.files[name]).hexdigest()}
    )
    made.publish()
    layer = cases.layer("swapped-manifest-listed", before, made.files)
    cases.case(
        "swapped manifest, listed",
        "by who has the keys of snapshot and timestamp",
        bad(role, "signature threshold", "good", layer),
    )

    made, content = good()
    before = dict(made.files)
    path = "models/tiny-1.0-f32.gguf"
    role = made.role_of(path)
    made.signed[role].targets[path].hashes["sha256"] = "6" * 64
    made.publish(role)
    layer = cases.layer("two-contents", before, made.files)
    cases.case(
        "other bytes under a fixed name",
        "a name with a version in it never means other bytes",
        ok("good"),
        bad(role, "two contents of one version", "good", layer),
    )

    made, _ = good()
    before = dict(made.files)
    made.signed["models-3"].unrecognized_fields["zz"] = 1
    made.write("models-3", bump=False)
    made.publish()
    layer = cases.layer("role-again", before, made.files)
    cases.case(
        "two files of one version",
        "models-3 signed twice with one number",
        ok("good"),
        bad("models-3", "two contents of one version", "good", layer),
    )

    made, _ = good()
    before = dict(made.files)
    made.signed["timestamp"].expires = NOW + 6 * DAY
    made.write("timestamp", bump=False)
    layer = cases.layer("timestamp-again", before, made.files)
    cases.case(
        "two timestamps of one version",
        "the seen one is kept, and an alarm raised",
        ok("good"),
        ok("good", layer, alarms=["timestamp"]),
    )

    made, content = good()
    before = dict(made.files)
    foreign = TargetFile(5, {"sha256": "7" * 64}, "models/evil-1.0-f32.gguf")
    made.signed["staging"].targets[foreign.path] = foreign
    made.publish("staging")
    layer = cases.layer("staging-names-models", before, made.files)
    cases.case(
        "staging names a target of models",
        "nobody asks staging for it",
        ok("good", layer, lookups=[{"path": foreign.path, "target": None}]),
    )

    made, content = good()
    before = dict(made.files)
    wrong = decode_releases(encode(content.releases("tiny")))
    newest = wrong.releases[1]
    part = Part(newest.parts[0].filename, Digest(b"8" * 32), *_rest(newest.parts[0]))
    entry = Entry(*newest.key, newest.processed_date, (part,), newest.gguf)
    data = encode(ReleasesDocument("tiny", (entry,)))
    made.publish(made.put("models/tiny.releases.json", data))
    layer = cases.layer("entry-differs", before, made.files)
    cases.case(
        "an entry that differs from its target",
        "the release is refused",
        ok("good", layer, newest={"name": "tiny", "variant": "f32", "outcome": "refused"}),
    )


def _rest(part: Part) -> tuple[int, Digest, Digest]:
    return part.size_bytes, part.chunks, part.pieces


def _hostile(cases: Cases) -> None:
    def other(name: str, about: str, role: str, rule: str, change: dict[str, bytes | None], **more: Any) -> None:
        layer = name.replace(" ", "-")
        cases.layers[layer] = change
        cases.case(name, about, bad(role, rule, "good", layer, **more))

    made, _ = good()
    timestamp = made.files["metadata/timestamp.json"]
    padded = timestamp + b" " * (16_385 - len(timestamp))
    other("oversized timestamp", "16,385 bytes", "timestamp", "too large", {"metadata/timestamp.json": padded})
    fits = cases.layer("largest-timestamp", {}, {"metadata/timestamp.json": padded[:-1]})
    cases.case("largest timestamp", "16,384 bytes", ok("good", fits))
    for role in ("snapshot", "targets", "models-3"):
        path = f"metadata/{made.signed[role].version}.{role}.json"
        about = "one byte more than signed metadata says"
        other(f"oversized {role}", about, role, "too large", {path: made.files[path] + b" "})
    path = f"metadata/{made.signed['targets'].version}.targets.json"
    other("cut targets", "one byte less", "targets", "length or hash", {path: made.files[path][:-1]})
    deep = b"[" * 8000 + b"]" * 8000
    other("deep JSON", "8,000 brackets in one another", "timestamp", "malformed", {"metadata/timestamp.json": deep})
    for name, data in (
        ("no JSON", b"<html>Please log in</html>"),
        ("nothing", b""),
        ("no object", b"[]"),
        ("a snapshot", made.files[f"metadata/{made.signed['snapshot'].version}.snapshot.json"]),
    ):
        change: dict[str, bytes | None] = {"metadata/timestamp.json": data}
        other(f"{name} for a timestamp", "", "timestamp", "malformed", change)
    for name, find, put in (
        ("another specification", b'"spec_version":"1.0.31"', b'"spec_version":"2.0.0"'),
        ("a version that is a word", b'"version":5}', b'"version":"5"}'),
        ("a version of 0", b'"version":5}', b'"version":0}'),
        ("a time without zone", b':00Z"', b':00"'),
    ):
        assert find in timestamp, name
        changed = made.resign("timestamp", timestamp.replace(find, put))
        other(name, "rightly signed", "timestamp", "malformed", {"metadata/timestamp.json": changed})
    fraction = timestamp.replace(b'"spec_version"', b'"rate":0.5,"spec_version"')
    about = "a number with a fraction has no canonical form"
    other("a fraction", about, "timestamp", "malformed", {"metadata/timestamp.json": fraction})

    wanted = "models/tiny.releases.json"
    digest = made.signed[made.role_of(wanted)].targets[wanted].hashes["sha256"]
    path = f"targets/models/{digest}.tiny.releases.json"
    data = made.files[path]
    about = "one letter of a document exchanged"
    change = {path: data.replace(b"mit", b"MIT")}
    other("a document exchanged", about, f"target {wanted}", "length or hash", change, documents=[wanted])


def _fast_forward(cases: Cases) -> None:
    made, _ = good()
    before = dict(made.files)
    honest = made.signed["timestamp"].version
    made.signed["timestamp"].version = 2_000_000_000 - 1
    made.signed["snapshot"].version = 2_000_000_000 - 1
    made.publish()
    forward = cases.layer("fast-forward", before, made.files)

    made, _ = good()
    before = dict(made.files)
    made.publish()
    later = cases.layer("fast-forward-honest", before, made.files)
    after = dict(made.files)
    made.rotate_in_root("timestamp", "snapshot")
    made.publish()
    assert made.signed["timestamp"].version == honest + 2
    rotated = cases.layer("fast-forward-recovered", after, made.files)
    cases.case(
        "fast-forward",
        "a thief signs version 2,000,000,000 with the keys of timestamp and snapshot; a root with new keys undoes it",
        ok("good"),
        ok("good", forward),
        bad("timestamp", "rollback", "good", later),
        ok("good", later, rotated, versions=versions(made)),
    )


def vectors() -> dict[str, bytes]:
    """Every file of docs/vectors/catalog but the README, by its path there."""
    made = all_cases()
    result = {
        f"{name}.json": as_json({p: d if d is None else d.decode() for p, d in sorted(layer.items())})
        for name, layer in made.layers.items()
    }
    result["cases.json"] = as_json(made.cases)
    return result


def as_json(value: Any) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()


def main() -> None:
    for old in CATALOG.glob("*.json"):
        old.unlink()
    for name, data in vectors().items():
        CATALOG.mkdir(parents=True, exist_ok=True)
        (CATALOG / name).write_bytes(data)


if __name__ == "__main__":
    main()
