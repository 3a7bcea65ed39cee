"""Read what fine-tuning wrote: tuned states and adapters, in the formats of several programs.

`tuned_state.py` reads and writes tuned initial states. `open.py` opens an adapter and finds its
format, `changes.py` has the formulas of the methods, and `names.py` the names of targets.
`apply.py` views a checkpoint with an adapter merged into its tensors.
"""
