// What the parts of the engine share: formats, matrices, inputs of products, the table of kernels.
//
// Names follow the models: a matrix has `outputs` rows and `inputs` columns, a product reads `rows`
// of activations, one for each token, and hands back `rows` of outputs.
#pragma once
#include <stddef.h>
#include <stdint.h>

namespace wkv {

// How the weights of a matrix are written. Keep in step with wkv/packing.py.
enum Format : int32_t { FP32 = 0, FP16 = 1, BF16 = 2, INT8 = 3, INT4 = 4, FORMATS = 5 };

// How a matrix lies in memory.
//   ROWS     fp32, fp16, bf16: output after output, as checkpoints have it.
//   BLOCKS   int8, int4: 16 outputs side by side; see `Block` in products_int.inl.
//   COLUMNS  any: input after input, in panels of 128 outputs, so that an input that is zero costs
//            nothing; see products_columns.inl.
enum Layout : int32_t { ROWS = 0, BLOCKS = 1, COLUMNS = 2 };

constexpr int GROUP = 32;   // weights that share a scale
constexpr int BLOCK = 16;   // outputs of a block
constexpr int PANEL = 128;  // outputs of a panel

struct Matrix {
    Format format;
    Layout layout;
    int outputs, inputs;
    const uint8_t* weights;
};

// What a product reads its activations as: a product of int8 weights wants int8 activations.
enum Form : int32_t { AS_FP32 = 1, AS_BF16 = 2, AS_INT8 = 4 };

// Rows of activations, in each form that some product wants.
struct Inputs {
    int width = 0;         // as the model has it
    int padded = 0;        // the next multiple of GROUP; what is beyond `width` is zero
    int forms = 0;         // Forms that are kept
    bool finds = false;    // whether the inputs that are not zero are listed, where a row is alone
    bool alone = false;
    float* fp32 = nullptr;       // (rows, padded)
    uint16_t* bf16 = nullptr;    // (rows, padded)
    int8_t* int8 = nullptr;      // (rows, padded), x = int8 * scale
    float* scale = nullptr;      // (rows, padded / GROUP)
    int32_t* sum = nullptr;      // (rows, padded / GROUP), sum of int8
    int32_t* nonzero = nullptr;  // indices of the inputs that are not zero, in order
    int n_nonzero = 0;
};

// Where a product goes: y[row * stride + output], replaced or added to.
struct Outputs {
    float* y;
    size_t stride;
    bool add;
};

// The functions that were compiled for one kind of CPU.
struct Kernels {
    const char* name;
    int lanes;            // floats in a vector
    int form[FORMATS];    // what the products of each format read

    // Outputs [first, last) of a matrix for all rows. `scratch` holds SCRATCH bytes of a thread's own.
    void (*product)(const Matrix&, const Inputs&, int rows, int first, int last, Outputs, void* scratch);
    // Fill row `row` of `inputs` with `width` floats.
    void (*prepare)(const float* x, Inputs&, int row);

    void (*layer_norm)(const float* x, const float* weight, const float* bias, float eps, int n, float* y);
    void (*mix)(const float* x, const float* difference, const float* mix, const float* more, int n, float* y);
    void (*squared_relu)(const float* x, int n, float* y);
    void (*sigmoid)(const float* x, int n, float* y);
    void (*add_gated)(const float* gate, const float* x, int n, float* y);

    // One head of a recurrence, or for RWKV-4 some channels, over the tokens of a sequence.
    void (*wkv4)(const struct Wkv4&, int first, int last);
    void (*wkv6)(const struct Wkv6&, int head, float* work);
    void (*wkv7)(const struct Wkv7&, int head, float* work);
    // Reads memory as fast as it comes, to measure that.
    uint64_t (*stream)(const uint8_t* memory, size_t bytes);
};

constexpr size_t SCRATCH = 256 * 1024;
constexpr int LARGEST_HEAD = 256;

// A sequence of tokens in a recurrence. Arrays of a token are `width` apart; a state is read from
// `state` and written to `new_state`.
struct Wkv4 {
    int tokens, width;
    const float *receptance, *key, *value;  // (tokens, width); the sigmoid of receptance is taken here
    const float *log_decay, *bonus;         // (width)
    const float* state;                     // (3, width): numerator, denominator, largest exponent
    float *new_state, *y;                   // y = sigmoid(receptance) wkv
};

struct Wkv6 {
    int tokens, width, size;                       // size of a head
    const float *receptance, *key, *value;         // (tokens, width)
    const float* gate;                             // (tokens, width) or null; silu is taken here
    const float* decay_change;                     // (tokens, width) or null
    const float* decay;                            // (width): raw, or the decay itself without change
    const float *bonus, *norm_weight, *norm_bias;  // (width)
    float eps;
    const float* state;                            // (heads, value, key)
    float *new_state, *y;
};

struct Wkv7 {
    int tokens, width, size;
    const float *receptance, *key, *value;   // (tokens, width)
    const float *decay, *rate, *gate, *mix;  // (tokens, width), before sigmoids; mix null in layer 0
    float* value_first;                      // (tokens, width): written in layer 0
    const float *w0, *a0, *v0, *k_k, *k_a, *r_k, *norm_weight, *norm_bias;  // (width)
    float eps;
    const float* state;                      // (heads, value, key)
    float *new_state, *y;
};

}  // namespace wkv
