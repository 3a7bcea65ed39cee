"""Triton kernels; each file can be read on its own.

Rows are tokens, packed as `wkv.gpu.rows` describes. All sums are float32. The kernels know nothing
about models: `wkv.gpu.launch` chooses grids and block sizes, `wkv.gpu.rwkv7_step` their order.

Import these modules only where `wkv.gpu.requirements` finds Triton.
"""
