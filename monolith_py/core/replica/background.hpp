// Threads of work that other threads of the machine go before.
#pragma once

#include <sched.h>
#include <sys/resource.h>
#include <time.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "memory/region.hpp"

namespace monolith {

// A thread that is niced keeps its time slice of some milliseconds when another wakes; one of the idle class makes
// room at once, but gets a 300th of a core beside busy ones. So threads are of the idle class until that starves them:
// then those of the next calls are niced, of twice as many calls each time.
//
// Concurrency: one call of `run` at a time.
class Background {
  public:
    // Run task(0) .. task(n - 1), one new thread each, since a thread cannot go back to a higher priority; rethrows the
    // first exception.
    template <typename Task>
    void run(size_t n, Task&& task) {
        const bool niced = is_niced();
        const std::thread::id caller = std::this_thread::get_id();  // does the rest where threads are exhausted
        std::atomic<bool> is_starved{false};
        run_threads(n, 0, [&](size_t i) {
            if (std::this_thread::get_id() != caller) niced ? make_nice() : make_idle();
            const NoPretouch no_pretouch;
            const auto began = std::chrono::steady_clock::now();
            task(i);
            const std::chrono::duration<double> took = std::chrono::steady_clock::now() - began;
            if (starves(took.count(), cpu_s())) is_starved = true;
        });
        end_call(is_starved);
    }

    // Whether the threads of the next call are niced.
    bool is_niced() const { return niced_ > 0; }
    // Whether a thread that took so long had far less of a core than it needed.
    static bool starves(double took_s, double cpu_s) { return took_s > kSoonS && took_s > kStarved * cpu_s; }
    // Count a call whose threads had a core, or were starved.
    void end_call(bool is_starved) {
        if (niced_ > 0)
            --niced_;
        else if (is_starved)
            niced_ = std::exchange(next_niced_, std::min(2 * next_niced_, kMostNiced));
    }

    // Run task(first) .. task(n - 1) on new threads, and those before on the calling one; rethrows the first exception.
    template <typename Task>
    static void run_threads(size_t n, size_t first, Task&& task) {
        std::mutex mutex;
        std::exception_ptr failure;
        const auto guarded = [&](size_t i) {
            try {
                task(i);
            } catch (...) {
                std::lock_guard lock(mutex);
                if (!failure) failure = std::current_exception();
            }
        };
        std::vector<std::thread> threads;
        size_t begun = first;
        try {
            for (; begun < n; ++begun) threads.emplace_back(guarded, begun);
        } catch (const std::exception&) {  // no more threads: the calling one does the rest
            for (size_t i = begun; i < n; ++i) guarded(i);
        }
        for (size_t i = 0; i < first; ++i) guarded(i);
        for (std::thread& thread : threads) thread.join();
        if (failure) std::rethrow_exception(failure);
    }

  private:
    // Threads that are niced have that much more niceness than the one that starts them: a shadow has some of its own.
    static constexpr int kMoreNiceness = 10;
    static constexpr double kStarved = 8;  // seconds of the clock for one of the processor
    static constexpr double kSoonS = 0.05;
    static constexpr size_t kFirstNiced = 64, kMostNiced = 1024;  // calls

    // On Linux 0 is this thread. A failure leaves it as it is.
    static void make_nice() { ::setpriority(PRIO_PROCESS, 0, ::getpriority(PRIO_PROCESS, 0) + kMoreNiceness); }
    static void make_idle() {
        const sched_param none{};
        if (::sched_setscheduler(0, SCHED_IDLE, &none) != 0) make_nice();
    }
    static double cpu_s() {
        timespec used{};
        ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used);
        return static_cast<double>(used.tv_sec) + static_cast<double>(used.tv_nsec) * 1e-9;
    }

    size_t niced_ = 0;  // calls that are still to be niced
    size_t next_niced_ = kFirstNiced;
};

}  // namespace monolith
