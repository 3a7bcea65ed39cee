// The part of the C interface that wkv/train/recurrence.py calls; see training.h.
#include "training.h"

#include "interface.h"
#include "plan.h"

using namespace wkv;

static bool is_supported(int64_t head_size) {
    return head_size == 16 || head_size == 32 || head_size == 64 || head_size == 128;
}

// Call `run_head` for each head of the batch, in parallel. Return OK or FAILED.
template <class Task>
static int run_heads(const char* kernels, int threads, const Task& task,
                     void (*Kernels::*run_head)(const Task&, int64_t, float*)) {
    const Kernels* found = find_kernels(kernels);
    if (!found || threads < 1 || !is_supported(task.shape.head_size)) return FAILED;
    try {
        Threads pool(threads);
        std::vector<std::vector<float>> scratch(pool.count());
        for (auto& memory : scratch) memory.resize(task.shape.scratch_size());
        pool.run({(int)(task.shape.batch * task.shape.heads)}, [&](int, int head, int thread) {
            (found->*run_head)(task, head, scratch[thread].data());
        });
    } catch (...) {
        return FAILED;
    }
    return OK;
}

// Tokens between two checkpoints.
WKV_PUBLIC int wkv_training_chunk() { return CHUNK; }

WKV_PUBLIC int wkv_training_forward(const char* kernels, int threads, int64_t batch, int64_t tokens, int64_t heads,
                                    int64_t head_size, const float* r, const float* log_decay, const float* k,
                                    const float* v, const float* a, const float* b, const float* state, float* y,
                                    float* sa, float* checkpoints, float* last) {
    const TrainingForward task{{batch, tokens, heads, head_size}, {r, log_decay, k, v, a, b}, state, y, sa,
                               checkpoints, last};
    return run_heads(kernels, threads, task, &Kernels::train_forward);
}

WKV_PUBLIC int wkv_training_backward(const char* kernels, int threads, int64_t batch, int64_t tokens, int64_t heads,
                                     int64_t head_size, const float* r, const float* log_decay, const float* k,
                                     const float* v, const float* a, const float* b, const float* sa,
                                     const float* checkpoints, const float* dy, const float* dlast, float* dr,
                                     float* dlog_decay, float* dk, float* dv, float* da, float* db, float* dstate) {
    const TrainingBackward task{{batch, tokens, heads, head_size}, {r, log_decay, k, v, a, b}, sa, checkpoints, dy,
                                dlast, dr, dlog_decay, dk, dv, da, db, dstate};
    return run_heads(kernels, threads, task, &Kernels::train_backward);
}
