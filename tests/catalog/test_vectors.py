"""docs/vectors/catalog against our own verifier, as another implementation would use them."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from aibrother_node.catalog.entries import decode_releases
from aibrother_node.catalog.trust import TrustedCatalog, TrustError
from aibrother_node.errors import InvalidInput, NotFound
from catalog.make_vectors import CATALOG, vectors
from catalog.simulator import Mirror

if TYPE_CHECKING:
    from pathlib import Path

CASES: list[dict[str, Any]] = json.loads((CATALOG / "cases.json").read_bytes())
"""Files are named without their ending; later ones lie over earlier ones, and null takes a file away."""


def name(case: dict[str, Any]) -> str:
    return str(case["name"])


def mirror(layers: list[str]) -> Mirror:
    files: dict[str, bytes] = {}
    for layer in layers:
        for path, text in json.loads((CATALOG / f"{layer}.json").read_bytes()).items():
            if text is None:
                del files[path]
            else:
                files[path] = text.encode()
    return Mirror(files)


@pytest.mark.parametrize("case", CASES, ids=name)
def test_our_verifier_passes(case: dict[str, Any], tmp_path: Path) -> None:
    first_root = mirror([case["first_root"]]).files["metadata/1.root.json"]
    for step in case["steps"]:
        catalog = TrustedCatalog.open(tmp_path, first_root)  # every step is another run of the program
        _check(catalog, step)


def _check(catalog: TrustedCatalog, step: dict[str, Any]) -> None:
    source = mirror(step["files"])
    now = datetime.strptime(step["now"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    documents = step.get("documents", [])
    if step["outcome"] != "ok":
        before = _order(catalog)
        with pytest.raises(TrustError) as caught:
            catalog.refresh(source.fetch, now, documents=documents, everything=True)
        assert {"role": caught.value.role, "rule": str(caught.value.rule)} == step["outcome"]
        assert _order(catalog) == before, "the last good catalog is still there"
        return
    refreshed = catalog.refresh(source.fetch, now, documents=documents, everything=True)
    assert [alarm.role for alarm in refreshed.alarms] == step.get("alarms", [])
    status = refreshed.status
    for role, version in step.get("versions", {}).items():
        assert getattr(status, f"{role}_version") == version
    for lookup in step.get("lookups", []):
        _look_up(catalog, lookup)
    for path in step.get("refused", []):
        with pytest.raises(InvalidInput):
            catalog.target(path)
    for path in documents:
        assert hashlib.sha256(catalog.document(path)).digest() == catalog.target(path).sha256.raw
    if "newest" in step:
        _newest(catalog, source, step["newest"])


def _order(catalog: TrustedCatalog) -> tuple[int, int] | None:
    try:
        return catalog.status().order
    except NotFound:
        return None


def _look_up(catalog: TrustedCatalog, lookup: dict[str, Any]) -> None:
    expected = lookup["target"]
    if expected is None:
        with pytest.raises(NotFound):
            catalog.target(lookup["path"])
        return
    found = catalog.target(lookup["path"])
    assert (found.length, {"sha256": found.sha256.hex}) == (expected["length"], expected["hashes"])
    assert dict(found.custom) == expected.get("custom", {})


def _newest(catalog: TrustedCatalog, source: Mirror, wanted: dict[str, Any]) -> None:
    """The steps of "From a name to verified bytes", on their own."""
    document = decode_releases(catalog.document(f"models/{wanted['name']}.releases.json", source.fetch))
    for entry in reversed([entry for entry in document.releases if entry.variant == wanted["variant"]]):
        (part,) = entry.parts
        try:
            target = catalog.target(f"models/{part.filename}")
        except NotFound:
            continue
        same = (target.sha256, target.length, target.custom["chunks"]) == (
            part.sha256,
            part.size_bytes,
            str(part.chunks),
        )
        assert same == (wanted.get("outcome") != "refused")
        if same:
            assert (entry.version, str(part.sha256), str(part.chunks)) == (
                wanted["version"],
                wanted["sha256"],
                wanted["chunks"],
            )
        return
    raise AssertionError("there is no newest")


def test_the_vectors_are_what_the_script_makes() -> None:
    made = vectors()
    there = {path.name: path.read_bytes() for path in CATALOG.glob("*.json")}
    assert sorted(there) == sorted(made)
    assert [path for path in made if made[path] != there[path]] == []
