// Aligned memory that calls reuse: the first touch of fresh pages costs more than the arithmetic on them.
#pragma once

#include <sys/mman.h>

#include <algorithm>
#include <cstddef>
#include <memory>
#include <mutex>
#include <new>
#include <utility>
#include <vector>

namespace monolith {

// Memory on a cache line, or on huge pages from 2 MiB on. It grows and never shrinks; growing loses the content.
class Buffer {
  public:
    Buffer() = default;
    Buffer(Buffer&& other) noexcept : data_(std::move(other.data_)), bytes_(std::exchange(other.bytes_, 0)) {}
    Buffer& operator=(Buffer&& other) noexcept {
        data_ = std::move(other.data_);
        bytes_ = std::exchange(other.bytes_, 0);
        return *this;
    }

    size_t bytes() const { return bytes_; }
    template <typename T>
    T* as() const {
        return static_cast<T*>(data_.get());
    }
    // Hold `count` values or more; returns the first.
    template <typename T>
    T* ensure(size_t count) {
        grow(count * sizeof(T));
        return as<T>();
    }
    void grow(size_t bytes) {
        if (bytes <= bytes_) return;
        data_.reset();
        bytes_ = 0;
        const bool is_huge = bytes >= kHugePage;
        if (is_huge) bytes = (bytes + kHugePage - 1) / kHugePage * kHugePage;
        data_ = {::operator new[](bytes, alignment(is_huge)), Delete{is_huge}};
        bytes_ = bytes;
        // One task reads from many places: with small pages each address translation costs as much as a cache line.
        if (is_huge) ::madvise(data_.get(), bytes, MADV_HUGEPAGE);
    }

  private:
    static constexpr size_t kHugePage = size_t{1} << 21, kLine = 64;
    static constexpr std::align_val_t alignment(bool is_huge) { return std::align_val_t{is_huge ? kHugePage : kLine}; }
    struct Delete {
        bool is_huge;
        void operator()(void* data) const { ::operator delete[](data, alignment(is_huge)); }
    };
    std::unique_ptr<void, Delete> data_{nullptr, Delete{false}};
    size_t bytes_ = 0;
};

// Buffers between two uses. Any number of threads may call at once.
class BufferPool {
  public:
    // The smallest buffer of at least `bytes`, or the largest one, grown.
    Buffer take(size_t bytes) {
        Buffer buffer;
        if (bytes == 0) return buffer;
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
        buffer.grow(bytes);
        return buffer;
    }
    void give(Buffer buffer) {
        if (buffer.bytes() == 0) return;
        std::lock_guard lock(mutex_);
        if (free_.size() < kMaxFree) free_.push_back(std::move(buffer));
    }

  private:
    static constexpr size_t kMaxFree = 8;  // a tape and the sums of a backward pass for each of four concurrent calls
    std::mutex mutex_;
    std::vector<Buffer> free_;
};

// A buffer from a pool, taken at its first use and given back at the end. It keeps the pool alive.
class PooledBuffer {
  public:
    explicit PooledBuffer(std::shared_ptr<BufferPool> pool) : pool_(std::move(pool)) {}
    PooledBuffer(const PooledBuffer&) = delete;
    PooledBuffer& operator=(const PooledBuffer&) = delete;
    ~PooledBuffer() { pool_->give(std::move(buffer_)); }

    template <typename T>
    T* as() const {
        return buffer_.as<T>();
    }
    template <typename T>
    T* ensure(size_t count) {
        if (buffer_.bytes() == 0) buffer_ = pool_->take(count * sizeof(T));
        return buffer_.ensure<T>(count);
    }

  private:
    const std::shared_ptr<BufferPool> pool_;
    Buffer buffer_;
};

// Scratch memory of the calling thread, valid until its next call with the same T.
template <typename T>
T* thread_scratch(size_t count) {
    thread_local Buffer buffer;
    return buffer.ensure<T>(count);
}

}  // namespace monolith
