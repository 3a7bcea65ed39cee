// A model as a list of steps, and running them. Which steps there are is settled in wkv/native.
#pragma once
#include <memory>
#include <mutex>
#include <vector>

#include "engine.h"
#include "threads.h"

namespace wkv {

// What a step does; its arguments are numbers of buffers, inputs, vectors and matrices, -1 for none.
// Keep in step with wkv/native/plan.py, where each is described.
enum Kind : int32_t {
    NORM = 0,     // from, to, weight, bias
    SHIFT = 1,    // from, weight, bias, layer, part, x, difference, then pairs of mix vector, inputs
    MIX = 2,      // x, difference, mix vector, more, inputs
    ACTIVATE = 3, // from, width of from, first, function, inputs
    PRODUCT = 4,  // inputs, matrix, to, whether to add
    GATED = 5,    // gate, from, to
    WKV4 = 6,     // r, k, v, y, log_decay, bonus, layer
    WKV6 = 7,     // r, k, v, g, decay_change, y, decay, bonus, norm_weight, norm_bias, layer, size
    WKV7 = 8,     // r, k, v, decay, rate, gate, mix, value_first, y, w0, a0, v0, k_k, k_a, r_k,
                  // norm_weight, norm_bias, layer, size
    KINDS = 9
};
enum Function : int32_t { NOTHING = 0, TANH = 1, SIGMOID = 2, SQUARED_RELU = 3 };
enum Part : int32_t { ATT_SHIFT = 0, WKV = 1, FFN_SHIFT = 2, PARTS = 3 };

constexpr int MOST_ARGUMENTS = 24;

struct Step {
    Kind kind;
    int phase;
    int argument[MOST_ARGUMENTS];
    int n_arguments;
    float eps;
};

// What a run is given: sequences of tokens, one after the other, and a state for each.
struct Run {
    int n_sequences = 0;
    const int32_t* tokens = nullptr;          // of each sequence
    const float* const* state = nullptr;      // layer * PARTS + part: (sequences, ...)
    float* const* new_state = nullptr;
};

class Plan {
public:
    Plan(const Kernels& kernels, int threads);

    int add_matrix(Matrix matrix);
    int add_vector(const float* values);
    int add_buffer(int width);
    int add_inputs(int width, int forms, bool finds);
    bool add_step(int list, const Step& step);
    void set_widths(int x, int y) { buffers_[0].width = x, buffers_[1].width = y; }

    // Pass rows through the steps of a list. Buffers 0 and 1 are the caller's: `x` and `y`.
    void run(int list, int rows, float* x, float* y, const Run& run);

    bool is_of_this_process() const;
    bool skip_zeros = true;

private:
    struct Buffer {
        int width;
        float* at = nullptr;
        std::vector<float> own;
    };
    struct InputsMemory {
        std::vector<float> fp32, scale;
        std::vector<uint16_t> bf16;
        std::vector<int8_t> int8;
        std::vector<int32_t> sum, nonzero;
    };
    struct Share { int step, first; };  // a step's tasks begin at this index of its phase

    void make_room(int rows);
    int tasks(const Step& step) const;
    int rows_a_task() const;
    void do_task(const Step& step, int index, int thread);
    void norm(const Step&, int begin, int end);
    void shift(const Step&, int begin, int end, int share, float* scratch);
    void mix(const Step&, int begin, int end, float* scratch);
    void activate(const Step&, int begin, int end, float* scratch);
    void product(const Step&, int index, void* scratch);
    void gated(const Step&, int begin, int end);
    void wkv4(const Step&, int index);
    void wkv6(const Step&, int index, float* work);
    void wkv7(const Step&, int index, float* work);
    int outputs_a_task(const Matrix& matrix) const;
    int shifts_a_row(const Step&) const;
    const Kernels& for_heads(int size) const;
    // Whether a sequence has no tokens; then a head keeps its state.
    bool kept(int sequence, size_t place, int which, int size);

    float* row(int buffer, int row) { return buffers_[buffer].at + (size_t)row * buffers_[buffer].width; }
    float* first_row(int buffer, int sequence) { return buffer < 0 ? nullptr : row(buffer, starts_[sequence]); }
    const float* vector(int index) const { return index < 0 ? nullptr : vectors_[index]; }

    const Kernels& kernels_;
    const long process_;
    Threads threads_;
    std::mutex running_;
    std::vector<Matrix> matrices_;
    std::vector<const float*> vectors_;
    std::vector<Buffer> buffers_;
    std::vector<Inputs> inputs_;
    std::vector<InputsMemory> inputs_memory_;
    std::vector<std::vector<uint8_t>> scratch_;
    std::vector<Step> lists_[2];
    int room_ = 0;

    // Of the run at hand.
    int rows_ = 0;
    Run run_;
    std::vector<int> starts_;                  // first row of each sequence
    std::vector<int> sequence_of_;             // of each row
    std::vector<int> sizes_;                   // tasks of each phase
    std::vector<std::vector<Share>> shares_;   // steps of each phase
};

const Kernels* find_kernels(const char* name);  // null if they are not there or cannot run here
const char* kernels_here();                     // names of those that can, fastest first

}  // namespace wkv
