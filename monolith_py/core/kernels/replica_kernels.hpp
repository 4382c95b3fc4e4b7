// Interface of the kernels of a replica: find rows by fid and pool them in one pass.
#pragma once

#include <cstddef>
#include <cstdint>

#include "index/versioned_bucket.hpp"
#include "kernels/settings.hpp"

namespace monolith {

// Rows of one feature: row r begins in slab r >> slab_shift, row_bytes for each row before it there.
struct ReplicaView {
    ConcurrentMapView map;
    uint8_t* const* slabs;  // a slab is set before the first row in it is mapped
    uint32_t slab_shift, row_bytes, dim;
    Encoding encoding;
    bool is_mean;

    [[gnu::always_inline]] const uint8_t* row(uint32_t id) const {
        const uint8_t* const slab = __atomic_load_n(slabs + (id >> slab_shift), __ATOMIC_ACQUIRE);
        return slab + size_t{id & ((1u << slab_shift) - 1)} * row_bytes;
    }
};

// Bags of `num_rows` rows of the features views[features[k]], row by row, or feature by feature if `by_feature`.
struct ReplicaPoolJob {
    const ReplicaView* views;
    const uint32_t* features;
    size_t num_features, num_rows;
    const int32_t* lengths;  // of the bags; null: all one
    const int64_t* fids;
    float* out;  // out + row * stride + columns[k]
    size_t stride;
    const size_t* columns;
    bool by_feature;
};

struct ReplicaKernels {
    // Sum, or average, the rows of each bag. The caller keeps rows and blocks of the maps from being used again.
    void (*pool)(const ReplicaPoolJob& job);
};

}  // namespace monolith
