#include "plan.h"

#include <string.h>

#include <algorithm>

#if !defined(_WIN32)
#include <unistd.h>
#endif

namespace wkv {
namespace {

constexpr int TASKS_PER_THREAD = 8;       // a thread that is interrupted takes fewer tasks
constexpr int MIN_TASK_BYTES = 16 * 1024; // of weights: taking a task costs as much as reading some kilobytes
constexpr int ROWS_OUTPUTS = 48;          // outputs per task are multiples of this in layout ROWS
constexpr int BLOCKS_OUTPUTS = 4 * BLOCK; // and of this in layout BLOCKS
constexpr int MAX_ROWS_PER_TASK = 16;
constexpr int ROW_TASKS_PER_THREAD = 2;
constexpr int SHIFT_SCRATCH_ROWS = 4;     // normed, previous, difference, mixed
constexpr int BYTE_BITS = 8;

long this_process() {
#if defined(_WIN32)
    return 0;  // Windows has no fork
#else
    return (long)getpid();
#endif
}
int round_up(int n, int unit) { return (n + unit - 1) / unit * unit; }

int bits_per_weight(Format format) {
    switch (format) {
        case FP32: return 32;
        case INT8: return 8;
        case INT4: return 4;
        default: return 16;
    }
}

}  // namespace

bool Plan::is_of_this_process() const { return process_ == this_process(); }

Plan::Plan(const Kernels& kernels, int threads) : kernels_(kernels), process_(this_process()), threads_(threads) {
    scratch_.resize(threads_.count());
    for (auto& scratch : scratch_) scratch.resize(SCRATCH_BYTES);
    buffers_.resize(CALLER_BUFFERS);
}

void Plan::set_widths(int x, int logits) {
    buffers_[X_BUFFER].width = x;
    buffers_[LOGITS_BUFFER].width = logits;
}

int Plan::add_matrix(Matrix matrix) {
    matrices_.push_back(matrix);
    return (int)matrices_.size() - 1;
}

int Plan::add_vector(const float* values) {
    vectors_.push_back(values);
    return (int)vectors_.size() - 1;
}

int Plan::add_buffer(int width) {
    buffers_.push_back({width, nullptr, {}});
    return (int)buffers_.size() - 1;
}

int Plan::add_inputs(int width, int forms, bool sparse) {
    Inputs inputs;
    inputs.width = width;
    inputs.padded = round_up(width, GROUP);
    inputs.forms = forms;
    inputs.sparse = sparse;
    inputs_.push_back(inputs);
    inputs_memory_.emplace_back();
    return (int)inputs_.size() - 1;
}

bool Plan::add_step(int list, int kind, int phase, const void* fields) {
    if (list < 0 || list >= STEP_LISTS || kind < 0 || kind >= KINDS) return false;
    auto& steps = lists_[list];
    if (!steps.empty() && phase < steps.back().phase) return false;
    Step step{(Kind)kind, phase, {}};
    memcpy(&step.norm, fields, STEP_SIZES[kind]);
    if (!fits_scratch(step)) return false;
    if (kind == SHIFT && (step.shift.n_mixes < 0 || step.shift.n_mixes > MAX_MIXES)) return false;
    steps.push_back(step);
    allocated_rows_ = 0;  // buffers may have been added
    return true;
}

// Intermediate rows of a task are stored in the scratch memory of its thread.
bool Plan::fits_scratch(const Step& step) const {
    const size_t floats = SCRATCH_BYTES / sizeof(float);
    switch (step.kind) {
        case ACTIVATE: return (size_t)inputs_[step.activate.inputs].width <= floats;
        case SHIFT: return SHIFT_SCRATCH_ROWS * (size_t)width(step.shift.x) <= floats;
        case MIX: return (size_t)width(step.mix.x) <= floats;
        case ADAPTER: return fits_adapters(step.adapter, floats);
        default: return true;
    }
}

// The factors of an adapter are matrices in pairs; the vector between them is stored in the scratch memory.
bool Plan::fits_adapters(const AdapterStep& step, size_t floats) const {
    if (step.first < 0 || step.first + 2 * step.count > (int)matrices_.size()) return false;
    for (int i = 0; i < step.count; i++)
        if ((size_t)matrices_[step.first + 2 * i].outputs > floats) return false;
    return true;
}

void Plan::allocate(int rows) {
    if (rows <= allocated_rows_) return;
    for (size_t i = CALLER_BUFFERS; i < buffers_.size(); i++) {
        buffers_[i].memory.resize((size_t)rows * buffers_[i].width);
        buffers_[i].data = buffers_[i].memory.data();
    }
    for (size_t i = 0; i < inputs_.size(); i++) {
        Inputs& in = inputs_[i];
        InputsMemory& memory = inputs_memory_[i];
        const size_t n = (size_t)rows * in.padded;
        if (in.forms & AS_FP32) memory.fp32.resize(n), in.fp32 = memory.fp32.data();
        if (in.forms & AS_BF16) memory.bf16.resize(n), in.bf16 = memory.bf16.data();
        if (in.forms & AS_INT8) {
            memory.int8.resize(n), in.int8 = memory.int8.data();
            memory.scale.resize(n / GROUP), in.scale = memory.scale.data();
            memory.sum.resize(n / GROUP), in.sum = memory.sum.data();
        }
        memory.nonzero.resize(in.padded + 1), in.nonzero = memory.nonzero.data();
    }
    allocated_rows_ = rows;
}

void Plan::start_run(int rows, float* x, float* logits, const Run& run) {
    allocate(rows);
    rows_ = rows;
    buffers_[X_BUFFER].data = x;
    buffers_[LOGITS_BUFFER].data = logits;
    start_sequences(run);
}

void Plan::start_sequences(const Run& run) {
    run_ = run;
    starts_.clear();
    sequence_of_.clear();
    for (int s = 0; s < run.n_sequences; s++) {
        starts_.push_back((int)sequence_of_.size());
        sequence_of_.insert(sequence_of_.end(), run.tokens[s], s);
    }
}

void Plan::schedule(const std::vector<Step>& steps) {
    phase_sizes_.assign(steps.empty() ? 0 : steps.back().phase + 1, 0);
    phases_.resize(std::max(phases_.size(), phase_sizes_.size()));
    for (auto& phase : phases_) phase.clear();
    for (size_t i = 0; i < steps.size(); i++) {
        const int phase = steps[i].phase;
        phases_[phase].push_back({(int)i, phase_sizes_[phase]});
        phase_sizes_[phase] += task_count(steps[i]);
    }
}

void Plan::run(StepList list, int rows, float* x, float* logits, const Run& run) {
    std::lock_guard<std::mutex> lock(running_);
    start_run(rows, x, logits, run);
    const auto& steps = lists_[list];
    schedule(steps);
    threads_.run(phase_sizes_, [&](int phase, int index, int thread) {
        const auto& tasks = phases_[phase];
        size_t at = tasks.size() - 1;
        while (tasks[at].first > index) at--;
        run_task(steps[tasks[at].step], index - tasks[at].first, thread);
    });
}

int Plan::rows_per_task() const {
    return std::max(1, std::min(MAX_ROWS_PER_TASK, rows_ / (threads_.count() * ROW_TASKS_PER_THREAD)));
}

int Plan::outputs_per_task(const Matrix& matrix) const {
    const int unit = matrix.layout == COLUMNS ? PANEL : matrix.layout == BLOCKS ? BLOCKS_OUTPUTS : ROWS_OUTPUTS;
    const int least = divide_up(BYTE_BITS * MIN_TASK_BYTES, bits_per_weight(matrix.format) * matrix.inputs);
    return round_up(std::max(least, divide_up(matrix.outputs, threads_.count() * TASKS_PER_THREAD)), unit);
}

// The mixes of a single row are divided among the threads, and each thread normalizes the row again;
// the first task also writes the state.
int Plan::shift_tasks_per_row(const ShiftStep& step) const {
    return rows_ > 1 ? 1 : std::max(1, std::min(threads_.count(), (int)step.n_mixes));
}

// One task prepares all rows, because the list is that of all of them.
bool Plan::lists_nonzero(const ActivateStep& step) const { return inputs_[step.inputs].sparse && rows_ <= FEW_ROWS; }

int Plan::task_count(const Step& step) const {
    switch (step.kind) {
        case PRODUCT: {
            const Matrix& matrix = matrices_[step.product.matrix];
            return divide_up(matrix.outputs, outputs_per_task(matrix));
        }
        case WKV4: return run_.n_sequences * divide_up(width(step.wkv4.receptance), CHANNELS_PER_TASK);
        case WKV6: return run_.n_sequences * (width(step.wkv6.receptance) / step.wkv6.head_size);
        case WKV7: return run_.n_sequences * (width(step.wkv7.receptance) / step.wkv7.head_size);
        case ADAPTER: return run_.adapters == nullptr ? 0 : divide_up(rows_, rows_per_task());
        case SHIFT: return divide_up(rows_, rows_per_task()) * shift_tasks_per_row(step.shift);
        case ACTIVATE: return lists_nonzero(step.activate) ? 1 : divide_up(rows_, rows_per_task());
        default: return divide_up(rows_, rows_per_task());
    }
}

void Plan::run_task(const Step& step, int index, int thread) {
    void* scratch = scratch_[thread].data();
    float* floats = (float*)scratch;
    const int begin = index * rows_per_task(), end = std::min(rows_, begin + rows_per_task());
    switch (step.kind) {
        case NORM: return norm(step.norm, begin, end);
        case SHIFT: return rows_ == 1 ? shift(step.shift, 0, 1, index, floats) : shift(step.shift, begin, end, 0, floats);
        case MIX: return mix(step.mix, begin, end, floats);
        case ACTIVATE: return lists_nonzero(step.activate) ? activate_and_list(step.activate, floats)
                                                           : activate(step.activate, begin, end, floats);
        case PRODUCT: return product(step.product, index, scratch);
        case GATED: return gated(step.gated, begin, end);
        case WKV4: return wkv4(step.wkv4, index);
        case WKV6: return wkv6(step.wkv6, index, floats);
        case WKV7: return wkv7(step.wkv7, index, floats);
        case ADAPTER: return adapter(step.adapter, begin, end, floats);
        case KINDS: return;
    }
}

}  // namespace wkv
