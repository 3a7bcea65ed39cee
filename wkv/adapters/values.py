"""Check the values of adapters and tuned states."""

from pathlib import Path

from torch import Tensor

from wkv.checkpoint import FLOATS
from wkv.errors import WKVError


def float_values(path: Path, name: str, tensor: Tensor, error_type: type[WKVError]) -> Tensor:
    """Return a tensor as float32, after checking its dtype and values.

    Raises:
        WKVError: of the given type, if they are not finite floating-point numbers.
    """
    if tensor.dtype not in FLOATS or not bool(tensor.isfinite().all()):
        raise error_type(
            f"{path}: {name} is {tensor.dtype} with NaN, infinity or whole numbers, expected "
            "finite floating-point values; take an earlier file of the training"
        )
    return tensor.float()
