"""Each generation twice on the same weights: as wkv's own model and as one of transformers."""

import pytest

import wkv
from tests.checkpoints import save_pth
from tests.hf.translated import GENERATIONS, checkpoint, translate


@pytest.fixture(scope="session")
def own_models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("translated")
    models = {}
    for generation in GENERATIONS:
        path = folder / f"{generation}.pth"
        save_pth(checkpoint(generation), path)
        models[generation] = wkv.load(path, "cpu fp32")
    return models


@pytest.fixture(scope="session")
def their_models():
    """In evaluation mode; a test that changes a model translates its own."""
    return {generation: translate(generation) for generation in GENERATIONS}


@pytest.fixture(params=GENERATIONS)
def generation(request):
    return request.param


@pytest.fixture
def model(generation, their_models):
    return their_models[generation]


@pytest.fixture
def own(generation, own_models):
    return own_models[generation]
