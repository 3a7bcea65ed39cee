"""Every name of the `rwkv` package is in wkv.compat, or refused with a reason."""

import ast
import importlib.util
import logging
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.checkpoints import GENERATIONS
from tests.parity.package import INSTALLED, switches
from wkv.compat import unsupported
from wkv.compat.model import RWKV, RWKV_x070
from wkv.compat.rwkv_tokenizer import TRIE_TOKENIZER
from wkv.compat.utils import PIPELINE, PIPELINE_ARGS
from wkv.errors import InputError, TokenizerError
from wkv.tokenizers.world import official_vocabulary

WORLD = "rwkv_vocab_v20230424"
MODULES = {
    "model": unsupported.MODEL,
    "utils": {},
    "rwkv_tokenizer": unsupported.TOKENIZER,
}
DOCUMENT = Path(__file__).resolve().parents[2] / "docs/rwkv-package.md"

needs_package = pytest.mark.skipif(not INSTALLED, reason="the rwkv package is not installed")


def _tree(module):
    folder = importlib.util.find_spec("rwkv").submodule_search_locations[0]
    return ast.parse(Path(folder, f"{module}.py").read_text(encoding="utf-8"))


def _statements(body):
    """Give all statements of a body, also those of its conditions, but not of its functions."""
    for statement in body:
        yield statement
        if isinstance(statement, ast.If | ast.Try):
            yield from _statements(statement.body + statement.orelse)


def _defined(body):
    """Give the public names that a body defines."""
    for statement in _statements(body):
        if isinstance(statement, ast.FunctionDef | ast.ClassDef):
            yield statement.name
        elif isinstance(statement, ast.Assign):
            yield from (target.id for target in statement.targets if isinstance(target, ast.Name))


def _public(names):
    return sorted({name for name in names if not name.startswith("_")})


def _members(module, name):
    """Give the methods of a class, and the attributes of its objects."""
    for node in ast.walk(_tree(module)):
        if isinstance(node, ast.ClassDef) and node.name == name:
            yield from _defined(node.body)
            yield from _assigned(node, "self")


def _assigned(tree, owner):
    """Give the attributes that are assigned to an object."""
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(ast.Name(name), attribute, ast.Store()) if name == owner:
                yield attribute


@needs_package
@pytest.mark.parametrize("module", MODULES)
def test_names_of_the_modules(module):
    ours = import_module(f"wkv.compat.{module}")
    names = _public(_defined(_tree(module).body))
    missing = [name for name in names if name not in MODULES[module] and name not in vars(ours)]
    assert missing == []
    assert [name for name in MODULES[module] if name not in names] == []


@needs_package
def test_names_that_the_imported_modules_have():
    code = (
        "import types, typing, importlib\n"
        f"for part in {list(MODULES)}:\n"
        "    module = importlib.import_module('rwkv.' + part)\n"
        "    for name in dir(module):\n"
        "        value = getattr(module, name)\n"
        "        if getattr(value, '__module__', part) != 'typing' and name[0] != '_':\n"
        "            if not isinstance(value, types.ModuleType):\n"
        "                print('NAME', part, name)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=switches("7"), check=True, capture_output=True, text=True
    )
    rows = [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("NAME ")]
    assert ["model", "RWKV_x070"] in rows
    missing = [
        name
        for module, name in rows
        if name not in MODULES[module] and not hasattr(import_module(f"wkv.compat.{module}"), name)
    ]
    assert missing == []


@needs_package
def test_members_of_the_classes(checkpoint_paths):
    model = RWKV(str(checkpoint_paths["7"]), "cpu fp32", verbose=False)
    tokenizer = TRIE_TOKENIZER(official_vocabulary())
    subjects = [
        ("model", "RWKV", model, unsupported.MODEL_CLASS),
        ("model", "RWKV_x070", model, unsupported.MODEL_CLASS),
        ("utils", "PIPELINE", PIPELINE(model, WORLD), {}),
        ("utils", "PIPELINE_ARGS", PIPELINE_ARGS(), {}),
        ("rwkv_tokenizer", "TRIE_TOKENIZER", tokenizer, unsupported.TOKENIZER_CLASS),
    ]
    for module, name, ours, refused in subjects:
        names = _public(_members(module, name))
        assert len(names) > 2, name
        assert [one for one in names if one not in refused and not hasattr(ours, one)] == []
        assert [one for one in names if one in refused and hasattr(ours, one)] == []


@needs_package
def test_attributes_of_args(checkpoint_paths):
    names = set(_public(_assigned(_tree("model"), "args")))
    assert {"MODEL_NAME", "n_layer", "n_embd", "vocab_size"} <= names
    for generation in GENERATIONS:
        args = RWKV(str(checkpoint_paths[generation]), "cpu fp32", verbose=False).args
        heads = {"n_head", "head_size"} if generation == "4" else set()
        assert {name for name in names - heads if not hasattr(args, name)} == set()


@pytest.mark.parametrize("module", [name for name, table in MODULES.items() if table])
def test_refused_names_of_modules_give_the_reason(module):
    for name, reason in MODULES[module].items():
        with pytest.raises(ImportError) as caught:
            exec(f"from wkv.compat.{module} import {name}", {})
        assert name in str(caught.value)
        assert reason in str(caught.value)
    with pytest.raises(ImportError, match="no_such_name"):
        exec(f"from wkv.compat.{module} import no_such_name", {})
    assert not hasattr(import_module(f"wkv.compat.{module}"), "no_such_name")


def test_refused_attributes_give_the_reason(checkpoint_paths):
    model = RWKV(str(checkpoint_paths["7"]), "cpu fp32", verbose=False)
    tokenizer = TRIE_TOKENIZER(official_vocabulary())
    tables = [(model, unsupported.MODEL_CLASS), (tokenizer, unsupported.TOKENIZER_CLASS)]
    for subject, table in tables:
        for name, reason in table.items():
            assert not hasattr(subject, name)
            with pytest.raises(AttributeError) as caught:
                getattr(subject, name)
            assert reason in str(caught.value)
        with pytest.raises(AttributeError, match="no_such_name"):
            _ = subject.no_such_name


def test_the_document_lists_every_name():
    text = DOCUMENT.read_text(encoding="utf-8")
    tables = [*MODULES.values(), unsupported.MODEL_CLASS, unsupported.TOKENIZER_CLASS]
    members = [*vars(TRIE_TOKENIZER), *vars(PIPELINE), *vars(RWKV), "idx2token", "token2idx"]
    names = [name for table in tables for name in table] + _public(members)
    assert [name for name in names if name not in text and name != "eval"] == []


def test_class_and_functions_of_generation_7(checkpoint_paths):
    assert RWKV_x070 is RWKV
    for generation in ("4", "7"):
        model = RWKV_x070(str(checkpoint_paths[generation]).removesuffix(".pth"), "cpu fp32")
        expected, _ = model.forward([1, 2, 3], None)
        _, state = model.forward_seq([1, 2], model.generate_zero_state())
        logits, same = model.forward_one(3, state)
        assert same is state
        assert float((logits - expected).abs().max()) < 1e-4
        assert model.forward_seq([1, 2], None, True)[0].shape == (2, 300)


@pytest.fixture(scope="module")
def package_tokenizer():
    """Give the package's own tokenizer, from its file alone."""
    if not INSTALLED:
        pytest.skip("the rwkv package is not installed")
    file = official_vocabulary().with_name("rwkv_tokenizer.py")
    spec = importlib.util.spec_from_file_location("package_tokenizer", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.TRIE_TOKENIZER(str(official_vocabulary()))


def test_tokenizer_equals_the_packages(package_tokenizer, capsys):
    tokenizer = TRIE_TOKENIZER(str(official_vocabulary()))
    assert tokenizer.idx2token == package_tokenizer.idx2token
    assert tokenizer.token2idx == package_tokenizer.token2idx
    text = "User: naïve 大江 👩‍👧\n\n\tx"
    ids = package_tokenizer.encode(text)
    assert tokenizer.encode(text) == tokenizer.encodeBytes(text.encode()) == ids
    assert tokenizer.decode(ids) == package_tokenizer.decode(ids) == text
    data = text.encode()[:-7] + b"\xff"
    pieces = package_tokenizer.encodeBytes(data)
    assert tokenizer.encodeBytes(bytearray(data)) == pieces
    assert tokenizer.decodeBytes(pieces) == package_tokenizer.decodeBytes(pieces) == data
    package_tokenizer.printTokens(pieces)
    expected = capsys.readouterr().out
    tokenizer.printTokens(pieces)
    assert capsys.readouterr().out == expected


def test_the_official_vocabulary_is_found_by_its_name_in_any_folder(tmp_path, monkeypatch):
    ids = TRIE_TOKENIZER(official_vocabulary()).encode("大江 flows")
    monkeypatch.chdir(tmp_path)
    for name in (f"{WORLD}.txt", tmp_path / "models" / f"{WORLD}.txt"):
        assert TRIE_TOKENIZER(name).encode("大江 flows") == ids
    with pytest.raises(TokenizerError, match="other"):
        TRIE_TOKENIZER("other.txt")
    Path(f"{WORLD}.txt").write_text("1 'a' 1\n")
    assert TRIE_TOKENIZER(f"{WORLD}.txt").idx2token == {1: b"a"}
    assert PIPELINE(None, WORLD).encode("大江 flows") == ids


def test_the_tokenizer_of_a_pipeline_has_the_packages_type(shared_data):
    tokenizers = pytest.importorskip("tokenizers")
    assert isinstance(PIPELINE(None, WORLD).tokenizer, TRIE_TOKENIZER)
    assert isinstance(PIPELINE(None, str(official_vocabulary())).tokenizer, TRIE_TOKENIZER)
    pipeline = PIPELINE(None, str(shared_data / "20B_tokenizer.json"))
    assert isinstance(pipeline.tokenizer, tokenizers.Tokenizer)
    assert pipeline.tokenizer.encode("Hello\n").ids == pipeline.encode("Hello\n") == [12092, 187]
    assert pipeline.decode(token for token in (12092, 0, 187)) == "Hello\n"


class Scripted:
    """A model that says given ids."""

    def __init__(self, ids):
        self.left = list(ids)

    def forward(self, tokens, state):
        logits = torch.zeros(50277)
        logits[self.left.pop(0) if self.left else 0] = 50.0
        return logits, state


def test_a_pipeline_of_the_library_streams_whole_characters(shared_data):
    pipeline = PIPELINE(None, str(shared_data / "20B_tokenizer.json"))
    text, pieces = "naïve 大江 👩‍👧 end" * 9, []
    ids = pipeline.encode(text)
    assert any("\ufffd" in pipeline.decode([token]) for token in ids)
    pipeline.model = Scripted(ids)
    args = PIPELINE_ARGS(temperature=0, alpha_frequency=0, alpha_presence=0)
    assert pipeline.generate("\n", len(ids), args, pieces.append) == text
    assert "".join(pieces) == text
    assert len(pieces) > len(ids) // 3
    assert not any("\ufffd" in piece for piece in pieces)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int64])
def test_logits_may_be_an_array_or_a_list(dtype):
    pipeline, logits = PIPELINE(None, WORLD), np.array([0, 9, 1, 2], dtype=dtype)
    logits.flags.writeable = False
    assert pipeline.sample_logits(logits, temperature=0) == 1
    assert pipeline.sample_logits(logits.tolist(), temperature=0) == 1
    assert pipeline.sample_logits(logits[::-1], temperature=0) == 2
    torch.manual_seed(1)
    drawn = [pipeline.sample_logits(logits * 0, 1.0, 1.0) for _ in range(20)]
    torch.manual_seed(1)
    assert [pipeline.sample_logits(torch.zeros(4), 1.0, 1.0) for _ in range(20)] == drawn


@pytest.mark.parametrize("logits", [np.zeros((2, 3)), 3.0, [], torch.zeros(1, 3)])
def test_logits_of_another_shape_are_refused(logits):
    with pytest.raises(InputError, match=r"expected \(V,\)"):
        PIPELINE(None, WORLD).sample_logits(logits)


def test_classes_can_be_extended():
    class Arguments(PIPELINE_ARGS):
        def __init__(self, temperature=1.0, token_ban=[], depth=3):  # noqa: B006 - as programs do
            super().__init__(temperature, 0.2, 0, 0.2, 0.2, 0.996, token_ban, [], 256)
            self.depth = depth

    class Pipeline(PIPELINE):
        def __init__(self, model, WORD_NAME, builder=None):
            super().__init__(model, WORD_NAME)
            self.vocabulary = {
                k: v.decode("utf-8", "replace") for k, v in self.tokenizer.idx2token.items()
            }

    args, pipeline = Arguments(0.0, [5], depth=4), Pipeline(Scripted([33, 34]), WORLD)
    assert (args.depth, args.token_ban, args.chunk_len) == (4, [5], 256)
    assert pipeline.vocabulary[11] == "\n"
    assert pipeline.generate("a", 2, args) == pipeline.vocabulary[33] + pipeline.vocabulary[34]


class Sized(Scripted):
    """A model with a number of ids."""

    def __init__(self, vocab_size):
        super().__init__([])
        self.args = type("Args", (), {"vocab_size": vocab_size})


def test_a_tokenizer_of_another_size_is_reported(shared_data, caplog):
    file = str(shared_data / "20B_tokenizer.json")
    with caplog.at_level(logging.WARNING):
        PIPELINE(Sized(65536), WORLD)
        PIPELINE(Sized(50277), file)
        PIPELINE(None, file)
        assert caplog.records == []
        PIPELINE(Sized(65536), file)
        PIPELINE(Sized(50277), WORLD)
    first, second = (record.message for record in caplog.records)
    assert "50277 tokens and the model 65536 ids" in first
    assert f"PIPELINE(model, '{WORLD}')" in first
    assert "65530 ids and the model only 50277" in second
    assert "PIPELINE(model, '20B_tokenizer.json')" in second
