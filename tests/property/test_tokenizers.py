"""Round trips on arbitrary text and bytes, agreement with the `rwkv` package, streaming."""

import importlib.util
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import wkv
from tests.checkpoints import random_checkpoint, save_pth
from wkv.errors import TokenizerError
from wkv.tokenizers import choose_tokenizer, open_tokenizer
from wkv.tokenizers.interface import StreamDecoder
from wkv.tokenizers.plain_bytes import BytesTokenizer
from wkv.tokenizers.world import WorldTokenizer, official_vocabulary, write_vocabulary

WORLD = WorldTokenizer()
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)
SENTENCES = [
    "Hello",
    "S:2",
    "Made in China",
    "今天天气不错",
    "男：听说你们公司要派你去南方工作？",
    "User: hi\n\nAssistant:",
    "\n\n\n\n \t 0123456789",
    "👩‍👩‍👧‍👦 naïve Ǆ \x00\x7f",
]


@pytest.fixture(scope="module")
def package_tokenizer():
    """Give the package's own tokenizer, from its file alone."""
    spec = importlib.util.find_spec("rwkv")
    file = Path(spec.submodule_search_locations[0]) / "rwkv_tokenizer.py"
    module_spec = importlib.util.spec_from_file_location("package_tokenizer", file)
    module = importlib.util.module_from_spec(module_spec)
    module_spec.loader.exec_module(module)
    return module.TRIE_TOKENIZER(str(official_vocabulary()))


@given(texts)
def test_world_text_round_trip(text):
    assert WORLD.decode(WORLD.encode(text)) == text


@given(st.binary(max_size=300))
def test_world_bytes_round_trip(data):
    assert WORLD.decode_bytes(WORLD.encode(data)) == data


@given(st.lists(st.integers(1, 65529), max_size=60))
def test_world_equals_the_package_on_glued_tokens(package_tokenizer, ids):
    data = WORLD.decode_bytes(ids)
    assert WORLD.encode(data) == package_tokenizer.encodeBytes(data)


@given(texts)
def test_world_equals_the_package_on_text(package_tokenizer, text):
    assert WORLD.encode(text) == package_tokenizer.encode(text)


@pytest.mark.parametrize("text", SENTENCES)
def test_world_equals_the_package_on_sentences(package_tokenizer, text):
    assert WORLD.encode(text) == package_tokenizer.encode(text)


def test_world_equals_the_package_on_long_text(package_tokenizer):
    for filler in (" ", "a", "今", "ab" * 7, "\n"):
        text = filler * 9000 + "tail 今天"
        assert WORLD.encode(text) == package_tokenizer.encode(text)


def test_world_known_ids():
    assert WORLD.encode("\n") == [11]
    assert WORLD.encode("\n\n") == [261]
    assert WORLD.encode("User:") == [24281, 59]
    assert WORLD.encode("<think>") == [61, 35762, 63]


def test_world_reserved_ids_stand_for_no_text():
    assert WORLD.vocab_size == 65536
    assert WORLD.decode([0, *range(65530, 65536)]) == ""


@pytest.mark.parametrize("token", [-1, 65536, 10**9])
def test_world_refuses_ids_outside(token):
    with pytest.raises(TokenizerError, match=str(token)):
        WORLD.decode([token])


@pytest.mark.parametrize("tokenizer", [WORLD, BytesTokenizer()], ids=["world", "bytes"])
def test_lone_surrogates_are_refused(tokenizer):
    with pytest.raises(TokenizerError, match=r"U\+D800.*position 2"):
        tokenizer.encode("ab\ud800")


@given(st.binary(max_size=100))
def test_bytes_round_trip(data):
    assert BytesTokenizer().decode_bytes(BytesTokenizer().encode(data)) == data


@given(st.lists(st.integers(1, 65529), max_size=60))
def test_streamed_world_text_equals_decoded_text(ids):
    decoder = StreamDecoder(WORLD)
    streamed = "".join(decoder.push(token) for token in ids) + decoder.flush()
    assert streamed == WORLD.decode(ids)


@given(st.binary(max_size=60))
def test_streamed_bytes_equal_decoded_bytes_and_never_wait(data):
    decoder = StreamDecoder(BytesTokenizer())
    shown = ""
    for count, byte in enumerate(data, start=1):
        shown += decoder.push(byte)
        # At most three bytes of a character can be waiting.
        settled = data[: max(0, count - 3)].decode("utf-8", "ignore")
        assert len(shown) >= len(settled)
    assert shown + decoder.flush() == data.decode("utf-8", "replace")


def test_pile_tokenizer_from_a_file(shared_data):
    tokenizer = open_tokenizer(shared_data / "20B_tokenizer.json", 50277)
    assert tokenizer.encode("\n") == [187]
    assert tokenizer.encode("\n\n") == [535]
    assert tokenizer.decode([0]) == ""
    assert tokenizer.end_of_text == 0
    assert tokenizer.vocab_size >= 50277
    for text in SENTENCES:
        ids = tokenizer.encode(text)
        decoder = StreamDecoder(tokenizer)
        assert tokenizer.decode(ids) == text
        assert "".join(map(decoder.push, ids)) + decoder.flush() == text


def test_pile_tokenizer_refuses_bytes_that_are_no_text(shared_data):
    tokenizer = open_tokenizer(shared_data / "20B_tokenizer.json")
    with pytest.raises(TokenizerError, match="not UTF-8"):
        tokenizer.encode(b"\xff")


def test_tokenizer_is_chosen_by_size_and_by_a_file_beside(tmp_path, demo):
    assert choose_tokenizer(65536).name == "world"
    assert choose_tokenizer(256).name == "bytes"
    assert demo.tokenizer.name == "demo-rwkv7.vocab.txt"
    with pytest.raises(TokenizerError, match=r"vocabulary of 300 ids.*--tokenizer"):
        choose_tokenizer(300)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("1 'a' 1\nnonsense\n", "line 2"),
        ("1 'a' 2\n", "line 1"),
        ("1 'a' 1\n1 'b' 1\n", "occurs twice"),
        ("1 __import__('os') 1\n", "line 1"),
        ("0 'a' 1\n", "line 1"),
        ("", "empty"),
    ],
)
def test_damaged_vocabularies_are_refused_by_line(tmp_path, content, message):
    path = tmp_path / "v.txt"
    path.write_text(content)
    with pytest.raises(TokenizerError, match=message):
        open_tokenizer(path)


def test_a_vocabulary_without_all_bytes_names_the_byte_it_lacks(tmp_path):
    path = tmp_path / "v.txt"
    path.write_text("1 'a' 1\n2 'ab' 2\n")
    tokenizer = open_tokenizer(path)
    assert tokenizer.encode("aaba") == [1, 2, 1]
    for text in ("b", "ab?", "a?a"):
        with pytest.raises(TokenizerError, match="in no token"):
            tokenizer.encode(text)


def test_an_unknown_tokenizer_name_says_what_there_is():
    with pytest.raises(TokenizerError, match="world, 20b, bytes"):
        open_tokenizer("worlds")


@pytest.mark.parametrize(("name", "vocab_size"), [("20b", 65536), ("20B", 65536), ("world", 50277)])
def test_a_tokenizer_of_another_family_is_refused_by_name(name, vocab_size):
    with pytest.raises(TokenizerError, match=r"misread.*--tokenizer (world|20b)"):
        open_tokenizer(name, vocab_size)


def test_the_20b_file_is_refused_for_a_model_of_the_size_of_world(shared_data, tmp_path):
    path = tmp_path / "world.pth"
    save_pth(random_checkpoint("7", n_layer=1, n_embd=32, vocab_size=65536), path)
    with pytest.raises(TokenizerError, match=r"50277 tokens and the model 65536.*world"):
        wkv.load(path, tokenizer=shared_data / "20B_tokenizer.json")
    for size in (50277, 50304, 50432):
        assert open_tokenizer(shared_data / "20B_tokenizer.json", size).vocab_size == size


def test_a_tokenizer_that_is_much_too_small_is_reported(tmp_path, caplog):
    path = tmp_path / "small.vocab.txt"
    write_vocabulary({number: b"t%d" % number for number in range(1, 100)}, path)
    for size in (0, 100, 128, 1024):
        open_tokenizer(path, size)
    assert caplog.records == []
    open_tokenizer(path, 65536)
    (record,) = caplog.records
    assert "only 99 tokens and the model 65536 ids" in record.message
    assert "--tokenizer world" in record.message


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_vocabulary_files_of_every_encoding_and_line_end(tmp_path, encoding, line_end):
    entries = {1: b"a", 2: "大".encode(), 3: b"\r\n", 4: b"\xff", 5: "\ufeff".encode(), 6: b"\x85"}
    write_vocabulary(entries, tmp_path / "plain.txt")
    text = (tmp_path / "plain.txt").read_text(encoding="utf-8")
    other = tmp_path / "other.txt"
    other.write_bytes(text.replace("\n", line_end).encode(encoding))
    assert (
        WorldTokenizer(other).entries == WorldTokenizer(tmp_path / "plain.txt").entries == entries
    )


def test_tokenizer_json_with_a_byte_order_mark(shared_data, tmp_path):
    source = shared_data / "20B_tokenizer.json"
    for mark, line_end in ((b"\xef\xbb\xbf", b"\n"), (b"", b"\r\n")):
        other = tmp_path / "tokenizer.json"
        other.write_bytes(mark + source.read_bytes().replace(b"\n", line_end))
        expected = open_tokenizer(source).encode(SENTENCES[2])
        assert open_tokenizer(other).encode(SENTENCES[2]) == expected


@pytest.mark.parametrize("content", [b"[]", b"{", b"", b"{}", b"\xff\xfe\x00", b'{"model": 3}'])
def test_what_is_no_tokenizer_json_is_refused(tmp_path, content):
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    with pytest.raises(TokenizerError, match=r"tokenizer\.json"):
        open_tokenizer(path)


def test_an_object_with_the_three_methods_is_a_tokenizer():
    class Letters:
        def encode(self, text):
            return [ord(letter) for letter in text]

        def decode(self, ids):
            return "".join(map(chr, ids))

        def decode_bytes(self, ids):
            return bytes(ids)

    letters = Letters()
    assert open_tokenizer(letters, 300) is open_tokenizer(letters) is letters
    letters.vocab_size = 400
    with pytest.raises(TokenizerError, match="Letters has 400 ids and the model only 300"):
        open_tokenizer(letters, 300)
