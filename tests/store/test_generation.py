"""The number by which processes learn that the catalog changed."""

from pathlib import Path

import pytest

from aibrother_node.store.generation import Generation


def test_everybody_sees_it_rise(tmp_path: Path) -> None:
    path = tmp_path / "generation"
    reader = Generation(path)  # whoever comes first makes it
    writer = Generation(path, writable=True)
    seen = {reader.now()}
    for _ in range(300):
        writer.raise_it()
        assert reader.now() == writer.now()
        seen.add(reader.now())
    assert len(seen) == 301
    assert Generation(path).now() == reader.now(), "it lives as long as the file"
    for one in (reader, writer):
        one.close()


def test_a_reader_can_t_raise_it(tmp_path: Path) -> None:
    reader = Generation(tmp_path / "generation")
    with pytest.raises(TypeError):
        reader.raise_it()
    reader.close()


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(bytes(8))
    (tmp_path / "generation").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        Generation(tmp_path / "generation")
