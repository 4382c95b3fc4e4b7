// Memory of the engine in the matrix unit: aligned, used again from call to call, since a first touch costs more than
// the arithmetic on it.
#pragma once

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <new>
#include <utility>
#include <vector>

namespace monolith::amx {

// Grows and never shrinks; what it held is lost when it grows.
class Buffer {
  public:
    Buffer() = default;
    Buffer(Buffer&& other) noexcept
        : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
    Buffer& operator=(Buffer&& other) noexcept {
        std::swap(data_, other.data_);
        std::swap(bytes_, other.bytes_);
        return *this;
    }
    ~Buffer() { std::free(data_); }

    template <typename T>
    T* as() const {
        return static_cast<T*>(data_);
    }
    size_t bytes() const { return bytes_; }
    void ensure(size_t bytes) {
        if (bytes <= bytes_) return;
        std::free(std::exchange(data_, nullptr));
        bytes_ = 0;
        const size_t page = bytes >= kHugePage ? kHugePage : 64;
        const size_t whole = (bytes + page - 1) / page * page;
        data_ = std::aligned_alloc(page, whole);
        if (data_ == nullptr) throw std::bad_alloc();
        bytes_ = whole;
        if (page == kHugePage) ::madvise(data_, whole, MADV_HUGEPAGE);
    }

  private:
    static constexpr size_t kHugePage = size_t{1} << 21;
    void* data_ = nullptr;
    size_t bytes_ = 0;
};

// Buffers that wait for their next use. Threads may call it at once.
class BufferPool {
  public:
    // The smallest that is large enough, or the largest, which then grows.
    Buffer take(size_t bytes) {
        Buffer buffer;
        {
            std::lock_guard lock(mutex_);
            const auto is_better = [&](const Buffer& a, const Buffer& b) {
                if ((a.bytes() >= bytes) != (b.bytes() >= bytes)) return a.bytes() >= bytes;
                return a.bytes() >= bytes ? a.bytes() < b.bytes() : a.bytes() > b.bytes();
            };
            const auto best = std::min_element(free_.begin(), free_.end(), is_better);
            if (best != free_.end()) {
                buffer = std::move(*best);
                free_.erase(best);
            }
        }
        buffer.ensure(bytes);
        return buffer;
    }
    void give(Buffer buffer) {
        if (buffer.bytes() == 0) return;
        std::lock_guard lock(mutex_);
        free_.push_back(std::move(buffer));
    }

  private:
    std::mutex mutex_;
    std::vector<Buffer> free_;
};

// The calling thread's own scratch memory, valid until its next call.
template <typename T>
T* thread_scratch(size_t count) {
    thread_local Buffer buffer;
    buffer.ensure(count * sizeof(T));
    return buffer.as<T>();
}

}  // namespace monolith::amx
