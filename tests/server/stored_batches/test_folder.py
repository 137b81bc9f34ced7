"""A folder that a later release has written to."""

from __future__ import annotations

import pytest

from octavo_engine.config import BatchConfig
from octavo_engine.server.stored_batches.folder import BatchFolder
from octavo_engine.server.stored_batches.objects import new_id


@pytest.mark.parametrize("kind", ["files", "batches"])
def test_data_whose_record_cannot_be_read_is_left_as_it_is(tmp_path, kind):
    """A batch's record names the files that it writes; without it, no file is known to be unused."""
    BatchFolder(BatchConfig(folder=str(tmp_path))).close()
    data = tmp_path / "files" / new_id("file-")
    data.write_bytes(b"rows")
    name = data.name if kind == "files" else new_id("batch_")
    (tmp_path / kind / f"{name}.json").write_bytes(b'{"schema": 2}')
    folder = BatchFolder(BatchConfig(folder=str(tmp_path)))
    assert (folder.used, folder.files, folder.batches) == (4, {}, {})
    folder.close()
    assert data.read_bytes() == b"rows"
    (tmp_path / kind / f"{name}.json").unlink()
    BatchFolder(BatchConfig(folder=str(tmp_path))).close()
    assert not data.exists()
