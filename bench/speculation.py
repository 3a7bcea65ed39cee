"""Speculative decoding: how many drafts are accepted, and how much faster it is.

`acceptance` needs no model: with sample and compare, a recorded text shows which drafts a model
that writes this text would accept. `speeds` forces the texts as the choice of random models, and
measures the real time, in the same rounds as plain decoding and llama.cpp.
"""

import argparse
import statistics

import torch

import wkv
from bench.files import SIZES, Files
from bench.models import line, needed_memory, take_turns
from bench.speculation_texts import recorded_texts
from bench.turns import Entrant, Record, grouped
from wkv.bench import Stream
from wkv.bench.drafts import DraftText
from wkv.inference.sampling import Sampling
from wkv.inference.sequence import DraftCounts, RunningSequence
from wkv.inference.speculation import Speculation
from wkv.inference.speculation.pass_costs import TABLES, PassCosts
from wkv.tokenizers.world import WorldTokenizer

FORMATS = ("fp16", "int8", "int4")

PROMPTS = {
    "chat": "User: What can you do?\n\nAssistant:",
    "copying": "User: Repeat after me: the white rabbit ran over the green hill\n\nAssistant:",
    "counting": "User: Count from 3 to 20.\n\nAssistant:",
    "prose": "Alice was beginning to get very tired",
}
"""Prompts of the built-in model."""

GREEDY = Sampling(temperature=0, presence_penalty=0, frequency_penalty=0)


def acceptance() -> list[dict]:
    """Print how many drafts are accepted on recorded texts and by the built-in model."""
    print("\nDrafts on recorded texts (World vocabulary), and by the built-in model (200 tokens)")
    heads = ["tokens", "accepted", "drafted", "share", "per pass", "speed int8", "speed int4"]
    print(line("", heads))
    measured = []
    for text in recorded_texts():
        found = {form: _replayed(text, form) for form in ("int8", "int4")}
        measured.append(_show(text.name, len(text.ids), found))
    model = wkv.load(strategy="cpu int8")
    for name, prompt in PROMPTS.items():
        for kind, sampling in (("greedy", GREEDY), ("sampled", Sampling(seed=1, top_p=0.5))):
            found, count = {}, 0
            for form in ("int8", "int4"):
                speculation = _Counting(form)
                done = wkv.generate(
                    model, prompt, sampling=sampling, max_tokens=200, speculate=speculation
                )
                count = len(done.token_ids)
                found[form] = done.drafts, speculation.speed(count)
            measured.append(_show(f"{name}, {kind}", count, found))
    print("speed: relative to plain decoding, computed from the table of costs of 1.5B models")
    return measured


def equality(args: argparse.Namespace, files: Files) -> list[dict]:
    """Print how many texts with drafts equal the plain ones, on random and the built-in model."""
    print("\nTexts of 60 tokens with 6 drafts a pass that equal those of plain decoding")
    print(line("", ["greedy", "sampled"]))
    measured = []
    paths = [None, *(files.pth(SIZES[size], "7", args.zeros) for size in args.sizes)]
    for path in paths:
        for form in (form for form in args.formats if form != "fp32" or path is None):
            model = wkv.load(path, f"cpu {form}", threads=args.threads)
            name = f"{'built-in' if path is None else path.stem.split('-')[1]} {form}"
            found = [
                sum(_is_equal(model, prompt, sampling) for prompt in PROMPTS.values())
                for sampling in (GREEDY, Sampling(seed=1, presence_penalty=0.1))
            ]
            print(line(name, [f"{one} of {len(PROMPTS)}" for one in found]), flush=True)
            measured.append({"equality": name, "equal": found, "texts": len(PROMPTS)})
    return measured


def _is_equal(model: wkv.Model, prompt: str, sampling: Sampling) -> bool:
    """Return whether text and state with drafts are those of plain decoding."""
    plain, drafted = (
        wkv.generate(model, prompt, sampling=sampling, max_tokens=60, speculate=speculate)
        for speculate in ("off", 6)
    )
    same_state = torch.equal(plain.state.layers[-1].wkv, drafted.state.layers[-1].wkv)
    return plain.token_ids == drafted.token_ids and same_state


class _Counting(Speculation):
    """Speculation whose costs are those of the table, so that results can be repeated."""

    def __init__(self, form: str) -> None:
        super().__init__(PassCosts(TABLES[form], is_fixed=True))
        self.spent = 0.0

    def next_drafts(self, sequences: list[RunningSequence]) -> list[list[int]]:
        """Return drafts, and add the cost of the pass that reads them."""
        drafts = super().next_drafts(sequences)
        self.spent += self.costs.of(len(sequences) + sum(map(len, drafts)))
        return drafts

    def speed(self, tokens: int) -> float:
        """Return the speed relative to plain decoding."""
        return tokens * self.costs.of(1) / self.spent


def _replayed(text: DraftText, form: str) -> tuple[DraftCounts, float]:
    """Return the drafts and the speed that a model has that writes exactly this text."""
    speculation = _Counting(form)
    sequence = RunningSequence(WorldTokenizer(), GREEDY, len(text.ids) + 1, ())
    sequence.drafter = speculation.drafter(text.context)
    at = 0
    while at < len(text.ids):
        sequence.token_ids.append(text.ids[at])
        (drafts,) = speculation.next_drafts([sequence])
        at += 1
        for draft in drafts:
            if at == len(text.ids) or draft != text.ids[at]:
                break
            sequence.token_ids.append(draft)
            at += 1
    speculation.update([sequence])
    return sequence.draft_counts, speculation.speed(len(text.ids))


def _show(name: str, tokens: int, found: dict[str, tuple[DraftCounts, float]]) -> dict:
    """Print one line, and return its values."""
    counts, speed = found["int4"]
    share = counts.accepted / counts.drafted if counts.drafted else 0.0
    cells = [f"{tokens}", f"{counts.accepted}", f"{counts.drafted}", f"{share:.2f}"]
    cells += [f"{counts.tokens_per_pass:.2f}", f"{found['int8'][1]:.2f}x", f"{speed:.2f}x"]
    print(line(name, cells), flush=True)
    return {
        "text": name,
        "tokens": tokens,
        "accepted": counts.accepted,
        "drafted": counts.drafted,
        "tokens_per_pass": counts.tokens_per_pass,
        "speeds": {form: result[1] for form, result in found.items()},
    }


def speeds(args: argparse.Namespace, files: Files, stream: Stream) -> list[dict]:
    """Print the speed of decoding recorded texts with drafts, compared with llama.cpp."""
    names = [text.name for text in recorded_texts()]
    measured = []
    for size in map(SIZES.__getitem__, args.sizes):
        path = files.pth(size, "7", args.zeros)
        print(
            f"\nSpeculative decoding, RWKV-7 {size.name}, {args.zeros:.0%} zeros: recorded texts "
            "forced as the model's choice, tokens/s"
        )
        print(line("", ["plain", *names, "llama.cpp"]), flush=True)
        entrants = []
        for form in (form for form in FORMATS if form in args.formats):
            need = needed_memory(size, "7", form)
            entrants.append(Entrant("wkv", form, path, "7", need))
            if "llama" in args.engines:
                entrants.append(Entrant("llama", form, files.gguf(size, "7", form), "7", need))
        for group in grouped(entrants, args.memory * 1e9):
            tasks = ["plain", *names, "decode"]
            records, streams = take_turns(group, tasks, args, stream)
            measured += _print_speeds(size.name, records, names)
            print(f"memory bandwidth {statistics.median(streams) / 1e9:.1f} GB/s in these rounds")
    return measured


def _print_speeds(size: str, records: dict[Entrant, Record], names: list[str]) -> list[dict]:
    """Print speeds, ratios to plain decoding and llama.cpp, and drafts, for each format."""
    llama = {entrant.form: one for entrant, one in records.items() if entrant.engine == "llama"}
    measured = []
    for entrant, record in records.items():
        if entrant.engine != "wkv":
            continue
        other = llama.get(entrant.form)
        theirs = None if other is None else other.seconds.get("decode")
        plain = record.seconds["plain"]
        rows = {"": [record.speed("plain"), *map(record.speed, names)]}
        print(line(entrant.name, [*_numbers(rows[""], ""), _number(other, "decode")]))
        for label, base in (("/ plain", plain), ("/ llama.cpp", theirs)):
            if base is not None:
                ratios = [_ratio(base, record.seconds[name]) for name in ("plain", *names)]
                print(line(f"  {label}", _numbers(ratios, "x")))
        for label in ("accepted", "drafted", "tokens_per_pass"):
            values = [record.notes[name][label] for name in names]
            print(line(f"  {label.replace('_', ' ')}", ["", *map(_short, values)]), flush=True)
        measured.append(
            {
                "size": size,
                "entrant": entrant.name,
                **record.facts,
                "seconds_a_token": record.seconds,
                "drafts": record.notes,
                "llama_seconds_a_token": theirs,
            }
        )
    return measured


def _ratio(base: list[float], ours: list[float]) -> float:
    return statistics.median(b / a for a, b in zip(ours, base, strict=True))


def _numbers(values: list, unit: str) -> list[str]:
    return ["-" if value is None else f"{value:.2f}{unit}" for value in values]


def _number(record: Record | None, task: str) -> str:
    speed = None if record is None else record.speed(task)
    return "-" if speed is None else f"{speed:.2f}"


def _short(value: float) -> str:
    return f"{value:.2f}" if isinstance(value, float) else str(value)
