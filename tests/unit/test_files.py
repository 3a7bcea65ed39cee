"""Texts are read the same way everywhere, and files appear complete or not at all."""

import bz2
import gzip
import lzma
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from wkv.errors import InputError, StateError
from wkv.files import atomic_write, decode_text, read_lines, read_text

TEXT = "Grüße\n你好\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_text_is_the_same_in_every_encoding(tmp_path, encoding, newline):
    path = tmp_path / "a.txt"
    path.write_bytes(TEXT.replace("\n", newline).encode(encoding))
    assert read_text(path) == TEXT


def test_big_endian_text_with_a_mark():
    assert decode_text(b"\xfe\xff" + TEXT.encode("utf-16-be"), "a") == TEXT


def test_another_encoding_is_reported_with_its_line():
    with pytest.raises(InputError, match=r"a\.txt is not UTF-8 text \(line 2: byte 5 is 0xe9"):
        decode_text("one\nné".encode("latin-1"), "a.txt")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (gzip.compress(b"a"), r"a\.jsonl is compressed by gzip, .*gunzip"),
        (lzma.compress(b"a"), "compressed by xz, .*unxz"),
        (bz2.compress(b"a"), "compressed by bzip2, .*bunzip2"),
        (b"\x28\xb5\x2f\xfd\0", "compressed by zstd, .*unzstd"),
        (b"PK\3\4\0\0", r"zip archive or a \.pth checkpoint, .*give a text file"),
        ("one\ntwo".encode("utf-16-le"), "is not text .*zero bytes.*UTF-16 with a byte order mark"),
        (b"\x89PNG\r\n\x1a\n\0\0\0", "is not text .*zero bytes"),
    ],
    ids=["gzip", "xz", "bzip2", "zstd", "zip", "utf-16", "png"],
)
def test_files_that_are_not_text_are_named_as_what_they_are(tmp_path, data, message):
    path = tmp_path / "a.jsonl"
    path.write_bytes(data)
    for read in (read_text, lambda path: list(read_lines(path, 100))):
        with pytest.raises(InputError, match=message) as raised:
            read(path)
        assert "iconv" not in str(raised.value)


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="this system has no /dev/zero")
def test_a_file_without_end_that_is_not_text_is_not_read():
    with pytest.raises(InputError, match="/dev/zero is not text"):
        read_text(Path("/dev/zero"))


def test_missing_text_is_an_error(tmp_path):
    with pytest.raises(InputError, match=r"none\.txt cannot be read"):
        read_text(tmp_path / "none.txt")


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
def test_mode_of_a_written_file_follows_the_umask(tmp_path, umask):
    before = os.umask(umask)
    try:
        path = tmp_path / "a.safetensors"
        atomic_write(path, lambda to: save_file({"a": torch.zeros(1)}, to))
        assert path.stat().st_mode & 0o777 == 0o666 & ~umask
        atomic_write(path, lambda to: to.write_text("b"), private=True)
        assert path.stat().st_mode & 0o777 == 0o600
    finally:
        os.umask(before)


def test_failed_write_leaves_the_old_file_and_names_it(tmp_path):
    path = tmp_path / "a.bin"
    path.write_text("old")

    def fail(to):
        to.write_text("half")
        raise OSError(28, "No space left on device", str(to))

    with pytest.raises(StateError, match=rf"^{path}: .*\(No space left on device\)$"):
        atomic_write(path, fail, error_type=StateError)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.bin"]
