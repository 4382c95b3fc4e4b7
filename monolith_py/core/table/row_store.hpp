// Rows at stable addresses: weights, optimizer state and fid of each, recycled by a free list.
#pragma once

#include <cstdint>
#include <new>
#include <stdexcept>
#include <vector>

#include "index/bucket.hpp"
#include "kernels/kernels.hpp"
#include "memory/region.hpp"

namespace monolith {

class RowStore {
  public:
    // `row_bytes` is what a row takes with all that a table knows of it: each part may take its share of the machine's
    // memory, and a half.
    RowStore(uint32_t dim, uint32_t state_width, double row_bytes)
        : dim_(dim),
          state_width_(state_width),
          weights_(1.5 * dim * sizeof(float) / row_bytes),
          state_(1.5 * state_width * sizeof(float) / row_bytes),
          fids_(1.5 * sizeof(int64_t) / row_bytes) {}

    // Append `n` free rows to `rows`, those released last first; their content is undefined.
    void allocate(size_t n, std::vector<uint32_t>& rows) {
        for (; n > 0 && !free_.empty(); --n) {
            rows.push_back(free_.back());
            free_.pop_back();
        }
        if (end_ + n > kCandidate) throw std::length_error("table is full: 4,294,967,294 rows");
        weights_.ensure((end_ + n) * dim_ * sizeof(float));
        state_.ensure((end_ + n) * state_width_ * sizeof(float));
        fids_.ensure((end_ + n) * sizeof(int64_t));
        const size_t first = rows.size();
        rows.resize(first + n);
        for (size_t i = first; i < rows.size(); ++i) rows[i] = static_cast<uint32_t>(end_++);
    }
    void release(uint32_t row) { free_.push_back(row); }

    RowsView view() const {
        return {reinterpret_cast<float*>(weights_.data()), reinterpret_cast<float*>(state_.data()), dim_, state_width_};
    }
    float* weights(uint32_t row) const { return view().weights + size_t{row} * dim_; }
    float* state(uint32_t row) const { return view().state + size_t{row} * state_width_; }
    int64_t& fid(uint32_t row) const { return reinterpret_cast<int64_t*>(fids_.data())[row]; }
    size_t end() const { return end_; }  // every row that was ever handed out is below
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
