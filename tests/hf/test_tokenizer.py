"""Tokenizer files for transformers: the ids of the `rwkv` package, and wkv's turns of a chat."""

import copy
import json
import pickle
import subprocess
import sys

import pytest

from bench.tokenizer import package_tokenizer
from tests.hf.tokenizer_texts import SENTENCES, mismatches, random_texts
from wkv import demo
from wkv.convert.huggingface import tokenizer_files as written
from wkv.errors import TokenizerError
from wkv.prompting.template import Template, Thinking, clean
from wkv.tokenizers import open_tokenizer
from wkv.tokenizers.byte_level import bytes_to_characters
from wkv.tokenizers.pile import PileTokenizer
from wkv.tokenizers.plain_bytes import BytesTokenizer
from wkv.tokenizers.trie import longest_match_pattern
from wkv.tokenizers.world import (
    VOCABULARY_FILE,
    WorldTokenizer,
    official_vocabulary,
    read_vocabulary,
)

transformers = pytest.importorskip("transformers")
RWKVTokenizer = pytest.importorskip("wkv.hf.tokenizer").RWKVTokenizer

NAME = written.END_OF_TEXT
TEXTS = 3000
TALK = [
    {"role": "system", "content": "Be kind.\r\n\r\nBe short.\n"},
    {"role": "user", "content": " Hi\n\n\nyou "},
    {"role": "assistant", "content": " Hello!"},
    {"role": "user", "content": [{"type": "text", "text": text} for text in ("How ", "so?")]},
]
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "days": {"type": ["integer", "null"]},
                "unit": {"enum": ["C", "F"]},
            },
            "required": ["city"],
        },
    },
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("world")
    written.write_tokenizer(path)
    return path


@pytest.fixture(scope="module")
def standard(folder):
    return transformers.AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def ours(folder):
    return RWKVTokenizer.from_pretrained(folder)


@pytest.fixture(params=["standard", "ours"])
def tokenizer(request):
    """Give both classes in turn."""
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def package():
    return package_tokenizer()


def render(tokenizer, talk, **options):
    options = {"add_generation_prompt": True, **options}
    return tokenizer.apply_chat_template(talk, tokenize=False, **options)


def user(content):
    return [{"role": "user", "content": content}]


def test_ids_are_those_of_the_package(tokenizer, package):
    texts = SENTENCES + random_texts(TEXTS, seed=7)
    assert mismatches(tokenizer, texts, [package.encode(text) for text in texts]) == []


def test_random_bytes_have_the_ids_of_the_package(folder, package):
    world = open_tokenizer(folder / "tokenizer.json")
    for text in random_texts(500, seed=5):
        data = text.encode("utf-16")
        assert world.encode(data) == package.encodeBytes(data)
        assert world.decode_bytes(world.encode(data)) == data


def test_long_texts(tokenizer, package):
    for filler in (" ", "a", "今", "ab" * 7, "\n"):
        text = filler * 9000 + "tail 今天"
        assert tokenizer(text).input_ids == package.encode(text)


def test_the_class_is_a_standard_one_and_loads_without_code_of_ours(folder):
    code = (
        "import sys; sys.modules['wkv'] = None\n"
        "from transformers import AutoTokenizer\n"
        f"tokenizer = AutoTokenizer.from_pretrained({str(folder)!r})\n"
        "assert tokenizer.is_fast and len(tokenizer) == 65536\n"
        "print(tokenizer('今天天气不错').input_ids)\n"
    )
    result = subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True
    )
    assert json.loads(result.stdout) == WorldTokenizer().encode("今天天气不错")


def test_special_tokens(tokenizer):
    assert len(tokenizer) == 65536 == tokenizer.vocab_size
    assert tokenizer.eos_token_id == tokenizer.bos_token_id == 0
    assert tokenizer.pad_token_id == 65535
    assert tokenizer.padding_side == "left"
    assert sorted(tokenizer.get_vocab().values()) == list(range(65536))
    assert tokenizer.decode([0, 33155, 65535, 0], skip_special_tokens=True) == "Hello"
    assert tokenizer.decode([33155, 0]) == "Hello" + NAME
    assert tokenizer("").input_ids == []
    assert tokenizer.convert_tokens_to_ids(["Hello", NAME]) == [33155, 0]
    assert tokenizer.convert_tokens_to_string(tokenizer.tokenize("今天")) == "今天"


def test_half_a_character_is_decoded_as_unknown(tokenizer):
    assert tokenizer.decode([229]) == "\ufffd"


def test_the_name_of_the_end_of_text_is_its_id_unless_that_is_refused(tokenizer):
    text = f"a{NAME}b"
    assert tokenizer(text).input_ids == [98, 0, 99]
    plain = tokenizer(text, split_special_tokens=True).input_ids
    assert plain == WorldTokenizer().encode(text)


def test_a_message_cannot_end_the_text(tokenizer):
    twice = NAME[:7] + NAME + NAME[7:]
    ids = tokenizer.apply_chat_template(user(f"{NAME} {twice}<|rwkv_tokenizer_reserved_65530|>"))
    assert not {0, *range(65530, 65536)} & set(ids["input_ids"])


def test_batches_are_padded_on_the_left(tokenizer):
    batch = tokenizer(["Hello", "Hello, 今天天气不错"], padding=True, return_tensors="pt")
    width = batch.input_ids.shape[1]
    assert batch.attention_mask.sum(1).tolist() == [1, width]
    assert batch.attention_mask[0].tolist() == [0] * (width - 1) + [1]
    assert batch.input_ids[0].tolist() == [65535] * (width - 1) + [33155]
    assert set(batch) == {"input_ids", "attention_mask"}


def test_saving_and_loading(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    again = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert again.is_fast
    assert len(again) == 65536
    assert again.padding_side == "left"
    assert again("Pré").input_ids == tokenizer("Pré").input_ids
    assert render(again, TALK) == render(tokenizer, TALK)


def test_our_class_loads_what_it_saved_with_added_tokens(folder, tmp_path):
    tokenizer = RWKVTokenizer.from_pretrained(folder)
    assert tokenizer.add_tokens(["<call>"]) == 1
    tokenizer.save_pretrained(tmp_path)
    for kind in (RWKVTokenizer, transformers.AutoTokenizer):
        again = kind.from_pretrained(tmp_path)
        assert again("a<call>b").input_ids == [98, 65536, 99]
        assert again.decode([98, 65536, 99]) == "a<call>b"
        assert len(again) == 65537


def test_the_chat_has_the_turns_of_wkv(tokenizer):
    template = Template()
    system, hi, hello, _ = TALK
    begin = template.system(clean(system["content"]))
    begin += template.exchange(clean(hi["content"]), hello["content"].strip())
    for option, thinking in [
        ({}, Thinking.PLAIN),
        ({"enable_thinking": True}, Thinking.FREE),
        ({"enable_thinking": False}, Thinking.SKIPPED),
        ({"enable_thinking": True, "reasoning_effort": "medium"}, Thinking.FREE),
        ({"enable_thinking": True, "reasoning_effort": "low"}, Thinking.A_BIT),
        ({"enable_thinking": True, "reasoning_effort": "high"}, Thinking.A_LOT),
    ]:
        assert render(tokenizer, TALK, **option) == begin + template.turn("How so?", thinking)
    assert render(tokenizer, TALK[:3], add_generation_prompt=False) == begin
    ids = tokenizer.apply_chat_template(TALK, add_generation_prompt=True)["input_ids"]
    assert ids.count(261) == 4
    assert ids == WorldTokenizer().encode(begin + template.turn("How so?"))


@pytest.mark.parametrize("end", [".", "!", "？", "?", ")", "`", "0", "x", ":", "”", "\n", " "])
def test_a_turn_ends_with_one_id(standard, end):
    assert standard.apply_chat_template(user(f"a{end}"))["input_ids"][-1] == 261


@pytest.mark.parametrize("end", ["。", "，", "…"])
def test_a_turn_ends_with_two_ids_where_the_vocabulary_joins_a_mark_with_a_newline(standard, end):
    ids = standard.apply_chat_template(user(f"a{end}"))["input_ids"]
    assert [standard.decode([token]) for token in ids[-2:]] == [f"{end}\n", "\n"]


def test_earlier_thoughts_are_left_out(standard):
    answer = {"role": "assistant", "content": "<think>\nhm\n\nyes</think>\n\nNo."}
    begin = "User: a\n\nAssistant:"
    assert render(standard, [*user("a"), answer, *user("b")]).startswith(f"{begin} No.\n\nUser")
    cut_off = {"role": "assistant", "content": "<think>\nhm"}
    assert render(standard, [*user("a"), cut_off, *user("b")]).startswith(f"{begin}\n\nUser")
    whole = render(standard, [*user("a"), answer], add_generation_prompt=False)
    assert whole == f"{begin} {answer['content']}\n\n"
    apart = {"role": "assistant", "content": "No.", "reasoning_content": "hm"}
    whole = render(standard, [*user("a"), apart], add_generation_prompt=False)
    assert whole == f"{begin} <think>\nhm\n</think>\nNo.\n\n"


def test_tools(standard):
    signature = 'weather(city: string, days?: integer | null, unit?: "C" | "F")'
    offer = f"Tools:\n- {signature}: Weather of a city.\nReturn only a JSON function call"
    forced, offer = f"{offer}.\n\n", f"{offer}, or answer in words if no tool helps.\n\n"
    talk = user("Is it cold?")
    asked = "User: Is it cold?\n\nAssistant:"
    assert render(standard, talk, tools=[WEATHER]) == f"System: {offer}{asked}"
    must = {"tools": [WEATHER], "tool_choice": "required"}
    assert render(standard, talk, **must) == f"System: {forced}{asked} ```json"
    system = {"role": "system", "content": "Be kind."}
    with_both = render(standard, [system, *talk], tools=[WEATHER], enable_thinking=True)
    assert with_both == f"System: Be kind.\n{offer}{asked} <think"
    function = {"name": "weather", "arguments": {"city": "北京"}}
    talk += [
        {"role": "assistant", "tool_calls": [{"type": "function", "function": function}]},
        {"role": "tool", "content": {"celsius": 3}},
    ]
    call = '```json\n{"name": "weather", "arguments": {"city": "北京"}}\n```'
    output = 'User: Function output:\n{"celsius": 3}\n\nAssistant:'
    expected = f"System: {offer}{asked} {call}\n\n{output}"
    assert render(standard, talk, tools=[WEATHER]) == expected
    function["arguments"] = json.dumps(function["arguments"], ensure_ascii=False)
    assert render(standard, talk, tools=[WEATHER]) == expected


@pytest.mark.parametrize(
    ("talk", "message"),
    [
        ([{"role": "robot", "content": "a"}], "unknown role robot; expected system"),
        (user([{"type": "image", "url": "a"}]), "a part that is not text"),
    ],
)
def test_what_a_chat_cannot_hold_is_refused(standard, talk, message):
    with pytest.raises(Exception, match=message):
        render(standard, talk)


def test_a_chat_may_start_with_id_0(tmp_path):
    entries = {index + 1: bytes([index]) for index in range(256)}
    written.write_tokenizer(tmp_path, entries, vocab_size=257, starts_with_end_of_text=True)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    expected = [0, *WorldTokenizer(entries).encode("User: a\n\n")]
    assert tokenizer.apply_chat_template(user("a"))["input_ids"] == expected


def test_the_vocabulary_comes_back(folder, tmp_path):
    official = official_vocabulary()
    entries = written.read_tokenizer(folder)
    assert entries == read_vocabulary(official)
    written.write_vocabulary(entries, tmp_path / "v.txt")
    content = official.read_bytes().replace(b"\r\n", b"\n")
    assert (tmp_path / "v.txt").read_bytes() == content
    assert (folder / VOCABULARY_FILE).read_bytes() == content


def test_wkv_opens_the_file_as_world(folder):
    world = open_tokenizer(folder / "tokenizer.json", 65536)
    assert isinstance(world, WorldTokenizer)
    assert open_tokenizer(folder / "tokenizer.json").vocab_size == 65536
    assert world.encode(SENTENCES[4]) == WorldTokenizer().encode(SENTENCES[4])


def test_the_vocabulary_of_the_built_in_model(tmp_path):
    written.write_tokenizer(tmp_path, demo.VOCABULARY, vocab_size=2050)
    world = WorldTokenizer(demo.VOCABULARY, 2050)
    for tokenizer in (
        transformers.AutoTokenizer.from_pretrained(tmp_path),
        RWKVTokenizer.from_pretrained(tmp_path),
    ):
        assert len(tokenizer) == 2050
        texts = SENTENCES + random_texts(300, seed=3)
        assert mismatches(tokenizer, texts, [world.encode(text) for text in texts]) == []
    assert written.read_tokenizer(tmp_path) == read_vocabulary(demo.VOCABULARY)


def test_a_byte_in_no_token_is_an_error_and_never_lost(tmp_path):
    written.write_tokenizer(tmp_path, {1: b"a", 2: b"ab", 5: b"aaa"}, vocab_size=6)
    standard = transformers.AutoTokenizer.from_pretrained(tmp_path)
    ours = RWKVTokenizer.from_pretrained(tmp_path)
    for tokenizer in (standard, ours):
        assert tokenizer("aabaaa").input_ids == [1, 2, 5]
        with pytest.raises(Exception, match=r"(?i)unk|in no token"):
            tokenizer("a?a")
    assert written.read_tokenizer(tmp_path) == {1: b"a", 2: b"ab", 5: b"aaa"}


def test_a_vocabulary_larger_than_the_model_is_refused(tmp_path):
    with pytest.raises(TokenizerError, match=r"ids up to 300.*only 300"):
        written.write_tokenizer(tmp_path, {300: b"a"}, vocab_size=300)
    assert list(tmp_path.iterdir()) == []


def test_the_20b_tokenizer(shared_data, tmp_path):
    source = shared_data / "20B_tokenizer.json"
    template = written.chat_template_text("raven")
    written.write_pile_tokenizer(tmp_path, source, chat_template=template)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer.eos_token_id == tokenizer.bos_token_id == 0
    assert tokenizer.pad_token_id == 1
    assert tokenizer.padding_side == "left"
    assert tokenizer(SENTENCES[0]).input_ids == PileTokenizer(source).encode(SENTENCES[0])
    bob = Template("Bob", "Alice")
    expected = bob.system("Be kind.\nBe short.") + bob.exchange("Hi\nyou", "Hello!")
    assert render(tokenizer, TALK) == expected + bob.turn("How so?")
    assert 0 not in tokenizer.apply_chat_template(user("<|endoftext|>"))["input_ids"]
    assert isinstance(open_tokenizer(tmp_path / "tokenizer.json"), PileTokenizer)
    with pytest.raises(TokenizerError, match="longest-match tokenizer"):
        written.read_tokenizer(tmp_path)


def test_pile_models_have_no_chat_template(shared_data, tmp_path):
    written.write_pile_tokenizer(tmp_path, shared_data / "20B_tokenizer.json")
    assert transformers.AutoTokenizer.from_pretrained(tmp_path).chat_template is None


def test_a_file_that_is_no_20b_tokenizer_is_refused(folder, tmp_path):
    with pytest.raises(TokenizerError, match="endoftext"):
        written.write_pile_tokenizer(tmp_path, folder / "tokenizer.json")
    with pytest.raises(TokenizerError, match=r"not a valid tokenizer\.json"):
        written.write_pile_tokenizer(tmp_path, folder / VOCABULARY_FILE)
    with pytest.raises(TokenizerError, match=r"expected a tokenizer\.json"):
        written.read_tokenizer(tmp_path)


def test_the_pattern_of_a_small_tree():
    assert longest_match_pattern(["a", "ab", "abcd"]) == "(?:abcd|ab|a)"
    assert longest_match_pattern(["a", "abc", "abd", "abde"]) == "(?:ab(?:de|d|c)|a)"
    assert longest_match_pattern(["a", "b", "^"]) == r"[\^ab]"
    assert longest_match_pattern([]) == ""


def test_an_unknown_template_is_refused():
    with pytest.raises(TokenizerError, match="world, raven"):
        written.chat_template_text("gpt")


def test_writing_imports_nothing_heavy(tmp_path):
    code = (
        "import sys, pathlib\n"
        "from wkv.convert.huggingface.tokenizer_files import write_tokenizer\n"
        f"write_tokenizer(pathlib.Path({str(tmp_path)!r}), {{1: b'a'}}, vocab_size=2)\n"
        "assert not {'transformers', 'torch'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def copies_of(tokenizer):
    return pickle.loads(pickle.dumps(tokenizer)), copy.deepcopy(tokenizer)


def test_tokenizers_of_transformers_can_be_pickled_and_copied(tmp_path):
    """Data loaders with several processes need this."""
    written.write_tokenizer(tmp_path / "world")
    text = f"Hello, 世界!{NAME}<mine>"
    for original in (
        RWKVTokenizer(),
        transformers.AutoTokenizer.from_pretrained(tmp_path / "world"),
    ):
        original.add_tokens(["<mine>"])
        for made in copies_of(original):
            assert made(text)["input_ids"] == original(text)["input_ids"]
            assert made.decode(made(text)["input_ids"]) == text
            assert len(made) == len(original)


def test_our_own_tokenizers_can_be_pickled_and_copied(shared_data):
    pile = PileTokenizer(shared_data / "20B_tokenizer.json")
    for original in (
        WorldTokenizer(),
        WorldTokenizer({1: b"a", 2: b"ab"}, 7),
        BytesTokenizer(),
        pile,
    ):
        for made in copies_of(original):
            assert made.encode("abaa") == original.encode("abaa")
            assert vars(made).keys() == vars(original).keys()
            assert (made.name, made.vocab_size) == (original.name, original.vocab_size)


def depth_of(pattern):
    """Return how deep the groups of a pattern are nested."""
    depth = deepest = 0
    escaped = in_set = False
    for character in pattern:
        if escaped:
            escaped = False
        elif character == "\\":
            escaped = True
        elif in_set:
            in_set = character != "]"
        elif character == "[":
            in_set = True
        elif character in "()":
            depth += 1 if character == "(" else -1
            deepest = max(deepest, depth)
    return deepest


def test_the_pattern_is_not_nested_deeply():
    """Other engines refuse deep patterns; fancy-regex refuses more than 64 levels."""
    world = read_vocabulary(official_vocabulary())
    spelled = [bytes_to_characters(text) for text in world.values()]
    assert depth_of(longest_match_pattern(spelled)) <= 24
    assert depth_of(longest_match_pattern(["a" * length for length in range(1, 500)])) <= 2
    assert depth_of(longest_match_pattern(["ab" * 99 + "c", "ab" * 99 + "d", "ab"])) <= 2


def test_llguidance_reads_the_exported_tokenizer(tmp_path):
    engine = pytest.importorskip("llguidance.hf")
    written.write_tokenizer(tmp_path)
    made = engine.from_tokenizer(transformers.AutoTokenizer.from_pretrained(tmp_path))
    for text in random_texts(100, seed=1):
        assert made.tokenize_str(text) == WorldTokenizer().encode(text)


@pytest.mark.parametrize("starts", [False, True])
def test_replies_are_marked_for_training(tmp_path, starts):
    written.write_tokenizer(tmp_path, starts_with_end_of_text=starts)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    last = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "Bye\nnow"}]
    talk = [*TALK[:3], *last]
    options = {"return_dict": True, "return_assistant_tokens_mask": True}
    made = tokenizer.apply_chat_template(talk, **options)
    pairs = zip(made["input_ids"], made["assistant_masks"], strict=True)
    replies = tokenizer.decode([token for token, is_reply in pairs if is_reply])
    assert replies == " Hello!\n\n Bye\nnow\n\n"
    plain = written.chat_template_text("world")
    expected = tokenizer.apply_chat_template(talk, tokenize=False, chat_template=plain)
    assert tokenizer.decode(made["input_ids"]).removeprefix(NAME if starts else "") == expected


def test_raven_replies_are_marked_for_training():
    from transformers.utils.chat_template_utils import render_jinja_template

    text = written.chat_template_text("raven", with_marks=True)
    talk = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}]
    ((rendered,), ((place,),)) = render_jinja_template(
        [talk], chat_template=text, return_assistant_tokens_mask=True
    )
    assert rendered[slice(*place)] == " Yes\n\n"
    ((plain,), _) = render_jinja_template([talk], chat_template=written.chat_template_text("raven"))
    assert plain == rendered
