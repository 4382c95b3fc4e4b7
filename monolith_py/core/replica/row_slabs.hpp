// Rows of one size by id, in slabs of addresses that never move; memory follows the use, on huge pages.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "memory/region.hpp"

namespace monolith {

// Concurrency: `at` and `slabs` may run beside anything, for ids that were allocated before; all others exclude each
// other.
class RowSlabs {
  public:
    // Ids are below `max_rows`.
    RowSlabs(size_t row_bytes, size_t max_rows)
        : row_bytes_(row_bytes),
          shift_(static_cast<uint32_t>(std::bit_width(std::max<size_t>(kSlabBytes / row_bytes, 1)) - 1)),
          slabs_(((max_rows >> shift_) + 1) * sizeof(uint8_t*)) {}

    size_t row_bytes() const { return row_bytes_; }
    uint32_t shift() const { return shift_; }
    uint8_t* const* slabs() const { return reinterpret_cast<uint8_t* const*>(slabs_.data()); }
    uint8_t* at(uint32_t id) const {
        return slabs()[id >> shift_] + size_t{id & ((uint32_t{1} << shift_) - 1)} * row_bytes_;
    }

    size_t num_free() const { return free_.size(); }
    size_t end() const { return end_; }  // ids below it have been allocated
    size_t bytes() const {
        size_t sum = 0;
        for (const auto& region : regions_) sum += region->bytes();
        return sum;
    }

    // Append `n` ids to `ids`, free ones first. On failure (std::bad_alloc) nothing changes.
    void allocate(size_t n, std::vector<uint32_t>& ids) {
        const size_t num_reused = std::min(n, free_.size()), end = end_ + n - num_reused;
        ids.reserve(ids.size() + n);
        back(end);
        ids.insert(ids.end(), free_.end() - static_cast<ptrdiff_t>(num_reused), free_.end());
        free_.resize(free_.size() - num_reused);
        for (size_t id = end_; id < end; ++id) ids.push_back(static_cast<uint32_t>(id));
        end_ = end;
    }
    // Allocate `n` ids in a row; returns the first. On failure (std::bad_alloc) nothing changes.
    size_t append(size_t n) {
        back(end_ + n);
        return std::exchange(end_, end_ + n);
    }
    // Number of ids from `id` on whose rows lie side by side.
    size_t num_beside(uint32_t id) const {
        const uint32_t rows = uint32_t{1} << shift_;
        return rows - (id & (rows - 1));
    }
    void release(const std::vector<uint32_t>& ids) { free_.insert(free_.end(), ids.begin(), ids.end()); }

  private:
    static constexpr size_t kSlabBytes = size_t{1} << 26;

    // Make the memory of ids below `end` usable.
    void back(size_t end) {
        const size_t rows = size_t{1} << shift_;
        for (size_t slab = end_ >> shift_; slab * rows < end; ++slab) {
            if (slab == regions_.size()) {
                regions_.reserve(slab + 1);
                regions_.push_back(std::make_unique<Region>(rows * row_bytes_));
                auto* const entry = reinterpret_cast<uint8_t**>(slabs_.data()) + slab;
                __atomic_store_n(entry, reinterpret_cast<uint8_t*>(regions_[slab]->data()), __ATOMIC_RELEASE);
            }
            regions_[slab]->ensure(std::min(rows, end - slab * rows) * row_bytes_);
        }
    }

    const size_t row_bytes_;
    const uint32_t shift_;  // log2 of the rows in a slab
    const Region slabs_;    // addresses of the slabs by number
    std::vector<std::unique_ptr<Region>> regions_;
    std::vector<uint32_t> free_;
    size_t end_ = 0;
};

}  // namespace monolith
