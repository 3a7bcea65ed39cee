"""The recurrences of all generations, each as one kernel, with the arguments of `wkv.ops`.

A program holds its part of the state in registers and walks through the tokens of one row.
"""

import triton
import triton.language as tl


@triton.jit
def delta_rule(
    receptance,
    log_decay,
    key,
    value,
    a,
    b,
    state,
    y,
    new_state,
    T,
    H,
    N: tl.constexpr,
    BV: tl.constexpr,
):
    """Compute `wkv.ops.wkv7.wkv7`. Grid (B H, N / BV); all tensors are contiguous float32."""
    row, head = tl.program_id(0) // H, tl.program_id(0) % H
    n, m = tl.arange(0, N), tl.program_id(1) * BV + tl.arange(0, BV)
    cell = tl.program_id(0).to(tl.int64) * N * N + m[:, None] * N + n[None, :]
    S = tl.load(state + cell)
    at = (row.to(tl.int64) * T * H + head) * N
    for _ in range(T):
        removed = tl.sum(S * tl.load(a + at + n)[None, :], 1)
        v, k = tl.load(value + at + m), tl.load(key + at + n)
        S = S * tl.exp(tl.load(log_decay + at + n))[None, :]
        S += removed[:, None] * tl.load(b + at + n)[None, :] + v[:, None] * k[None, :]
        tl.store(y + at + m, tl.sum(S * tl.load(receptance + at + n)[None, :], 1))
        at += H * N
    tl.store(new_state + cell, S)


@triton.jit
def decaying_sum(
    receptance,
    log_decay,
    key,
    value,
    bonus,
    state,
    y,
    new_state,
    T,
    H,
    PER_TOKEN: tl.constexpr,
    N: tl.constexpr,
    BV: tl.constexpr,
):
    """Compute `wkv.ops.wkv6.wkv6`, or `wkv.ops.wkv5.wkv5` if decays are not PER_TOKEN.

    Grid (B H, N / BV); all tensors are contiguous float32, and bonus is (H, N).
    """
    row, head = tl.program_id(0) // H, tl.program_id(0) % H
    n, m = tl.arange(0, N), tl.program_id(1) * BV + tl.arange(0, BV)
    cell = tl.program_id(0).to(tl.int64) * N * N + m[:, None] * N + n[None, :]
    S = tl.load(state + cell)
    u = tl.load(bonus + head * N + n)
    at = (row.to(tl.int64) * T * H + head) * N
    decay_at = at if PER_TOKEN else head.to(tl.int64) * N
    for _ in range(T):
        r, k = tl.load(receptance + at + n), tl.load(key + at + n)
        v = tl.load(value + at + m)
        tl.store(y + at + m, tl.sum(S * r[None, :], 1) + tl.sum(r * u * k, 0) * v)
        S = S * tl.exp(tl.load(log_decay + decay_at + n))[None, :] + v[:, None] * k[None, :]
        at += H * N
        if PER_TOKEN:
            decay_at += H * N
    tl.store(new_state + cell, S)


@triton.jit
def decaying_mean(
    log_decay,
    bonus,
    key,
    value,
    state,
    y,
    new_state,
    T,
    A,
    PER_TOKEN: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Compute `wkv.ops.wkv4.wkv4`. Grid (B, A / BLOCK); all tensors are contiguous float32."""
    row = tl.program_id(0).to(tl.int64)
    here = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = here < A
    old = state + row * 3 * A + here
    numerator = tl.load(old, mask=inside, other=0.0)
    denominator = tl.load(old + A, mask=inside, other=0.0)
    exponent = tl.load(old + 2 * A, mask=inside, other=0.0)
    u = tl.load(bonus + here, mask=inside, other=0.0)
    decay = tl.load(log_decay + here, mask=inside, other=0.0)
    at = row * T * A + here
    for _ in range(T):
        k = tl.load(key + at, mask=inside, other=0.0)
        v = tl.load(value + at, mask=inside, other=0.0)
        if PER_TOKEN:
            decay = tl.load(log_decay + at, mask=inside, other=0.0)
        largest = tl.maximum(exponent, u + k)
        old_share, own_share = tl.exp(exponent - largest), tl.exp(u + k - largest)
        mean = numerator * old_share + own_share * v
        tl.store(y + at, mean / (denominator * old_share + own_share), mask=inside)
        largest = tl.maximum(exponent + decay, k)
        old_share, own_share = tl.exp(exponent + decay - largest), tl.exp(k - largest)
        numerator = numerator * old_share + own_share * v
        denominator = denominator * old_share + own_share
        exponent = largest
        at += A
    new = new_state + row * 3 * A + here
    tl.store(new, numerator, mask=inside)
    tl.store(new + A, denominator, mask=inside)
    tl.store(new + 2 * A, exponent, mask=inside)
