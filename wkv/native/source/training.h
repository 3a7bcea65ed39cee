// The RWKV-7 recurrence and its gradient for one batch, in float32.
//
//     S <- S diag(exp(log_decay)) + (S a) b^T + v k^T ;   y = S r          S has axes (value, key)
//
// Tensors are contiguous: r, log_decay, k, v, a, b, y, sa are (batch, tokens, heads, head_size),
// states are (batch, heads, head_size, head_size). The forward pass stores the state at the start of
// every CHUNK tokens in `checkpoints` (batch, heads, chunks, head_size, head_size), with transposed
// matrices; the backward pass recomputes the states in between.
#pragma once
#include <stddef.h>
#include <stdint.h>

namespace wkv {

constexpr int CHUNK = 16;

struct TrainingShape {
    int64_t batch, tokens, heads, head_size;

    int64_t chunks() const { return (tokens + CHUNK - 1) / CHUNK; }
    int64_t state_size() const { return head_size * head_size; }
    // Floats of scratch memory for one thread: a gradient, and the states of a chunk and its start.
    int64_t scratch_size() const { return (CHUNK + 2) * state_size(); }
    // Offset of the vectors of token t; `head` counts over the whole batch.
    int64_t offset(int64_t head, int64_t t) const {
        return (((head / heads) * tokens + t) * heads + head % heads) * head_size;
    }
};

struct TrainingInputs {
    const float *r, *log_decay, *k, *v, *a, *b;
};

struct TrainingForward {
    TrainingShape shape;
    TrainingInputs in;
    const float* state;
    float *y, *sa, *checkpoints, *last;  // sa = S a for each token
};

struct TrainingBackward {
    TrainingShape shape;
    TrainingInputs in;
    const float *sa, *checkpoints, *dy, *dlast;
    float *dr, *dlog_decay, *dk, *dv, *da, *db, *dstate;
};

}  // namespace wkv
