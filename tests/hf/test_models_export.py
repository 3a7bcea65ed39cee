"""Graphs that are exported with torch.export, which the ONNX exporter of PyTorch uses too."""

import pytest
import torch
from torch.export import Dim

from tests.hf.translated import checkpoint, random_ids, translate

GENERATIONS = ("4", "5.0", "6", "7")


class Logits(torch.nn.Module):
    """A model with positional tensors only, as exporters expect."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, ids, mask):
        return self.model(ids, attention_mask=mask, use_cache=False).logits


def shallow(generation):
    """Return a model of two layers, because tracing is slow."""
    tensors = checkpoint(generation)
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith("blocks.2.")}
    return Logits(translate(generation, kept))


def left_padded(batch, tokens):
    ids, mask = random_ids(batch, tokens), torch.ones(batch, tokens).long()
    mask[0, :3] = 0
    return ids, mask


@pytest.mark.parametrize("generation", GENERATIONS)
@torch.no_grad()
def test_an_exported_graph_takes_any_batch_and_any_padding(generation):
    model = shallow(generation)
    batch = {0: Dim("batch", min=1, max=64)}
    exported = torch.export.export(
        model, left_padded(2, 9), dynamic_shapes=(batch, batch), strict=False
    )
    operators = {str(node.target) for node in exported.graph.nodes}
    assert not any("cummax" in name for name in operators)  # ONNX has no such operator
    graph = exported.module()
    for size in (1, 2, 5):
        ids, mask = left_padded(size, 9)
        assert (graph(ids, mask) - model(ids, mask)).abs().max() <= 1e-4


@pytest.mark.parametrize("generation", GENERATIONS)
def test_a_dynamic_number_of_tokens_is_refused(generation):
    """An exported loop has a fixed length; the graph would be wrong without a word."""
    shape = {0: Dim.AUTO, 1: Dim.AUTO}
    with pytest.raises(Exception, match="exported RWKV graph has a fixed number of tokens"):
        torch.export.export(
            shallow(generation), left_padded(2, 9), dynamic_shapes=(shape, shape), strict=False
        )
