"""Small values by digests, in memory and in a folder that others share."""

import sqlite3

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wkv.errors import StateError
from wkv.serve.key_value_store import KeyValueStore
from wkv.serve.value_file import FILE, fair_share

KEY, OTHER = "a" * 64, "b" * 64


def test_what_is_kept_is_found_here_and_elsewhere(tmp_path):
    one, two = KeyValueStore(tmp_path), KeyValueStore(tmp_path)
    one.put_now(KEY, {"text": "ä", "ids": [1, 2]})
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
            other.execute("INSERT OR REPLACE INTO entries VALUES (?, ?, 0, 0, '')", (KEY, text))
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


def test_values_of_one_owner_never_push_out_those_of_others(tmp_path):
    room = {"memory_bytes": 20_000, "disk_bytes": 20_000}
    for store in (KeyValueStore(**room), KeyValueStore(tmp_path, **room)):
        store.put_now(KEY, "the only one", owner="b")
        for number in range(40):
            store.put_now(f"{number:064x}", "x" * 3000, owner="a")
        assert store.get(KEY, lasting=True) == "the only one"
        assert store.get(f"{39:064x}", lasting=True) is not None
        assert store.get(f"{20:064x}", lasting=True) is None
        store.close()
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 60_000


@given(st.lists(st.integers(0, 1000)), st.integers(0, 10_000))
def test_a_fair_share_uses_the_limit_and_takes_from_the_largest_only(sizes, limit):
    share = fair_share(sizes, limit)
    left = [min(size, share) for size in sizes]
    assert sum(left) <= limit
    if sum(sizes) <= limit:
        assert left == sizes
    else:
        assert sum(min(size, share + 1) for size in sizes) > limit


def test_its_files_are_private_also_in_a_folder_that_existed(tmp_path):
    folder = tmp_path / "notes"
    folder.mkdir(mode=0o755)
    (folder / FILE).touch(0o644)
    store = KeyValueStore(folder)
    store.put_now(KEY, "secret")
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {file.stat().st_mode & 0o777 for file in folder.iterdir()} == {0o600}
    store.close()


def test_a_value_that_cannot_be_stored_is_an_error_and_logged_once(tmp_path, caplog):
    store = KeyValueStore(tmp_path / "notes")
    store.put_now(KEY, "before")
    for file in (tmp_path / "notes").iterdir():
        file.unlink()
    (tmp_path / "notes").rmdir()
    (tmp_path / "notes").write_text("no folder")
    for _ in range(3):
        with pytest.raises(StateError, match="nothing can be stored here"):
            store.put_now(OTHER, "after")
        store.put(OTHER, "after")
    (tmp_path / "notes").unlink()
    store.put_now(OTHER, "again")  # a file that was removed is created again
    assert len(caplog.records) == 1
    store.close()
    again = KeyValueStore(tmp_path / "notes")
    assert again.get(OTHER) == "again"
    again.close()


def test_a_full_disk_is_an_error(tmp_path, monkeypatch):
    store = KeyValueStore(tmp_path)
    monkeypatch.setattr(store._file, "_reopen", lambda: None)  # it would lift the limit
    store._file._connection.execute("PRAGMA max_page_count = 8")
    with pytest.raises(StateError, match="full"):
        store.put_now(KEY, "x" * 100_000)
    store.close()


def test_a_value_larger_than_the_memory_is_refused_instead_of_lost():
    store = KeyValueStore(memory_bytes=1000)
    with pytest.raises(StateError, match="does not fit"):
        store.put_now(KEY, "x" * 1000)


def test_a_file_of_a_version_without_owners_is_read(tmp_path):
    with sqlite3.connect(tmp_path / FILE) as old:
        old.execute("CREATE TABLE entries (key TEXT PRIMARY KEY, value, size, used) WITHOUT ROWID")
        old.execute("INSERT INTO entries VALUES (?, '1', 201, 0)", (KEY,))
        old.execute("PRAGMA user_version = 1")
    store = KeyValueStore(tmp_path)
    assert store.get(KEY) == 1
    store.put_now(OTHER, 2, owner="b")
    store.close()
