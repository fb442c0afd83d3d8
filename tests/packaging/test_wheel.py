"""The wheel holds what the folders hold: hatchling does not complain of a folder it was not told of."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("proxy", "repositories", "cache", "routing", "benchmarks")


def test_the_wheel_has_every_module_under_tidegate_and_nothing_else(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        found = {name for name in archive.namelist() if ".dist-info/" not in name}
    expected = {f"tidegate/{path.name}" for path in (ROOT / "src" / "tidegate").iterdir() if path.is_file()}
    for folder in FOLDERS:
        expected |= {f"tidegate/{path.relative_to(ROOT)}" for path in (ROOT / folder).rglob("*.py")}
    assert found == expected


def test_a_bare_import_of_a_folder_fails() -> None:
    for folder in FOLDERS:
        done = subprocess.run(
            [sys.executable, "-P", "-c", f"import {folder}"], cwd=ROOT, check=False, capture_output=True
        )
        assert b"ModuleNotFoundError" in done.stderr
