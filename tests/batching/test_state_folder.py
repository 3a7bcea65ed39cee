"""A file of a state whose header is wrong is refused with a short message."""

import json

import pytest
from safetensors import safe_open
from safetensors.torch import save_file

from wkv.errors import StateError
from wkv.models.state import State

WRONG = ["9" * 4000, str(2**53), "-1", "1.5", "true", "null", '"1"', "1e400", "NaN", "[1]"]


@pytest.mark.parametrize("count", WRONG, ids=lambda text: text[:10])
def test_a_state_has_seen_a_number_of_tokens_that_can_be(byte_model, tmp_path, count):
    path = tmp_path / "one.safetensors"
    byte_model.forward([1])[1].save(path)
    with safe_open(path, framework="pt") as file:
        header = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    save_file(tensors, path, metadata=header | {"tokens_seen": f"[{count}]"})
    with pytest.raises(StateError, match="tokens_seen") as error:
        State.load(path, byte_model)
    assert len(str(error.value)) < 400 + len(str(path))
    save_file(tensors, path, metadata=header | {"tokens_seen": json.dumps([2**53 - 1])})
    assert State.load(path, byte_model).tokens_seen == (2**53 - 1,)
