// Memory that grows in place, or moves with its pages: an address range whose pages are touched before their first use.
#pragma once

#include <sys/mman.h>

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

// While one lives, its thread touches new pages at their first use: the pretoucher has the priority of other threads,
// which a thread in the background shall not delay.
class NoPretouch {
  public:
    explicit NoPretouch(bool begins = true) : before_(std::exchange(flag(), flag() || begins)) {}
    NoPretouch(const NoPretouch&) = delete;
    NoPretouch& operator=(const NoPretouch&) = delete;
    ~NoPretouch() { flag() = before_; }
    static bool is_on() { return flag(); }

  private:
    static bool& flag() {
        static thread_local bool is_on = false;
        return is_on;
    }
    const bool before_;
};

// The process may not reserve more addresses. Python raises MemoryError with this text.
struct AddressesExhausted : std::bad_alloc {
    const char* what() const noexcept override {
        return "no addresses are left for rows: raise the limit of `ulimit -v`, or set vm.overcommit_memory to 0 or 1";
    }
};

#ifdef MONOLITH_TEST_ALLOCATIONS
void before_reserving();  // throws std::bad_alloc when a test says so
#else
inline void before_reserving() {}
#endif

class Region {
  public:
    // Reserve `bytes` of addresses, with none at first use; untouched addresses cost no memory. They are readable and
    // writable from the start: changing a part's protection would block threads that touch other parts.
    explicit Region(size_t bytes = 0) {
        if (bytes > 0) reserve(bytes);
    }
    Region(const Region&) = delete;
    Region& operator=(const Region&) = delete;
    ~Region() {
        if (!data_) return;
        Pretoucher::instance().forget(data_, ready_);
        ::munmap(data_, reserved_);
    }

    char* data() const { return data_; }
    size_t bytes() const { return ready_; }  // in use or touched ahead
    size_t reserved() const { return reserved_; }

    // Make the first `bytes` usable; new memory reads zero. Beyond the reserved addresses, twice as many are reserved
    // and the pages move there: no other thread may then use the region. On failure (std::bad_alloc) nothing changes.
    // Addresses are reserved by use: shares of the machine's memory left no room for the tables of a large machine.
    void ensure(size_t bytes) {
        const size_t spare = ahead(bytes);
        if (bytes + spare / 2 <= ready_) return;
        if (bytes > reserved_) reserve(std::max({kFirst, 2 * reserved_, bytes + spare}));
        const size_t page = spare >= kHugePage ? kHugePage : kPage;
        const size_t end = std::min(rounded(bytes + spare, page), reserved_);
        if (page == kHugePage) {
            if (!is_huge_) ::madvise(data_, reserved_, MADV_HUGEPAGE);
            is_huge_ = true;
            for (size_t at = ready_; at < end && !NoPretouch::is_on(); at += kHugePage)
                Pretoucher::instance().request(data_ + at, std::min(kHugePage, end - at));
        }
        ready_ = std::max(ready_, end);
    }

  private:
    static constexpr size_t kPage = 4096, kHugePage = size_t{1} << 21, kFirst = size_t{1} << 18;
    static size_t rounded(size_t bytes, size_t page) { return (bytes + page - 1) / page * page; }
    // Bytes to touch beyond the request: 1/32 of it, from one page to 16 MiB; huge pages from 2 MiB on.
    static size_t ahead(size_t bytes) {
        const size_t least = bytes >= kHugePage ? kHugePage : kPage;
        return std::clamp(bytes / 32, least, size_t{16} << 20);
    }

    // Reserve at least `bytes` and move the pages there. Ranges of huge pages begin on one, so that they move whole.
    void reserve(size_t bytes) {
        before_reserving();
        const bool is_large = bytes >= kHugePage;
        bytes = rounded(bytes, is_large ? kHugePage : kPage);
        char* const target = mapped(bytes, is_large ? kHugePage : kPage, data_ ? PROT_NONE : PROT_READ | PROT_WRITE);
        if (data_) {
            Pretoucher::instance().forget(data_, ready_);
            // The moved mapping takes the whole target: as two mappings it could not move again.
            if (::mremap(data_, reserved_, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, target) == MAP_FAILED) {
                ::munmap(target, bytes);
                throw AddressesExhausted();
            }
        }
        data_ = target;
        reserved_ = bytes;
    }
    // Map `bytes` at a multiple of `alignment`.
    static char* mapped(size_t bytes, size_t alignment, int access) {
        const size_t size = bytes + alignment - kPage;
        void* const found = ::mmap(nullptr, size, access, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (found == MAP_FAILED) throw AddressesExhausted();
        char* const begin = static_cast<char*>(found);
        const size_t head = -reinterpret_cast<uintptr_t>(begin) & (alignment - 1), tail = size - head - bytes;
        if (head > 0) ::munmap(begin, head);
        if (tail > 0) ::munmap(begin + head + bytes, tail);
        return begin + head;
    }

    size_t reserved_ = 0, ready_ = 0;
    bool is_huge_ = false;
    char* data_ = nullptr;
};

}  // namespace monolith
