"""The engine's library, and kernels as functions."""

from pathlib import Path

import pytest
import torch

from wkv.native import compiled_plan, library


def pytest_addoption(parser):
    parser.addoption(
        "--engine-library",
        type=Path,
        metavar="PATH",
        help="test this native library instead of the installed one",
    )


def pytest_configure(config):
    # The option exists only if pytest was called for this folder.
    path = config.getoption("--engine-library", default=None)
    if path:  # models use it too
        opened = library.open_library(path.resolve())
        library.library = compiled_plan.library = lambda: opened


@pytest.fixture(scope="session")
def engine():
    """Give the library, or skip."""
    try:
        return library.library()
    except library.LibraryMissing as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def kernels(engine):
    """Give the names of the kernels that run here, fastest first."""
    return engine.wkv_kernels().decode().split()


@pytest.fixture(scope="session")
def product(engine):
    """Give a function for the product of activations (rows, inputs) and a packed matrix."""

    def run(name, packed, x, threads=1):
        x = x.contiguous()
        y = torch.full((len(x), packed.outputs), float("nan"))
        failed = engine.wkv_product(
            name.encode(), packed.format, packed.layout, packed.outputs, packed.inputs,
            packed.data.data_ptr(), len(x), x.data_ptr(), y.data_ptr(), threads,
        )  # fmt: skip
        assert not failed
        return y

    return run
