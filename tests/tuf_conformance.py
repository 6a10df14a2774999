#!/usr/bin/env python3
"""The client that the theupdateframework/tuf-conformance suite asks for (its CLIENT-CLI.md), on our own verifier.

    tuf_conformance.py --metadata-dir D init ROOT
    tuf_conformance.py --metadata-dir D --metadata-url U refresh
    tuf_conformance.py --metadata-dir D --metadata-url U --target-name T… --target-base-url U --target-dir D download

The suite looks at `<role>.json` files in the metadata directory: copies of the verified files, made after each command.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import urllib.error
import urllib.request
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from aibrother_node.catalog.trust import TrustedCatalog
from aibrother_node.errors import NodeError, NotFound, Temporary

if TYPE_CHECKING:
    from aibrother_node.catalog.trust import Fetch

FIRST_ROOT = "first-root"  # a name that the suite doesn't take for a role


def source(metadata_url: str, targets_url: str | None) -> Fetch:
    """An HTTP source with two base URLs."""
    bases = {"metadata": metadata_url.rstrip("/"), "targets": (targets_url or "").rstrip("/")}

    def fetch(path: str, max_length: int) -> bytes:
        kind, _, rest = path.partition("/")
        try:
            with urllib.request.urlopen(f"{bases[kind]}/{rest}", timeout=10) as response:
                body: bytes = response.read(max_length + 1)
                return body
        except urllib.error.HTTPError as error:
            if error.code in {403, 404}:
                raise NotFound(f"{path}: {error.code}") from error
            raise Temporary(f"{path}: {error.code}") from error
        except OSError as error:
            raise Temporary(f"{path}: {error}") from error

    return fetch


def export(catalog: TrustedCatalog, folder: Path) -> None:
    """Put copies where the suite looks."""
    for role, data in catalog.seen():
        (folder / f"{quote(role, '')}.json").write_bytes(data)


def run(arguments: argparse.Namespace) -> None:
    folder: Path = arguments.metadata_dir
    if arguments.command == "init":
        shutil.copyfile(arguments.trusted_root, folder / FIRST_ROOT)
        shutil.copyfile(arguments.trusted_root, folder / "root.json")
        return
    catalog = TrustedCatalog.open(folder, (folder / FIRST_ROOT).read_bytes())
    fetch = source(arguments.metadata_url, arguments.target_base_url)
    try:
        catalog.refresh(fetch, datetime.now(UTC))
        for name in arguments.target_name if arguments.command == "download" else []:
            data = catalog.document(name, fetch)
            path: Path = arguments.target_dir / quote(name, "")
            if not path.exists() or path.read_bytes() != data:  # the suite looks at times of modification
                path.write_bytes(data)
    finally:
        export(catalog, folder)


def main() -> int:
    parser = argparse.ArgumentParser(description="TUF client under test")
    parser.add_argument("--metadata-dir", type=Path, required=True)
    parser.add_argument("--metadata-url")
    parser.add_argument("--target-name", action="append", default=[])
    parser.add_argument("--target-base-url")
    parser.add_argument("--target-dir", type=Path)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("init").add_argument("trusted_root", type=Path)
    commands.add_parser("refresh")
    commands.add_parser("download")
    try:
        run(parser.parse_args())
    except NodeError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
