// Rows at stable addresses: weights, optimizer state and fid of each, recycled by a free list.
//
// Concurrency: `allocate` and `release` need the store exclusively. The accessors may run together; threads may write
// to different rows.
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
    // `row_bytes`: memory of one row in the whole table. Each region may take 1.5 times its share of the machine's
    // memory.
    RowStore(uint32_t dim, uint32_t state_width, double row_bytes)
        : dim_(dim),
          state_width_(state_width),
          weights_(1.5 * dim * sizeof(float) / row_bytes),
          state_(1.5 * state_width * sizeof(float) / row_bytes),
          fids_(1.5 * sizeof(int64_t) / row_bytes) {}

    // Append `n` free rows to `rows`, the last released first; their content is undefined. On failure (TableFull,
    // std::bad_alloc) the store and `rows` stay as they were.
    void allocate(size_t n, std::vector<uint32_t>& rows) {
        const size_t num_reused = std::min(n, free_.size()), end = end_ + n - num_reused;
        if (end > kCandidate)
            throw TableFull("table is full: rows must be at most " + std::to_string(kCandidate) + ", got " +
                            std::to_string(end));
        rows.reserve(rows.size() + n);
        weights_.ensure(end * dim_ * sizeof(float));
        state_.ensure(end * state_width_ * sizeof(float));
        fids_.ensure(end * sizeof(int64_t));
        rows.insert(rows.end(), free_.rbegin(), free_.rbegin() + static_cast<std::ptrdiff_t>(num_reused));
        free_.resize(free_.size() - num_reused);
        while (end_ < end) rows.push_back(static_cast<uint32_t>(end_++));
    }
    void release(uint32_t row) { free_.push_back(row); }

    RowsView view() const {
        return {reinterpret_cast<float*>(weights_.data()), reinterpret_cast<float*>(state_.data()), dim_, state_width_};
    }
    float* weights(uint32_t row) const { return view().weights + size_t{row} * dim_; }
    float* state(uint32_t row) const { return view().state + size_t{row} * state_width_; }
    int64_t& fid(uint32_t row) const { return reinterpret_cast<int64_t*>(fids_.data())[row]; }
    size_t end() const { return end_; }  // every allocated row is below
    size_t bytes() const {
        return weights_.bytes() + state_.bytes() + fids_.bytes() + free_.capacity() * sizeof(uint32_t);
    }

  private:
    uint32_t dim_, state_width_;
    Region weights_, state_, fids_;
    std::vector<uint32_t> free_;
    size_t end_ = 0;
};

}  // namespace monolith
