// Thread pool for batches of a few milliseconds: idle workers spin briefly, then sleep; the caller works too.
#pragma once

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace monolith {

// Treat denormal numbers as zero during the lifetime: small gradients produce them, and each costs a hundred cycles.
class FlushDenormals {
  public:
#if defined(__x86_64__)
    FlushDenormals() : before_(_mm_getcsr()) { _mm_setcsr(before_ | 0x8040); }
    ~FlushDenormals() { _mm_setcsr(before_); }

  private:
    unsigned before_;
#else
    FlushDenormals() {}
#endif
};

class ThreadPool {
  public:
    static ThreadPool& instance() {
        static ThreadPool* one = new ThreadPool;  // lives until the process ends, as its threads do
        return *one;
    }
    int num_threads() const { return num_threads_.load(std::memory_order_relaxed); }
    void set_num_threads(int num_threads) {
        std::lock_guard lock(busy_);
        stop();
        num_threads_ = num_threads;
        const uint32_t round = round_.load();
        for (int i = 1; i < num_threads; ++i) workers_.emplace_back([this, round] { work(round); });
    }

    // Call task(0) .. task(n - 1), each once, on any thread; returns when all are done. Rethrows the first exception.
    // Any thread may call, but not from within a task. Concurrent calls: one gets the workers, the others run their
    // tasks on their own thread.
    template <typename Task>
    void run(size_t n, Task&& task) {
        FlushDenormals flush;
        if (n > 1 && num_threads() > 1 && ::getpid() == process_) {  // threads do not survive a fork
            std::unique_lock lock(busy_, std::try_to_lock);
            if (lock) {
                share(n, const_cast<void*>(static_cast<const void*>(&task)),
                      [](void* closure, size_t i) { (*static_cast<std::remove_reference_t<Task>*>(closure))(i); });
                return;
            }
        }
        for (size_t i = 0; i < n; ++i) task(i);
    }

  private:
    using Call = void (*)(void*, size_t);

    void share(size_t n, void* closure, Call call) {
        closure_ = closure;
        call_ = call;
        size_ = n;
        failure_ = nullptr;
        next_.store(0, std::memory_order_relaxed);
        working_.store(static_cast<int>(workers_.size()), std::memory_order_relaxed);
        round_.fetch_add(1, std::memory_order_release);
        round_.notify_all();
        take_tasks();
        int left, spins = 0;
        while ((left = working_.load(std::memory_order_acquire)) != 0)
            if (++spins < kSpins)
                pause();
            else
                working_.wait(left, std::memory_order_acquire);
        if (failure_) std::rethrow_exception(failure_);
    }

    void take_tasks() {
        for (size_t i; (i = next_.fetch_add(1, std::memory_order_relaxed)) < size_;) {
            try {
                call_(closure_, i);
            } catch (...) {
                std::lock_guard lock(failing_);
                if (!failure_) failure_ = std::current_exception();
            }
        }
    }

    void work(uint32_t seen) {
        FlushDenormals flush;
        for (;;) {
            int spins = 0;
            while (round_.load(std::memory_order_acquire) == seen)
                if (++spins < kSpins)
                    pause();
                else
                    round_.wait(seen, std::memory_order_acquire);
            seen = round_.load(std::memory_order_acquire);
            if (stopping_.load(std::memory_order_acquire)) return;
            take_tasks();
            if (working_.fetch_sub(1, std::memory_order_acq_rel) == 1) working_.notify_all();
        }
    }

    void stop() {
        if (workers_.empty()) return;
        stopping_.store(true, std::memory_order_release);
        round_.fetch_add(1, std::memory_order_release);
        round_.notify_all();
        for (std::thread& worker : workers_) worker.join();
        workers_.clear();
        stopping_.store(false, std::memory_order_release);
    }

    static void pause() {
#if defined(__x86_64__)
        _mm_pause();
#else
        std::this_thread::yield();
#endif
    }

    static constexpr int kSpins = 3000;  // tens of microseconds: longer than the gap between phases of a batch
    std::mutex busy_, failing_;
    std::vector<std::thread> workers_;
    std::atomic<int> num_threads_{1};
    std::atomic<uint32_t> round_{0};
    std::atomic<int> working_{0};
    std::atomic<size_t> next_{0};
    std::atomic<bool> stopping_{false};
    void* closure_ = nullptr;
    Call call_ = nullptr;
    size_t size_ = 0;
    std::exception_ptr failure_;
    const pid_t process_ = ::getpid();
};

// Number of parts of n items with at least `per_part` for each thread.
inline size_t parts_of(size_t n, size_t per_part) {
    return std::min(static_cast<size_t>(ThreadPool::instance().num_threads()), n / per_part + 1);
}

// Divide n items among the threads: run(begin, end) for each part.
template <typename F>
void split(size_t n, size_t per_part, F&& run) {
    const size_t parts = parts_of(n, per_part);
    ThreadPool::instance().run(parts, [&](size_t part) { run(n * part / parts, n * (part + 1) / parts); });
}

}  // namespace monolith
