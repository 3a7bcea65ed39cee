"""Completions over HTTP: texts and ids, several at once, echoed, with top_logprobs, streamed."""

import httpx
import pytest
import torch

import wkv
from tests.checkpoints import random_checkpoint, save_pth
from tests.serve.wire import stream
from wkv.inference.sampling import Sampling

PATH = "/v1/completions"
TEXT = "There was once a man"
FREE = {"temperature": 1.5, "top_p": 1, "seed": 3, "max_tokens": 30}


def go_on(client, prompt=TEXT, **fields):
    answer = client.post(PATH, json={"prompt": prompt, **fields})
    assert answer.status_code == 200, answer.text
    return answer.json()


def texts(answer):
    assert [choice["index"] for choice in answer["choices"]] == [*range(len(answer["choices"]))]
    return [choice["text"] for choice in answer["choices"]]


def joined(chunks):
    """Each choice's text and reason, from chunks."""
    got = {}
    for chunk in chunks:
        for choice in chunk["choices"]:
            text, reasons = got.setdefault(choice["index"], ("", []))
            reason = choice["finish_reason"]
            assert not reasons or not choice["text"]
            got[choice["index"]] = (
                text + choice["text"],
                reasons + [reason] * (reason is not None),
            )
    return [got[index] for index in sorted(got)]


def test_an_answer_has_what_clients_read(client, demo):
    answer = go_on(client, max_tokens=5)
    assert answer["object"] == "text_completion"
    assert answer["id"].startswith("cmpl-")
    assert answer["model"] == "test"
    [choice] = answer["choices"]
    assert set(choice) == {"index", "text", "logprobs", "finish_reason"}
    assert choice["finish_reason"] == "length"
    assert answer["usage"]["prompt_tokens"] == len(demo.tokenizer.encode(TEXT))
    assert answer["usage"]["completion_tokens"] == 5
    assert answer["usage"]["total_tokens"] == answer["usage"]["prompt_tokens"] + 5


@pytest.mark.parametrize("seed", range(3))
def test_it_says_what_generate_says(client, demo, seed):
    done = wkv.generate(
        demo, TEXT, sampling=Sampling(temperature=1.5, top_p=1, seed=seed), max_tokens=40
    )
    answer = go_on(client, temperature=1.5, top_p=1, seed=seed, max_tokens=40)
    assert texts(answer) == [done.text]
    assert answer["choices"][0]["finish_reason"] == done.finish_reason
    assert answer["usage"]["completion_tokens"] == len(done.token_ids)


@pytest.mark.parametrize("fields", [{}, {"n": 3}, {"echo": True}, {"stop": ["a", "zz"]}], ids=str)
def test_streamed_equals_whole(client, fields):
    body = {"prompt": [TEXT, "Once", "The"], **FREE, **fields}
    whole = go_on(client, **body)
    chunks = stream(client, PATH, **body, stream_options={"include_usage": True})
    got = joined(chunks)
    assert [text for text, _ in got] == texts(whole)
    assert [reasons for _, reasons in got] == [[c["finish_reason"]] for c in whole["choices"]]
    assert chunks[-1]["choices"] == []
    for name in ("prompt_tokens", "completion_tokens", "total_tokens"):
        assert chunks[-1]["usage"][name] == whole["usage"][name]
    assert all(set(chunk) >= {"id", "object", "created", "model"} for chunk in chunks)
    assert len({chunk["id"] for chunk in chunks}) == 1


@pytest.mark.parametrize("prompt", ["🐦 and 中文 ", "naïve café ", "\u0000\u0001", "x" * 3000])
def test_any_text_is_gone_on_with_and_comes_whole(client, demo, prompt):
    free = FREE | {"temperature": 5, "max_tokens": 60}
    whole = texts(go_on(client, prompt, echo=True, **free))[0]
    assert whole.startswith(prompt)
    chunks = stream(client, PATH, prompt=prompt, echo=True, **free)
    assert joined(chunks)[0][0] == whole


def test_characters_of_several_tokens_come_whole(client, demo):
    """The tokens of an emoji are drawn one after the other, whatever the model thinks."""
    text = "🐦中文é"
    ids = demo.tokenizer.encode(text)
    assert len(ids) > len(text)
    for count in range(1, len(ids) + 1):
        echoed = go_on(client, ids[:count], echo=True, max_tokens=0)["choices"][0]["text"]
        assert echoed == demo.tokenizer.decode(ids[:count])


def test_several_prompts_are_answered_in_their_order(client):
    prompts = [TEXT, "Once upon a time", "The", "a b c"]
    alone = [texts(go_on(client, prompt, **FREE))[0] for prompt in prompts]
    assert texts(go_on(client, prompts, **FREE)) == alone
    both = texts(go_on(client, prompts, n=2, **FREE))
    assert both[::2] == alone
    assert both[1::2] == [texts(go_on(client, p, n=3, **FREE))[1] for p in prompts]


def test_ids_are_read_like_their_text(client, demo):
    ids = demo.tokenizer.encode(TEXT)
    assert texts(go_on(client, ids, **FREE)) == texts(go_on(client, TEXT, **FREE))
    several = go_on(client, [ids, demo.tokenizer.encode("Once")], **FREE)
    assert texts(several) == texts(go_on(client, [TEXT, "Once"], **FREE))


def test_an_echo_alone_costs_no_token(client):
    answer = go_on(client, echo=True, max_tokens=0)
    assert texts(answer) == [TEXT]
    assert answer["usage"]["completion_tokens"] == 0
    assert answer["choices"][0]["finish_reason"] == "length"


def test_chances_add_up_to_the_text(client):
    answer = go_on(client, logprobs=4, **FREE)
    [choice] = answer["choices"]
    told = choice["logprobs"]
    assert "".join(told["tokens"]) == choice["text"]
    assert told["text_offset"] == [
        len("".join(told["tokens"][:count])) for count in range(len(told["tokens"]))
    ]
    for token, chance, top in zip(
        *(told[k] for k in ("tokens", "token_logprobs", "top_logprobs")), strict=True
    ):
        assert chance <= 0
        assert 1 <= len(top) <= 5
        assert top.get(token, chance) == chance
        assert max(top.values()) >= chance
    chunks = stream(client, PATH, prompt=TEXT, logprobs=4, **FREE)
    streamed = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
    for chunk in chunks:
        for one in chunk["choices"]:
            for name, values in (one["logprobs"] or {}).items():
                streamed[name] += values
    assert streamed == told


def test_chances_of_none_but_the_drawn(client):
    told = go_on(client, logprobs=0, **FREE)["choices"][0]["logprobs"]
    assert len(told["tokens"]) == len(told["token_logprobs"]) == 30


def test_lm_eval_reads_the_logprobs_of_a_prompt(client, demo):
    openai_completions = pytest.importorskip("lm_eval.models.openai_completions")
    context, ids = demo.tokenizer.encode("What is 2 + 2?"), demo.tokenizer.encode(" It is 4.")
    body = {"temperature": 0, "max_tokens": 1, "logprobs": 1, "seed": 1234, "echo": True}
    answer = go_on(client, [[*context, *ids]], model="test", **body)
    [(total, is_greedy)] = openai_completions.LocalCompletionsAPI.parse_logprobs(
        answer, tokens=[[*context, *ids]], ctxlens=[len(context)]
    )
    logits, _ = demo.forward([*context, *ids], all_logits=True)
    rows = logits[len(context) - 1 : -1].log_softmax(-1)
    assert total == pytest.approx(float(rows[torch.arange(len(ids)), ids].sum()), rel=1e-4)
    assert is_greedy == (rows.argmax(-1).tolist() == ids)


@pytest.mark.parametrize("count", [0, 3])
def test_a_repeated_prompt_has_logprobs(client, demo, count):
    ids = demo.tokenizer.encode(TEXT + " 🐦 " * 40)
    assert len(ids) > 64  # more than are read at once
    body = {"echo": True, "logprobs": 2, "max_tokens": count, "n": 2}
    answer = go_on(client, ids, **body, temperature=0)
    logits, _ = demo.forward(ids, all_logits=True)
    wanted = logits.float().log_softmax(-1)[torch.arange(len(ids) - 1), torch.tensor(ids[1:])]
    for choice in answer["choices"]:
        found = choice["logprobs"]
        assert len(found["tokens"]) == len(ids) + count
        assert found["token_logprobs"][0] is None
        assert found["top_logprobs"][0] is None
        got = torch.tensor(found["token_logprobs"][1 : len(ids)])
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)
        for token, logprob, top in zip(
            found["tokens"][1:],
            found["token_logprobs"][1:],
            found["top_logprobs"][1:],
            strict=True,
        ):
            assert top[token] == logprob
            assert len(top) >= 2
        assert found["text_offset"] == sorted(found["text_offset"])
        assert found["text_offset"][0] == 0
        for token, offset in zip(found["tokens"], found["text_offset"], strict=True):
            assert token.startswith("bytes:") or choice["text"].startswith(token, offset)
    assert texts(go_on(client, ids, **body | {"logprobs": None}, temperature=0)) == texts(answer)
    chunks = stream(client, PATH, prompt=ids, **body | {"n": 1}, temperature=0)
    parts = [one["logprobs"] for chunk in chunks for one in chunk["choices"]]
    tokens = [token for part in parts if part for token in part["tokens"]]
    assert tokens == answer["choices"][0]["logprobs"]["tokens"]


def test_several_repeated_prompts_have_logprobs(client):
    answer = go_on(client, ["Hello", TEXT], echo=True, logprobs=1, max_tokens=0)
    for choice in answer["choices"]:
        assert "".join(choice["logprobs"]["tokens"]) == choice["text"]


def test_the_id_that_a_world_model_needs_is_not_repeated(serve, tmp_path):
    path = tmp_path / "world.pth"
    save_pth(random_checkpoint("7", n_layer=2, n_embd=64, vocab_size=65536), path)
    model = wkv.load(path, "cpu fp32")
    ids = model.tokenizer.encode("Hello world")
    with serve(model) as (address, _), httpx.Client(base_url=address, timeout=30) as client:
        body = {"echo": True, "logprobs": 1, "max_tokens": 0}
        by_text, by_ids, with_zero = [
            go_on(client, prompt, **body)["choices"][0]["logprobs"]
            for prompt in ("Hello world", ids, [0, *ids])
        ]
    assert by_text == by_ids
    assert len(by_ids["tokens"]) == len(ids)
    assert by_ids["token_logprobs"][0] is not None
    assert len(with_zero["tokens"]) == len(ids) + 1
    assert with_zero["token_logprobs"] == [None, *by_ids["token_logprobs"]]


def test_tokens_that_are_bytes_do_not_collide(client, demo):
    bird = demo.tokenizer.encode("🐦")
    assert len(bird) == 4
    bias = {str(token): 100 for token in demo.tokenizer.encode("é中")}
    answer = go_on(client, logprobs=5, logit_bias=bias, **FREE)["choices"][0]["logprobs"]
    assert any(token.startswith("bytes:\\x") for token in answer["tokens"])
    assert all(5 <= len(top) <= 6 for top in answer["top_logprobs"])


def test_stops_are_found_across_tokens(client):
    whole = texts(go_on(client, **FREE | {"max_tokens": 60}))[0]
    for at in range(5, len(whole) - 6, 17):
        stop = whole[at : at + 5]
        want = whole[: whole.index(stop)]
        answer = go_on(client, stop=stop, **FREE | {"max_tokens": 60})
        assert texts(answer) == [want]
        assert answer["choices"][0]["finish_reason"] == "stop"
        chunks = stream(client, PATH, prompt=TEXT, stop=[stop], **FREE | {"max_tokens": 60})
        assert joined(chunks) == [(want, ["stop"])]


def test_the_end_is_ignored_where_that_is_asked_for(client):
    answer = go_on(client, ignore_eos=True, max_tokens=300, temperature=0)
    assert answer["usage"]["completion_tokens"] == 300
    assert answer["choices"][0]["finish_reason"] == "length"


def test_the_server_has_a_limit_of_its_own(serve, demo):
    with serve(demo, max_tokens=7) as (address, _), httpx.Client(base_url=address) as client:
        answer = go_on(client, max_tokens=100, ignore_eos=True)
        assert answer["usage"]["completion_tokens"] == 7


def test_a_prompt_that_was_read_is_not_read_again(client, demo):
    prompt = "A prompt that nobody has ever sent before, " * 20
    first = go_on(client, prompt, **FREE)
    second = go_on(client, prompt, **FREE)
    assert first["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    assert (
        second["usage"]["prompt_tokens_details"]["cached_tokens"] == first["usage"]["prompt_tokens"]
    )
    assert texts(second) == texts(first)


def test_usage_is_told_with_each_chunk_where_that_is_asked_for(client):
    options = {"include_usage": True, "continuous_usage_stats": True}
    chunks = stream(client, PATH, prompt=TEXT, stream_options=options, **FREE)
    told = [chunk["usage"]["completion_tokens"] for chunk in chunks]
    assert told == sorted(told)
    assert told[-1] == 30
