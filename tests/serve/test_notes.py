"""Small values by digests, in memory and in a folder that others share."""

import pytest

from wkv.errors import StateError
from wkv.serve.key_value_store import Notes

KEY, OTHER = "a" * 64, "b" * 64


def test_what_is_kept_is_found_here_and_elsewhere(tmp_path):
    one, two = Notes(tmp_path), Notes(tmp_path)
    one.put(KEY, {"text": "ä", "ids": [1, 2]}, at_once=True)
    assert one.get(KEY) == two.get(KEY) == {"text": "ä", "ids": [1, 2]}
    assert two.get(OTHER) is None
    one.delete(KEY)
    assert one.get(KEY) is None
    assert two.get(KEY) is not None  # remembered
    assert two.get(KEY, lasting=True) is None
    one.close()
    two.close()


def test_memory_and_folder_keep_their_limits(tmp_path):
    notes = Notes(tmp_path, memory_bytes=1000, disk_bytes=20_000)
    for number in range(600):
        notes.put(f"{number:064x}", "x" * 100)
    notes.close()
    assert notes._size <= 1000
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= 20_000 + 256 * 102
    assert notes.get(f"{599:064x}") == "x" * 100


@pytest.mark.parametrize("key", ["", "../a", "a/b", "A" * 64, "a" * 65, "\0"])
def test_what_is_no_digest_is_no_path(tmp_path, key):
    notes = Notes(tmp_path)
    assert notes.get(key) is None
    notes.delete(key)
    notes.close()


def test_damage_is_as_if_nothing_was_there(tmp_path):
    notes = Notes(tmp_path)
    for data in (b"", b"{", b"\xff", b"[" * 100_000):
        (tmp_path / f"{KEY}.json").write_bytes(data)
        assert notes.get(KEY) is None
    notes.close()


def test_a_folder_that_cannot_be_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StateError, match="nothing can be kept here"):
        Notes(tmp_path / "file" / "folder")
