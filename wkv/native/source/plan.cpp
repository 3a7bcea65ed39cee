#include "plan.h"

#include <math.h>
#include <string.h>

#include <algorithm>

#if !defined(_WIN32)
#include <unistd.h>
#endif

namespace wkv {
namespace {

constexpr int TASKS_A_THREAD = 8;  // so that a thread that is slow for a while does less
constexpr int SMALLEST_TASK = 16 * 1024;  // bytes of weights
constexpr int CHANNELS_A_TASK = 64;

long this_process() {
#if defined(_WIN32)
    return 0;  // processes are not forked there
#else
    return (long)getpid();
#endif
}
int rounded_up(int n, int unit) { return (n + unit - 1) / unit * unit; }
int parts(int n, int size) { return (n + size - 1) / size; }

}  // namespace

bool Plan::is_of_this_process() const { return process_ == this_process(); }

Plan::Plan(const Kernels& kernels, int threads) : kernels_(kernels), process_(this_process()), threads_(threads) {
    scratch_.resize(threads_.count());
    for (auto& scratch : scratch_) scratch.resize(SCRATCH);
    buffers_.resize(2);
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

int Plan::add_inputs(int width, int forms, bool finds) {
    Inputs inputs;
    inputs.width = width;
    inputs.padded = rounded_up(width, GROUP);
    inputs.forms = forms;
    inputs.finds = finds;
    inputs_.push_back(inputs);
    inputs_memory_.emplace_back();
    return (int)inputs_.size() - 1;
}

bool Plan::add_step(int list, const Step& step) {
    if (list < 0 || list > 1 || step.kind < 0 || step.kind >= KINDS) return false;
    if (!lists_[list].empty() && step.phase < lists_[list].back().phase) return false;
    // Rows that are made on the way lie in a thread's own memory.
    const int* a = step.argument;
    const size_t floats = SCRATCH / sizeof(float);
    if (step.kind == ACTIVATE && (size_t)inputs_[a[4]].width > floats) return false;
    if ((step.kind == SHIFT || step.kind == MIX) && 4 * (size_t)buffers_[a[0]].width > floats) return false;
    lists_[list].push_back(step);
    room_ = 0;  // buffers may have been added
    return true;
}

void Plan::make_room(int rows) {
    if (rows <= room_) return;
    for (size_t i = 2; i < buffers_.size(); i++) {
        buffers_[i].own.resize((size_t)rows * buffers_[i].width);
        buffers_[i].at = buffers_[i].own.data();
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
    room_ = rows;
}

void Plan::run(int list, int rows, float* x, float* y, const Run& run) {
    std::lock_guard<std::mutex> lock(running_);
    make_room(rows);
    rows_ = rows;
    run_ = run;
    buffers_[0].at = x;
    buffers_[1].at = y;
    starts_.clear();
    sequence_of_.clear();
    for (int s = 0; s < run.n_sequences; s++) {
        starts_.push_back((int)sequence_of_.size());
        sequence_of_.insert(sequence_of_.end(), run.tokens[s], s);
    }
    for (Inputs& inputs : inputs_) inputs.alone = rows == 1;
    const auto& steps = lists_[list];
    sizes_.assign(steps.empty() ? 0 : steps.back().phase + 1, 0);
    shares_.resize(std::max(shares_.size(), sizes_.size()));
    for (auto& shares : shares_) shares.clear();
    for (size_t i = 0; i < steps.size(); i++) {
        const int phase = steps[i].phase;
        shares_[phase].push_back({(int)i, sizes_[phase]});
        sizes_[phase] += tasks(steps[i]);
    }
    threads_.run(sizes_, [&](int phase, int index, int thread) {
        const auto& shares = shares_[phase];
        size_t at = shares.size() - 1;
        while (shares[at].first > index) at--;
        do_task(steps[shares[at].step], index - shares[at].first, thread);
    });
}

int Plan::rows_a_task() const { return std::max(1, std::min(16, rows_ / (threads_.count() * 2))); }

int Plan::outputs_a_task(const Matrix& matrix) const {
    const int unit = matrix.layout == COLUMNS ? PANEL : matrix.layout == BLOCKS ? 4 * BLOCK : 48;
    // Taking a task costs as much as reading some kilobytes.
    const int bits = matrix.format == FP32 ? 32 : matrix.format == INT8 ? 8 : matrix.format == INT4 ? 4 : 16;
    const int least = parts(8 * SMALLEST_TASK, bits * matrix.inputs);
    return rounded_up(std::max(least, parts(matrix.outputs, threads_.count() * TASKS_A_THREAD)), unit);
}

int Plan::shifts_a_row(const Step& step) const {
    // A row alone is normed by each thread for a part of its mixes; one of them leaves the state.
    return rows_ > 1 ? 1 : std::max(1, std::min(threads_.count(), (step.n_arguments - 7) / 2));
}

int Plan::tasks(const Step& step) const {
    const int* a = step.argument;
    switch (step.kind) {
        case PRODUCT: return parts(matrices_[a[1]].outputs, outputs_a_task(matrices_[a[1]]));
        case WKV4: return run_.n_sequences * parts(buffers_[a[0]].width, CHANNELS_A_TASK);
        case WKV6: return run_.n_sequences * (buffers_[a[0]].width / a[11]);
        case WKV7: return run_.n_sequences * (buffers_[a[0]].width / a[18]);
        case SHIFT: return parts(rows_, rows_a_task()) * shifts_a_row(step);
        default: return parts(rows_, rows_a_task());
    }
}

void Plan::do_task(const Step& step, int index, int thread) {
    void* scratch = scratch_[thread].data();
    float* floats = (float*)scratch;
    const int begin = index * rows_a_task(), end = std::min(rows_, begin + rows_a_task());
    switch (step.kind) {
        case NORM: return norm(step, begin, end);
        case SHIFT: return rows_ == 1 ? shift(step, 0, 1, index, floats) : shift(step, begin, end, 0, floats);
        case MIX: return mix(step, begin, end, floats);
        case ACTIVATE: return activate(step, begin, end, floats);
        case PRODUCT: return product(step, index, scratch);
        case GATED: return gated(step, begin, end);
        case WKV4: return wkv4(step, index);
        case WKV6: return wkv6(step, index, floats);
        case WKV7: return wkv7(step, index, floats);
        case KINDS: return;
    }
}

void Plan::norm(const Step& step, int begin, int end) {
    const int* a = step.argument;
    for (int r = begin; r < end; r++) {
        float* to = row(a[1], r);
        kernels_.layer_norm(row(a[0], r), vector(a[2]), vector(a[3]), step.eps, buffers_[a[1]].width, to);
    }
}

void Plan::shift(const Step& step, int begin, int end, int share, float* scratch) {
    const int* a = step.argument;
    const int n = buffers_[a[0]].width, which = a[3] * PARTS + a[4], shares = shifts_a_row(step);
    const float *weight = vector(a[1]), *bias = vector(a[2]);
    float *x = scratch, *before = x + n, *difference = before + n, *mixed = difference + n;
    for (int r = begin; r < end; r++) {
        const int sequence = sequence_of_[r];
        const bool first = r == starts_[sequence];
        const bool last = r + 1 == starts_[sequence] + run_.tokens[sequence];
        const size_t place = (size_t)sequence * n;
        if (first)
            memcpy(before, run_.state[which] + place, n * sizeof(float));
        else if (r == begin)
            kernels_.layer_norm(row(a[0], r - 1), weight, bias, step.eps, n, before);
        kernels_.layer_norm(row(a[0], r), weight, bias, step.eps, n, x);
        for (int i = 0; i < n; i++) difference[i] = before[i] - x[i];
        if (a[5] >= 0 && share == 0) memcpy(row(a[5], r), x, n * sizeof(float));
        if (a[6] >= 0 && share == 0) memcpy(row(a[6], r), difference, n * sizeof(float));
        for (int i = 7 + 2 * share; i + 1 < step.n_arguments; i += 2 * shares) {
            kernels_.mix(x, difference, vector(a[i]), nullptr, n, mixed);
            kernels_.prepare(mixed, inputs_[a[i + 1]], r);
        }
        if (last && share == 0) memcpy(run_.new_state[which] + place, x, n * sizeof(float));
        std::swap(x, before);
    }
    if (begin > 0 || share > 0) return;
    for (int s = 0; s < run_.n_sequences; s++)  // those without a token keep their state
        if (run_.tokens[s] == 0)
            memcpy(run_.new_state[which] + (size_t)s * n, run_.state[which] + (size_t)s * n, n * sizeof(float));
}

void Plan::mix(const Step& step, int begin, int end, float* scratch) {
    const int* a = step.argument;
    const int n = buffers_[a[0]].width;
    for (int r = begin; r < end; r++) {
        kernels_.mix(row(a[0], r), row(a[1], r), vector(a[2]), row(a[3], r), n, scratch);
        kernels_.prepare(scratch, inputs_[a[4]], r);
    }
}

void Plan::activate(const Step& step, int begin, int end, float* scratch) {
    const int* a = step.argument;
    Inputs& to = inputs_[a[4]];
    for (int r = begin; r < end; r++) {
        const float* from = row(a[0], r) + a[2];
        switch (a[3]) {
            case TANH:
                for (int i = 0; i < to.width; i++) scratch[i] = tanhf(from[i]);
                break;
            case SIGMOID: kernels_.sigmoid(from, to.width, scratch); break;
            case SQUARED_RELU: kernels_.squared_relu(from, to.width, scratch); break;
            default: kernels_.prepare(from, to, r); continue;
        }
        kernels_.prepare(scratch, to, r);
    }
    if (to.finds && rows_ == 1 && !skip_zeros) {  // as if nothing were zero, to measure what skipping brings
        for (int i = 0; i < to.width; i++) to.nonzero[i] = i;
        to.n_nonzero = to.width;
    }
}

void Plan::product(const Step& step, int index, void* scratch) {
    const int* a = step.argument;
    const Matrix& matrix = matrices_[a[1]];
    const int size = outputs_a_task(matrix), first = index * size;
    Buffer& to = buffers_[a[2]];
    kernels_.product(matrix, inputs_[a[0]], rows_, first, std::min(matrix.outputs, first + size),
                     {to.at, (size_t)to.width, a[3] != 0}, scratch);
}

void Plan::gated(const Step& step, int begin, int end) {
    const int* a = step.argument;
    for (int r = begin; r < end; r++) kernels_.add_gated(row(a[0], r), row(a[1], r), buffers_[a[2]].width, row(a[2], r));
}

void Plan::wkv4(const Step& step, int index) {
    const int* a = step.argument;
    const int width = buffers_[a[0]].width, pieces = parts(width, CHANNELS_A_TASK);
    const int s = index / pieces, first = index % pieces * CHANNELS_A_TASK;
    const size_t place = (size_t)s * 3 * width;
    const int which = a[6] * PARTS + WKV;
    kernels_.wkv4({run_.tokens[s], width, first_row(a[0], s), first_row(a[1], s), first_row(a[2], s), vector(a[4]),
                   vector(a[5]), run_.state[which] + place, run_.new_state[which] + place, first_row(a[3], s)},
                  first, std::min(width, first + CHANNELS_A_TASK));
}

const Kernels& Plan::for_heads(int size) const {
    return size % kernels_.lanes == 0 ? kernels_ : *find_kernels("plain");
}

bool Plan::kept(int sequence, size_t place, int which, int size) {
    if (run_.tokens[sequence] > 0) return false;
    memcpy(run_.new_state[which] + place, run_.state[which] + place, (size_t)size * size * sizeof(float));
    return true;
}

void Plan::wkv6(const Step& step, int index, float* work) {
    const int* a = step.argument;
    const int width = buffers_[a[0]].width, size = a[11], heads = width / size, s = index / heads;
    const int which = a[10] * PARTS + WKV;
    const size_t place = (size_t)s * heads * size * size;
    if (kept(s, (size_t)index * size * size, which, size)) return;
    for_heads(size).wkv6({run_.tokens[s], width, size, first_row(a[0], s), first_row(a[1], s), first_row(a[2], s),
                          first_row(a[3], s), first_row(a[4], s), vector(a[6]), vector(a[7]), vector(a[8]),
                          vector(a[9]), step.eps, run_.state[which] + place, run_.new_state[which] + place,
                          first_row(a[5], s)},
                         index % heads, work);
}

void Plan::wkv7(const Step& step, int index, float* work) {
    const int* a = step.argument;
    const int width = buffers_[a[0]].width, size = a[18], heads = width / size, s = index / heads;
    const int which = a[17] * PARTS + WKV;
    const size_t place = (size_t)s * heads * size * size;
    if (kept(s, (size_t)index * size * size, which, size)) return;
    for_heads(size).wkv7({run_.tokens[s], width, size, first_row(a[0], s), first_row(a[1], s), first_row(a[2], s),
                          first_row(a[3], s), first_row(a[4], s), first_row(a[5], s), first_row(a[6], s),
                          first_row(a[7], s), vector(a[9]), vector(a[10]), vector(a[11]), vector(a[12]),
                          vector(a[13]), vector(a[14]), vector(a[15]), vector(a[16]), step.eps,
                          run_.state[which] + place, run_.new_state[which] + place, first_row(a[8], s)},
                         index % heads, work);
}

}  // namespace wkv
