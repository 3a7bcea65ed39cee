#include "threads.h"

#include <system_error>

#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#endif

namespace wkv {
namespace {

// Iterations a thread spins before it sleeps: tens of microseconds, about the cost of a wake-up.
constexpr int SPIN_ITERATIONS = 2000;

inline void pause() {
#if defined(__x86_64__) || defined(_M_X64)
    _mm_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

}  // namespace

Threads::Threads(int count) {
    try {
        for (int thread = 1; thread < count; thread++) workers_.emplace_back([this, thread] { worker_loop(thread); });
    } catch (const std::system_error&) {  // the system allows no more threads: run with fewer
    }
}

Threads::~Threads() {
    {
        std::lock_guard<std::mutex> lock(mutex_);
        ending_ = true;
    }
    run_started_.notify_all();
    for (auto& worker : workers_) worker.join();
}

void Threads::run(const std::vector<int>& sizes, const std::function<void(int, int, int)>& task) {
    if (sizes.size() > n_phases_) {
        n_phases_ = sizes.size();
        phases_ = std::make_unique<Phase[]>(n_phases_);
    }
    for (size_t i = 0; i < sizes.size(); i++) {
        phases_[i].next.store(0, std::memory_order_relaxed);
        phases_[i].done.store(0, std::memory_order_relaxed);
    }
    sizes_ = &sizes;
    task_ = &task;
    if (!workers_.empty()) {
        inside_.store(0);  // open the run to workers
        runs_.fetch_add(1);
        if (sleepers_.load() > 0) {
            std::lock_guard<std::mutex> lock(mutex_);
            run_started_.notify_all();
        }
    }
    run_phases(0);
    if (workers_.empty()) return;
    inside_.fetch_add(CLOSED);
    while (inside_.load() != CLOSED) std::this_thread::yield();  // workers are leaving; no task is left
}

void Threads::run_phases(int thread) {
    const auto& sizes = *sizes_;
    for (size_t i = 0; i < sizes.size(); i++) {
        Phase& phase = phases_[i];
        const int size = sizes[i];
        int mine = 0, index;
        while ((index = phase.next.fetch_add(1, std::memory_order_relaxed)) < size) {
            (*task_)((int)i, index, thread);
            mine++;
        }
        if (mine > 0 && phase.done.fetch_add(mine) + mine == size) {
            if (waiting_.load() > 0) {
                std::lock_guard<std::mutex> lock(mutex_);
                phase_ended_.notify_all();
            }
        } else {
            wait_for(phase, size);
        }
    }
}

void Threads::wait_for(Phase& phase, int size) {
    for (int spin = 0; spin < SPIN_ITERATIONS; spin++) {
        if (phase.done.load(std::memory_order_acquire) >= size) return;
        pause();
    }
    std::unique_lock<std::mutex> lock(mutex_);
    waiting_.fetch_add(1);
    phase_ended_.wait(lock, [&] { return phase.done.load() >= size; });
    waiting_.fetch_sub(1);
}

bool Threads::enter() {
    int inside = inside_.load();
    while (inside < CLOSED)
        if (inside_.compare_exchange_weak(inside, inside + 1)) return true;
    return false;
}

void Threads::worker_loop(int thread) {
    uint32_t seen = 0;
    for (;;) {
        for (int spin = 0; spin < SPIN_ITERATIONS && runs_.load(std::memory_order_acquire) == seen; spin++) pause();
        if (runs_.load() == seen) {
            std::unique_lock<std::mutex> lock(mutex_);
            sleepers_.fetch_add(1);
            run_started_.wait(lock, [&] { return ending_.load() || runs_.load() != seen; });
            sleepers_.fetch_sub(1);
        }
        if (ending_.load()) return;
        seen = runs_.load();
        if (!enter()) continue;
        run_phases(thread);
        inside_.fetch_sub(1);
    }
}

}  // namespace wkv
