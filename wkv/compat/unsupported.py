"""Names of the `rwkv` package that `wkv.compat` does not have, and the reason for each.

A program that uses one of them gets an error with the reason, instead of a wrong result later.
"""

from collections.abc import Iterable
from typing import NoReturn

_TORCHSCRIPT = "it switches TorchScript on and off, which wkv does not need; remove it"
_KERNEL = (
    "it is a kernel of the package's own code; wkv has no separate function for it. Use "
    "model.forward, or the recurrences in wkv.ops"
)
_LAYER = (
    "it computes one layer with the package's copy of the weights; use model.forward, or load "
    "the model as a PyTorch module: wkv.load(path, engine='torch').network"
)
_GLOBAL = (
    "it is a global variable of the model that was loaded last; use the attributes of the model: "
    "model.strategy[0].device, model.strategy[0].atype, model.head_size"
)
_NOT_A_MODULE = (
    "RWKV is not a PyTorch module, and in the package this module has no parameters; use "
    "wkv.load(path, engine='torch').network, which has them"
)
_MATCHER = "wkv finds tokens with another data structure; use encode, idx2token and token2idx"
_FOLDER = "wkv.compat has no files beside it; TRIE_TOKENIZER finds the vocabulary without a folder"


def _table(*rows: tuple[str, str]) -> dict[str, str]:
    """Return a table from names, given as words of a text, to their reason."""
    return {name: reason for names, reason in rows for name in names.split()}


MODEL = _table(
    ("MyModule MyFunction MyStatic", _TORCHSCRIPT),
    ("mm8 mm8_one mm8_seq torch_mm8_one torch_mm8_seq matmul matmul_float", _KERNEL),
    ("cuda_wkv cuda_mm8_one cuda_mm8_seq DISABLE_CUBLAS_GEMM WKV_7 RWKV7_OP", _KERNEL),
    ("RWKV_x070_TMix_one RWKV_x070_TMix_seq RWKV_x070_CMix_one RWKV_x070_CMix_seq", _LAYER),
    ("DTYPE DEVICE HEAD_SIZE", _GLOBAL),
    ("current_path", _FOLDER),
)
"""Names of `rwkv.model`."""

MODEL_CLASS = _table(
    ("att_one att_seq att_one_v5 att_seq_v5 att_one_v5_1 att_seq_v5_1 att_seq_v5_2", _LAYER),
    ("att_one_v6_0 att_seq_v6_0 ffn_one ffn_seq ffn_one_v6 ffn_seq_v6 forward_one_alt", _LAYER),
    ("cuda_att_seq cuda_att_seq_v5_2 v5_2_before v5_2_after", _LAYER),
    ("cuda_att_seq_v6_0 v6_0_before", _LAYER),
    ("RUN_RWKV_5 RUN_RWKV_6 RWKV_5 RWKV_6", _KERNEL),
    ("parameters named_parameters state_dict load_state_dict train to cpu cuda", _NOT_A_MODULE),
    ("half float bfloat16 requires_grad_ modules named_modules children", _NOT_A_MODULE),
)
"""Attributes of the class `RWKV`."""

TOKENIZER = _table(("TRIE", _MATCHER))
"""Names of `rwkv.rwkv_tokenizer`."""

TOKENIZER_CLASS = _table(("root", _MATCHER))
"""Attributes of the class `TRIE_TOKENIZER`."""


def refuse_import(module: str, name: str, table: dict[str, str]) -> NoReturn:
    """Raise the error for a name that a module does not have.

    Raises:
        ImportError: if the package has the name; the message gives the reason. (Python would
            replace the message of an AttributeError in `from module import name`.)
        AttributeError: otherwise.
    """
    if name in table:
        raise ImportError(f"{module} has no {name}: {table[name]}", name=name)
    raise AttributeError(f"module {module!r} has no attribute {name!r}")


def refuse_attribute(owner: object, name: str, tables: Iterable[dict[str, str]]) -> NoReturn:
    """Raise the error for an attribute that an object does not have.

    Raises:
        AttributeError: always; the message gives the reason if the package has the attribute.
    """
    kind = type(owner).__name__
    for table in tables:
        if name in table:
            raise AttributeError(f"{kind} has no {name}: {table[name]}", name=name, obj=owner)
    raise AttributeError(f"{kind!r} object has no attribute {name!r}", name=name, obj=owner)
