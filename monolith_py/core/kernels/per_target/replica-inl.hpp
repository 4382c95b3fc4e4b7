// Look-up of a replica: packed rows found by fid and pooled, in groups of fids. While the rows of one group are summed,
// those of the next one and the buckets of the one after it are on their way from memory.
#pragma once

#include "index/hash.hpp"
#include "index/versioned_bucket.hpp"
#include "kernels/per_target/bag_cursor-inl.hpp"
#include "kernels/per_target/common-inl.hpp"
#include "kernels/per_target/packed_row-inl.hpp"
#include "kernels/replica_kernels.hpp"

namespace monolith {
namespace {

constexpr size_t kReplicaGroup = 48;
// Bags of one feature lie a row of all features apart, which the processor's own prefetching does not follow.
constexpr size_t kBagsAhead = 16;

struct ReplicaGroup {
    const int64_t* fids;
    size_t size;
    uint64_t hashes[kReplicaGroup];
    BlockWord blocks[kReplicaGroup];
    const VersionedBucket* first[kReplicaGroup];
    const ReplicaView* views[kReplicaGroup];
    const uint8_t* rows[kReplicaGroup];  // null without a row
};

[[gnu::always_inline]] inline Reading probe_bucket(const VersionedBucket& bucket, int64_t key) {
#if defined(__AVX512VL__) && !defined(__SANITIZE_THREAD__)
    // As in read_bucket: version, rows, keys, version. The processor keeps loads in order, the asm the compiler.
    for (;;) {
        const uint32_t version = bucket.version.load(std::memory_order_acquire);
        const auto* const words = reinterpret_cast<const char*>(&bucket);
        const __m256i rows = _mm256_load_si256(reinterpret_cast<const __m256i*>(words + 32));  // from key 4 on
        asm volatile("" ::: "memory");
        const __m512i keys = _mm512_load_si512(words);
        const unsigned filled = _mm256_cmpneq_epi32_mask(rows, _mm256_set1_epi32(-1)) >> 2;
        const unsigned found = _mm512_cmpeq_epi64_mask(keys, _mm512_set1_epi64(key)) & filled & 31u;
        const uint32_t row = found ? bucket.rows[__builtin_ctz(found)].load(std::memory_order_relaxed) : kNoRow;
        asm volatile("" ::: "memory");
        if (bucket.version.load(std::memory_order_relaxed) == version) return {row, version};
    }
#else
    return read_bucket(bucket, key);
#endif
}

// Rows of all features, of different sizes.
struct AnyRows {
    explicit AnyRows(const ReplicaPoolJob&) {}
    [[gnu::always_inline]] const uint8_t* prefetched(const ReplicaView& view, uint32_t id) const {
        const uint8_t* const at = view.row(id);
        for (uint32_t byte = 0; byte < view.row_bytes; byte += 64) __builtin_prefetch(at + byte, 0, 3);
        __builtin_prefetch(at + view.row_bytes - 1, 0, 3);
        return at;
    }
    [[gnu::always_inline]] void pool(const ReplicaView& view, const BagPart& part, float* out) const {
        switch (view.encoding) {
            case Encoding::kFp32:
                return pool_bag<Encoding::kFp32, 0>(part, view.dim, out);
            case Encoding::kFp16:
                return pool_bag<Encoding::kFp16, 0>(part, view.dim, out);
            case Encoding::kInt8:
                return pool_bag<Encoding::kInt8, 0>(part, view.dim, out);
            case Encoding::kInt4:
                return pool_bag<Encoding::kInt4, 0>(part, view.dim, out);
        }
    }
};

// Rows of features of one encoding and dim: they share their slabs.
template <Encoding kEncoding, uint32_t kDim>
struct AlikeRows {
    static constexpr uint32_t kBytes = encoded_bytes(kEncoding, kDim);
    uint8_t* const* const slabs;
    const uint32_t shift, mask;

    explicit AlikeRows(const ReplicaPoolJob& job) : AlikeRows(job.views[job.features[0]]) {}
    explicit AlikeRows(const ReplicaView& view)
        : slabs(view.slabs), shift(view.slab_shift), mask((1u << view.slab_shift) - 1) {}
    [[gnu::always_inline]] const uint8_t* prefetched(const ReplicaView&, uint32_t id) const {
        const uint8_t* const at = __atomic_load_n(slabs + (id >> shift), __ATOMIC_ACQUIRE) + size_t{id & mask} * kBytes;
        for (uint32_t byte = 0; byte < kBytes; byte += 64) __builtin_prefetch(at + byte, 0, 3);
        __builtin_prefetch(at + kBytes - 1, 0, 3);
        return at;
    }
    [[gnu::always_inline]] void pool(const ReplicaView&, const BagPart& part, float* out) const {
        pool_bag<kEncoding, kDim>(part, kDim, out);
    }
};

[[gnu::always_inline]] inline void fetch_fid(const ReplicaView& view, BucketFactors factors, size_t i,
                                             ReplicaGroup* group) {
    const BlockWord block = view.map.block(group->hashes[i]);
    group->views[i] = &view;
    group->blocks[i] = block;
    group->first[i] = block.bucket(group->hashes[i], factors.first);
    __builtin_prefetch(group->first[i], 0, 3);
}

// Begin to load the first buckets of a group. `kOnes`: each bag has one fid.
template <bool kOnes>
[[gnu::always_inline]] inline void fetch_group(BucketFactors factors, BagCursor* cursor, ReplicaGroup* group) {
    const size_t size = group->size;
    for (size_t i = 0; i < size; ++i) group->hashes[i] = hash_fid(group->fids[i]);
    for (size_t i = 0; i < size;) {
        size_t num;
        if constexpr (kOnes) {
            if (!cursor->job.by_feature) {
                fetch_fid(cursor->view(), factors, i++, group);
                cursor->next_bag();
                continue;
            }
            num = least(cursor->job.num_rows - cursor->row, size - i);
        } else {
            cursor->skip_empty<false>();
            num = least(cursor->left, size - i);
        }
        const ReplicaView& view = cursor->view();
        for (const size_t end = i + num; i < end; ++i) fetch_fid(view, factors, i, group);
        if constexpr (kOnes)
            cursor->next_rows(num);
        else
            cursor->take(num);
    }
}

// Find the rows of a group and begin to load them.
template <typename Rows>
[[gnu::always_inline]] inline void probe_group(const Rows& rows, BucketFactors factors, ReplicaGroup* group) {
    const VersionedBucket* second[kReplicaGroup];
    uint32_t versions[kReplicaGroup];
    uint8_t later[kReplicaGroup];
    size_t num_later = 0;
    for (size_t i = 0; i < group->size; ++i) {
        const Reading reading = probe_bucket(*group->first[i], group->fids[i]);
        if (reading.row != kNoRow) {
            group->rows[i] = rows.prefetched(*group->views[i], reading.row);
            continue;
        }
        second[num_later] = group->blocks[i].bucket(group->hashes[i], factors.second);
        __builtin_prefetch(second[num_later], 0, 3);
        versions[num_later] = reading.version;
        later[num_later++] = static_cast<uint8_t>(i);
    }
    for (size_t j = 0; j < num_later; ++j) {
        const size_t i = later[j];
        uint32_t row = probe_bucket(*second[j], group->fids[i]).row;
        if (row == kNoRow && group->first[i]->version.load(std::memory_order_relaxed) != versions[j])
            row = find_row(group->views[i]->map, group->fids[i], group->hashes[i]);
        group->rows[i] = row == kNoRow ? nullptr : rows.prefetched(*group->views[i], row);
    }
}

// Sum the rows of a group into their bags; a bag that goes on in the next group keeps its sum in `out`.
template <bool kOnes, typename Rows>
[[gnu::always_inline]] inline void use_group(const Rows& rows, BagCursor* cursor, const ReplicaGroup& group) {
    if constexpr (kOnes) {
        for (size_t i = 0; i < group.size; ++i) {
            cursor->prefetch_out(kBagsAhead);
            rows.pool(cursor->view(), BagPart{group.rows + i, 1, true, 1.0f}, cursor->out());
            cursor->next_bag();
        }
        return;
    }
    for (size_t i = 0; i < group.size;) {
        cursor->skip_empty<true>();
        const ReplicaView& view = cursor->view();
        const size_t num = least(cursor->left, group.size - i);
        const bool divides = view.is_mean && num == cursor->left && cursor->length() > 1;
        const float divisor = divides ? static_cast<float>(cursor->length()) : 1.0f;
        rows.pool(view, BagPart{group.rows + i, num, cursor->begins, divisor}, cursor->out());
        i += num;
        cursor->take(num);
    }
}

// Number of fids in a group, so that the rows on their way fit the first level of the cache.
size_t group_size(const ReplicaPoolJob& job) {
    uint32_t most = 0;
    for (size_t k = 0; k < job.num_features; ++k) {
        const uint32_t bytes = job.views[job.features[k]].row_bytes;
        most = bytes > most ? bytes : most;
    }
    return most <= 64 ? kReplicaGroup : most <= 160 ? kReplicaGroup / 2 : kReplicaGroup / 4;
}

template <bool kOnes, typename Rows>
[[gnu::always_inline]] inline void pool_in_groups(const ReplicaPoolJob& job, size_t num_fids) {
    const Rows rows(job);
    const BucketFactors factors = job.views[job.features[0]].map.factors;  // those of all maps
    const size_t most = group_size(job), num_groups = (num_fids + most - 1) / most;
    ReplicaGroup groups[3];
    BagCursor fetched(job), used(job);
    for (size_t g = 0; g < num_groups + 2; ++g) {
        if (g < num_groups) {
            ReplicaGroup* const group = &groups[g % 3];
            group->fids = job.fids + g * most;
            group->size = least(most, num_fids - g * most);
            fetch_group<kOnes>(factors, &fetched, group);
        }
        if (g >= 1 && g - 1 < num_groups) probe_group(rows, factors, &groups[(g - 1) % 3]);
        if (g >= 2) use_group<kOnes>(rows, &used, groups[(g - 2) % 3]);
    }
    if (!kOnes) used.skip_empty<true>();
}

template <typename Rows>
void pool_rows_of(const ReplicaPoolJob& job, size_t num_fids, bool is_ones) {
    if (is_ones)
        pool_in_groups<true, Rows>(job, num_fids);
    else
        pool_in_groups<false, Rows>(job, num_fids);
}

template <Encoding kEncoding>
void pool_alike(const ReplicaPoolJob& job, size_t num_fids, bool is_ones) {
    switch (job.views[job.features[0]].dim) {
        case 8:
            return pool_rows_of<AlikeRows<kEncoding, 8>>(job, num_fids, is_ones);
        case 16:
            return pool_rows_of<AlikeRows<kEncoding, 16>>(job, num_fids, is_ones);
        case 32:
            return pool_rows_of<AlikeRows<kEncoding, 32>>(job, num_fids, is_ones);
        case 64:
            return pool_rows_of<AlikeRows<kEncoding, 64>>(job, num_fids, is_ones);
        case 128:
            return pool_rows_of<AlikeRows<kEncoding, 128>>(job, num_fids, is_ones);
        default:
            return pool_rows_of<AnyRows>(job, num_fids, is_ones);
    }
}

bool is_alike(const ReplicaPoolJob& job) {
    const ReplicaView& one = job.views[job.features[0]];
    for (size_t k = 1; k < job.num_features; ++k) {
        const ReplicaView& other = job.views[job.features[k]];
        if (other.dim != one.dim || other.encoding != one.encoding) return false;
    }
    return true;
}

void replica_pool(const ReplicaPoolJob& job) {
    const size_t num_bags = job.num_features * job.num_rows;
    if (num_bags == 0) return;
    size_t num_fids = job.lengths ? 0 : num_bags;
    bool is_ones = true;
    for (size_t bag = 0; job.lengths && bag < num_bags; ++bag) {
        num_fids += static_cast<size_t>(job.lengths[bag]);
        is_ones &= job.lengths[bag] == 1;
    }
    if (!is_alike(job)) return pool_rows_of<AnyRows>(job, num_fids, is_ones);
    switch (job.views[job.features[0]].encoding) {
        case Encoding::kFp32:
            return pool_alike<Encoding::kFp32>(job, num_fids, is_ones);
        case Encoding::kFp16:
            return pool_alike<Encoding::kFp16>(job, num_fids, is_ones);
        case Encoding::kInt8:
            return pool_alike<Encoding::kInt8>(job, num_fids, is_ones);
        case Encoding::kInt4:
            return pool_rows_of<AnyRows>(job, num_fids, is_ones);
    }
}

}  // namespace
}  // namespace monolith
