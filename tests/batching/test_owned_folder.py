"""A folder of cached states: files of others stay, leftovers go, nobody else can read it."""

import os
import re
import stat
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from wkv.batching import StateFolder
from wkv.batching.owned_folder import LEFTOVER, MARKER, STALE_SECONDS, OwnedFolder
from wkv.errors import StateError
from wkv.inference.model import Model

NAMES = re.compile(r"(?:([ab])-)?[0-9]{3}\.state")
STRANGERS = ("thesis.docx", "movie.partial", "0001.state", ".unfinished.notes", "c-001.state")


def write(folder, name, size=100, age=0.0):
    folder.write(name, lambda path: path.write_bytes(bytes(size)))
    used = time.time() - age
    os.utime(folder.path / name, (used, used))


def names(folder):
    return [file.name for file in folder.files()]


def owner(name):
    return NAMES.fullmatch(name)[1] or ""


def test_trimming_deletes_the_oldest_files_of_wkv_only(tmp_path):
    folder = OwnedFolder(tmp_path / "states", NAMES)
    for number in range(10):
        write(folder, f"{number:03}.state", age=100 - number)
    for name in STRANGERS:
        (folder.path / name).write_bytes(bytes(1000))
        os.utime(folder.path / name, (0, 0))
    (folder.path / "010.state").mkdir()
    assert folder.trim(300) == 300
    assert names(folder) == ["007.state", "008.state", "009.state"]
    assert folder.trim(0) == 0
    assert sorted(os.listdir(folder.path)) == sorted([*STRANGERS, MARKER, "010.state"])


def test_a_link_is_not_followed(tmp_path):
    precious = tmp_path / "precious"
    precious.write_bytes(bytes(1000))
    folder = OwnedFolder(tmp_path / "states", NAMES)
    (folder.path / "001.state").symlink_to(precious)
    folder.trim(0)
    assert precious.exists()
    assert names(folder) == []


@pytest.mark.parametrize("stranger", STRANGERS)
def test_a_folder_of_somebody_else_is_refused_and_not_changed(tmp_path, stranger):
    (tmp_path / stranger).write_bytes(b"x")
    tmp_path.chmod(0o755)
    with pytest.raises(StateError, match=re.escape(stranger)):
        OwnedFolder(tmp_path, NAMES)
    assert os.listdir(tmp_path) == [stranger]
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755


def test_many_open_a_new_folder_at_once(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        for number in range(100):
            path = tmp_path / str(number)
            opened = pool.map(lambda _, path=path: OwnedFolder(path, NAMES).files(), range(8))
            assert list(opened) == [[]] * 8


def test_a_folder_of_an_earlier_version_is_used_further(tmp_path):
    (tmp_path / "001.state").write_bytes(b"x")
    (tmp_path / f"{'0' * 32}.partial").write_bytes(b"x")
    assert names(OwnedFolder(tmp_path, NAMES)) == ["001.state"]
    (tmp_path / "thesis.docx").write_bytes(b"x")  # it came later
    assert names(OwnedFolder(tmp_path, NAMES)) == ["001.state"]


def test_only_the_owner_can_read_it_even_if_the_folder_was_open_to_all(tmp_path):
    path = tmp_path / "states"
    path.mkdir(mode=0o755)
    path.chmod(0o755)
    folder = OwnedFolder(path, NAMES)
    write(folder, "001.state")
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert stat.S_IMODE((path / "001.state").stat().st_mode) == 0o600


def test_leftovers_of_a_killed_process_go_when_they_are_old(tmp_path):
    OwnedFolder(tmp_path, NAMES)
    old, digest = time.time() - STALE_SECONDS - 10, "0123456789abcdef" * 2
    leftovers = [f"{digest}.partial", f"{digest}.partial.partial", f"{digest * 2}.{digest}.partial"]
    strangers = ["movie.partial", "x.pdf.partial", f"{digest}.partial.zip", "abc.partial"]
    for name in (*leftovers, *strangers):
        (tmp_path / name).write_bytes(b"x")
        os.utime(tmp_path / name, (old, old))
    hidden = tmp_path / ".unfinished.abc_0123"
    hidden.mkdir()
    (hidden / "001.state").write_bytes(b"x")
    os.utime(hidden, (old, old))
    young = tmp_path / ".unfinished.zyxwvuts"
    young.mkdir()
    OwnedFolder(tmp_path, NAMES)
    assert sorted(os.listdir(tmp_path)) == sorted([MARKER, young.name, *strangers])


def test_the_names_of_unfinished_files_are_those_that_are_cleaned_up(tmp_path):
    folder = OwnedFolder(tmp_path, NAMES)
    with folder.unfinished("001.state") as path:
        path.write_bytes(b"x")
        assert LEFTOVER.fullmatch(path.parent.name)
        assert not (tmp_path / "001.state").exists()
    assert os.listdir(tmp_path) == [MARKER]


def test_a_failed_write_names_the_file_and_leaves_nothing(tmp_path):
    folder = OwnedFolder(tmp_path, NAMES)

    def fails(path):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(StateError, match=r"001\.state.*No space left"):
        folder.write("001.state", fails)
    assert os.listdir(tmp_path) == [MARKER]


def test_an_owner_with_many_files_does_not_push_out_those_of_others(tmp_path):
    folder = OwnedFolder(tmp_path, NAMES)
    write(folder, "b-000.state", age=50)
    for number in range(20):
        write(folder, f"a-{number:03}.state", age=20 - number)
    assert folder.trim(500, owner) == 500
    assert names(folder) == ["b-000.state", *(f"a-{number:03}.state" for number in range(16, 20))]
    assert folder.trim(0, owner) == 0


def test_an_owner_who_left_long_ago_makes_room(tmp_path):
    folder = OwnedFolder(tmp_path, NAMES)
    write(folder, "b-000.state", age=30 * 24 * 3600)
    for number in range(5):
        write(folder, f"a-{number:03}.state")
    folder.trim(500, owner)
    assert "b-000.state" not in names(folder)


def test_cached_states_of_one_key_do_not_push_out_those_of_another(byte_model: Model, tmp_path):
    state = byte_model.forward([1])[1]
    size = state.n_bytes + state.logits.nbytes + 4000
    folder = StateFolder(tmp_path, byte_model, 10 * size)
    folder.save("quiet", [1], state)
    folder.save("quiet/state-1", [1], state)
    for number in range(40):
        folder.save("loud", [2, number], state)
        folder.flush()
    assert folder.load("quiet", [1], [1]) is not None
    assert folder.load("quiet/state-1", [1], [1]) is not None
    assert folder.load("loud", [2, 39], [2]) is not None
    assert folder.load("loud", [2, 0], [2]) is None
    assert folder.load("other", [1], [1]) is None
    folder.close()


def test_files_beside_the_cache_survive_every_trim(byte_model: Model, tmp_path):
    folder = StateFolder(tmp_path, byte_model, 1)
    strangers = [tmp_path / "thesis.docx", folder.folder / "x.safetensors", tmp_path / "a.partial"]
    for path in strangers:
        path.write_bytes(bytes(10_000))
        os.utime(path, (0, 0))
    for number in range(5):
        folder.save("", [number], byte_model.forward([number])[1])
        folder.flush()
    assert all(path.exists() for path in strangers)
    assert folder.load("", [4], [1]) is None
    folder.close()


def test_a_damaged_file_is_deleted_and_others_are_not(byte_model: Model, tmp_path):
    folder = StateFolder(tmp_path, byte_model, 2**24)
    folder.save("key", [1], byte_model.forward([1])[1])
    folder.flush()
    path = folder.path("key", [1])
    path.write_bytes(path.read_bytes()[:100])
    assert folder.load("key", [1], [1]) is None
    assert not path.exists()
    folder.close()
