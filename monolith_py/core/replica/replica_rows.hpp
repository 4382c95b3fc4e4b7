// Packed rows of all sparse features of a job, as a replica serves them: looked up and pooled while one writer changes
// them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "kernels/settings.hpp"

namespace monolith {

struct ReplicaFeature {
    std::string name;
    uint32_t dim = 0;
    Encoding encoding = Encoding::kInt8;
    bool is_mean = false;  // a pooled bag is its sum over its length

    size_t row_bytes() const { return encoded_bytes(encoding, dim); }
};

// kFull: more than the most rows would be in use; nothing was changed.
enum class AssignStatus { kDone, kFull };

// Concurrency: const calls may run together and beside a change; they take no lock and see each row before or after a
// change, never half of it. Changes exclude each other. Features go by their place in the list given at the start. A
// change that throws std::bad_alloc has taken effect for some of its fids or for none; the rows that it took for the
// others may stay unused.
class ReplicaRows {
  public:
    static constexpr size_t kMostRows = (size_t{1} << 31) - 1;

    explicit ReplicaRows(std::vector<ReplicaFeature> features, size_t max_rows = kMostRows);
    ~ReplicaRows();
    ReplicaRows(const ReplicaRows&) = delete;
    ReplicaRows& operator=(const ReplicaRows&) = delete;

    const std::vector<ReplicaFeature>& features() const;

    // Pool the bags of `num_rows` rows of some features. `lengths` (num_rows, features) and `fids` come row by row, bag
    // by bag; null lengths: each bag has one fid. Writes dim floats at out + row * stride + columns[k] for the k-th
    // feature. A fid without a row reads zeros. Bags with mean pooling are divided by their length, absent fids
    // included.
    void pool(std::span<const uint32_t> features, size_t num_rows, const int32_t* lengths, const int64_t* fids,
              float* out, size_t stride, const size_t* columns) const;
    // The same with `lengths` (features, num_rows) and `fids` feature by feature.
    void pool_by_feature(std::span<const uint32_t> features, size_t num_rows, const int32_t* lengths,
                         const int64_t* fids, float* out, size_t stride, const size_t* columns) const;

    // Assign packed rows (n, row_bytes) to fids (n,); of equal fids the last one stands.
    AssignStatus assign(size_t feature, const int64_t* fids, const uint8_t* rows, size_t n);
    // The same, faster for many rows: `num_threads` threads share the work. `in_background`: other threads of the
    // machine go first.
    AssignStatus insert_all(size_t feature, const int64_t* fids, const uint8_t* rows, size_t n, size_t num_threads,
                            bool in_background = false);
    // Remove rows; fids without one are skipped.
    void evict(size_t feature, const int64_t* fids, size_t n);
    // Copy packed rows (n, row_bytes); zeros for a fid without one. `found` (n,), may be null, tells which have one.
    void read(size_t feature, const int64_t* fids, size_t n, uint8_t* rows, bool* found) const;

    // Digest of all rows (protos/monolith/v1/parameter_sync.proto).
    uint64_t digest() const;
    size_t num_rows() const;
    // Memory of rows and id maps, touched ahead included.
    size_t num_bytes() const;

  private:
    struct Content;
    std::unique_ptr<Content> content_;
};

}  // namespace monolith
