from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from containers import Image

ROOT = Path(__file__).resolve().parents[2]


def _image(name: str, folder: Path) -> Image:
    if not os.environ.get("OCTAVO_TEST_IMAGES"):
        pytest.skip("make test-images builds the images and runs them")
    if os.geteuid() != 0 or not shutil.which("runc"):
        pytest.fail("running an image needs root and runc: apt-get install runc")
    command = [sys.executable, "-m", "images.build", "--paths", name]
    archive = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT).stdout.strip()
    return Image(Path(archive), folder)


@pytest.fixture(scope="session")
def operator(tmp_path_factory):
    return _image("operator", tmp_path_factory.mktemp("operator"))


@pytest.fixture(scope="session")
def engine(tmp_path_factory):
    return _image("engine", tmp_path_factory.mktemp("engine"))
