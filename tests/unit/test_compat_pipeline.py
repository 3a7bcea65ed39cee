"""PIPELINE of wkv.compat: what of the package is kept, and that its defects cannot come back."""

import copy
import inspect
import sys
from types import SimpleNamespace

import pytest
import torch

import wkv
from wkv.compat.model import RWKV
from wkv.compat.utils import PIPELINE, PIPELINE_ARGS

WORLD = "rwkv_vocab_v20230424"
GREEDY = {"temperature": 0.0, "alpha_frequency": 0.0, "alpha_presence": 0.0}


class Script:
    """A model that says given ids, one after the other, once it has read `context` tokens.

    Keeps what it was fed and what it gave. Its state is a list with the number of tokens fed,
    overwritten in place.
    """

    def __init__(self, ids, context=0):
        self.ids, self.context, self.fed, self.given = ids, context, [], []

    def forward(self, tokens, state):
        state = [0] if state is None else state
        state[0] += len(tokens)
        self.fed.append(tokens)
        said = max(0, sum(map(len, self.fed)) - self.context)
        logits = torch.zeros(65536)
        logits[self.ids[min(said, len(self.ids) - 1)]] = 50.0
        self.given.append((logits, logits.clone()))
        return logits, state


class Constant:
    """A model that always gives the same logits tensor."""

    def __init__(self, logits):
        self.logits = torch.tensor(logits)

    def forward(self, tokens, state):
        return self.logits, state


@pytest.fixture(scope="module")
def world():
    """Give a pipeline with the World vocabulary and no model."""
    return PIPELINE(None, WORLD)


def _pipeline(world, model):
    pipeline = copy.copy(world)
    pipeline.model = model
    return pipeline


def _said(world, ids, token_count=None, **args):
    """Let a model say ids; gives the text, the pieces that came, the pipeline and the model."""
    model, pieces = Script(ids, len(world.encode("ab cd"))), []
    pipeline = _pipeline(world, model)
    count = len(ids) if token_count is None else token_count
    text = pipeline.generate("ab cd", count, PIPELINE_ARGS(**GREEDY, **args), pieces.append)
    return SimpleNamespace(text=text, pieces=pieces, pipeline=pipeline, model=model)


def test_arguments_have_the_packages_names_defaults_and_order():
    expected = {
        "temperature": 1.0,
        "top_p": 0.85,
        "top_k": 0,
        "alpha_frequency": 0.2,
        "alpha_presence": 0.2,
        "alpha_decay": 0.996,
        "token_ban": [],
        "token_stop": [],
        "chunk_len": 256,
    }
    assert vars(PIPELINE_ARGS()) == expected
    assert list(inspect.signature(PIPELINE_ARGS).parameters) == list(expected)
    assert list(inspect.signature(PIPELINE.generate).parameters)[1:] == [
        "ctx",
        "token_count",
        "args",
        "callback",
        "state",
    ]


def test_defaults_are_not_shared():
    PIPELINE_ARGS().token_ban.append(1)
    PIPELINE_ARGS().token_stop.append(1)
    assert PIPELINE_ARGS().token_ban == PIPELINE_ARGS().token_stop == []
    assert inspect.signature(PIPELINE.generate).parameters["args"].default is None


def test_context_is_fed_in_pieces_then_token_by_token_and_the_last_one_too(world):
    ids = world.encode("one two three")
    said = _said(world, ids, chunk_len=2)
    context = world.encode("ab cd")
    fed = [context[i : i + 2] for i in range(0, len(context), 2)] + [[token] for token in ids]
    assert said.model.fed == fed
    assert said.text == "".join(said.pieces) == "one two three"
    assert said.pipeline.state == [len(context) + len(ids)]


def test_state_that_is_given_is_gone_on_from_and_overwritten(world):
    state, pipeline = [100], _pipeline(world, Script([11]))
    pipeline.generate("ab", 3, PIPELINE_ARGS(**GREEDY), state=state)
    assert pipeline.state is state
    assert state == [100 + len(world.encode("ab")) + 3]


def test_stop_token_is_not_said_and_not_fed(world):
    ids = world.encode("one two three")
    said = _said(world, ids, token_stop=[ids[2]])
    assert said.text == world.decode(ids[:2])
    assert said.model.fed[-1] == [ids[1]]


def test_nothing_to_say_reads_the_context_only(world):
    said = _said(world, [11], token_count=0)
    assert said.text == ""
    assert said.pipeline.state == [len(world.encode("ab cd"))]


def test_end_of_text_ends_nothing_by_itself_and_blocks_nothing(world):
    ids = [*world.encode("ab"), 0, *world.encode("cd")]
    assert _said(world, ids).text == "abcd"
    assert _said(world, ids, token_stop=[0]).text == "ab"


def test_genuine_replacement_character_blocks_nothing(world):
    assert _said(world, world.encode("a\ufffdb\ufffd")).text == "a\ufffdb\ufffd"


def test_characters_come_whole_and_what_is_cut_off_is_not_lost(world):
    bytes_of = [world.tokenizer.encode(bytes([byte]))[0] for byte in "é€x".encode()]
    said = _said(world, bytes_of)
    assert said.pieces == ["é", "€", "x"]
    cut = _said(world, bytes_of[:4])
    assert cut.text == "".join(cut.pieces) == "é\ufffd"
    broken = _said(world, [bytes_of[0], *world.encode("abc")])
    assert broken.text == "\ufffdabc"


def test_context_without_tokens_is_refused(world):
    with pytest.raises(wkv.InputError, match="no tokens"):
        _pipeline(world, Script([11])).generate("")
    with pytest.raises(wkv.InputError, match="chunk_len"):
        _pipeline(world, Script([11])).generate("a", args=PIPELINE_ARGS(chunk_len=0))


def test_logits_of_the_model_are_never_changed(world):
    model = Script([11, 11, 11])
    _pipeline(world, model).generate("ab", 5, PIPELINE_ARGS(token_ban=[0, 11]))
    assert all(torch.equal(logits, as_given) for logits, as_given in model.given)


def test_banned_tokens_are_never_drawn(world):
    text = _pipeline(world, Script([65])).generate("ab", 20, PIPELINE_ARGS(token_ban=[65]))
    assert len(text)
    assert 65 not in world.encode(text) or world.decode([65]) not in text
    with pytest.raises(wkv.InputError, match="banned"):
        _pipeline(world, Script([65])).generate("a", 1, PIPELINE_ARGS(token_ban=[65536]))
    everything = PIPELINE_ARGS(token_ban=range(65536))
    with pytest.raises(wkv.InputError, match="all ids"):
        _pipeline(world, Script([65])).generate("a", 1, everything)


def _weights(world, monkeypatch, ids, **args):
    """Give the penalty of each id at each step, by what reaches sample_logits."""
    pipeline, seen, left = _pipeline(world, Constant([0.0] * 65536)), [], iter(ids)

    def draw(logits, *_):
        seen.append(logits)
        return next(left)

    monkeypatch.setattr(pipeline, "sample_logits", draw)
    pipeline.generate("ab", len(ids), PIPELINE_ARGS(**args))
    return [[-float(logits[token]) for token in ids] for logits in seen]


def test_counts_fade_before_the_new_token_is_added(world, monkeypatch):
    a, b = world.encode("a")[0], world.encode("b")[0]
    steps = _weights(
        world, monkeypatch, [a, a, b, b], alpha_frequency=1, alpha_presence=10, alpha_decay=0.5
    )
    assert steps[1][0] == 10 + 1
    assert steps[2][0] == 10 + (0.5 + 1)
    assert steps[3][0] == 10 + 0.75
    assert [step[2] for step in steps] == [0, 0, 0, 11]


@pytest.mark.parametrize(
    ("text", "weight"),
    [(" ", 0), ("7", 0), ("12", 0), (" \t", 0), ("10", 1), ("\n", 1), ("a", 1), ("  ", 1)],
)
def test_blanks_and_digits_are_present_but_do_not_count(world, monkeypatch, text, weight):
    ids = world.encode(text)
    assert len(ids) == 1
    steps = _weights(world, monkeypatch, [*ids, 11], alpha_frequency=1, alpha_presence=10)
    assert steps[1][0] == 10 + weight


def test_world_ids_without_text_count_as_in_the_package(world, monkeypatch):
    steps = _weights(world, monkeypatch, [0, 65535, 11], alpha_frequency=1, alpha_presence=10)
    assert steps[2][0] == pytest.approx(10 + 0.996)
    assert steps[2][1] == 11


def test_temperature_zero_takes_the_most_probable_and_any_of_several(world):
    logits = torch.tensor([1.0, 3.0, 2.0, 3.0])
    assert {world.sample_logits(logits, temperature=0) for _ in range(50)} == {1, 3}
    assert world.sample_logits(torch.tensor([0.0, 9.0]), 0, 1.0, 2) == 1


@pytest.mark.parametrize("top_p", [1.0, 1, 1.5])
def test_top_p_one_is_not_greedy(world, top_p):
    for seed in range(3):
        logits = torch.randn(65536, generator=torch.Generator().manual_seed(seed))
        assert len({world.sample_logits(logits, top_p=top_p) for _ in range(20)}) > 10


def test_temperature_acts_on_what_the_nucleus_left(world):
    logits = torch.tensor([0.5, 0.3, 0.2]).log()
    drawn = {world.sample_logits(logits, temperature=100.0, top_p=0.7) for _ in range(200)}
    assert drawn == {0, 1}


def test_draws_repeat_with_torchs_seed_and_leave_the_logits(world):
    logits = torch.randn(100).to(torch.bfloat16)
    kept, runs = logits.clone(), []
    for _ in range(2):
        torch.manual_seed(3)
        runs.append([world.sample_logits(logits, 1.2, 0.9, 50) for _ in range(30)])
    assert runs[0] == runs[1]
    assert len(set(runs[0])) > 5
    assert torch.equal(logits, kept)


@pytest.mark.parametrize("temperature", [-1.0, float("nan"), float("inf")])
def test_temperatures_that_mean_nothing_are_refused(world, temperature):
    with pytest.raises(wkv.InputError, match="temperature"):
        world.sample_logits(torch.zeros(3), temperature)


def test_decode_replaces_what_is_no_character(world):
    ids = world.encode("日本")
    assert world.decode(ids) == "日本"
    byte = world.tokenizer.encode(b"\xe6")
    assert world.decode([*world.encode("a"), *byte]) == "a\ufffd"


def test_20b_tokenizer_comes_from_its_file(shared_data):
    pipeline = PIPELINE(None, str(shared_data / "20B_tokenizer.json"))
    assert pipeline.encode("Hello\n") == [12092, 187]
    assert pipeline.decode([12092, 187]) == "Hello\n"


def test_tiktoken_is_asked_for_by_name(monkeypatch):
    monkeypatch.setitem(sys.modules, "tiktoken", None)
    with pytest.raises(wkv.MissingExtraError, match="pip install tiktoken"):
        PIPELINE(None, "cl100k_base")
    encoding = SimpleNamespace(encode=lambda text: [len(text)], decode=lambda ids: "x" * len(ids))
    fake = SimpleNamespace(get_encoding=lambda name: encoding)
    monkeypatch.setitem(sys.modules, "tiktoken", fake)
    assert PIPELINE(None, "cl100k_base").encode("abc") == [3]


def test_file_that_is_no_tokenizer_is_refused(tmp_path):
    with pytest.raises(wkv.TokenizerError, match="no-such"):
        PIPELINE(None, str(tmp_path / "no-such.json"))


def test_tokenizer_may_be_replaced(world):
    """With one that a program made itself, or one of the tokenizers library."""
    pipeline = _pipeline(world, Script([5, 6, 7], context=3))
    pipeline.tokenizer = SimpleNamespace(
        encode=lambda text: SimpleNamespace(ids=[ord(char) - 97 for char in text]),
        decode=lambda ids: "".join(chr(97 + token) for token in ids),
    )
    assert pipeline.encode("abc") == [0, 1, 2]
    assert pipeline.generate("abc", 3, PIPELINE_ARGS(**GREEDY)) == "fgh"


def test_state_that_is_kept_has_read_all_of_the_text(byte_model):
    pipeline = PIPELINE(RWKV(str(byte_model.path), "cpu fp32", verbose=False), WORLD)
    pipeline.tokenizer = byte_model.tokenizer
    sampling = wkv.Sampling(temperature=0, presence_penalty=0, frequency_penalty=0)
    done = wkv.generate(byte_model, "Once", sampling=sampling, max_tokens=20)
    assert pipeline.generate("Once", 20, PIPELINE_ARGS(**GREEDY)) == done.text
    expected, _ = byte_model.forward([65], done.state)
    logits, _ = pipeline.model.forward([65], pipeline.state)
    assert float((logits - expected).abs().max()) < 1e-4
