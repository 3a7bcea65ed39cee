"""Fixtures of the chat tests: a session, and tiny models of both families."""

import pytest

import wkv
from tests.checkpoints import random_checkpoint, save_pth
from wkv.chat import ChatStore, Session


@pytest.fixture
def session(demo, tmp_path):
    """Give a session with the built-in model, whose free texts are short."""
    session = Session(demo, wkv.chat.Conversation(demo), ChatStore(tmp_path / "chats"), seed=1)
    session.free.length = 8
    return session


def _tiny(folder, generation, vocab_size, tokenizer):
    path = folder / f"rwkv{generation}-g1z-0.1b.pth"
    tensors = random_checkpoint(generation, n_layer=1, n_embd=32, vocab_size=vocab_size, n_ffn=32)
    save_pth(tensors, path)
    return wkv.load(path, "cpu fp32", tokenizer=tokenizer)


@pytest.fixture(scope="session")
def world_model(tmp_path_factory):
    """Give a random RWKV-7 with the World vocabulary."""
    return _tiny(tmp_path_factory.mktemp("world"), "7", 65536, None)


@pytest.fixture(scope="session")
def old_world_model(tmp_path_factory):
    """Give a random RWKV-6 with the World vocabulary."""
    return _tiny(tmp_path_factory.mktemp("world6"), "6", 65536, None)


@pytest.fixture(scope="session")
def raven_model(tmp_path_factory, shared_data):
    """Give a random RWKV-4 with the 20B vocabulary."""
    folder = tmp_path_factory.mktemp("raven")
    return _tiny(folder, "4", 50277, shared_data / "20B_tokenizer.json")
