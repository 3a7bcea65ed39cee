// A few threads that share the tasks of a run and sleep when there are none.
#pragma once
#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace wkv {

// Tasks of a run come in phases: those of a phase may run in any order and at once, and begin when
// all of the phase before have ended. Threads take tasks one by one, so a thread that the system puts
// aside holds up no more than the task it is in.
class Threads {
public:
    explicit Threads(int count);
    ~Threads();
    int count() const { return (int)workers_.size() + 1; }

    // Do all tasks; `sizes` has the number of tasks of each phase, `task(phase, index, thread)` does one.
    void run(const std::vector<int>& sizes, const std::function<void(int, int, int)>& task);

private:
    struct alignas(64) Phase {
        std::atomic<int> next{0}, done{0};
    };
    void work(int thread);                    // a worker's life
    void take_part(int thread);               // all phases of the run
    void wait_for(Phase& phase, int size);
    bool enter();

    std::vector<std::thread> workers_;
    std::unique_ptr<Phase[]> phases_;
    size_t n_phases_ = 0;
    const std::vector<int>* sizes_ = nullptr;
    const std::function<void(int, int, int)>* task_ = nullptr;

    std::atomic<uint32_t> runs_{0};           // begun so far
    std::atomic<int> inside_{CLOSED};         // workers in the run, plus CLOSED when there is none
    std::atomic<int> sleepers_{0}, waiting_{0};
    std::atomic<bool> ending_{false};
    std::mutex mutex_;
    std::condition_variable begun_, phase_ended_;
    static constexpr int CLOSED = 1 << 30;
};

}  // namespace wkv
