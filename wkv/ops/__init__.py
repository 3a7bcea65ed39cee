"""The recurrences of RWKV as pure functions: tensors and a state in, tensors and a new state out.

One file per generation, each with a plain loop (`*_recurrent`: the definition, and the form for
decoding), a chunked matrix form (`*_chunked`: the form for prefill and training) and a function
of the generation's name that picks between the two by the number of tokens. They know nothing of
models, files or text.
"""
