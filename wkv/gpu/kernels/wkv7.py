"""The time mix of RWKV-7 between its products: gates, delta rule, norm per head, bonus."""

import triton
import triton.language as tl

from wkv.gpu.kernels.functions import sigmoid

LOG_DECAY_SCALE = tl.constexpr(-0.6065306597126334)  # -exp(-1/2)
KAPPA_NORM_FLOOR = tl.constexpr(1e-12)
W0, A0, V0, K_K, K_A, R_K, NORM_WEIGHT, NORM_BIAS = (tl.constexpr(i) for i in range(8))
"""The rows of `vectors`, (8, A)."""


@triton.jit
def wkv7(
    rkv,
    low,
    v_first,
    vectors,
    state,
    y,
    begin,
    read,
    write,
    A,
    rkv_row,
    rkv_plane,
    low_row,
    slot_size,
    layer_offset,
    eps,
    FIRST: tl.constexpr,
    N: tl.constexpr,
    BV: tl.constexpr,
):
    """Walk through the rows of each sequence with a part of one head's state in registers.

        w = exp(-e^(-1/2) sigmoid(w0 + low_w)) ;  a = sigmoid(a0 + low_a)
        kappa = k k_k / |k k_k| ;  k <- k (1 + (a - 1) k_a)
        v <- v + (v_first - v) sigmoid(v0 + low_v)              (not in layer 0, which is FIRST)
        S <- S diag(w) - (S kappa) (kappa a)^T + v k^T ;  y = S r

    Grid (sequences, heads, N / BV). A program has BV rows of the state, whose axes are (value,
    key). These are independent of each other. With BV = N it also computes `norm_gate`.

    Args:
        rkv: receptance, key and value before the gates, float32; rows are rkv_row numbers apart,
            and r, k and v rkv_plane numbers.
        low: (rows, 4 A or more) float32, rows low_row numbers apart: the outputs of the low-rank
            maps of decay, rate, gate and value mix.
        v_first: (rows, A) float32, the values of layer 0, which writes them.
        vectors: (8, A) float32: w0, a0, v0, k_k, k_a, r_k, ln_x weight and bias.
        state: slot_size numbers per slot, this layer's (H, N, N) begin at layer_offset.
        y: (rows, A); in the dtype of the weights if BV = N, otherwise float32.
        begin, read, write: see `wkv.gpu.rows.PackedRows`.
    """
    own, head, part = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    n, m = tl.arange(0, N), part * BV + tl.arange(0, BV)
    key, value = head * N + n, head * N + m
    w0, a0 = tl.load(vectors + A * W0 + key), tl.load(vectors + A * A0 + key)
    k_k, k_a = tl.load(vectors + A * K_K + key), tl.load(vectors + A * K_A + key)
    cell = layer_offset + (head * N + m)[:, None] * N + n[None, :]
    S = tl.load(state + tl.load(read + own).to(tl.int64) * slot_size + cell)

    for row in range(tl.load(begin + own), tl.load(begin + own + 1)):
        at, low_at = rkv + row * rkv_row, low + row * low_row
        r = tl.load(at + key)
        k = tl.load(at + rkv_plane + key)
        v = _value(at + 2 * rkv_plane, low_at, v_first, vectors, row, value, A, FIRST)
        decay = tl.exp(sigmoid(w0 + tl.load(low_at + key)) * LOG_DECAY_SCALE)
        a = sigmoid(a0 + tl.load(low_at + A + key))
        kappa = k * k_k
        kappa = kappa / tl.maximum(tl.sqrt(tl.sum(kappa * kappa, 0)), KAPPA_NORM_FLOOR)
        k = k * (1.0 + (a - 1.0) * k_a)
        if FIRST:
            tl.store(v_first + row * A + value, v)
        removed = tl.sum(S * kappa[None, :], 1)
        S = S * decay[None, :] - removed[:, None] * (kappa * a)[None, :] + v[:, None] * k[None, :]
        out = tl.sum(S * r[None, :], 1)
        if BV == N:
            bonus = tl.sum(r * k * tl.load(vectors + A * R_K + key), 0)
            out = _norm_gate(out, bonus * v, low_at, vectors, value, A, eps, N)
        tl.store(y + row * A + value, out.to(y.dtype.element_ty))
    tl.store(state + tl.load(write + own).to(tl.int64) * slot_size + cell, S)


@triton.jit
def norm_gate(
    y,
    rkv,
    low,
    v_first,
    vectors,
    gated,
    A,
    rkv_row,
    rkv_plane,
    low_row,
    eps,
    FIRST: tl.constexpr,
    N: tl.constexpr,
):
    """Compute (norm(y) + (r . k r_k) v) g after `wkv7` with BV < N. Grid (rows, heads).

    gated is (rows, A) in the dtype of the weights; the other arguments are those of `wkv7`.
    """
    row, head = tl.program_id(0), tl.program_id(1)
    n = head * N + tl.arange(0, N)
    at, low_at = rkv + row * rkv_row, low + row * low_row
    r, k = tl.load(at + n), tl.load(at + rkv_plane + n)
    v = _value(at + 2 * rkv_plane, low_at, v_first, vectors, row, n, A, FIRST)
    a = sigmoid(tl.load(vectors + A * A0 + n) + tl.load(low_at + A + n))
    k = k * (1.0 + (a - 1.0) * tl.load(vectors + A * K_A + n))
    bonus = tl.sum(r * k * tl.load(vectors + A * R_K + n), 0)
    out = _norm_gate(tl.load(y + row * A + n), bonus * v, low_at, vectors, n, A, eps, N)
    tl.store(gated + row * A + n, out.to(gated.dtype.element_ty))


@triton.jit
def _value(v_at, low_at, v_first, vectors, row, here, A, FIRST: tl.constexpr):
    """Return channels of the value of a row, mixed with that of layer 0."""
    v = tl.load(v_at + here)
    if not FIRST:
        share = sigmoid(tl.load(vectors + A * V0 + here) + tl.load(low_at + 3 * A + here))
        v = v + (tl.load(v_first + row * A + here) - v) * share
    return v


@triton.jit
def _norm_gate(out, own_value, low_at, vectors, here, A, eps, N: tl.constexpr):
    """Normalize a head's output (N,), add the row's own value, and multiply by the gate."""
    mean = tl.sum(out, 0) / N
    centered = out - mean
    out = centered * tl.rsqrt(tl.sum(centered * centered, 0) / N + eps)
    out = out * tl.load(vectors + A * NORM_WEIGHT + here)
    out = out + tl.load(vectors + A * NORM_BIAS + here)
    return (out + own_value) * tl.load(low_at + 2 * A + here)
