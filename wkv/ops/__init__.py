"""The recurrences of RWKV as pure functions of tensors and a state.

Each generation has one file with three functions: a loop over tokens (`*_recurrent`, the
definition, used for decoding), a chunked matrix form (`*_chunked`, used for prefill and training),
and a function named after the generation that selects one of them by the number of tokens. They do
not depend on models, files or text.
"""
