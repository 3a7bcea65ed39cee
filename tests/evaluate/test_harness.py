"""EleutherAI's harness on our engine, with tasks of a local file: nothing is fetched."""

import json
import sys
from functools import partial
from types import SimpleNamespace

import pytest
import torch

import wkv
from wkv.evaluate.lm_eval_tasks import run_tasks

tasks_of_lm_eval = pytest.importorskip("lm_eval.tasks")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

QUESTIONS = [
    {"question": f"User: What is {a} + {b}?\n\nAssistant:", "sum": f"{a} + {b} = {a + b}"}
    for a, b in ((27, 48), (3, 4), (15, 30), (60, 21))
]

READ = """
import json
from pathlib import Path

import datasets


def load(**_):
    lines = Path(__file__).with_name("data.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    return datasets.DatasetDict(test=datasets.Dataset.from_list(rows))
"""

TASK = """
task: {name}
custom_dataset: !function read.load
test_split: test
output_type: {kind}
doc_to_text: "{text}"
doc_to_target: "{target}"
{more}
"""


@pytest.fixture(autouse=True)
def _no_other_tasks(monkeypatch):
    """Spare the ten seconds in which lm_eval reads the tasks that it brings."""
    manager = partial(tasks_of_lm_eval.TaskManager, include_defaults=False)
    monkeypatch.setattr("lm_eval.tasks.TaskManager", manager)


@pytest.fixture
def tasks(tmp_path):
    """Give a folder with a task of each kind."""
    data = "\n".join(map(json.dumps, QUESTIONS))
    (tmp_path / "data.jsonl").write_text(data)
    (tmp_path / "read.py").write_text(READ)
    kinds = {
        "local_said": (
            "generate_until",
            "{{question}}",
            " {{sum}}",
            'generation_kwargs: {until: ["\\n\\n"], max_gen_toks: 30}\n'
            "metric_list: [{metric: exact_match}]",
        ),
        "local_choice": (
            "multiple_choice",
            "{{question}}",
            "1",
            "doc_to_choice: \"{{['nothing at all', sum]}}\"",
        ),
        "local_likely": ("loglikelihood", "{{question}}", " {{sum}}", ""),
        "local_rolling": (
            "loglikelihood_rolling",
            "",
            "{{question}} {{sum}}",
            "metric_list: [{metric: bits_per_byte}]",
        ),
    }
    for name, (kind, text, target, more) in kinds.items():
        filled = TASK.format(name=name, kind=kind, text=text, target=target, more=more)
        (tmp_path / f"{name}.yaml").write_text(filled)
    return tmp_path


@pytest.fixture
def harness(demo):
    """Give the adapter of the built-in model."""
    from wkv.evaluate.lm_eval_model import WKVHarness

    return WKVHarness(demo, batch_size=3)


def _requests(*arguments):
    return [SimpleNamespace(args=one) for one in arguments]


def _direct(model, context, target):
    """Log probability of a target by one pass with all logits."""
    logits, _ = model.forward([*context, *target], all_logits=True)
    before = logits[len(context) - 1 : -1].log_softmax(-1)
    return sum(before[torch.arange(len(target)), torch.tensor(target)].tolist())


def test_tasks_of_every_kind_run_on_the_built_in_model(demo, tasks):
    names = ["local_said", "local_choice", "local_likely", "local_rolling"]
    results = run_tasks(demo, names, include_path=tasks, batch_size=3)["results"]
    assert results["local_said"]["exact_match,none"] == 1
    assert results["local_choice"]["acc,none"] == 1
    assert results["local_likely"]["acc,none"] == 1
    assert results["local_likely"]["perplexity,none"] < 2
    assert 0 < results["local_rolling"]["bits_per_byte,none"] < 8


def test_log_likelihoods_are_those_of_the_model(demo, harness):
    encode = demo.tokenizer.encode
    pairs = [("User: Hello", "\n\nAssistant"), ("", "Alice was"), ("A", " b c d e f g")]
    answers = harness.loglikelihood(_requests(*pairs), disable_tqdm=True)
    for (context, target), (log_probability, _) in zip(pairs, answers, strict=True):
        before = encode(context) if context else [0]
        expected = _direct(demo, before, encode(context + target)[len(encode(context)) :])
        assert log_probability == pytest.approx(expected, rel=1e-5)


def test_rolling_reads_the_whole_text_after_the_end_of_a_document(demo, harness):
    text = "Alice was beginning to get very tired of sitting by her sister. " * 20
    (sum_,) = harness.loglikelihood_rolling(_requests((text,)), disable_tqdm=True)
    assert sum_ == pytest.approx(_direct(demo, [0], demo.tokenizer.encode(text)), rel=1e-5)


def test_generation_ends_before_the_string_and_keeps_the_order(harness):
    asked = [(one["question"], {"until": ["\n\n"], "max_gen_toks": 30}) for one in QUESTIONS]
    said = harness.generate_until(_requests(*asked), disable_tqdm=True)
    assert said == [f" {one['sum']}" for one in QUESTIONS]
    short = [(QUESTIONS[0]["question"], {"until": "8", "max_gen_toks": 30, "do_sample": False})]
    assert harness.generate_until(_requests(*short), disable_tqdm=True) == [" 27 + 4"]
    one = [(QUESTIONS[0]["question"], {"until": [], "max_gen_toks": 1})]
    assert len(harness.generate_until(_requests(*one), disable_tqdm=True)[0]) < 4


def test_sampling_follows_the_task():
    from wkv.evaluate.lm_eval_model import _sampling

    assert _sampling({}).temperature == 0
    assert _sampling({"temperature": 0.7}).temperature == 0.7
    assert _sampling({"temperature": 0.7, "do_sample": False}).temperature == 0
    drawn = _sampling({"temperature": 1.0, "do_sample": True, "top_p": 0.9, "top_k": -1})
    assert (drawn.top_p, drawn.top_k, drawn.presence_penalty) == (0.9, 0, 0)


def test_what_is_read_first_is_read_once(byte_model):
    from wkv.evaluate.lm_eval_model import WKVHarness

    begun = WKVHarness(byte_model, begin="0")
    pair = ("ab", "c")
    ((answer, _),) = begun.loglikelihood(_requests(pair), disable_tqdm=True)
    assert answer == pytest.approx(_direct(byte_model, [0, 97, 98], [99]), rel=1e-5)
    ((answer, _),) = begun.loglikelihood(_requests(("", "c")), disable_tqdm=True)
    assert answer == pytest.approx(_direct(byte_model, [0], [99]), rel=1e-5)
    assert begun.eot_token_id == 0


def test_a_chat_is_put_in_the_form_of_the_model(demo, tasks):
    from wkv.evaluate.lm_eval_model import WKVHarness
    from wkv.prompting.template import template_for

    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello\n\nyou"},
        {"role": "user", "content": "What is 27 + 48?"},
    ]
    chat = WKVHarness(demo, chat=template_for(demo))
    text = chat.apply_chat_template(messages)
    assert text == (
        "System: Be brief.\n\nUser: Hi\n\nAssistant: Hello\n\nyou\n\n"
        "User: What is 27 + 48?\n\nAssistant:"
    )
    going_on = [*messages[1:2], {"role": "assistant", "content": "It is"}]
    rendered = chat.apply_chat_template(going_on, add_generation_prompt=False)
    assert rendered == "User: Hi\n\nAssistant: It is"
    # a reply begins with a blank of its own, which is no part of the answer
    question = "User: What is 27 + 48?\n\nAssistant:"
    (said,) = chat.generate_until(_requests((question, {"max_gen_toks": 20})), disable_tqdm=True)
    assert said.startswith("27 + 48 = 75")
    assert chat._encode_pair(question, "75")[1] == demo.tokenizer.encode(" 75")
    with pytest.raises(NotImplementedError, match="no chat format"):
        WKVHarness(demo).apply_chat_template(messages)


def test_a_task_that_is_not_known_is_told(demo, tasks):
    with pytest.raises(wkv.InputError, match="has no task 'local_nothing'"):
        run_tasks(demo, ["local_nothing", "local_said"], include_path=tasks)


def test_without_the_extra_the_pip_line_is_told(demo, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda *_: None)
    with pytest.raises(wkv.MissingExtraError, match=r"pip install -U lm_eval"):
        run_tasks(demo, ["piqa"])


def test_bars_are_drawn_on_terminals_only(demo, tasks, capsys):
    run_tasks(demo, ["local_likely"], include_path=tasks, limit=2)
    told = capsys.readouterr()
    assert told.out == ""
    assert "\r" not in told.err
    assert "tqdm" in sys.modules


def test_an_exported_directory_gives_the_same_under_the_harness_s_own_model(demo, tasks, tmp_path):
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    import wkv.hf  # so that no remote code is needed
    from wkv.convert.huggingface.export import export

    assert wkv.hf.RWKV7ForCausalLM
    folder = export(demo.path, tmp_path / "demo").path
    names = ["local_said", "local_choice", "local_likely", "local_rolling"]
    ours = run_tasks(demo, names, include_path=tasks, batch_size=3)["results"]
    theirs = simple_evaluate(
        model=HFLM(str(folder), dtype="float32", device="cpu", batch_size=3),
        tasks=names,
        task_manager=tasks_of_lm_eval.TaskManager(include_path=tasks),
        log_samples=False,
        bootstrap_iters=0,
    )["results"]
    for name in names:
        for metric in (key for key in ours[name] if key.endswith(",none") and "stderr" not in key):
            assert ours[name][metric] == pytest.approx(theirs[name][metric], rel=1e-5), metric
