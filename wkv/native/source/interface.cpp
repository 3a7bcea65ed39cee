// The C interface that wkv/native/library.py calls. No exception leaves it.
#include "interface.h"

#include <chrono>
#include <new>

#include "plan.h"

using namespace wkv;

constexpr int VERSION = 5;  // of this interface, equal to VERSION in library.py

WKV_PUBLIC int wkv_version() { return VERSION; }
WKV_PUBLIC const char* wkv_kernels() { return available_kernels(); }

// The size of the struct of a kind of step, or FAILED: Python compares it with its own.
WKV_PUBLIC int wkv_step_size(int kind) { return kind >= 0 && kind < KINDS ? (int)STEP_SIZES[kind] : FAILED; }

// The Form that products of a format read, or FAILED.
WKV_PUBLIC int wkv_form(const char* kernels, int format) {
    const Kernels* found = find_kernels(kernels);
    return found && format >= 0 && format < FORMATS ? found->form[format] : FAILED;
}

WKV_PUBLIC Plan* wkv_plan(const char* kernels, int threads) {
    const Kernels* found = find_kernels(kernels);
    if (!found || threads < 1) return nullptr;
    try {
        return new Plan(*found, threads);
    } catch (...) {
        return nullptr;
    }
}
// A forked process does not have the plan's threads, so joining them would block forever.
WKV_PUBLIC void wkv_plan_free(Plan* plan) {
    if (plan->is_of_this_process()) delete plan;
}
WKV_PUBLIC void wkv_skip_zeros(Plan* plan, int skip) { plan->skip_zeros = skip != 0; }

WKV_PUBLIC int wkv_matrix(Plan* plan, int format, int layout, int outputs, int inputs, const void* weights) {
    return plan->add_matrix({(Format)format, (Layout)layout, outputs, inputs, (const uint8_t*)weights});
}
WKV_PUBLIC int wkv_vector(Plan* plan, const float* values) { return plan->add_vector(values); }
WKV_PUBLIC int wkv_buffer(Plan* plan, int width) { return plan->add_buffer(width); }
WKV_PUBLIC int wkv_inputs(Plan* plan, int width, int forms, int sparse) {
    return plan->add_inputs(width, forms, sparse != 0);
}
WKV_PUBLIC int wkv_step(Plan* plan, int list, int kind, int phase, const void* fields) {
    return plan->add_step(list, kind, phase, fields) ? OK : FAILED;
}
WKV_PUBLIC void wkv_widths(Plan* plan, int x, int logits) { plan->set_widths(x, logits); }

static int run(Plan* plan, StepList list, int rows, float* x, float* logits, const Run& arguments) {
    try {
        plan->run(list, rows, x, logits, arguments);
    } catch (...) {
        return FAILED;
    }
    return OK;
}

// Pass the tokens of sequences through the layers; `x` is (rows, channels) and is replaced. `kept` and
// `adapters` may be null.
WKV_PUBLIC int wkv_body(Plan* plan, int n_sequences, const int32_t* tokens, float* x,
                        const float* const* state, float* const* new_state, float* const* kept,
                        const int32_t* adapters) {
    int rows = 0;
    for (int s = 0; s < n_sequences; s++) rows += tokens[s];
    return run(plan, BODY, rows, x, nullptr, {n_sequences, tokens, state, new_state, kept, adapters});
}

// Compute the states after the first `counts` tokens of each sequence of a pass, from its state and what it kept.
WKV_PUBLIC int wkv_rewind(Plan* plan, int n_sequences, const int32_t* tokens, const int32_t* counts,
                          const float* const* state, float* const* new_state, float* const* kept) {
    try {
        plan->rewind({n_sequences, tokens, state, new_state, kept}, counts);
    } catch (...) {
        return FAILED;
    }
    return OK;
}

// Compute the logits of rows of the residual stream.
WKV_PUBLIC int wkv_head(Plan* plan, int rows, float* x, float* logits) { return run(plan, HEAD, rows, x, logits, {}); }

// Compute one product, to test kernels alone: y (rows, outputs) of x (rows, inputs).
WKV_PUBLIC int wkv_product(const char* kernels, int format, int layout, int outputs, int inputs,
                           const void* weights, int rows, const float* x, float* y, int threads) {
    try {
        const Kernels* found = find_kernels(kernels);
        if (!found) return FAILED;
        Plan plan(*found, threads);
        plan.set_widths(inputs, outputs);
        const int in = plan.add_inputs(inputs, found->form[format], layout == COLUMNS);
        const int matrix = plan.add_matrix({(Format)format, (Layout)layout, outputs, inputs, (const uint8_t*)weights});
        const ActivateStep activate{X_BUFFER, 0, IDENTITY, in};
        const ProductStep product{in, matrix, LOGITS_BUFFER, false};
        plan.add_step(BODY, ACTIVATE, 0, &activate);
        plan.add_step(BODY, PRODUCT, 1, &product);
        plan.run(BODY, rows, const_cast<float*>(x), y, {});
    } catch (...) {
        return FAILED;
    }
    return OK;
}

// Returns the seconds needed to read memory once with `threads` threads.
static double read_once(const Kernels& kernels, const uint8_t* memory, size_t bytes, int threads, uint64_t* checksum) {
    const size_t piece = 1 << 20;
    std::vector<uint64_t> sums(threads, 0);
    Threads pool(threads);
    const auto read = [&](int, int index, int thread) {
        const size_t from = (size_t)index * piece, left = bytes - from;
        sums[thread] ^= kernels.stream(memory + from, left < piece ? left : piece);
    };
    const std::vector<int> sizes = {(int)((bytes + piece - 1) / piece)};
    const auto start = std::chrono::steady_clock::now();
    pool.run(sizes, read);
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
    for (uint64_t sum : sums) *checksum ^= sum;
    return elapsed.count();
}

WKV_PUBLIC double wkv_stream(const char* kernels, const void* memory, size_t bytes, int threads, uint64_t* checksum) {
    const Kernels* found = find_kernels(kernels);
    if (!found || threads < 1) return FAILED;
    try {
        return read_once(*found, (const uint8_t*)memory, bytes, threads, checksum);
    } catch (...) {
        return FAILED;
    }
}
