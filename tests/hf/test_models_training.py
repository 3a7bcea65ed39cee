"""Training of the classes for transformers: the loss, its gradients, initial weights, Trainer."""

import pytest
import torch
from torch.nn import functional as F

import wkv.hf
from tests.hf.translated import checkpoint, config_of, random_ids, translate

LANGUAGE_MODELS = {config: model for config, _, model in wkv.hf.CLASSES}


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.fixture
def learner(generation):
    return translate(generation).train()


def test_the_loss_is_the_mean_cross_entropy_of_the_next_tokens(model):
    ids = random_ids(2, 12)
    labels = ids.clone()
    labels[0, :5] = -100
    with torch.no_grad():
        output = model(ids, labels=labels)
    expected = F.cross_entropy(output.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    assert torch.allclose(output.loss, expected, atol=1e-6)


def test_the_loss_can_be_shared_out_over_accumulated_batches(model):
    ids = random_ids(2, 12)
    with torch.no_grad():
        mean = model(ids, labels=ids).loss
        part = model(ids, labels=ids, num_items_in_batch=44).loss
    assert torch.allclose(part, mean / 2, atol=1e-6)


def test_padding_gets_no_gradient_and_changes_none(learner):
    ids, labels = random_ids(1, 10), random_ids(1, 10)
    learner(ids, labels=labels).loss.backward()
    expected = gradients(learner)
    learner.zero_grad()
    padded = torch.cat([random_ids(1, 6, seed=8), ids], dim=1)
    mask = torch.tensor([[0] * 6 + [1] * 10])
    masked = F.pad(labels, (6, 0), value=-100)
    masked[0, 6] = -100  # what the last token of padding would predict
    learner(padded, attention_mask=mask, labels=masked).loss.backward()
    for name, gradient in gradients(learner).items():
        assert torch.allclose(gradient, expected[name], rtol=1e-3, atol=1e-5), name


def test_gradients_flow_through_time_also_over_a_cache(learner):
    learner.double()
    ids, labels = random_ids(1, 40), random_ids(1, 40)
    logits = learner(ids).logits  # transformers' own loss is in float32
    F.cross_entropy(logits[0, :-1], labels[0, 1:]).backward()
    expected = gradients(learner)
    assert set(expected) == {name for name, _ in learner.named_parameters()}
    assert all(gradient.abs().max() > 0 for gradient in expected.values())
    learner.zero_grad()
    cache, logits = None, []
    for start, stop in ((0, 3), (3, 20), (20, 40)):
        output = learner(ids[:, start:stop], past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        logits.append(output.logits)
    logits = torch.cat(logits, dim=1)
    F.cross_entropy(logits[0, :-1], labels[0, 1:]).backward()
    for name, gradient in gradients(learner).items():
        assert torch.allclose(gradient, expected[name], rtol=1e-8, atol=1e-12), name


def test_checkpointed_gradients_are_the_same(learner):
    ids = random_ids(2, 20)
    learner(ids, labels=ids).loss.backward()
    expected = gradients(learner)
    for reentrant in (False, True):
        learner.zero_grad()
        enable = getattr(learner, "activation_checkpointing_enable", None)  # of 5.23; before:
        (enable or learner.gradient_checkpointing_enable)({"use_reentrant": reentrant})
        learner.enable_input_require_grads()
        learner(ids, labels=ids).loss.backward()
        for name, gradient in gradients(learner).items():
            assert torch.allclose(gradient, expected[name], atol=1e-6), name
        learner.disable_input_require_grads()


def test_autocast_leaves_the_state_in_float32(learner):
    ids = random_ids(2, 20)
    expected = learner(ids, labels=ids).loss
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = learner(ids, labels=ids, use_cache=True)
    output.loss.backward()
    assert all(t.dtype == torch.float32 for state in output.past_key_values.states for t in state)
    assert abs(output.loss.item() - expected.item()) <= 0.05
    assert all(p.grad.isfinite().all() for p in learner.parameters() if p.grad is not None)


def test_new_weights_are_whole_and_learn(generation):
    torch.manual_seed(0)
    config = config_of(generation, checkpoint(generation))
    model = LANGUAGE_MODELS[type(config)](config).train()
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    ids = random_ids(4, 16)
    with torch.no_grad():
        assert model(ids, labels=ids).loss < 5.2  # the logarithm of 120 ids is 4.8
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(15):
        optimizer.zero_grad()
        loss = model(ids, labels=ids).loss
        loss.backward()
        optimizer.step()
    assert loss < 3.5


def test_trainer(generation, tmp_path):
    pytest.importorskip("accelerate", reason="Trainer needs it")
    from transformers import Trainer, TrainingArguments

    torch.manual_seed(0)
    model = translate(generation)
    rows = [{"input_ids": row, "labels": row} for row in random_ids(8, 12)]
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        max_steps=4,
        learning_rate=5e-3,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=rows, eval_dataset=rows)
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < before - 0.3
