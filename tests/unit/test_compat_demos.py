"""Programs for the `rwkv` package, of which nothing but the imports was changed.

Each is what users of the package write: its first steps, a chat with snapshots of the state, guided
generation with two states, the probability of a text, a tuned state laid into the list by hand.
"""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch

import wkv
from tests.checkpoints import GENERATIONS, random_checkpoint, save_pth

WORLD = "rwkv_vocab_v20230424"
SMALL_VOCABULARY = Path(wkv.__file__).parent / "demo/demo-rwkv7.vocab.txt"


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    """Give random models with the World vocabulary; 7a, whose tables would be huge, a small one."""
    folder = tmp_path_factory.mktemp("demos")
    files = {}
    for generation in GENERATIONS:
        size = 2048 if generation == "7a" else 65536
        tensors = random_checkpoint(generation, n_layer=2, n_embd=32, head_size=16, vocab_size=size)
        files[generation] = str(folder / f"RWKV-x0-{generation}-World")
        save_pth(tensors, f"{files[generation]}.pth")
    return files


def _vocabulary(generation):
    return str(SMALL_VOCABULARY) if generation == "7a" else WORLD


@pytest.mark.parametrize("generation", GENERATIONS)
def test_first_steps(paths, generation, capsys):
    from wkv.compat.model import RWKV
    from wkv.compat.utils import PIPELINE, PIPELINE_ARGS

    model = RWKV(model=paths[generation], strategy="cpu fp32")
    out, state = model.forward([187, 510, 1563, 310, 247], None)
    whole = out.detach().cpu().numpy()
    out, state = model.forward([187, 510], None)
    out, state = model.forward([1563], state)
    out, state = model.forward([310, 247], state)
    assert np.abs(out.detach().cpu().numpy() - whole).max() < 1e-4

    pipeline = PIPELINE(model, _vocabulary(generation))
    args = PIPELINE_ARGS(
        temperature=1.0,
        top_p=0.7,
        top_k=100,
        alpha_frequency=0.25,
        alpha_presence=0.25,
        alpha_decay=0.996,
        token_ban=[0],
        token_stop=[],
        chunk_len=256,
    )

    def my_print(s):
        print(s, end="", flush=True)  # noqa: T201 - as programs do

    ctx = "\nIn a valley far from the sea, the herd found a well."
    text = pipeline.generate(ctx, token_count=200, args=args, callback=my_print)
    assert capsys.readouterr().out == text
    assert len(text) > 100


@pytest.mark.parametrize("generation", GENERATIONS)
def test_chat_with_snapshots(paths, generation):
    from wkv.compat.model import RWKV
    from wkv.compat.utils import PIPELINE

    model = RWKV(model=paths[generation], strategy="cpu fp32", verbose=False)
    pipeline = PIPELINE(model, _vocabulary(generation))
    _, opening = model.forward(pipeline.encode("User: hi\n\nAssistant: Hi!\n\n"), None)

    def reply(message):
        state = copy.deepcopy(opening)
        out, state = model.forward(pipeline.encode(f"User: {message}\n\nAssistant:"), state)
        tokens, shown, text, occurrence = [], 0, "", {}
        for step in range(30):
            for n in occurrence:
                out[n] -= 0.5 + occurrence[n] * 0.5
            out[0] -= 1e10
            token = pipeline.sample_logits(out, temperature=0, top_p=0.3)
            out, state = model.forward([token], state)
            for n in occurrence:
                occurrence[n] *= 0.996
            occurrence[token] = 1 + occurrence.get(token, 0)
            tokens.append(token)
            piece = pipeline.decode(tokens[shown:])
            if "\ufffd" not in piece:
                text += piece
                shown = step + 1
        return tokens

    first, other = reply("What is a horse?"), reply("Tell me of the sea")
    assert reply("What is a horse?") == first
    assert first != other
    assert 0 not in first
    assert len(set(first)) > 20


@pytest.mark.parametrize("generation", GENERATIONS)
def test_guided_generation_with_two_states(paths, generation):
    from wkv.compat.model import RWKV
    from wkv.compat.utils import PIPELINE

    model = RWKV(paths[generation], "cpu fp32", verbose=False)
    pipeline = PIPELINE(model, _vocabulary(generation))

    def write(gain):
        with_context, state = model.forward(pipeline.encode("Of horses.\n\nThe"), None)
        without, bare = model.forward(pipeline.encode("The"), model.generate_zero_state())
        tokens = []
        for _ in range(10):
            logits = with_context * gain + without * (1 - gain)
            token = pipeline.sample_logits(logits, temperature=1.0, top_p=0.0)
            with_context, state = model.forward([token], state)
            without, bare = model.forward(token, bare)
            tokens.append(token)
        return tokens

    alone = []
    out, state = model.forward(pipeline.encode("The"), None)
    for _ in range(10):
        alone.append(int(out.argmax()))
        out, state = model.forward([alone[-1]], state)
    assert write(0) == alone
    assert write(1) != alone


@pytest.mark.parametrize("generation", GENERATIONS)
def test_probability_of_a_text(paths, generation):
    from wkv.compat.model import RWKV
    from wkv.compat.utils import PIPELINE

    model = RWKV(paths[generation], "cpu fp32", verbose=False)
    pipeline = PIPELINE(model, _vocabulary(generation))
    source = [0, *pipeline.encode("She looked out over the water and saw a")]
    target = pipeline.encode(" ship of the line")
    out, _ = model.forward(source + target, None, full_output=True)
    assert out.shape == (len(source + target), model.args.vocab_size)
    rows = out[len(source) - 1 : -1].log_softmax(-1)
    together = sum(float(row[token]) for row, token in zip(rows, target, strict=True))

    out, state = model.forward(source, None)
    one_by_one = 0.0
    for token in target:
        one_by_one += float(out.log_softmax(-1)[token])
        out, state = model.forward([token], state)
    assert together == pytest.approx(one_by_one, abs=1e-3)


@pytest.mark.parametrize("generation", ["5.0", "5.1", "5.2", "6"])
def test_tuned_state_laid_into_the_list(paths, generation, tmp_path):
    from wkv.compat.model import RWKV

    model = RWKV(paths[generation], "cpu fp32", verbose=False)
    args = model.args
    tuned = {
        f"blocks.{i}.att.time_state": torch.randn(args.n_head, args.head_size, args.head_size)
        for i in range(args.n_layer)
    }
    state = [None for _ in range(args.n_layer * 3)]
    for i in range(args.n_layer):
        dd = model.strategy[i]
        shift = {"dtype": dd.atype, "requires_grad": False, "device": dd.device}
        matrix = tuned[f"blocks.{i}.att.time_state"].transpose(1, 2)
        state[i * 3 + 0] = torch.zeros(args.n_embd, **shift).contiguous()
        state[i * 3 + 1] = matrix.to(dtype=torch.float, device=dd.device).contiguous()
        state[i * 3 + 2] = torch.zeros(args.n_embd, **shift).contiguous()
    out, state = model.forward([33, 155, 37], state)

    merged = {**torch.load(f"{paths[generation]}.pth"), **tuned}
    save_pth(merged, tmp_path / "merged.pth")
    expected, _ = RWKV(str(tmp_path / "merged"), "cpu fp32").forward([33, 155, 37], None)
    assert float((out - expected).abs().max()) < 1e-5
    assert float((out - model.forward([33, 155, 37], None)[0]).abs().max()) > 1e-3
