"""Fine-tuning: the tensors of each method, the loss, measurements before and after, and reports.

`options.py` has the choices of a user and their defaults, `methods.py` what is trained, `task.py`
one process of the training, `session.py` the order of a run, and `proof.py` what is measured.
"""
