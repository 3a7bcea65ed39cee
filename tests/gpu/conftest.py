"""A fixture for tests that run kernels."""

import pytest

from tests.gpu.interpreter import interpreted


@pytest.fixture(scope="session")
def triton_interpreter():
    """Let kernels run in Triton's interpreter."""
    pytest.importorskip("triton", reason="Triton is not installed")
    with interpreted() as triton:
        yield triton
