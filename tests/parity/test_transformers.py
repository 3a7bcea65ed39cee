"""RWKV-4 against transformers' own, which shares no line with ours."""

import pytest
import torch

import wkv
from tests.checkpoints import random_checkpoint, save_pth

transformers = pytest.importorskip("transformers")

RENAMED = (
    ("emb.weight", "rwkv.embeddings.weight"),
    ("blocks.0.ln0.", "rwkv.blocks.0.pre_ln."),
    ("ln_out.", "rwkv.ln_out."),
    (".att.", ".attention."),
    (".ffn.", ".feed_forward."),
    ("time_mix_k", "time_mix_key"),
    ("time_mix_v", "time_mix_value"),
    ("time_mix_r", "time_mix_receptance"),
)


def _their_name(name):
    for ours, theirs in RENAMED:
        name = name.replace(ours, theirs)
    return f"rwkv.{name}" if name.startswith("blocks.") else name


def test_rwkv4_equals_transformers(tmp_path):
    tensors = random_checkpoint("4")
    save_pth(tensors, tmp_path / "model.pth")
    config = transformers.RwkvConfig(
        vocab_size=300,
        hidden_size=128,
        attention_hidden_size=128,
        intermediate_size=tensors["blocks.0.ffn.key.weight"].shape[0],
        num_hidden_layers=3,
        rescale_every=0,
        context_length=64,
    )
    theirs = transformers.RwkvForCausalLM(config).eval()
    renamed = {_their_name(name): tensor for name, tensor in tensors.items()}
    theirs.load_state_dict(renamed)
    ids = torch.randint(0, 300, (1, 40), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = theirs(ids, use_cache=False).logits[0]
    logits, _ = wkv.load(tmp_path / "model.pth", "cpu fp32").forward(ids[0], all_logits=True)
    assert (logits - expected).abs().max() <= 2e-5
