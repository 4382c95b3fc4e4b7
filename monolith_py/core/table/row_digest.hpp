// Digest of packed rows: the sum of a hash of each, so it depends on no order. protos/monolith/v1/parameter_sync.proto
// defines it.
//
// Concurrency: every call needs the digest exclusively.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "bytes/crc32c.hpp"
#include "index/hash.hpp"
#include "kernels/settings.hpp"

namespace monolith {

// Whether a packed row reads as zeros, like the row of a fid that has none.
inline bool reads_zeros(const uint8_t* row, size_t size, Encoding encoding) {
    const auto all_zero = [&](size_t from) {
        return std::all_of(row + from, row + size, [](uint8_t byte) { return byte == 0; });
    };
    const auto is_half_zero = [&](size_t at) { return row[at] == 0 && (row[at + 1] & 0x7F) == 0; };
    switch (encoding) {
        case Encoding::kFp32:
            for (size_t at = 0; at + 4 <= size; at += 4) {
                uint32_t bits;
                std::memcpy(&bits, row + at, sizeof bits);
                if (bits << 1) return false;  // without the sign
            }
            return true;
        case Encoding::kFp16:
            for (size_t at = 0; at + 2 <= size; at += 2)
                if (!is_half_zero(at)) return false;
            return true;
        case Encoding::kInt8:
        case Encoding::kInt4:  // scale, bias, levels
            return size >= 4 && is_half_zero(2) && (is_half_zero(0) || all_zero(4));
    }
    return false;
}

inline uint64_t row_hash(int64_t fid, const uint8_t* row, size_t size, Encoding encoding) {
    if (reads_zeros(row, size, encoding)) return 0;
    return mix(hash_fid(fid) + crc32c(reinterpret_cast<const char*>(row), size));
}

// Digest of n packed rows of `size` bytes each, of different fids.
inline uint64_t rows_digest(const int64_t* fids, const uint8_t* rows, size_t n, size_t size, Encoding encoding) {
    uint64_t sum = 0;
    for (size_t i = 0; i < n; ++i) sum += row_hash(fids[i], rows + i * size, size, encoding);
    return sum;
}

// Digest of the rows of a table as one consumer has them after its drain; 8 bytes a row.
class RowDigest {
  public:
    // Make room for rows below `end`.
    void reserve(size_t end) {
        if (end > hashes_.size()) hashes_.resize(std::max(end, hashes_.size() + hashes_.size() / 2));
    }
    void set(uint32_t row, uint64_t hash) {
        sum_ += hash - hashes_[row];
        hashes_[row] = hash;
    }
    void remove(uint32_t row) {
        if (row < hashes_.size()) set(row, 0);
    }
    uint64_t sum() const { return sum_; }
    size_t bytes() const { return hashes_.capacity() * sizeof(uint64_t); }

  private:
    std::vector<uint64_t> hashes_;  // by row; 0 for a free one
    uint64_t sum_ = 0;
};

}  // namespace monolith
