// Memory of the engines behind TowerStack: floats on cache lines, and their reuse from call to call.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <memory>
#include <mutex>
#include <new>
#include <utility>
#include <vector>

namespace monolith {

// Floats that begin on a cache line. Growing forgets what they were.
class AlignedFloats {
  public:
    float* data() const { return data_.get(); }
    float* ensure(size_t n) {
        if (n > size_) {
            data_.reset();
            const size_t bytes = n * sizeof(float);
            const bool is_huge = bytes >= kHugePage;
            data_ = {static_cast<float*>(::operator new[](bytes, is_huge ? kPage : kLine)), {is_huge}};
            // What a chunk needs is scattered over many small pages, and to find one costs as much as a line.
            if (is_huge) ::madvise(data_.get(), bytes, MADV_HUGEPAGE);
            size_ = n;
        }
        return data_.get();
    }

  private:
    static constexpr size_t kHugePage = size_t{1} << 21;
    static constexpr std::align_val_t kLine{64}, kPage{kHugePage};
    struct Delete {
        bool is_huge;
        void operator()(float* data) const { ::operator delete[](data, is_huge ? kPage : kLine); }
    };
    std::unique_ptr<float, Delete> data_{nullptr, {false}};
    size_t size_ = 0;
};

// Memory given back, to be taken again: fresh pages cost more than the arithmetic on them. Any number of threads.
class FreeMemory {
  public:
    AlignedFloats take() {
        std::lock_guard lock(mutex_);
        if (free_.empty()) return {};
        AlignedFloats taken = std::move(free_.back());
        free_.pop_back();
        return taken;
    }
    void give(AlignedFloats memory) {
        std::lock_guard lock(mutex_);
        if (free_.size() < kKept) free_.push_back(std::move(memory));
    }

  private:
    static constexpr size_t kKept = 4;  // more than that many calls under way at once are rare
    std::mutex mutex_;
    std::vector<AlignedFloats> free_;
};

}  // namespace monolith
