"""The native engine: it runs a model as a plan of steps, in a small C++ library.

The Python files build the plan of each generation; `source/` contains the library, which runs a
token without Python. The library also contains the training recurrence of `wkv.train`.
"""
