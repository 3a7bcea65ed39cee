// Declarations shared by the parts of the engine: formats, matrices, inputs of products, kernels.
//
// A matrix has `outputs` rows and `inputs` columns. A product reads `rows` of activations, one per
// token, and writes as many rows of outputs.
#pragma once
#include <stddef.h>
#include <stdint.h>

namespace wkv {

// Number formats of weights. The values are those of Format in wkv/checkpoint/packing.py.
enum Format : int32_t { FP32 = 0, FP16 = 1, BF16 = 2, INT8 = 3, INT4 = 4, FORMATS = 5 };

// Memory layouts of a matrix. The values are those of Layout in wkv/checkpoint/packing.py.
//   ROWS     fp32, fp16, bf16: output after output, as in checkpoints.
//   BLOCKS   int8, int4: blocks of 16 outputs; see products_int.inl.
//   COLUMNS  any format: input after input, in panels of 128 outputs, so that the weights of zero
//            inputs can be skipped; see products_columns.inl.
enum Layout : int32_t { ROWS = 0, BLOCKS = 1, COLUMNS = 2 };

constexpr int GROUP = 32;   // weights that share a scale
constexpr int BLOCK = 16;   // outputs per block
constexpr int PANEL = 128;  // outputs per panel
constexpr int FEW_ROWS = 8; // rows for which zero inputs are skipped

struct Matrix {
    Format format;
    Layout layout;
    int outputs, inputs;
    const uint8_t* weights;
};

// Forms of activations, as bit flags: for example, products with int8 weights read int8 activations.
enum Form : int32_t { AS_FP32 = 1, AS_BF16 = 2, AS_INT8 = 4 };

// Rows of activations, in each form that a product reads.
struct Inputs {
    int width = 0;         // in the model
    int padded = 0;        // next multiple of GROUP; values beyond `width` are zero
    int forms = 0;         // set of Forms that are stored
    bool sparse = false;   // list the nonzero inputs if there are few rows
    float* fp32 = nullptr;       // (rows, padded)
    uint16_t* bf16 = nullptr;    // (rows, padded)
    int8_t* int8 = nullptr;      // (rows, padded), x = int8 * scale
    float* scale = nullptr;      // (rows, padded / GROUP)
    int32_t* sum = nullptr;      // (rows, padded / GROUP), sum of int8
    int32_t* nonzero = nullptr;  // inputs that are nonzero in one of at most FEW_ROWS rows, in order
    int n_nonzero = 0;           // `width` if all inputs are listed
};

// Destination of a product: y[row * stride + output], replaced or added to.
struct Outputs {
    float* y;
    size_t stride;
    bool add;
};

// The functions that were compiled for one CPU level.
struct Kernels {
    const char* name;
    int lanes;            // floats per vector
    int form[FORMATS];    // Form that the products of each format read

    // Compute outputs [first, last) of a matrix for all rows. `scratch` has SCRATCH_BYTES bytes.
    void (*product)(const Matrix&, const Inputs&, int rows, int first, int last, Outputs, void* scratch);
    // Convert `width` floats to the forms of row `row` of the inputs.
    void (*prepare)(const float* x, Inputs&, int row);
    // List the nonzero inputs of all rows, at most FEW_ROWS; or all inputs, if that is faster.
    void (*list_nonzero)(Inputs&, int rows);

    void (*layer_norm)(const float* x, const float* weight, const float* bias, float eps, int n, float* y);
    void (*mix)(const float* x, const float* difference, const float* share, const float* change, int n, float* y);
    void (*squared_relu)(const float* x, int n, float* y);
    void (*sigmoid)(const float* x, int n, float* y);
    void (*add_gated)(const float* gate, const float* x, int n, float* y);

    // Run one head of a recurrence (for RWKV-4: a range of channels) over the tokens of a sequence.
    void (*wkv4)(const struct Wkv4&, int first, int last);
    void (*wkv6)(const struct Wkv6&, int head, float* work);
    void (*wkv7)(const struct Wkv7&, int head, float* work);
    // Advance the state of one head by tokens whose vectors an earlier run kept.
    void (*replay6)(const struct Replay&, int head);
    void (*replay7)(const struct Replay&, int head);
    // Run one head of the training recurrence; `head` counts over the whole batch.
    void (*train_forward)(const struct TrainingForward&, int64_t head, float* scratch);
    void (*train_backward)(const struct TrainingBackward&, int64_t head, float* scratch);
    // Read memory at full speed, to measure the bandwidth.
    uint64_t (*stream)(const uint8_t* memory, size_t bytes);
};

constexpr size_t SCRATCH_BYTES = 256 * 1024;  // per thread
constexpr int WKV4_STATE_ROWS = 3;            // numerator, denominator, largest exponent

// The vectors of a token that a run keeps, so that the state after any token can be computed later:
//   RWKV-4   the state itself, WKV4_STATE_ROWS vectors
//   RWKV-5   k, v
//   RWKV-6   k, v, decay
//   RWKV-7   k, v, decay, kappa, b
constexpr int KEPT5 = 2, KEPT6 = 3, KEPT7 = 5;

// Operands of a recurrence for one sequence. Vectors of consecutive tokens are `width` floats apart. The
// state is read from `state` and written to `new_state`.
struct Wkv4 {
    int tokens, width;
    const float *receptance, *key, *value;  // (tokens, width); receptance before its sigmoid
    const float *log_decay, *bonus;         // (width)
    const float* state;                     // (WKV4_STATE_ROWS, width)
    float *new_state, *y;                   // y = sigmoid(receptance) wkv
    float* kept;                            // (tokens, WKV4_STATE_ROWS, width) or null
};

struct Wkv6 {
    int tokens, width, size;                       // head size
    const float *receptance, *key, *value;         // (tokens, width)
    const float* gate;                             // (tokens, width) or null; before its silu
    const float* decay_change;                     // (tokens, width) or null
    const float* decay;                            // (width): raw; if decay_change is null, the decay itself
    const float *bonus, *norm_weight, *norm_bias;  // (width)
    float eps;
    const float* state;                            // (heads, value, key)
    float *new_state, *y;
    float* kept;                                   // (tokens, KEPT5 or KEPT6, width) or null
};

struct Wkv7 {
    int tokens, width, size;
    const float *receptance, *key, *value;   // (tokens, width)
    const float *decay, *rate, *gate, *mix;  // (tokens, width), before sigmoids; mix null in layer 0
    float* value_first;                      // (tokens, width): written by layer 0
    const float *w0, *a0, *v0, *k_k, *k_a, *r_k, *norm_weight, *norm_bias;  // (width)
    float eps;
    const float* state;                      // (heads, value, key)
    float *new_state, *y;
    float* kept;                             // (tokens, KEPT7, width) or null
};

struct Replay {
    int tokens, width, size;
    const float* kept;   // (tokens, KEPT5, KEPT6 or KEPT7, width)
    const float* decay;  // (width) if the decay is constant (RWKV-5), else null
    const float* state;  // (heads, value, key)
    float* new_state;
};

}  // namespace wkv
