"""Drop-in for the `rwkv` package: the same names and signatures, computed by wkv.

    from wkv.compat.model import RWKV
    from wkv.compat.utils import PIPELINE, PIPELINE_ARGS

Only the imports of a program change. One class serves every generation, and environment variables
(RWKV_V7_ON, RWKV_CUDA_ON, ...) have no effect. Importing this imports nothing heavy.
"""
