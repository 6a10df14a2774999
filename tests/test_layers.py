"""An import only points down: the contracts in pyproject.toml hold."""

import subprocess
import sys
from pathlib import Path


def test_import_contracts() -> None:
    root = Path(__file__).parents[1]
    command = [
        str(Path(sys.executable).with_name("lint-imports")),
        "--no-logo",
        "--config",
        str(root / "pyproject.toml"),
    ]
    result = subprocess.run(command, check=False, capture_output=True, text=True, cwd=root)
    assert result.returncode == 0, result.stdout
    assert "0 broken" in result.stdout
