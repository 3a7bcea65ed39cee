"""Small values by digests, in memory and in a folder that others share."""

import sqlite3

import pytest

from wkv.errors import StateError
from wkv.serve.key_value_store import FILE, KeyValueStore

KEY, OTHER = "a" * 64, "b" * 64


def test_what_is_kept_is_found_here_and_elsewhere(tmp_path):
    one, two = KeyValueStore(tmp_path), KeyValueStore(tmp_path)
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
    notes = KeyValueStore(tmp_path, memory_bytes=1000, disk_bytes=20_000)
    for number in range(600):
        notes.put(f"{number:064x}", "x" * 100)
    notes.close()
    assert notes._size <= 1000
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= 20_000 + 256 * 400
    assert notes.get(f"{599:064x}") == "x" * 100


@pytest.mark.parametrize("key", ["", "../a", "a/b", "A" * 64, "a" * 65, "\0"])
def test_what_is_no_digest_is_no_path(tmp_path, key):
    notes = KeyValueStore(tmp_path)
    assert notes.get(key) is None
    notes.delete(key)
    notes.close()


def test_a_damaged_value_is_treated_as_missing(tmp_path):
    store = KeyValueStore(tmp_path)
    for text in ("", "{", "[" * 100_000):
        with sqlite3.connect(tmp_path / FILE) as other:
            other.execute("INSERT OR REPLACE INTO entries VALUES (?, ?, 0, 0)", (KEY, text))
        assert store.get(KEY) is None
    store.close()


def test_files_of_an_earlier_version_are_imported_once_and_stay(tmp_path):
    (tmp_path / f"{KEY}.json").write_text('{"text": "ä"}', "utf-8")
    (tmp_path / f"{OTHER}.json").write_bytes(b"\xff")
    (tmp_path / "thesis.json").write_text("[]")
    store = KeyValueStore(tmp_path)
    assert store.get(KEY) == {"text": "ä"}
    assert store.get(OTHER) is None
    store.delete(KEY)
    store.close()
    again = KeyValueStore(tmp_path)
    assert again.get(KEY) is None
    again.close()
    assert (tmp_path / f"{KEY}.json").is_file()
    assert (tmp_path / "thesis.json").is_file()


def test_files_of_others_in_the_folder_are_never_deleted(tmp_path):
    (tmp_path / "thesis.docx").write_bytes(bytes(200_000))
    (tmp_path / "old.partial").write_text("not ours")
    store = KeyValueStore(tmp_path, disk_bytes=1000)
    for number in range(300):
        store.put(f"{number:064x}", "x" * 100)
    store.close()
    assert (tmp_path / "thesis.docx").stat().st_size == 200_000
    assert (tmp_path / "old.partial").is_file()


def test_a_file_that_is_no_database_is_reported(tmp_path):
    (tmp_path / FILE).write_text("something else" * 100)
    with pytest.raises(StateError, match="nothing can be stored here"):
        KeyValueStore(tmp_path)


def test_a_folder_that_cannot_be_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StateError, match="nothing can be stored here"):
        KeyValueStore(tmp_path / "file" / "folder")
