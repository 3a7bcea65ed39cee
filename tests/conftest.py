"""What many tests need: random models of every generation, the shared data, one thread."""

from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

import wkv
from tests.checkpoints import GENERATIONS, random_checkpoint, save_pth
from tests.skips import pytest_addoption, pytest_sessionfinish  # noqa: F401

SHARED_DATA = Path(__file__).resolve().parents[1] / "../shared/data"

settings.register_profile(
    "wkv", deadline=None, max_examples=25, suppress_health_check=list(HealthCheck)
)
settings.load_profile("wkv")

# The models are tiny: a second thread only waits, and on a busy machine for long.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared_data():
    """Give the folder of real checkpoints and texts, or skip."""
    if not SHARED_DATA.is_dir():
        pytest.skip("the shared data is not at hand")
    return SHARED_DATA


@pytest.fixture(scope="session")
def checkpoint_paths(tmp_path_factory):
    """Give a random .pth file for each generation."""
    folder = tmp_path_factory.mktemp("random")
    paths = {}
    for generation in GENERATIONS:
        paths[generation] = folder / f"random-{generation}.pth"
        save_pth(random_checkpoint(generation), paths[generation])
    return paths


@pytest.fixture(scope="session")
def models(checkpoint_paths):
    """Give a random float32 model of each generation."""
    return {name: wkv.load(path, "cpu fp32") for name, path in checkpoint_paths.items()}


@pytest.fixture(scope="session")
def demo():
    """Give the built-in model in float32."""
    return wkv.load(strategy="cpu fp32")


@pytest.fixture
def byte_model(tmp_path):
    """Give a random RWKV-7 whose ids are bytes."""
    path = tmp_path / "bytes.pth"
    save_pth(random_checkpoint("7", n_layer=2, n_embd=64, vocab_size=256), path)
    return wkv.load(path, "cpu fp32")
