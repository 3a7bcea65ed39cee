"""Tokenizers of the `tokenizers` library: decoding and streaming are the library's own."""

from random import Random

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers

import wkv
from tests.checkpoints import random_checkpoint, save_pth
from wkv.errors import InputError, TokenizerError
from wkv.tokenizers import open_tokenizer
from wkv.tokenizers.interface import CONTEXT, StreamDecoder
from wkv.tokenizers.library import LibraryTokenizer
from wkv.tokenizers.pile import PileTokenizer

WORDS = ["<pad>", "v:5b:3", "t125", "[UNK]", "’", "naïve", "大江", "👩‍👧", "a", "."]
PIECES = ["[UNK]", "▁", "▁a", "b", "▁大", "é", "s", ".", "▁the", "ab"]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def _ids(names):
    return {name: number for number, name in enumerate(names)}


def _word_level():
    library = tokenizers.Tokenizer(models.WordLevel(_ids(WORDS), unk_token="[UNK]"))
    library.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return library


def _characters():
    names = ["[UNK]", *"abc é大👩 \n\ufffd"]
    library = tokenizers.Tokenizer(models.WordLevel(_ids(names), unk_token="[UNK]"))
    library.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    library.decoder = decoders.Fuse()
    return library


def _word_piece():
    names = ["[UNK]", "[CLS]", "un", "##able", "##s", "do", ".", "大", "##江", "é", ","]
    library = tokenizers.Tokenizer(models.WordPiece(_ids(names), unk_token="[UNK]"))
    library.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    library.decoder = decoders.WordPiece()
    library.add_special_tokens(["[CLS]"])
    return library


def _unigram():
    scores = [(name, -float(number)) for number, name in enumerate(PIECES)]
    library = tokenizers.Tokenizer(models.Unigram(scores, unk_id=0))
    library.pre_tokenizer = pre_tokenizers.Metaspace()
    library.decoder = decoders.Metaspace()
    return library


def _byte_fallback():
    names = ["<unk>", "<s>", "</s>", *BYTES, *PIECES[1:]]
    bpe = models.BPE(_ids(names), [], unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    library = tokenizers.Tokenizer(bpe)
    prepend, replace = normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")
    library.normalizer = normalizers.Sequence([prepend, replace])
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    library.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)])
    library.add_special_tokens(["<unk>", "<s>", "</s>"])
    return library


def _suffixes():
    names = ["<unk>", "a", "b</w>", "ab</w>", "é", "大</w>", "s</w>", "▁"]
    library = tokenizers.Tokenizer(models.BPE(_ids(names), [], unk_token="<unk>"))
    library.pre_tokenizer = pre_tokenizers.Whitespace()
    library.decoder = decoders.BPEDecoder("</w>")
    return library


def _bytes_in_words():
    """Words whose decoder is that of byte-level BPE, one of them with a character that is none."""
    library = tokenizers.Tokenizer(models.WordLevel(_ids(["’", "Ġa", "Ã", "©", "b"])))
    library.decoder = decoders.ByteLevel()
    return library


KINDS = {
    "word level": _word_level,
    "characters": _characters,
    "word piece": _word_piece,
    "unigram": _unigram,
    "byte fallback": _byte_fallback,
    "suffixes": _suffixes,
    "bytes in words": _bytes_in_words,
}


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """Give the library's tokenizer and ours for each kind."""
    folder, pairs = tmp_path_factory.mktemp("library"), {}
    for kind, build in KINDS.items():
        library, path = build(), folder / kind / "tokenizer.json"
        path.parent.mkdir()
        library.save(str(path))
        pairs[kind] = library, open_tokenizer(path)
    return pairs


def _expected(library, tokenizer, ids):
    shown = [token for token in ids if token != tokenizer.end_of_text]
    return library.decode(shown, skip_special_tokens=False)


def _streamed(tokenizer, ids):
    decoder = StreamDecoder(tokenizer)
    return "".join(decoder.push(token) for token in ids) + decoder.flush()


def test_words_of_a_music_model_are_separated(opened):
    _, tokenizer = opened["word level"]
    assert tokenizer.decode([0, 1, 2]) == "<pad> v:5b:3 t125"
    assert tokenizer.encode("<pad> v:5b:3 t125") == [0, 1, 2]
    decoder = StreamDecoder(tokenizer)
    assert [decoder.push(token) for token in (0, 1, 2)] == ["<pad>", " v:5b:3", " t125"]
    assert decoder.flush() == ""


def test_words_that_are_not_ascii(tmp_path):
    library = tokenizers.Tokenizer(models.WordLevel({"’": 0, "a": 1}))
    library.save(str(tmp_path / "tokenizer.json"))
    tokenizer = open_tokenizer(tmp_path / "tokenizer.json")
    assert tokenizer.decode([0, 1]) == library.decode([0, 1]) == "’ a"
    assert tokenizer.encode("’") == [0]
    with pytest.raises(TokenizerError, match="cannot encode"):
        tokenizer.encode("b")


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_decoded_and_streamed_text_is_the_librarys(opened, kind, data):
    library, tokenizer = opened[kind]
    numbers = st.integers(0, tokenizer.vocab_size - 1)
    ids = data.draw(st.lists(numbers, max_size=4 * CONTEXT))
    expected = _expected(library, tokenizer, ids)
    assert tokenizer.decode(ids) == expected
    assert tokenizer.decode_bytes(ids).decode("utf-8", "replace") == expected
    assert _streamed(tokenizer, ids) == expected


@pytest.mark.parametrize("kind", KINDS)
def test_long_streams_are_the_librarys(opened, kind):
    library, tokenizer = opened[kind]
    for seed in range(5):
        ids = Random(seed).choices(range(tokenizer.vocab_size), k=20 * CONTEXT)
        assert _streamed(tokenizer, ids) == _expected(library, tokenizer, ids)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "bytes in words"])
@given(text=st.text("ab é大👩s.\n", max_size=40))
def test_ids_of_a_text_are_the_librarys(opened, kind, text):
    library, tokenizer = opened[kind]
    expected = library.encode(text, add_special_tokens=False).ids
    assert tokenizer.encode(text) == tokenizer.encode(text.encode()) == expected


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="▁"), max_size=60))
def test_byte_fallback_streams_whole_characters(opened, text):
    _, tokenizer = opened["byte fallback"]
    decoder, shown = StreamDecoder(tokenizer), ""
    for token in tokenizer.encode(text):
        shown += decoder.push(token)
        assert text.startswith(shown)
    assert shown + decoder.flush() == text


def test_words_are_streamed_at_once(opened):
    _, tokenizer = opened["word piece"]
    decoder = StreamDecoder(tokenizer)
    pieces = [decoder.push(token) for token in tokenizer.encode("undo unables.")]
    assert "".join(pieces) == tokenizer.decode(tokenizer.encode("undo unables."))
    assert all(pieces)


@pytest.mark.parametrize("kind", KINDS)
def test_ids_out_of_range_are_refused_and_those_of_the_model_have_no_text(opened, kind):
    _, tokenizer = opened[kind]
    for token in (-1, tokenizer.vocab_size, 10**9):
        with pytest.raises(TokenizerError, match=str(token)):
            tokenizer.decode([token])
    size = tokenizer.vocab_size
    larger = open_tokenizer(tokenizer.file, size + 10)
    assert larger.vocab_size == size + 10
    assert larger.decode([size + 9]) == larger.decode([]) == ""


def test_the_class_is_that_of_the_decoder(opened):
    for kind, (_, tokenizer) in opened.items():
        is_byte_level = kind == "bytes in words"
        assert isinstance(tokenizer, LibraryTokenizer)
        assert isinstance(tokenizer, PileTokenizer) == is_byte_level
        assert tokenizer.has_byte_tokens == is_byte_level
    assert opened["byte fallback"][1].end_of_text == 2


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_generates_and_streams(opened, kind, tmp_path):
    _, tokenizer = opened[kind]
    path = tmp_path / "model.pth"
    size = tokenizer.vocab_size + 3
    save_pth(random_checkpoint("7", n_layer=2, n_embd=64, vocab_size=size), path)
    model = wkv.load(path, "cpu fp32", tokenizer=tokenizer.file)
    sampling = wkv.Sampling(temperature=1.0, top_p=1.0, seed=3)
    prompt = {"unigram": "a", "suffixes": "a", "bytes in words": "b"}.get(kind, ".")
    done = wkv.generate(model, prompt, sampling=sampling, max_tokens=40)
    assert done.text == model.tokenizer.decode(done.token_ids)
    assert len(set(done.token_ids)) > 3
    pieces = list(wkv.stream(model, prompt, sampling=sampling, max_tokens=40))
    assert "".join(pieces) == done.text
    both = wkv.generate(model, [prompt, prompt], sampling=sampling, max_tokens=10)
    assert all(one.text == model.tokenizer.decode(one.token_ids) for one in both)


def test_a_huggingface_directory_with_words(opened, tmp_path):
    from safetensors.torch import save_file

    tensors = random_checkpoint("7", n_layer=2, n_embd=64, vocab_size=len(WORDS))
    save_file(tensors, tmp_path / "model.safetensors")
    opened["word level"][0].save(str(tmp_path / "tokenizer.json"))
    model = wkv.load(tmp_path / "model.safetensors")
    assert model.tokenizer.decode([0, 1, 2]) == "<pad> v:5b:3 t125"
    stopped = wkv.generate(model, "t125", max_tokens=30, stop=" t125")
    assert " t125" not in stopped.text


def test_a_constraint_needs_tokens_of_bytes(opened):
    from wkv.constraints.token_bytes import llguidance_vocabulary

    with pytest.raises(InputError, match="depends on its neighbors"):
        llguidance_vocabulary(opened["word level"][1], 20)
