"""The native engine: a model as a plan of steps, which a small library in C++ runs.

No Python runs inside a token. `source/` is that library; here a plan is built for each generation,
in terms of its formulas.
"""
