"""Read and write tuned states and adapters, in the formats of several programs.

`open.py` opens an adapter and finds its format, `changes.py` has the formulas of the methods, and
`names.py` the names of targets. `tuned_state.py` reads tuned initial states. `peft_folder.py`,
`write_file.py` and `write_state.py` write; `summary.py` describes. `apply.py` views a checkpoint
with an adapter merged into its tensors; `rows.py` has adapters that each row of a batch chooses.
"""
