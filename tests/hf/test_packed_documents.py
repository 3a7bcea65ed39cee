"""Several documents in one row give the same result as each document in a row of its own."""

import pytest
import torch
from torch.nn import functional as F

from tests.hf.translated import random_ids, translate
from wkv.hf.packing import document_starts

LENGTHS = (7, 1, 20, 3, 33, 1, 5)


def packed(lengths=LENGTHS):
    """Return one row of documents, and the documents."""
    row = random_ids(1, sum(lengths))
    return row, row.split(lengths, dim=1)


def positions_of(lengths):
    return torch.cat([torch.arange(length) for length in lengths])[None]


def numbers_of(lengths):
    return torch.repeat_interleave(torch.tensor(lengths))[None]


def ends_of(lengths):
    return F.pad(torch.tensor(lengths).cumsum(0), (1, 0)).int()


DESCRIPTIONS = {
    "position_ids": lambda lengths: {"position_ids": positions_of(lengths)},
    "seq_idx": lambda lengths: {"seq_idx": numbers_of(lengths).int()},
    "cu_seqlens": lambda lengths: {"cu_seqlens": ends_of(lengths)},
    "attention_mask": lambda lengths: {"attention_mask": numbers_of(lengths) + 1},
    "all of flash attention": lambda lengths: {
        "position_ids": positions_of(lengths),
        "seq_idx": numbers_of(lengths).int(),
        "cu_seq_lens_q": ends_of(lengths),
        "cu_seq_lens_k": ends_of(lengths),
        "max_length_q": max(lengths),
        "max_length_k": max(lengths),
    },
}


@pytest.mark.parametrize("described", DESCRIPTIONS)
@torch.no_grad()
def test_each_document_starts_from_the_empty_state(model, described):
    row, documents = packed()
    expected = torch.cat([model(document).logits for document in documents], dim=1)
    output = model(row, **DESCRIPTIONS[described](LENGTHS))
    assert output.past_key_values is None
    assert (output.logits - expected).abs().max() <= 1e-5


@torch.no_grad()
def test_rows_of_documents_with_padding_between_and_around_them(model):
    row, documents = packed((4, 9))
    other = random_ids(1, 16, seed=4)
    batch = random_ids(2, 16, seed=5)
    batch[0, 1:5], batch[0, 6:15], batch[1] = row[0, :4], row[0, 4:], other
    mask = torch.ones_like(batch)
    mask[0, [0, 5, 15]] = 0
    positions = torch.arange(16).expand(2, 16).clone()
    positions[0] = torch.tensor([1, 0, 1, 2, 3, 1, *range(9), 1])
    output = model(batch, mask, position_ids=positions, output_hidden_states=True)
    for place, document in ((slice(1, 5), documents[0]), (slice(6, 15), documents[1])):
        alone = model(document, output_hidden_states=True)
        assert (output.logits[0, place] - alone.logits[0]).abs().max() <= 1e-5
        for found, hidden in zip(output.hidden_states, alone.hidden_states, strict=True):
            assert (found[0, place] - hidden[0]).abs().max() <= 1e-5
    assert (output.logits[1] - model(other).logits[0]).abs().max() <= 1e-5


def test_gradients_of_packed_documents_are_those_of_single_ones(generation):
    model = translate(generation).train()
    row, documents = packed((6, 11, 2))
    model(row, position_ids=positions_of((6, 11, 2))).logits.square().sum().backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    sum(model(document).logits.square().sum() for document in documents).backward()
    for name, parameter in model.named_parameters():
        scale = parameter.grad.abs().max()
        assert (found[name] - parameter.grad).abs().max() <= 1e-4 * scale, name


@torch.no_grad()
def test_positions_of_single_documents_change_nothing(model):
    ids = random_ids(2, 8)
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    left_padded = (mask.cumsum(1) - 1).masked_fill(mask == 0, 1)
    output = model(ids, mask, position_ids=left_padded, use_cache=True)
    assert torch.equal(output.logits, model(ids, mask).logits)
    later = torch.arange(8, 16).expand(2, 8)
    mask = F.pad(mask, (0, 8), value=1)
    after = model(ids, mask, past_key_values=output.past_key_values, position_ids=later)
    expected = model(ids, mask, past_key_values=output.past_key_values)
    assert torch.equal(after.logits, expected.logits)


def test_documents_and_a_cache_do_not_go_together(model):
    row, _ = packed((3, 4))
    with pytest.raises(ValueError, match="several documents lie in one row"):
        model(row, position_ids=positions_of((3, 4)), use_cache=True)
    cache = model(row).past_key_values
    with pytest.raises(ValueError, match="several documents lie in one row"):
        model(row, position_ids=positions_of((3, 4)), past_key_values=cache)


def test_transformers_collator_for_packing(model):
    collator = pytest.importorskip("transformers").DataCollatorWithFlattening(
        return_flash_attn_kwargs=True, return_seq_idx=True
    )
    rows = [random_ids(length, seed=length).tolist() for length in (5, 12, 3)]
    batch = collator([{"input_ids": row} for row in rows])
    with torch.no_grad():
        loss = model(**batch).loss
        losses = []
        for row in rows:
            logits = model(torch.tensor([row])).logits[0, :-1]
            losses.append(F.cross_entropy(logits, torch.tensor(row[1:]), reduction="sum"))
    assert torch.allclose(loss, sum(losses) / (4 + 11 + 2), atol=1e-5)


def test_starts_are_found_in_compiled_code_too():
    @torch.compile(backend="eager")
    def starts(row, **kwargs):
        found = document_starts(kwargs, None, *row.shape)
        return row + 1 if found is None else found

    row, _ = packed((6, 9))
    found = starts(row, position_ids=positions_of((6, 9)))
    assert found.nonzero().tolist() == [[0, 6]]
    assert torch.equal(starts(row), row + 1)


@pytest.mark.parametrize("name", ["position_ids", "seq_idx"])
@pytest.mark.parametrize("shape", [(3, 6), (1, 5), (1, 1, 6)])
def test_numbers_of_another_shape_are_refused(model, name, shape):
    with pytest.raises(ValueError, match=f"{name} is .*expected \\(2, 6\\) or \\(1, 6\\)"):
        model(random_ids(2, 6), **{name: torch.zeros(shape, dtype=torch.long)})


def test_positions_with_one_axis_hold_for_every_row(model):
    ids, positions = random_ids(2, 6), torch.tensor([0, 1, 2, 0, 1, 2])
    expected = model(ids, position_ids=positions[None]).logits
    assert torch.equal(model(ids, position_ids=positions).logits, expected)
    assert not torch.equal(model(ids).logits, expected)
