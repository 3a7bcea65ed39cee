// The C interface that wkv/native/library.py calls. Nothing throws across it.
#include <chrono>
#include <new>

#include "plan.h"

#if defined(_WIN32)
#define WKV_PUBLIC extern "C" __declspec(dllexport)
#else
#define WKV_PUBLIC extern "C" __attribute__((visibility("default")))
#endif

using namespace wkv;

constexpr int VERSION = 1;  // of this interface
constexpr int FAILED = -1;

WKV_PUBLIC int wkv_version() { return VERSION; }
WKV_PUBLIC const char* wkv_kernels() { return kernels_here(); }

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
// In a process that was forked off, the threads are not: nothing would ever end them.
WKV_PUBLIC void wkv_plan_free(Plan* plan) {
    if (plan->is_of_this_process()) delete plan;
}
WKV_PUBLIC void wkv_skip_zeros(Plan* plan, int skip) { plan->skip_zeros = skip != 0; }

WKV_PUBLIC int wkv_matrix(Plan* plan, int format, int layout, int outputs, int inputs, const void* weights) {
    return plan->add_matrix({(Format)format, (Layout)layout, outputs, inputs, (const uint8_t*)weights});
}
WKV_PUBLIC int wkv_vector(Plan* plan, const float* values) { return plan->add_vector(values); }
WKV_PUBLIC int wkv_buffer(Plan* plan, int width) { return plan->add_buffer(width); }
WKV_PUBLIC int wkv_inputs(Plan* plan, int width, int forms, int finds) {
    return plan->add_inputs(width, forms, finds != 0);
}
WKV_PUBLIC int wkv_step(Plan* plan, int list, int kind, int phase, const int32_t* arguments, int n, float eps) {
    if (n < 0 || n > MOST_ARGUMENTS) return FAILED;
    Step step{(Kind)kind, phase, {}, n, eps};
    for (int i = 0; i < n; i++) step.argument[i] = arguments[i];
    return plan->add_step(list, step) ? 0 : FAILED;
}
WKV_PUBLIC void wkv_widths(Plan* plan, int x, int y) { plan->set_widths(x, y); }

// Pass the tokens of sequences through the body; `x` is (rows, channels), replaced.
WKV_PUBLIC int wkv_body(Plan* plan, int n_sequences, const int32_t* tokens, float* x,
                        const float* const* state, float* const* new_state) {
    int rows = 0;
    for (int s = 0; s < n_sequences; s++) rows += tokens[s];
    try {
        plan->run(0, rows, x, nullptr, {n_sequences, tokens, state, new_state});
    } catch (...) {
        return FAILED;
    }
    return 0;
}

// Turn rows of the residual stream into logits.
WKV_PUBLIC int wkv_head(Plan* plan, int rows, float* x, float* logits) {
    try {
        plan->run(1, rows, x, logits, {});
    } catch (...) {
        return FAILED;
    }
    return 0;
}

// One product, to try kernels by themselves: y (rows, outputs) of x (rows, inputs).
WKV_PUBLIC int wkv_product(const char* kernels, int format, int layout, int outputs, int inputs,
                           const void* weights, int rows, const float* x, float* y, int threads) {
    try {
        const Kernels* found = find_kernels(kernels);
        if (!found) return FAILED;
        Plan plan(*found, threads);
        plan.set_widths(inputs, outputs);
        const int in = plan.add_inputs(inputs, found->form[format], layout == COLUMNS);
        const int matrix = plan.add_matrix({(Format)format, (Layout)layout, outputs, inputs, (const uint8_t*)weights});
        plan.add_step(0, {ACTIVATE, 0, {0, inputs, 0, NOTHING, in}, 5, 0});
        plan.add_step(0, {PRODUCT, 1, {in, matrix, 1, 0}, 4, 0});
        plan.run(0, rows, const_cast<float*>(x), y, {});
    } catch (...) {
        return FAILED;
    }
    return 0;
}

// Seconds that it takes to read memory once with so many threads.
static double read_once(const Kernels& kernels, const uint8_t* memory, size_t bytes, int threads, uint64_t* seen) {
    const size_t piece = 1 << 20;
    std::vector<uint64_t> sums(threads, 0);
    Threads pool(threads);
    const auto read = [&](int, int index, int thread) {
        const size_t from = (size_t)index * piece, left = bytes - from;
        sums[thread] ^= kernels.stream(memory + from, left < piece ? left : piece);
    };
    const std::vector<int> sizes = {(int)((bytes + piece - 1) / piece)};
    const auto begun = std::chrono::steady_clock::now();
    pool.run(sizes, read);
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begun;
    for (uint64_t sum : sums) *seen ^= sum;
    return took.count();
}

WKV_PUBLIC double wkv_stream(const char* kernels, const void* memory, size_t bytes, int threads, uint64_t* seen) {
    const Kernels* found = find_kernels(kernels);
    if (!found || threads < 1) return FAILED;
    try {
        return read_once(*found, (const uint8_t*)memory, bytes, threads, seen);
    } catch (...) {
        return FAILED;
    }
}
