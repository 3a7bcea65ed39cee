"""A drop-in replacement for the `rwkv` package: the same names and signatures, computed by wkv.

    from wkv.compat.model import RWKV
    from wkv.compat.utils import PIPELINE, PIPELINE_ARGS
    from wkv.compat.rwkv_tokenizer import TRIE_TOKENIZER

A program only has to change its imports. One class supports all generations, and environment
variables (RWKV_V7_ON, RWKV_CUDA_ON, ...) have no effect. `docs/rwkv-package.md` lists every name of
the package. Importing this package does not import PyTorch.
"""
