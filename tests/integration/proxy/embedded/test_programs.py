"""Where the servers' user runs a program from."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import pytest

from tidegate.proxy.embedded.binaries import valkey_binary
from tidegate.proxy.embedded.process import run
from tidegate.proxy.embedded.programs import Programs

if TYPE_CHECKING:
    from pathlib import Path


def closed(folder: Path, version: str) -> Path:
    """A program in a folder that only root can enter."""
    folder.mkdir(mode=0o700)
    program = folder / "server"
    program.write_text(f"#!/bin/sh\necho {version}\n")
    program.chmod(0o755)
    return program


def test_a_program_that_can_be_run_is_used_where_it_is(servers_folder: Path) -> None:
    program = servers_folder / "open server"
    shutil.copy(valkey_binary(), program)
    assert Programs(servers_folder).alone(program) == program


def test_a_program_that_cannot_be_run_is_copied_once_and_two_of_one_name_stay_two(servers_folder: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root starts servers as another user")
    programs = Programs(servers_folder)
    one, two = closed(servers_folder / "é 1", "1"), closed(servers_folder / "é 2", "2")
    copies = [programs.alone(one), programs.alone(two), programs.alone(one)]
    assert copies[0] == copies[2]
    assert [copy.read_text().split()[-1] for copy in copies] == ["1", "2", "1"]
    for copy in copies:
        run([str(copy), "--version"], cwd=servers_folder)
