// A walk over the bags of a replica's look-up.
#pragma once

#include <cstring>

#include "kernels/per_target/common-inl.hpp"
#include "kernels/replica_kernels.hpp"

namespace monolith {
namespace {

// A walk over the bags of a job in the order of their fids.
struct BagCursor {
    const ReplicaPoolJob& job;
    size_t bag = 0, k = 0, row = 0;
    size_t left;         // fids of the bag that are still to come
    bool begins = true;  // whether none of its fids has come

    explicit BagCursor(const ReplicaPoolJob& of) : job(of), left(length()) {}
    [[gnu::always_inline]] size_t num_bags() const { return job.num_features * job.num_rows; }
    [[gnu::always_inline]] size_t length() const {
        return bag == num_bags() ? 0 : job.lengths ? static_cast<size_t>(job.lengths[bag]) : 1;
    }
    [[gnu::always_inline]] const ReplicaView& view() const { return job.views[job.features[k]]; }
    [[gnu::always_inline]] float* out() const { return job.out + row * job.stride + job.columns[k]; }
    // Begin to load what the bag `num` rows further is written to; it may lie behind the end.
    [[gnu::always_inline]] void prefetch_out(size_t num) const {
        if (!job.by_feature) return;
        const auto* const at = reinterpret_cast<const char*>(out() + num * job.stride);
        for (uint32_t byte = 0; byte < view().dim * sizeof(float); byte += 64) __builtin_prefetch(at + byte, 1, 3);
    }
    [[gnu::always_inline]] void next_bag() {
        if (job.by_feature) return next_rows(1);
        if (++k < job.num_features) return;
        k = 0;
        ++row;
    }
    // Go on by `num` rows of one feature.
    [[gnu::always_inline]] void next_rows(size_t num) {
        row += num;
        if (row < job.num_rows) return;
        row = 0;
        ++k;
    }
    [[gnu::always_inline]] void advance() {
        ++bag;
        next_bag();
        left = length();
        begins = true;
    }
    // Take fids of the present bag.
    [[gnu::always_inline]] void take(size_t num) {
        left -= num;
        begins = false;
        if (left == 0) advance();
    }
    // Advance to a bag with fids to come, or to the end; bags without fids become zeros if `kClears`.
    template <bool kClears>
    [[gnu::always_inline]] void skip_empty() {
        for (; left == 0 && bag < num_bags(); advance())
            if (kClears && begins) std::memset(out(), 0, view().dim * sizeof(float));
    }
};

}  // namespace
}  // namespace monolith
