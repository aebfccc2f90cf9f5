"""Installations of their own: a copy of launchers and package in a prefix."""

from __future__ import annotations

import os
import shutil
import sys
import time
from pathlib import Path

import _cffi_backend
from harness import COMMAND

import pyrun

LIB = f"lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"


class Prefix:
    """`command` and `oci` are its programs."""

    def __init__(self, prefix: Path) -> None:
        self.package = prefix / LIB / "pyrun"
        shutil.copytree(Path(pyrun.__file__ or "").parent, self.package, ignore=shutil.ignore_patterns("__pycache__"))
        backend = Path(_cffi_backend.__file__)
        (prefix / LIB / backend.name).symlink_to(backend)
        (prefix / "bin").mkdir()
        self.command, self.oci = (Path(shutil.copy(COMMAND.with_name(name), prefix / "bin")) for name in ("pyrun", "pyrun-oci"))
        (prefix / "bin/python3").symlink_to(os.path.realpath(sys.executable))
        time.sleep(0.1)  # what was written while a process began counts as changed since
