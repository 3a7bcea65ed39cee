// A model as a list of steps, and running them. wkv/native builds the list.
#pragma once
#include <memory>
#include <mutex>
#include <vector>

#include "engine.h"
#include "steps.h"
#include "threads.h"

namespace wkv {

constexpr int CHANNELS_PER_TASK = 64;  // of the RWKV-4 recurrence
inline int divide_up(int n, int size) { return (n + size - 1) / size; }

// The arguments of a run: sequences of tokens, stored one after the other, and a state for each.
struct Run {
    int n_sequences = 0;
    const int32_t* tokens = nullptr;        // number of tokens of each sequence
    const float* const* state = nullptr;    // layer * STATE_PARTS + part: (sequences, ...)
    float* const* new_state = nullptr;
    // Null, or layer * STATE_PARTS + part: (tokens of all sequences, ...), what is kept for a rewind: the
    // shifts after each token, and the vectors that engine.h lists.
    float* const* kept = nullptr;
    const int32_t* adapters = nullptr;      // the adapter of each sequence or NONE; null if none has one
};

class Plan {
public:
    Plan(const Kernels& kernels, int threads);

    int add_matrix(Matrix matrix);
    int add_vector(const float* values);
    int add_buffer(int width);
    int add_inputs(int width, int forms, bool sparse);
    // `fields` points at the struct of this kind. Returns whether the step is valid.
    bool add_step(int list, int kind, int phase, const void* fields);
    void set_widths(int x, int logits);

    // Pass rows through the steps of a list. `x` and `logits` become the caller's two buffers.
    void run(StepList list, int rows, float* x, float* logits, const Run& run);

    // Write to `run.new_state` the states after the first `counts` tokens of each sequence of an earlier run
    // of the BODY, from its `state` and what it kept.
    void rewind(const Run& run, const int32_t* counts);

    bool is_of_this_process() const;
    bool skip_zeros = true;

private:
    struct Buffer {
        int width;
        float* data = nullptr;
        std::vector<float> memory;
    };
    struct InputsMemory {
        std::vector<float> fp32, scale;
        std::vector<uint16_t> bf16;
        std::vector<int8_t> int8;
        std::vector<int32_t> sum, nonzero;
    };
    struct StepTasks { int step, first; };  // a step, and the index of its first task in its phase

    bool fits_scratch(const Step& step) const;
    bool fits_adapters(const AdapterStep& step, size_t floats) const;
    void allocate(int rows);
    void start_run(int rows, float* x, float* logits, const Run& run);
    void start_sequences(const Run& run);
    void schedule(const std::vector<Step>& steps);
    int task_count(const Step& step) const;
    int rows_per_task() const;
    int outputs_per_task(const Matrix& matrix) const;
    int shift_tasks_per_row(const ShiftStep& step) const;
    bool lists_nonzero(const ActivateStep& step) const;
    void run_task(const Step& step, int index, int thread);

    void norm(const NormStep&, int begin, int end);
    void shift(const ShiftStep&, int begin, int end, int task, float* scratch);
    void keep_shift_of_empty_sequences(int state_index, int width);
    void mix(const MixStep&, int begin, int end, float* scratch);
    void activate(const ActivateStep&, int begin, int end, float* scratch);
    void activate_and_list(const ActivateStep&, float* scratch);
    void product(const ProductStep&, int index, void* scratch);
    void gated(const GatedStep&, int begin, int end);
    void adapter(const AdapterStep&, int begin, int end, float* scratch);
    void wkv4(const Wkv4Step&, int index);
    void wkv6(const Wkv6Step&, int index, float* scratch);
    void wkv7(const Wkv7Step&, int index, float* scratch);
    int rewind_task_count(const Step& step) const;
    void rewind_task(const Step& step, int index, const int32_t* counts);
    void rewind_rows(int state_index, size_t width, int sequence, int count);
    void rewind_head(int layer, int heads, int size, int n_kept, const float* decay, int index, const int32_t* counts);
    float* kept(int state_index, size_t width, int sequence) const {
        return run_.kept ? run_.kept[state_index] + starts_[sequence] * width : nullptr;
    }
    const Kernels& kernels_for_heads(int size) const;
    // Copy the state of one head if its sequence has no tokens; return whether it was copied.
    bool copied_empty(int sequence, size_t offset, int state_index, int size);

    int width(int buffer) const { return buffers_[buffer].width; }
    float* row(int buffer, int row) { return buffers_[buffer].data + (size_t)row * width(buffer); }
    float* first_row(int buffer, int sequence) { return buffer == NONE ? nullptr : row(buffer, starts_[sequence]); }
    const float* vector(int index) const { return index == NONE ? nullptr : vectors_[index]; }

    const Kernels& kernels_;
    const long process_;
    Threads threads_;
    std::mutex running_;
    std::vector<Matrix> matrices_;
    std::vector<const float*> vectors_;
    std::vector<Buffer> buffers_;
    std::vector<Inputs> inputs_;
    std::vector<InputsMemory> inputs_memory_;
    std::vector<std::vector<uint8_t>> scratch_;  // of each thread
    std::vector<Step> lists_[STEP_LISTS];
    int allocated_rows_ = 0;

    // State of the current run.
    int rows_ = 0;
    Run run_;
    std::vector<int> starts_;                        // first row of each sequence
    std::vector<int> sequence_of_;                   // sequence of each row
    std::vector<int> phase_sizes_;                   // number of tasks of each phase
    std::vector<std::vector<StepTasks>> phases_;     // steps of each phase
};

const Kernels* find_kernels(const char* name);  // the fastest if `name` is empty; null if unavailable
const char* available_kernels();                // names of the kernels this CPU can run, fastest first

}  // namespace wkv
