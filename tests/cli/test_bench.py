"""`wkv bench`: what it prints, what it writes and what it refuses. No speed is asserted."""

import io
import json
import subprocess
import sys

import pytest

from tests.checkpoints import random_checkpoint, save_pth


@pytest.fixture
def bench(monkeypatch, capfd):
    """Give `wkv bench --quick` without a process of its own, and with short turns."""
    import wkv.bench.drafts
    import wkv.bench.memory_bandwidth
    import wkv.bench.rounds
    import wkv.bench.workloads
    from wkv.cli import main

    monkeypatch.setattr(wkv.bench.rounds, "TURN", 0.005)
    monkeypatch.setattr(wkv.bench.memory_bandwidth, "LARGEST", 2**22)
    monkeypatch.setattr(wkv.bench.memory_bandwidth, "SMALLEST", 2**20)
    monkeypatch.setattr(wkv.bench.drafts, "MOST", 24)
    monkeypatch.setattr(wkv.bench.workloads, "PROMPTS", (16, 700))

    def run(*arguments):
        monkeypatch.setattr("sys.stdin", io.StringIO())
        status = main(["bench", "--quick", *map(str, arguments)])
        out, err = capfd.readouterr()
        return status, out, err

    return run


def test_json_holds_every_round_and_what_ran(bench):
    status, out, err = bench("--json", "--threads", "1")
    assert status == 0
    assert "warming up\nround 1 of 3\nround 2 of 3\nround 3 of 3\n" in err
    report = json.loads(out)
    assert report["generation"] == "7"
    assert report["engine"] in ("native", "torch")
    assert report["kernels"]
    assert report["why"]
    assert report["threads"] == 1
    assert report["rounds"] == 3
    assert report["text"] == "English"
    assert len(report["memory"]["each_round"]) == 3
    assert report["memory"]["bytes_per_second"] > 0
    assert report["machine"]["processor"]
    assert set(report["versions"]) == {"wkv", "torch", "python"}
    results = {result["name"]: result for result in report["results"]}
    assert {f"decode, batch {rows}" for rows in (1, 4, 16, 64)} <= set(results)
    assert {"prefill, 16 tokens", "prefill, 700 tokens"} <= set(results)
    assert ("decode, batch 1, zeros read too" in results) == (report["engine"] == "native")
    for result in results.values():
        assert len(result["seconds_each_round"]) == 3
        assert result["tokens_per_second"] > 0
        assert (result["share_of_memory"] is None) == (result["kind"] == "prefill")
    if report["engine"] == "native":
        drafts = {result["text"]: result for result in report["drafts"]}
        repeated, wrong = drafts["a repeated text"], drafts["drafts that are all wrong"]
        assert 0 < repeated["accepted"] <= repeated["drafted"]
        assert repeated["tokens_per_pass"] > 1
        assert wrong["accepted"] == 0
        assert min(repeated["speed"], wrong["speed"]) > 0


def test_costs_are_those_of_the_sizes(bench):
    report = json.loads(bench("--json", "--strategy", "cpu fp32")[1])
    results = {result["name"]: result for result in report["results"]}
    one, many = results["decode, batch 1"], results["decode, batch 64"]
    assert one["bytes_per_token"] == report["weight_bytes"] + report["state_bytes"]
    assert many["bytes_per_token"] == report["weight_bytes"] / 64 + report["state_bytes"]
    assert 0.9 < 2 * report["weight_bytes"] / 4 / report["operations"] < 1.1
    twice = results["prefill, 700 tokens"]  # 512 tokens pass together, so two passes
    assert twice["bytes_per_token"] == 2 * one["bytes_per_token"] / 700


def test_a_pipe_gets_plain_columns_and_the_plot_is_drawn(bench, tmp_path):
    path = tmp_path / "speed.png"
    status, out, err = bench("--plot", path)
    assert status == 0
    assert f"plot saved to {path}" in err
    assert path.read_bytes().startswith(b"\x89PNG")
    assert out.isascii()
    assert "tokens/s" in out
    for begin in (
        "model",
        "strategy",
        "engine",
        "why",
        "memory",
        "decode, batch 64",
        "prefill, 16",
    ):
        assert any(line.startswith(begin) for line in out.splitlines())
    table, *drafts = out[out.index("decode, batch 1") :].split("\n\n")
    table = table.splitlines()
    assert all(line.split()[-1].replace(",", "").replace(".", "").isdigit() for line in table)
    assert all("drafts accepted" in line for text in drafts for line in text.splitlines()[1:])


def test_a_model_that_the_native_engine_cannot_run_says_why(bench):
    report = json.loads(bench("--json", "--strategy", "cpu fp32i8")[1])
    assert report["engine"] == "torch"
    assert report["why"].startswith("the native engine cannot run this: ")


def test_a_model_without_a_tokenizer_reads_random_ids(bench, tmp_path):
    save_pth(random_checkpoint("6", n_layer=1, n_embd=64), tmp_path / "model.pth")
    report = json.loads(bench(tmp_path / "model.pth", "--json", "--strategy", "cpu bf16")[1])
    assert report["text"].startswith("random ids")
    assert report["generation"] == "6"


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("speed.txt", "the suffix of a plot must be .png, .svg or .pdf, this one is .txt"),
        ("speed", "this one is missing"),
        ("missing/speed.png", "there is no folder"),
    ],
)
def test_a_plot_that_cannot_be_drawn_is_told_before_anything_is_loaded(
    bench, tmp_path, name, match
):
    status, out, err = bench("nothing.pth", "--plot", tmp_path / name)
    assert (status, out) == (1, "")
    assert match in err
    assert err.count("\n") == 1


def test_a_plot_without_matplotlib_tells_the_pip_line(bench, tmp_path, monkeypatch):
    monkeypatch.setattr("wkv.bench.roofline.find_spec", lambda name: None)
    status, _, err = bench("--plot", tmp_path / "speed.svg")
    assert status == 1
    assert "pip install matplotlib" in err


def test_zeros_are_skipped_again_after_they_were_read(demo):
    from wkv.bench import Task, measure

    class Memory:
        def bytes_per_second(self):
            return 1e9

    class Spy:
        engine, skip_zeros, told = "native", True, ()

        def __getattr__(self, name):
            return getattr(demo, name)

        def forward(self, ids, state=None):
            self.told = (*self.told, self.skip_zeros)
            return demo.forward(ids, state)

    model = Spy()
    tasks = Task("decode", 1, 1), Task("decode", 1, 1, skip_zeros=False)
    measured = measure(model, Memory(), tasks, rounds=1)
    assert True in model.told
    assert False in model.told
    assert model.skip_zeros
    assert len(measured.results) == 2


def test_help_of_bench_imports_nothing_heavy():
    code = (
        "import sys, wkv.cli\n"
        "try: wkv.cli.main(['bench', '--help'])\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'numpy', 'matplotlib', 'rich'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.mark.parametrize("ratio", [1.0, 1.02, 1.1, 1.5, 3.0])
def test_every_mark_of_the_plot_has_a_label_that_covers_nothing(tmp_path, monkeypatch, ratio):
    from matplotlib.figure import Figure

    from wkv.bench.costs import Costs
    from wkv.bench.roofline import draw
    from wkv.bench.rounds import Measured, Result
    from wkv.bench.workloads import tasks_for

    speeds = {"decode": 700.0, "prefill": 700.0 * ratio}
    results = []
    for number, task in enumerate(tasks_for("native")):
        seconds = task.all_tokens / (speeds[task.kind] * ratio**number)
        place = 0.5 * task.rows if task.kind == "decode" else min(task.tokens, 512) / 2
        results.append(Result(task, (seconds,), 1e7, place, (1e10,)))
    figures = []
    monkeypatch.setattr(Figure, "savefig", lambda self, *_, **__: figures.append(self))
    costs = Costs(**dict.fromkeys(Costs.__dataclass_fields__, 7_000_000))
    monkeypatch.setattr("wkv.bench.roofline.atomic_write", lambda path, write, **_: write(path))
    draw(Measured(costs, "", (1e10,), tuple(results)), tmp_path / "a.png", title="", subtitle="")
    figures[0].draw_without_rendering()
    axes = figures[0].axes[0]
    labels = [text for text in axes.texts if "tok/s" in text.get_text()]
    assert len({label.get_text() for label in labels}) == len(results)
    boxes = [label.get_window_extent() for label in labels]
    for number, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:number])
        for result in results:
            x, y = axes.transData.transform((result.operations_per_byte, result.tokens_per_second))
            assert not box.contains(x, y)
