"""Tuned states and adapters by name: one batch, the bits of each request alone, nothing mixed."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import cycle, islice

import httpx
import pytest
import torch

import wkv
from tests.adapters.test_tuned_states import matrices, named
from tests.adapters.writers import pairs, peft_on_official, peft_pairs, write_peft
from tests.checkpoints import random_checkpoint, save_pth
from wkv.batching import ChoiceDone, PrefillDone, Request, Scheduler, StateCache, StateFolder
from wkv.cli import main
from wkv.native.library import missing_reason
from wkv.serve.protocol.errors import ApiError
from wkv.serve.variants import Variants

ENGINES = ["torch", *(["native"] if missing_reason() is None else [])]
SIZES = {"n_layer": 2, "n_embd": 64, "vocab_size": 256}
STATES = ("pirate", "poet", "cook", "judge")
MODULES = ("att.key", "att.value", "ffn.key", "ffn.value", "att.output")
CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Give the paths of a model, of two adapters, and of four states in two formats."""
    folder = tmp_path_factory.mktemp("variants")
    tensors = random_checkpoint("7", **SIZES)
    save_pth(tensors, folder / "m.pth")
    other = peft_pairs(pairs(tensors, ["att.receptance", "ffn.value"], 9, seed=3), str)
    adapters = {
        "law": peft_on_official(folder, pairs(tensors, MODULES)),
        "math": write_peft(folder / "math", other, r=9, lora_alpha=30.0),
    }
    states = {}
    for number, name in enumerate(STATES):
        states[name] = folder / f"{name}.pth"
        tuned = 3 * matrices(number, layers=2, heads=2)
        torch.save(named(tuned), states[name])
    return folder / "m.pth", adapters, states


@pytest.fixture(scope="module", params=ENGINES)
def model(request, files):
    return wkv.load(
        files[0], "cpu fp32", engine=request.param, adapters=files[1], tokenizer="bytes"
    )


@pytest.fixture(scope="module")
def variants(model, files):
    states = {name: wkv.State.load(path, model) for name, path in files[2].items()}
    return Variants("m", model, states)


def requests(model, variants, count=16, text="What is it? "):
    """Give requests for all combinations of four states (or none) and two adapters (or none)."""
    chosen = [(s, a) for s in (*STATES, None) for a in ("law", "math", None)]
    made = []
    for state, adapter in islice(cycle(chosen), count):
        name = "m" if adapter is None else f"m:{adapter}"
        start, key = variants.start(variants.find(name), state)
        sampling = wkv.Sampling(temperature=0, presence_penalty=0, frequency_penalty=0)
        made.append(
            Request(
                ids=tuple(text.encode()), sampling=sampling, max_tokens=6, tenant=f"me/{key}",
                start=start,
            )
        )  # fmt: skip
    return made


def next_turn(request, done):
    """Give a request that continues the conversation of another one."""
    read = (*request.ids, *done.token_ids)
    return replace(request, ids=(*read, *b" And then?"), message_boundaries=(len(read),))


def run(model, cache, asked, slots=16):
    """Give the last event of each request, and how many tokens came from the cache."""
    scheduler = Scheduler(model, cache, slots=slots)
    events = [[] for _ in asked]
    for request, mine in zip(asked, events, strict=True):
        scheduler.submit(request, mine.append)
    widest = 0
    while scheduler.step():
        widest = max(widest, scheduler.load.running)
    done = [next(one for one in mine if isinstance(one, ChoiceDone)) for mine in events]
    cached = [next(one for one in mine if isinstance(one, PrefillDone)).cached for mine in events]
    return done, cached, widest


def test_16_requests_with_four_states_and_two_adapters_in_one_batch(model, variants, tmp_path):
    asked = requests(model, variants)
    cache = StateCache(2**26, StateFolder(tmp_path, model, 2**26))
    first, cached, widest = run(model, cache, asked)
    assert widest == 16
    assert len({one.token_ids for one in first}) > 8
    assert cached[:15] == [0] * 15
    again, cached, _ = run(model, cache, asked)  # from the cache: the states of each are its own
    assert all(cached)
    cache.folder.flush()
    turns = [next_turn(request, done) for request, done in zip(asked, first, strict=True)]
    second, cached, _ = run(model, StateCache(2**26, cache.folder), turns)  # from the disk
    assert all(cached)
    for number, request in enumerate([*asked, *turns]):
        [alone], _, _ = run(model, StateCache(2**26), [request])
        results = (first, again) if number < 16 else (second,)
        for together in (result[number % 16] for result in results):
            assert together.token_ids == alone.token_ids
            assert together.state.adapters == alone.state.adapters
            if model.engine == "native":
                assert torch.equal(together.state.logits, alone.state.logits)
                for ours, theirs in zip(together.state.layers, alone.state.layers, strict=True):
                    assert torch.equal(ours.wkv, theirs.wkv)
            else:
                assert torch.allclose(together.state.logits, alone.state.logits, atol=1e-4)


def test_names_of_variants(variants):
    for name in (None, "", "m", "m:latest"):
        assert variants.find(name).model == "m"
    assert variants.find("m:poet").state == "poet"
    assert variants.find("m:math").adapter == "math"
    for name in ("m:nobody", "other", "m:poet:law", "poet", "m:", "m:latest:poet"):
        with pytest.raises(ApiError, match="is not served here, expected 'm', m:pirate"):
            variants.find(name)
    with pytest.raises(ApiError, match="begins with the state poet, not with cook"):
        variants.start(variants.find("m:poet"), "cook")


def test_a_base_name_may_contain_colons(model, variants):
    colons = Variants("g1:0.1b", model, variants.states)
    assert colons.find("g1:0.1b").state is None
    assert colons.find("g1:0.1b:latest").model == "g1:0.1b"
    assert colons.find("g1:0.1b:cook").state == "cook"


@pytest.mark.parametrize("name", ["latest", "a:b", "", "a/b", "x" * 65, "state-" + "0" * 32, "law"])
def test_wrong_names(model, variants, name):
    with pytest.raises(wkv.InputError):
        Variants("m", model, {name: variants.states["poet"]})


@pytest.fixture(scope="module")
def served(model, files, serve):
    states = {name: wkv.State.load(path, model) for name, path in files[2].items()}
    with serve(model, states=states) as (address, _), httpx.Client(base_url=address) as client:
        yield client


def say(client, text="Hello", model="test", **fields):
    body = {"model": model, "messages": [{"role": "user", "content": text}], "temperature": 0}
    answer = client.post(CHAT, json=body | {"max_tokens": 8, "logprobs": True} | fields)
    assert answer.status_code == 200, answer.text
    return answer.json()


def tokens(answer):
    return [one["logprob"] for one in answer["choices"][0]["logprobs"]["content"]]


def test_models_are_listed_with_their_parent(served):
    listed = served.get("/v1/models").json()["data"]
    assert [one["id"] for one in listed] == [
        "test", *(f"test:{name}" for name in (*STATES, "law", "math"))
    ]  # fmt: skip
    assert {one.get("parent") for one in listed[1:]} == {"test"}
    assert [one["wkv"].get("kind") for one in listed] == [None, *["state"] * 4, *["adapter"] * 2]
    assert served.get("/v1/models/test:law").json()["parent"] == "test"
    assert served.get("/v1/models/test:none").status_code == 404


def test_a_request_chooses_by_model_or_by_state(served):
    answers = {name: say(served, model=f"test:{name}") for name in (*STATES, "law", "math")}
    answers[None] = say(served)
    assert len({str(tokens(answer)) for answer in answers.values()}) == 7
    for name, answer in answers.items():
        assert answer["model"] == (f"test:{name}" if name else "test")
    assert tokens(say(served, state="poet")) == tokens(answers["poet"])
    both = say(served, model="test:law", state="poet")
    assert tokens(both) not in [tokens(answer) for answer in answers.values()]
    text = served.post(
        "/v1/completions", json={"model": "test:cook", "prompt": "Hi", "max_tokens": 4}
    ).json()
    assert text["model"] == "test:cook"
    vectors = [
        served.post("/v1/embeddings", json={"model": name, "input": "Hi"}).json()["data"][0]
        for name in ("test", "test:law", "test:cook")
    ]
    assert len({str(one["embedding"]) for one in vectors}) == 3


def test_concurrent_requests_equal_their_own_earlier_answers(served):
    names = [f"test:{name}" for name in (*STATES, "law", "math")] + ["test"]
    fields = [{"model": name, "text": text} for name in names for text in ("One", "Two")]
    alone = [say(served, **one) for one in fields]
    with ThreadPoolExecutor(len(fields)) as pool:
        together = list(pool.map(lambda one: say(served, **one), fields))
    for ours, theirs in zip(together, alone, strict=True):
        assert ours["choices"][0]["message"] == theirs["choices"][0]["message"]


def test_conversations_and_stored_responses_keep_their_variant(served):
    first = {}
    for name in ("test:poet", "test:law", "test"):
        body = {"model": name, "input": f"{name} says hello", "max_output_tokens": 6}
        body["temperature"] = 0
        answer = served.post("/v1/responses", json=body).json()
        assert answer["model"] == name
        first[name] = answer
    for name, answer in first.items():
        body = {"model": name, "input": "And?", "previous_response_id": answer["id"]}
        body |= {"max_output_tokens": 6, "temperature": 0}
        again = served.post("/v1/responses", json=body)
        assert again.json()["model"] == name
        assert again.json()["usage"]["input_tokens_details"]["cached_tokens"] > 0
        other = served.post("/v1/responses", json=body | {"model": "test:math"}).json()
        assert other["usage"]["input_tokens_details"]["cached_tokens"] == 0
    body = {"input": "Hello", "state": "cook", "max_output_tokens": 4}
    state = served.post("/v1/responses", json=body).json()
    assert state["status"] in ("completed", "incomplete")


def test_saved_states_carry_the_adapter_of_their_conversation(served):
    messages = [{"role": "user", "content": "Remember this. " * 4}]
    made = served.post("/v1/states", json={"model": "test:law", "messages": messages}).json()
    same = say(served, state=made["id"])
    assert tokens(say(served, state=made["id"], model="test:law")) == tokens(same)
    plain = served.post("/v1/states", json={"messages": messages}).json()
    assert plain["id"] != made["id"]
    for state, name in ((plain["id"], "test:law"), (made["id"], "test:math")):
        body = {"model": name, "state": state, "messages": messages}
        answer = served.post(CHAT, json=body)
        assert answer.status_code == 400, answer.text
        assert "made without the adapter" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("fields", "status", "match"),
    [
        ({"model": "test:nobody"}, 404, "test:nobody"),
        ({"model": "other:poet"}, 404, "other:poet"),
        ({"state": "nobody"}, 404, "no state"),
        ({"model": "test:poet", "state": "cook"}, 400, "not with cook"),
    ],
)
def test_unknown_names_are_explained(served, fields, status, match):
    body = {"messages": [{"role": "user", "content": "Hi"}], **fields}
    answer = served.post(CHAT, json=body)
    assert (answer.status_code, match in answer.json()["error"]["message"]) == (status, True)


def test_batch_files_choose_states_and_adapters(files, tmp_path, capfd):
    path, adapters, states = files
    body = {"messages": [{"role": "user", "content": "Hello"}], "temperature": 0, "max_tokens": 8}
    asked = {"a": {}, "b": {"model": "any:poet"}, "c": {"state": "poet"}, "d": {"model": "any:law"}}
    lines = [
        {"custom_id": name, "url": CHAT, "body": body | {"model": "any"} | fields}
        for name, fields in asked.items()
    ]
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, lines)))
    arguments = [str(tmp_path / "in.jsonl"), str(tmp_path / "out.jsonl"), str(path)]
    options = ["--state", f"poet={states['poet']}", "--adapter", f"law={adapters['law']}"]
    assert main(["batch", *arguments, "--strategy", "cpu fp32", *options]) == 0
    found = {}
    for line in (tmp_path / "out.jsonl").read_text().splitlines():
        answer = json.loads(line)
        found[answer["custom_id"]] = answer["response"]["body"]["choices"][0]["message"]
    assert found["b"] == found["c"]
    assert len({str(one) for one in found.values()}) == 3
    arguments[1] = str(tmp_path / "all.jsonl")
    assert main(["batch", *arguments, "--state", str(states["poet"]), *options]) == 0
    everything = (tmp_path / "all.jsonl").read_text().splitlines()
    first = {
        json.loads(one)["custom_id"]: json.loads(one)["response"]["body"] for one in everything
    }
    assert first["a"]["choices"][0]["message"] == found["b"]
    capfd.readouterr()
    for wrong, match in (
        (["--adapter", str(adapters["law"]), *options], "with and without a name"),
        (["--state", f"law={states['cook']}", *options], "of a state and of an adapter"),
        (["--state", f"latest={states['cook']}"], "cannot be the name"),
        (["--state", f"poet={states['cook']}", *options], "was given twice"),
    ):
        arguments[1] = str(tmp_path / "never.jsonl")
        assert main(["batch", *arguments, *wrong]) == 1
        assert match in capfd.readouterr().err
