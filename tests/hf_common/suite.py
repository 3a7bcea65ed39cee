"""One class of transformers' common model tests for each generation, with a tiny model."""

import random
import unittest

import torch
from transformers.models.auto import modeling_auto
from transformers_tests.generation.test_utils import GenerationTesterMixin
from transformers_tests.test_modeling_common import ModelTesterMixin

import wkv.hf
from tests.hf_common.exclusions import EXCLUDED, EXCLUDED_IN

SIZES = {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 64}
FIVE = {"head_size": 16, "attention_hidden_size": 32}
SEVEN = {"head_dim": 16, "decay_low_rank_dim": 8, "a_low_rank_dim": 8, "v_low_rank_dim": 8}
SEVEN |= {"gate_low_rank_dim": 8}
CONFIGS = {
    "4": (wkv.hf.RwkvConfig, {}),
    "5.0": (wkv.hf.Rwkv5Config, FIVE | {"rwkv_generation": "5.0"}),
    "5.2": (wkv.hf.Rwkv5Config, FIVE | {"rwkv_generation": "5.2"}),
    "6": (wkv.hf.Rwkv6Config, FIVE | {"lora_rank_tokenshift": 4, "lora_rank_decay": 8}),
    "7": (wkv.hf.RWKV7Config, SEVEN),
    "7a": (wkv.hf.RWKV7aConfig, SEVEN | {"deep_embed_rank": 4}),
}
for config, model, language_model in wkv.hf.CLASSES:  # as for the models in the library itself
    modeling_auto.MODEL_MAPPING_NAMES[config.model_type] = model.__name__
    modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[config.model_type] = language_model.__name__
MODELS = {config: (model, language_model) for config, model, language_model in wkv.hf.CLASSES}


class Inputs:
    """Provides the config and the inputs that the common tests request for a model."""

    is_training = True
    batch_size, seq_length = 3, 7
    hidden_size, num_hidden_layers = SIZES["hidden_size"], SIZES["num_hidden_layers"]

    def __init__(self, generation):
        self.generation = generation

    def get_config(self):
        config, fields = CONFIGS[self.generation]
        return config(**SIZES, **fields, bos_token_id=0, eos_token_id=98, pad_token_id=97)

    def prepare_config_and_inputs_for_common(self):
        generator = torch.Generator().manual_seed(random.randrange(2**31))
        shape = (self.batch_size, self.seq_length)
        ids = torch.randint(1, 90, shape, generator=generator)
        return self.get_config(), {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def make(generation):
    """Return the test class of a generation."""

    class Common(ModelTesterMixin, GenerationTesterMixin, unittest.TestCase):
        all_model_classes = MODELS[CONFIGS[generation][0]]
        has_attentions = False
        test_resize_embeddings = generation != "7a"

        def setUp(self):
            self.model_tester = Inputs(generation)

    for name, reason in (EXCLUDED | EXCLUDED_IN.get(generation, {})).items():
        if not hasattr(Common, name):
            continue
        setattr(Common, name, unittest.skip(reason)(lambda self: None))
    return Common


Test4, Test50, Test52, Test6, Test7, Test7a = map(make, CONFIGS)
