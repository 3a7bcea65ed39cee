// What each kind of step does, for a range of rows, outputs or heads.
#include <math.h>
#include <string.h>

#include <algorithm>

#include "plan.h"

namespace wkv {
namespace {

void copy(float* to, const float* from, size_t n) { memcpy(to, from, n * sizeof(float)); }

}  // namespace

void Plan::norm(const NormStep& step, int begin, int end) {
    const float *weight = vector(step.weight), *bias = vector(step.bias);
    for (int r = begin; r < end; r++)
        kernels_.layer_norm(row(step.x, r), weight, bias, step.eps, width(step.y), row(step.y, r));
}

void Plan::shift(const ShiftStep& step, int begin, int end, int task, float* scratch) {
    const int n = width(step.x), state = state_index(step.layer, step.part), stride = shift_tasks_per_row(step);
    const float *weight = vector(step.weight), *bias = vector(step.bias);
    float *normed = scratch, *previous = normed + n, *difference = previous + n, *mixed = difference + n;
    const bool writes_rest = task == 0;
    for (int r = begin; r < end; r++) {
        const int sequence = sequence_of_[r];
        const bool first = r == starts_[sequence];
        const bool last = r + 1 == starts_[sequence] + run_.tokens[sequence];
        const size_t offset = (size_t)sequence * n;
        if (first)
            copy(previous, run_.state[state] + offset, n);
        else if (r == begin)
            kernels_.layer_norm(row(step.x, r - 1), weight, bias, step.eps, n, previous);
        kernels_.layer_norm(row(step.x, r), weight, bias, step.eps, n, normed);
        for (int i = 0; i < n; i++) difference[i] = previous[i] - normed[i];
        if (step.normed != NONE && writes_rest) copy(row(step.normed, r), normed, n);
        if (step.difference != NONE && writes_rest) copy(row(step.difference, r), difference, n);
        for (int i = task; i < step.n_mixes; i += stride) {
            kernels_.mix(normed, difference, vector(step.share[i]), nullptr, n, mixed);
            kernels_.prepare(mixed, inputs_[step.inputs[i]], r);
        }
        if (last && writes_rest) copy(run_.new_state[state] + offset, normed, n);
        if (run_.kept && writes_rest) copy(run_.kept[state] + (size_t)r * n, normed, n);
        std::swap(normed, previous);
    }
    if (begin == 0 && writes_rest) keep_shift_of_empty_sequences(state, n);
}

void Plan::keep_shift_of_empty_sequences(int state_index, int width) {
    for (int s = 0; s < run_.n_sequences; s++) {
        const size_t offset = (size_t)s * width;
        if (run_.tokens[s] == 0) copy(run_.new_state[state_index] + offset, run_.state[state_index] + offset, width);
    }
}

void Plan::mix(const MixStep& step, int begin, int end, float* scratch) {
    const float* share = vector(step.share);
    for (int r = begin; r < end; r++) {
        kernels_.mix(row(step.x, r), row(step.difference, r), share, row(step.change, r), width(step.x), scratch);
        kernels_.prepare(scratch, inputs_[step.inputs], r);
    }
}

void Plan::activate(const ActivateStep& step, int begin, int end, float* scratch) {
    Inputs& to = inputs_[step.inputs];
    for (int r = begin; r < end; r++) {
        const float* from = row(step.x, r) + step.first;
        switch (step.function) {
            case TANH:
                for (int i = 0; i < to.width; i++) scratch[i] = tanhf(from[i]);
                break;
            case SIGMOID: kernels_.sigmoid(from, to.width, scratch); break;
            case SQUARED_RELU: kernels_.squared_relu(from, to.width, scratch); break;
            default: kernels_.prepare(from, to, r); continue;
        }
        kernels_.prepare(scratch, to, r);
    }
}

void Plan::activate_and_list(const ActivateStep& step, float* scratch) {
    activate(step, 0, rows_, scratch);
    Inputs& to = inputs_[step.inputs];
    if (skip_zeros) return kernels_.list_nonzero(to, rows_);
    for (int i = 0; i < to.width; i++) to.nonzero[i] = i;  // to measure the gain of skipping zeros
    to.n_nonzero = to.width;
}

void Plan::product(const ProductStep& step, int index, void* scratch) {
    const Matrix& matrix = matrices_[step.matrix];
    const int size = outputs_per_task(matrix), first = index * size;
    const Outputs to{buffers_[step.y].data, (size_t)width(step.y), step.add != 0};
    kernels_.product(matrix, inputs_[step.inputs], rows_, first, std::min(matrix.outputs, first + size), to, scratch);
}

void Plan::gated(const GatedStep& step, int begin, int end) {
    for (int r = begin; r < end; r++)
        kernels_.add_gated(row(step.gate, r), row(step.x, r), width(step.y), row(step.y, r));
}

// Each row is computed alone, so that its bits do not depend on the others.
void Plan::adapter(const AdapterStep& step, int begin, int end, float* scratch) {
    const Inputs& in = inputs_[step.inputs];
    for (int r = begin; r < end; r++) {
        const int chosen = run_.adapters[sequence_of_[r]];
        if (chosen < 0 || chosen >= step.count) continue;
        const Matrix& A = matrices_[step.first + 2 * chosen];
        const Matrix& B = matrices_[step.first + 2 * chosen + 1];
        if (A.outputs == 0) continue;
        Inputs one, low;
        one.fp32 = in.fp32 + (size_t)r * in.padded;
        one.padded = in.padded;
        low.fp32 = scratch;
        low.padded = A.outputs;
        kernels_.product(A, one, 1, 0, A.outputs, {scratch, (size_t)A.outputs, false}, nullptr);
        kernels_.product(B, low, 1, 0, B.outputs, {row(step.y, r), (size_t)width(step.y), true}, nullptr);
    }
}

void Plan::wkv4(const Wkv4Step& step, int index) {
    const int channels = width(step.receptance), pieces = divide_up(channels, CHANNELS_PER_TASK);
    const int s = index / pieces, first = index % pieces * CHANNELS_PER_TASK;
    const int state = state_index(step.layer, WKV_STATE);
    const size_t offset = (size_t)s * WKV4_STATE_ROWS * channels;
    Wkv4 task;
    task.tokens = run_.tokens[s];
    task.width = channels;
    task.receptance = first_row(step.receptance, s);
    task.key = first_row(step.key, s);
    task.value = first_row(step.value, s);
    task.log_decay = vector(step.log_decay);
    task.bonus = vector(step.bonus);
    task.state = run_.state[state] + offset;
    task.new_state = run_.new_state[state] + offset;
    task.y = first_row(step.y, s);
    task.kept = kept(state, (size_t)WKV4_STATE_ROWS * channels, s);
    kernels_.wkv4(task, first, std::min(channels, first + CHANNELS_PER_TASK));
}

const Kernels& Plan::kernels_for_heads(int size) const {
    return size % kernels_.lanes == 0 ? kernels_ : *find_kernels("plain");
}

bool Plan::copied_empty(int sequence, size_t offset, int state_index, int size) {
    if (run_.tokens[sequence] > 0) return false;
    copy(run_.new_state[state_index] + offset, run_.state[state_index] + offset, (size_t)size * size);
    return true;
}

void Plan::wkv6(const Wkv6Step& step, int index, float* scratch) {
    const int size = step.head_size, heads = width(step.receptance) / size, s = index / heads;
    const int state = state_index(step.layer, WKV_STATE);
    const size_t matrix = (size_t)size * size, offset = (size_t)s * heads * matrix;
    if (copied_empty(s, (size_t)index * matrix, state, size)) return;
    Wkv6 task;
    task.tokens = run_.tokens[s];
    task.width = width(step.receptance);
    task.size = size;
    task.receptance = first_row(step.receptance, s);
    task.key = first_row(step.key, s);
    task.value = first_row(step.value, s);
    task.gate = first_row(step.gate, s);
    task.decay_change = first_row(step.decay_change, s);
    task.decay = vector(step.decay);
    task.bonus = vector(step.bonus);
    task.norm_weight = vector(step.norm_weight);
    task.norm_bias = vector(step.norm_bias);
    task.eps = step.eps;
    task.state = run_.state[state] + offset;
    task.new_state = run_.new_state[state] + offset;
    task.y = first_row(step.y, s);
    task.kept = kept(state, (size_t)(task.decay_change ? KEPT6 : KEPT5) * task.width, s);
    kernels_for_heads(size).wkv6(task, index % heads, scratch);
}

void Plan::wkv7(const Wkv7Step& step, int index, float* scratch) {
    const int size = step.head_size, heads = width(step.receptance) / size, s = index / heads;
    const int state = state_index(step.layer, WKV_STATE);
    const size_t matrix = (size_t)size * size, offset = (size_t)s * heads * matrix;
    if (copied_empty(s, (size_t)index * matrix, state, size)) return;
    Wkv7 task;
    task.tokens = run_.tokens[s];
    task.width = width(step.receptance);
    task.size = size;
    task.receptance = first_row(step.receptance, s);
    task.key = first_row(step.key, s);
    task.value = first_row(step.value, s);
    task.decay = first_row(step.decay, s);
    task.rate = first_row(step.rate, s);
    task.gate = first_row(step.gate, s);
    task.mix = first_row(step.mix, s);
    task.value_first = first_row(step.value_first, s);
    task.w0 = vector(step.w0);
    task.a0 = vector(step.a0);
    task.v0 = vector(step.v0);
    task.k_k = vector(step.k_k);
    task.k_a = vector(step.k_a);
    task.r_k = vector(step.r_k);
    task.norm_weight = vector(step.norm_weight);
    task.norm_bias = vector(step.norm_bias);
    task.eps = step.eps;
    task.state = run_.state[state] + offset;
    task.new_state = run_.new_state[state] + offset;
    task.y = first_row(step.y, s);
    task.kept = kept(state, (size_t)KEPT7 * task.width, s);
    kernels_for_heads(size).wkv7(task, index % heads, scratch);
}

}  // namespace wkv
