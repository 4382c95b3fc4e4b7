// Memory that grows and never moves: a reserved address range whose pages are touched before their first use.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <mutex>
#include <new>
#include <thread>
#include <utility>

namespace monolith {

// Touches pages on its own thread: the first touch of 2 MiB can take 7 ms on a virtual machine whose host must find the
// memory. Any number of threads may call at once.
class Pretoucher {
  public:
    static Pretoucher& instance() {
        static Pretoucher* one = new Pretoucher;  // lives until the process ends, as its thread does
        return *one;
    }
    void request(char* begin, size_t bytes) {
        std::lock_guard lock(mutex_);
        if (!running_) {
            std::thread([this] { run(); }).detach();
            running_ = true;
        }
        pending_.push_back({begin, bytes});
        wake_.notify_all();
    }
    // Drop requests within [begin, begin + bytes), and wait for one in progress.
    void forget(const char* begin, size_t bytes) {
        std::unique_lock lock(mutex_);
        std::erase_if(pending_, [&](const auto& one) { return one.first >= begin && one.first < begin + bytes; });
        wake_.wait(lock, [&] { return busy_ < begin || busy_ >= begin + bytes; });
    }

  private:
    // MADV_POPULATE_WRITE of Linux 5.14 (asm-generic/mman-common.h); glibc defines it from 2.35 on.
    static constexpr int kPopulateWrite = 23;

    void run() {
        std::unique_lock lock(mutex_);
        for (;;) {
            wake_.wait(lock, [&] { return !pending_.empty(); });
            const auto [begin, bytes] = pending_.front();
            pending_.pop_front();
            busy_ = begin;
            lock.unlock();
            // An older kernel returns EINVAL: then the first use touches the page.
            ::madvise(begin, bytes, kPopulateWrite);
            lock.lock();
            busy_ = nullptr;
            wake_.notify_all();
        }
    }
    std::mutex mutex_;
    std::condition_variable wake_;
    std::deque<std::pair<char*, size_t>> pending_;
    const char* busy_ = nullptr;
    bool running_ = false;
};

class Region {
  public:
    // Reserve `share` of the machine's memory as addresses, at least 4 GiB; untouched addresses cost nothing. They are
    // readable and writable from the start: changing a part's protection would block threads that touch other parts.
    explicit Region(double share = 1.0)
        : reserved_(std::max<size_t>(size_t{1} << 32, static_cast<size_t>(share * physical_bytes()))) {
        void* data = ::mmap(nullptr, reserved_ + kHugePage, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (data == MAP_FAILED) throw std::bad_alloc();
        mapped_ = static_cast<char*>(data);
        data_ = mapped_ + (-reinterpret_cast<uintptr_t>(mapped_) & (kHugePage - 1));
    }
    Region(const Region&) = delete;
    Region& operator=(const Region&) = delete;
    ~Region() {
        Pretoucher::instance().forget(data_, ready_);
        ::munmap(mapped_, reserved_ + kHugePage);
    }

    char* data() const { return data_; }
    size_t bytes() const { return ready_; }  // in use or touched ahead

    // Make the first `bytes` usable; new memory reads zero. Throws std::bad_alloc beyond the reserved range. One thread
    // at a time; others may read and write the memory that is usable already.
    void ensure(size_t bytes) {
        const size_t spare = ahead(bytes);
        if (bytes + spare / 2 <= ready_) return;
        const size_t page = spare >= kHugePage ? kHugePage : 4096;
        const size_t end = std::min((bytes + spare + page - 1) / page * page, reserved_);
        if (bytes > end) throw std::bad_alloc();
        if (page == kHugePage) {
            if (!is_huge_) ::madvise(data_, reserved_, MADV_HUGEPAGE);
            is_huge_ = true;
            for (size_t at = ready_; at < end; at += kHugePage)
                Pretoucher::instance().request(data_ + at, std::min(kHugePage, end - at));
        }
        ready_ = end;
    }

  private:
    static constexpr size_t kHugePage = size_t{1} << 21;
    static double physical_bytes() {
        return static_cast<double>(::sysconf(_SC_PHYS_PAGES)) * static_cast<double>(::sysconf(_SC_PAGESIZE));
    }
    // Bytes to touch beyond the request: 1/32 of it, from one page to 16 MiB; huge pages from 2 MiB on.
    static size_t ahead(size_t bytes) {
        const size_t least = bytes >= kHugePage ? kHugePage : 4096;
        return std::clamp(bytes / 32, least, size_t{16} << 20);
    }

    const size_t reserved_;
    size_t ready_ = 0;
    bool is_huge_ = false;
    char *mapped_, *data_;
};

}  // namespace monolith
