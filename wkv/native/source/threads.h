// A small thread pool; idle threads sleep.
#pragma once
#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace wkv {

// A run consists of phases. The tasks of a phase run in parallel, in any order, after all tasks of the
// previous phase have ended. Threads take tasks one by one, so a preempted thread delays only its
// current task.
class Threads {
public:
    explicit Threads(int count);
    ~Threads();
    int count() const { return (int)workers_.size() + 1; }

    // Run all tasks: `sizes` has the number of tasks of each phase; call `task(phase, index, thread)` for each.
    void run(const std::vector<int>& sizes, const std::function<void(int, int, int)>& task);

private:
    struct alignas(64) Phase {
        std::atomic<int> next{0}, done{0};
    };
    void worker_loop(int thread);
    void run_phases(int thread);
    void wait_for(Phase& phase, int size);
    bool enter();                             // whether the run is still open to this worker

    std::vector<std::thread> workers_;
    std::unique_ptr<Phase[]> phases_;
    size_t n_phases_ = 0;
    const std::vector<int>* sizes_ = nullptr;
    const std::function<void(int, int, int)>* task_ = nullptr;

    std::atomic<uint32_t> runs_{0};           // started so far
    std::atomic<int> inside_{CLOSED};         // workers in the run; plus CLOSED between runs
    std::atomic<int> sleepers_{0}, waiting_{0};
    std::atomic<bool> ending_{false};
    std::mutex mutex_;
    std::condition_variable run_started_, phase_ended_;
    static constexpr int CLOSED = 1 << 30;
};

}  // namespace wkv
