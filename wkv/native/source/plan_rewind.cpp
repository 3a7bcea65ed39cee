// The states inside a pass: after the first tokens of each sequence.
//
// A pass keeps little of each token: the shifts, and the vectors that its recurrence added to the state. The
// recurrence is run again with them from the state before the pass, which gives the same bits.
#include <string.h>

#include <algorithm>

#include "plan.h"

namespace wkv {

void Plan::rewind(const Run& run, const int32_t* counts) {
    std::lock_guard<std::mutex> lock(running_);
    start_sequences(run);
    const auto& steps = lists_[BODY];
    std::vector<StepTasks> tasks;  // of all layers, which do not depend on each other here
    int count = 0;
    for (size_t i = 0; i < steps.size(); i++) {
        tasks.push_back({(int)i, count});
        count += rewind_task_count(steps[i]);
    }
    const std::vector<int> sizes = {count};
    threads_.run(sizes, [&](int, int index, int) {
        const auto after = std::upper_bound(tasks.begin(), tasks.end(), index,
                                            [](int index, const StepTasks& step) { return index < step.first; });
        const StepTasks& found = after[-1];
        rewind_task(steps[found.step], index - found.first, counts);
    });
}

int Plan::rewind_task_count(const Step& step) const {
    switch (step.kind) {
        case SHIFT:
        case WKV4: return run_.n_sequences;
        case WKV6:
        case WKV7: return task_count(step);
        default: return 0;
    }
}

void Plan::rewind_task(const Step& step, int index, const int32_t* counts) {
    switch (step.kind) {
        case SHIFT: {
            const int state = state_index(step.shift.layer, step.shift.part);
            return rewind_rows(state, width(step.shift.x), index, counts[index]);
        }
        case WKV4: {
            const size_t size = (size_t)WKV4_STATE_ROWS * width(step.wkv4.receptance);
            return rewind_rows(state_index(step.wkv4.layer, WKV_STATE), size, index, counts[index]);
        }
        case WKV6: {
            const Wkv6Step& one = step.wkv6;
            const bool constant = one.decay_change == NONE;
            return rewind_head(one.layer, width(one.receptance) / one.head_size, one.head_size,
                               constant ? KEPT5 : KEPT6, constant ? vector(one.decay) : nullptr, index, counts);
        }
        case WKV7: {
            const Wkv7Step& one = step.wkv7;
            return rewind_head(one.layer, width(one.receptance) / one.head_size, one.head_size, KEPT7, nullptr,
                               index, counts);
        }
        default: return;
    }
}

// Parts of which the pass kept the values after every token.
void Plan::rewind_rows(int state_index, size_t width, int sequence, int count) {
    const size_t offset = sequence * width;
    const float* from = count > 0 ? kept(state_index, width, sequence) + (count - 1) * width
                                  : run_.state[state_index] + offset;
    memcpy(run_.new_state[state_index] + offset, from, width * sizeof(float));
}

void Plan::rewind_head(int layer, int heads, int size, int n_kept, const float* decay, int index,
                       const int32_t* counts) {
    const int s = index / heads, head = index % heads, state = state_index(layer, WKV_STATE);
    const size_t matrix = (size_t)size * size, offset = (size_t)s * heads * matrix;
    Replay task;
    task.tokens = counts[s];
    task.width = heads * size;
    task.size = size;
    task.kept = kept(state, (size_t)n_kept * task.width, s);
    task.decay = decay;
    task.state = run_.state[state] + offset;
    task.new_state = run_.new_state[state] + offset;
    if (task.tokens == 0)
        memcpy(task.new_state + head * matrix, task.state + head * matrix, matrix * sizeof(float));
    else if (n_kept == KEPT7)
        kernels_for_heads(size).replay7(task, head);
    else
        kernels_for_heads(size).replay6(task, head);
}

}  // namespace wkv
