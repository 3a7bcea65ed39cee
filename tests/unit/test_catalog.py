"""The catalog's facts are well-formed, and names are found."""

import re
import sys

import pytest
import torch

from wkv.cli.fetching import in_words
from wkv.errors import CatalogError
from wkv.hub import Entry, entries, find, lookup, resolve
from wkv.hub.catalog import HUB
from wkv.models import GENERATIONS

ENTRIES = pytest.mark.parametrize("entry", entries(), ids=lambda entry: entry.name)


@ENTRIES
def test_entries_are_well_formed(entry):
    assert re.fullmatch(r"[a-z0-9-]{2,}:[0-9.]+[mb]", entry.name)
    assert entry.generation in GENERATIONS
    assert re.fullmatch(r"[\w.-]+/[\w.-]+", entry.repo)
    assert entry.file.endswith(".pth")
    assert "/" not in entry.file
    assert entry.sha256 is None or re.fullmatch(r"[0-9a-f]{64}", entry.sha256)
    assert entry.revision == "main" or re.fullmatch(r"[0-9a-f]{40}", entry.revision)
    assert entry.context in (1024, 4096, 8192, 16384, 25600)
    assert entry.license == "apache-2.0"
    assert entry.languages


@ENTRIES
def test_the_bytes_are_those_of_the_parameters_in_16_bits(entry):
    numbers = 2 * entry.n_params
    assert numbers < entry.disk_bytes < 1.001 * numbers or entry.bytes is None
    assert entry.disk_bytes == (entry.bytes or numbers)
    assert entry.memory_bytes(4) == 2 * numbers


@ENTRIES
def test_the_size_in_the_name_is_that_of_the_model(entry):
    size = entry.name.partition(":")[2]
    told = float(size[:-1]) * {"m": 1e6, "b": 1e9}[size[-1]]
    if entry.generation != "7a":  # named after the RWKV-7 within it
        assert entry.n_params == pytest.approx(told, rel=0.1) or told in (1e8, 4e8)


def test_names_files_and_checksums_are_unique():
    for values in (
        [entry.name for entry in entries()],
        [entry.file for entry in entries()],
        [entry.sha256 for entry in entries() if entry.sha256],
    ):
        assert len(values) == len(set(values))


@pytest.mark.parametrize(
    ("name", "generation", "low_rank"),
    [("world4:0.1b", "4", 0), ("pile:169m", "4", 0), ("world7:0.1b", "7", 0.1)],
)
def test_the_parameters_are_those_of_the_shapes(name, generation, low_rank):
    entry = find(name)
    assert entry.generation == generation
    vocab_size = 50277 if name.startswith("pile") else 65536
    L, D, V = entry.n_layer, entry.n_embd, vocab_size
    matrices = 2 * V * D + L * (4 * D * D + 2 * 4 * D * D + (D * D if generation == "4" else 0))
    assert matrices < entry.n_params < (1.01 + low_rank) * matrices


@pytest.mark.parametrize("name", ["g1:0.1b", " G1:0.1B ", "rwkv7-g1d-0.1b-20260129-ctx8192"])
def test_find_takes_a_name_in_any_case_and_a_file(name):
    assert find(name).name == "g1:0.1b"
    assert find(find(name).file).name == "g1:0.1b"


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("g1:0.1", r"did you mean g1:0\.1b\?"),
        ("g1:0.2b", r"did you mean g1:0\.1b"),
        ("g1:0.3b", r"did you mean g1:0\.4b"),
        ("g1:3b", r"did you mean g1:2\.9b"),
        ("g1:14", r"did you mean g1:13\.3b"),
        ("pile:160m", r"did you mean pile:169m"),
        ("pile:0.5b", r"did you mean pile:430m"),
        ("g1:tiny", r"did you mean g1:"),
        ("g1:0b", r"did you mean g1:"),
        ("G1", r"its sizes: g1:0\.1b, g1:0\.4b"),
        ("world:1.5b", r"did you mean world\d:1\.5b"),
        ("raven-cn:7b", r"raven"),
        ("qwen", r"expected one of g1, "),
    ],
)
def test_a_typo_gets_the_nearest_names(name, told):
    with pytest.raises(CatalogError, match=told):
        find(name)


@pytest.mark.parametrize(
    "path", ["model.pth", "folder/model.pth", "C:model.pth", "", "a" * 5000, "\0", "C:/m:n.pth"]
)
def test_what_is_no_name_is_a_path(path):
    assert lookup(path) is None
    assert resolve(path) is path


@pytest.mark.skipif(sys.platform == "win32", reason="no colons in names of files")
def test_what_exists_is_a_path_even_with_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "g1:0.4b.pth").touch()
    assert lookup("g1:0.4b") is None
    assert resolve("g1:0.4b") == "g1:0.4b"


def test_addresses_are_quoted():
    raven = find("raven:3b")
    assert raven.page == f"{HUB}/BlinkDL/rwkv-4-raven"
    assert raven.url.endswith(
        "/resolve/main/RWKV-4-Raven-3B-v12-Eng98%25-Other2%25-20230520-ctx4096.pth"
    )


def test_an_entry_of_your_own():
    facts = {"n_params": 10, "n_layer": 1, "n_embd": 1, "context": 8, "languages": "en"}
    entry = Entry(
        name="mine:1m", generation="7", repo="me/it", file="a.pth", license="mit", **facts
    )
    assert (entry.family, entry.disk_bytes, entry.memory_bytes(4)) == ("mine", 20, 40)


@pytest.mark.parametrize(
    ("n_bytes", "words"), [(12, "12 bytes"), (382_195_690, "382 MB"), (15_271_627_549, "15.3 GB")]
)
def test_sizes_in_words(n_bytes, words):
    assert in_words(n_bytes) == words


def test_doctor_tells_each_kind_of_gpu(monkeypatch):
    from wkv.cli import machine
    from wkv.gpu import requirements

    class Card:
        name, total_memory, major, minor = "A Card", 2**34, 9, 0

    monkeypatch.setattr(requirements, "kernel_error", lambda device: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: Card)
    assert [(f.topic, f.found.split(";")[0]) for f in machine.gpus()] == [
        ("cuda:0", "A Card, compute capability 9.0, 16.0 GiB"),
        ("cuda:1", "A Card, compute capability 9.0, 16.0 GiB"),
        ("gpu kernels", "Triton kernels run"),
    ]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(machine.shutil, "which", lambda name: "/bin/" + name)
    assert "install a PyTorch with CUDA" in machine.gpus()[0].advice
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    assert "nvidia-smi" in machine.gpus()[0].advice


def test_a_disk_too_small_is_told_before_anything_comes(tmp_path, monkeypatch):
    from wkv.hub import download as hub

    class Usage:
        free = 99

    monkeypatch.setattr(hub.shutil, "disk_usage", lambda path: Usage)
    with pytest.raises(CatalogError, match=r"100 bytes are needed and 99 are free.*HF_HOME"):
        hub._complete(tmp_path / "x.incomplete", "http://nowhere/x", 100, print)
    assert list(tmp_path.iterdir()) == []
