// The steps of a plan, as structs that Python fills in through ctypes.
//
// wkv/native/steps.py declares the same structs; change both files together. Every field is a
// number: an index of a buffer, inputs, vector or matrix (NONE if absent), or a size.
#pragma once
#include <stddef.h>
#include <stdint.h>

namespace wkv {

enum Kind : int32_t {
    NORM = 0, SHIFT = 1, MIX = 2, ACTIVATE = 3, PRODUCT = 4, GATED = 5, WKV4 = 6, WKV6 = 7, WKV7 = 8, ADAPTER = 9,
    KINDS = 10
};
enum Function : int32_t { IDENTITY = 0, TANH = 1, SIGMOID = 2, SQUARED_RELU = 3 };

// The parts of a layer's state.
enum StatePart : int32_t { ATT_SHIFT = 0, WKV_STATE = 1, FFN_SHIFT = 2, STATE_PARTS = 3 };

// The two step lists of a plan: the layers, and the output head.
enum StepList : int32_t { BODY = 0, HEAD = 1, STEP_LISTS = 2 };

inline int state_index(int layer, int part) { return layer * STATE_PARTS + part; }

constexpr int32_t NONE = -1;      // the index of an optional operand that is absent
constexpr int32_t MAX_MIXES = 8;  // mixes of one token shift

// Buffers that belong to the caller of a run: the residual stream and the logits.
enum CallerBuffer : int32_t { X_BUFFER = 0, LOGITS_BUFFER = 1, CALLER_BUFFERS = 2 };

// y = LN(x).
struct NormStep {
    int32_t x, y, weight, bias;
    float eps;
};

// inputs[i] = n + (previous n - n) share[i], with n = LN(x). `normed` and `difference` are optional
// outputs for n and previous n - n.
struct ShiftStep {
    int32_t x, weight, bias, layer, part, normed, difference, n_mixes;
    int32_t share[MAX_MIXES], inputs[MAX_MIXES];
    float eps;
};

// inputs = x + difference (share + change).
struct MixStep {
    int32_t x, difference, share, change, inputs;
};

// inputs = function(x[first : first + width of inputs]).
struct ActivateStep {
    int32_t x, first, function, inputs;
};

// y = inputs matrix^T; with `add`, y += inputs matrix^T.
struct ProductStep {
    int32_t inputs, matrix, y, add;
};

// y += B (A inputs) for each row whose sequence uses one of `count` adapters: the factors of adapter i are
// the fp32 matrices first + 2 i (rank, inputs) and first + 2 i + 1 (outputs, rank). Rank 0 changes nothing.
struct AdapterStep {
    int32_t inputs, y, first, count;
};

// y += sigmoid(gate) x.
struct GatedStep {
    int32_t gate, x, y;
};

// The recurrences; their operands are those of the structs of the same number in engine.h.
struct Wkv4Step {
    int32_t receptance, key, value, y, log_decay, bonus, layer;
};
struct Wkv6Step {  // also RWKV-5
    int32_t receptance, key, value, gate, decay_change, y, decay, bonus, norm_weight, norm_bias, layer, head_size;
    float eps;
};
struct Wkv7Step {
    int32_t receptance, key, value, decay, rate, gate, mix, value_first, y;
    int32_t w0, a0, v0, k_k, k_a, r_k, norm_weight, norm_bias, layer, head_size;
    float eps;
};

struct Step {
    Kind kind;
    int phase;
    union {
        NormStep norm;
        ShiftStep shift;
        MixStep mix;
        ActivateStep activate;
        ProductStep product;
        GatedStep gated;
        Wkv4Step wkv4;
        Wkv6Step wkv6;
        Wkv7Step wkv7;
        AdapterStep adapter;
    };
};

// Indexed by Kind.
constexpr size_t STEP_SIZES[KINDS] = {
    sizeof(NormStep), sizeof(ShiftStep), sizeof(MixStep), sizeof(ActivateStep), sizeof(ProductStep),
    sizeof(GatedStep), sizeof(Wkv4Step), sizeof(Wkv6Step), sizeof(Wkv7Step),
    sizeof(AdapterStep),
};

}  // namespace wkv
