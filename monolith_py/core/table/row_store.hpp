// Rows: weights, optimizer state and fid of each, recycled by a free list. A row keeps its id until it is released.
//
// Concurrency: `allocate` and `release` need the store exclusively: `allocate` may move all rows to other addresses.
// The accessors may run together; threads may write to different rows.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "index/bucket.hpp"
#include "kernels/kernels.hpp"
#include "memory/region.hpp"

namespace monolith {

// A table needs more rows than row ids exist.
struct TableFull : std::length_error {
    using std::length_error::length_error;
};

class RowStore {
  public:
    RowStore(uint32_t dim, uint32_t state_width) : dim_(dim), state_width_(state_width) {}

    // Append `n` free rows to `rows`, the last released first; their content is undefined. On failure (TableFull,
    // std::bad_alloc) the store and `rows` stay as they were.
    void allocate(size_t n, std::vector<uint32_t>& rows) {
        const size_t num_reused = std::min(n, free_.size()), end = end_ + n - num_reused;
        if (end > kCandidate)
            throw TableFull("table is full: rows must be at most " + std::to_string(kCandidate) + ", got " +
                            std::to_string(end));
        rows.reserve(rows.size() + n);
        if (free_.capacity() < end)
            free_.reserve(std::max(end, 2 * free_.capacity()));  // so that `release` never fails
        weights_.ensure(end * dim_ * sizeof(float));
        state_.ensure(end * state_width_ * sizeof(float));
        fids_.ensure(end * sizeof(int64_t));
        rows.insert(rows.end(), free_.rbegin(), free_.rbegin() + static_cast<std::ptrdiff_t>(num_reused));
        free_.resize(free_.size() - num_reused);
        while (end_ < end) rows.push_back(static_cast<uint32_t>(end_++));
    }
    // Free a row. A position that still has its id no longer finds its fid there.
    void release(uint32_t row) noexcept {
        fid(row) = ~fid(row);
        free_.push_back(row);
        most_free_ = std::max(most_free_, free_.size());
        ++num_released_;
    }
    uint64_t num_released() const { return num_released_; }  // calls of `release`
    size_t num_free() const { return free_.size(); }

    RowsView view() const {
        return {reinterpret_cast<float*>(weights_.data()), reinterpret_cast<float*>(state_.data()), dim_, state_width_};
    }
    float* weights(uint32_t row) const { return view().weights + size_t{row} * dim_; }
    float* state(uint32_t row) const { return view().state + size_t{row} * state_width_; }
    int64_t& fid(uint32_t row) const { return reinterpret_cast<int64_t*>(fids_.data())[row]; }
    size_t end() const { return end_; }  // every allocated row is below
    // Room for free rows counts once it was in use: until then its pages are untouched.
    size_t bytes() const { return weights_.bytes() + state_.bytes() + fids_.bytes() + most_free_ * sizeof(uint32_t); }

  private:
    uint32_t dim_, state_width_;
    Region weights_, state_, fids_;
    std::vector<uint32_t> free_;
    size_t end_ = 0, most_free_ = 0;
    uint64_t num_released_ = 0;
};

}  // namespace monolith
