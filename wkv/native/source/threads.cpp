#include "threads.h"

#include <system_error>

#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#endif

namespace wkv {
namespace {

// How often a thread looks before it sleeps: some tens of microseconds, about what waking it costs.
constexpr int LOOKS = 2000;

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
        for (int thread = 1; thread < count; thread++) workers_.emplace_back([this, thread] { work(thread); });
    } catch (const std::system_error&) {  // the system gives no more: fewer do the same
    }
}

Threads::~Threads() {
    {
        std::lock_guard<std::mutex> lock(mutex_);
        ending_ = true;
    }
    begun_.notify_all();
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
        inside_.store(0);  // the run is open
        runs_.fetch_add(1);
        if (sleepers_.load() > 0) {
            std::lock_guard<std::mutex> lock(mutex_);
            begun_.notify_all();
        }
    }
    take_part(0);
    if (workers_.empty()) return;
    inside_.fetch_add(CLOSED);
    while (inside_.load() != CLOSED) std::this_thread::yield();  // the last have nothing left to do
}

void Threads::take_part(int thread) {
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
    for (int look = 0; look < LOOKS; look++) {
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

void Threads::work(int thread) {
    uint32_t seen = 0;
    for (;;) {
        for (int look = 0; look < LOOKS && runs_.load(std::memory_order_acquire) == seen; look++) pause();
        if (runs_.load() == seen) {
            std::unique_lock<std::mutex> lock(mutex_);
            sleepers_.fetch_add(1);
            begun_.wait(lock, [&] { return ending_.load() || runs_.load() != seen; });
            sleepers_.fetch_sub(1);
        }
        if (ending_.load()) return;
        seen = runs_.load();
        if (!enter()) continue;
        take_part(thread);
        inside_.fetch_sub(1);
    }
}

}  // namespace wkv
