"""Saved chats: a conversation is restored completely, and other files are refused in one line."""

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import wkv
from tests.unit.chat.talking import same, say, type_line
from wkv.chat import ChatStore, Conversation
from wkv.models.state import read_header


@pytest.fixture
def store(tmp_path):
    """Give an empty store whose folder does not exist yet."""
    return ChatStore(tmp_path / "some" / "chats")


@pytest.fixture
def talk(demo):
    """Give a conversation of two turns."""
    conversation = Conversation(demo)
    say(conversation, "My name is Tadeus.")
    say(conversation, "What is 1 + 2?")
    return conversation


def test_a_chat_is_restored_completely(demo, store, talk):
    talk.settings = wkv.chat.settings.changed(talk.settings, "max_tokens", "77")
    store.save("my chat-1".replace(" ", "_"), talk, demo)
    loaded = store.load("my_chat-1", demo)
    assert loaded.now.entries == talk.now.entries
    assert loaded.now.template == talk.now.template
    assert loaded.settings.max_tokens == 77
    assert loaded.settings == talk.settings
    assert same(loaded.state, talk.state)
    again = loaded.again()
    assert "".join(again) == " 1 + 2 = 3"
    loaded.finish(again)
    assert "Tadeus" in say(loaded, "What is my name?")
    loaded.reset()
    assert loaded.state is None


@pytest.mark.parametrize("turns", [0, 1])
def test_a_chat_without_or_with_one_turn_is_restored(demo, store, turns):
    conversation = Conversation(demo)
    for _ in range(turns):
        say(conversation, "Hello")
    store.save("a", conversation, demo)
    loaded = store.load("a", demo)
    assert len(loaded.now.entries) == turns
    assert (loaded.again() is None) == (turns == 0)


def test_a_chat_with_an_interrupted_reply_continues_correctly(demo, store):
    conversation = Conversation(demo)
    reply = conversation.reply("Who are you?")
    next(reply)
    reply.interrupt()
    conversation.finish(reply)
    store.save("a", conversation, demo)
    loaded = store.load("a", demo)
    assert loaded.now.mark.read_ahead == conversation.now.mark.read_ahead == ""
    assert say(loaded, "What is 1 + 2?") == say(conversation, "What is 1 + 2?")
    assert same(loaded.state, conversation.state)


def test_the_list_of_chats(demo, byte_model, store, talk):
    assert store.list(demo).names == ()
    store.save("b", talk, demo)
    store.save("a", talk, demo)
    store.save("other", Conversation(byte_model), byte_model)
    (store.folder / "broken.safetensors").write_bytes(b"nothing")
    demo.new_state().save(store.folder / "no-chat.safetensors")
    listing = store.list(demo)
    assert (listing.names, listing.others, listing.unreadable) == (("a", "b"), 1, 2)


@pytest.mark.parametrize("name", ["", "a/b", "../a", ".a", "a b", "a\0", "~", "-", "a" * 101])
def test_names_must_not_be_paths(demo, store, talk, name):
    with pytest.raises(wkv.InputError, match="is not a valid name for a chat"):
        store.save(name, talk, demo)


def test_chats_of_other_models_and_missing_ones_are_refused(demo, byte_model, store, talk):
    store.save("a", talk, demo)
    with pytest.raises(wkv.StateError, match="belongs to another model"):
        store.load("a", byte_model)
    with pytest.raises(wkv.InputError, match="no chat of that name"):
        store.load("b", demo)


def _rewrite(path, change):
    """Write a file again with a changed header."""
    with safe_open(path, framework="pt") as file:
        header = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    save_file(tensors, path, metadata=change(header))


def test_metadata_are_covered_by_the_digest(demo, store, talk):
    path = store.save("a", talk, demo)
    _rewrite(path, lambda header: {**header, "notes": header["notes"].replace("Tadeus", "Somebo")})
    with pytest.raises(wkv.StateError, match="digest differs"):
        store.load("a", demo)


@pytest.mark.parametrize("metadata", [{}, {"chat": "{}"}, {"chat": "[]"}, {"chat": "no json"}])
def test_states_without_the_metadata_of_a_chat_are_refused(demo, store, talk, metadata):
    path = store.save("a", talk, demo)
    wkv.State.stack([demo.new_state()] * 3).save(path, metadata)
    with pytest.raises(wkv.StateError, match=r"not a saved chat|are damaged"):
        store.load("a", demo)


def test_errors_of_damaged_files_are_one_line(demo, store, talk):
    path = store.save("a", talk, demo)
    data = path.read_bytes()
    for place in (0, 9, 200, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :])
        with pytest.raises(wkv.StateError) as refusal:
            store.load("a", demo)
        assert "\n" not in str(refusal.value)
    path.write_bytes(data[:-5])
    with pytest.raises(wkv.StateError):
        store.load("a", demo)


def test_a_damaged_chat_leaves_the_conversation(session):
    type_line(session, "My name is Tadeus.")
    type_line(session, "+save a")
    path = session.store.path("a")
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(wkv.StateError):
        type_line(session, "+load a")
    assert "Tadeus" in type_line(session, "What is my name?")


def test_the_error_of_a_folder_that_cannot_be_created_is_one_line(demo, tmp_path, talk):
    (tmp_path / "file").write_text("")
    with pytest.raises(wkv.StateError, match="could not be saved"):
        ChatStore(tmp_path / "file" / "chats").save("a", talk, demo)


def test_metadata_of_a_state_are_restored_and_are_optional(demo, tmp_path):
    _, state = demo.forward([5, 6])
    state.save(tmp_path / "a.safetensors", {"title": "Größe 大小"})
    header = read_header(tmp_path / "a.safetensors")
    assert header.metadata == {"title": "Größe 大小"}
    assert (header.generation, header.identity) == ("7", demo.identity)
    loaded = wkv.State.load(tmp_path / "a.safetensors", demo)
    assert torch.equal(loaded.logits, state.logits)
    state.save(tmp_path / "b.safetensors")
    assert read_header(tmp_path / "b.safetensors").metadata == {}
