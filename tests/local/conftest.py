"""Runs of `octavo up`, none of which outlives its test."""

import pytest
from up_runs import Up


@pytest.fixture
def up(tmp_path):
    started: list[Up] = []

    def start(text: str, *arguments: str, **options) -> Up:
        folder = tmp_path / str(len(started))
        folder.mkdir()
        started.append(Up(folder, text, *arguments, **options))
        return started[-1]

    yield start
    for each in started:
        if each.process.poll() is None:
            each.process.kill()
            each.process.wait()
