// Look-up of a replica: packed rows found by fid and pooled, in groups of fids. While the rows of one group are summed,
// those of the next one and the buckets of the one after it are on their way from memory.
#pragma once

#include <cstring>

#include "index/hash.hpp"
#include "index/versioned_bucket.hpp"
#include "kernels/per_target/common-inl.hpp"
#include "kernels/per_target/packed_row-inl.hpp"
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
    [[gnu::always_inline]] void advance() {
        ++bag;
        size_t &inner = job.by_feature ? row : k, &outer = job.by_feature ? k : row;
        if (++inner == (job.by_feature ? job.num_rows : job.num_features)) {
            inner = 0;
            ++outer;
        }
        left = length();
        begins = true;
    }
    // Advance to a bag with fids to come, or to the end; bags without fids become zeros if `kClears`.
    template <bool kClears>
    [[gnu::always_inline]] void skip_empty() {
        for (; left == 0 && bag < num_bags(); advance())
            if (kClears && begins) std::memset(out(), 0, view().dim * sizeof(float));
    }
};

constexpr size_t kReplicaGroup = 48;

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

[[gnu::always_inline]] inline void fetch_group(BagCursor* cursor, ReplicaGroup* group) {
    for (size_t i = 0; i < group->size; ++i) group->hashes[i] = hash_fid(group->fids[i]);
    for (size_t i = 0; i < group->size;) {
        cursor->skip_empty<false>();
        const ReplicaView& view = cursor->view();
        const size_t end = i + least(cursor->left, group->size - i);
        cursor->left -= end - i;
        for (; i < end; ++i) {
            const uint64_t hash = group->hashes[i];
            const BlockWord block = view.map.block(hash);
            group->views[i] = &view;
            group->blocks[i] = block;
            group->first[i] = block.bucket(hash, view.map.factors.first);
            __builtin_prefetch(group->first[i], 0, 3);
        }
        if (cursor->left == 0) cursor->advance();
    }
}

[[gnu::always_inline]] inline void probe_group(ReplicaGroup* group) {
    const VersionedBucket* second[kReplicaGroup];
    uint32_t versions[kReplicaGroup];
    uint8_t later[kReplicaGroup];
    size_t num_later = 0;
    const auto hit = [&](size_t i, uint32_t row) {
        const ReplicaView& view = *group->views[i];
        const uint8_t* const at = view.row(row);
        group->rows[i] = at;
        for (uint32_t byte = 0; byte < view.row_bytes; byte += 64) __builtin_prefetch(at + byte, 0, 3);
        __builtin_prefetch(at + view.row_bytes - 1, 0, 3);
    };
    for (size_t i = 0; i < group->size; ++i) {
        const Reading reading = probe_bucket(*group->first[i], group->fids[i]);
        if (reading.row != kNoRow) {
            hit(i, reading.row);
            continue;
        }
        second[num_later] = group->blocks[i].bucket(group->hashes[i], group->views[i]->map.factors.second);
        __builtin_prefetch(second[num_later], 0, 3);
        versions[num_later] = reading.version;
        later[num_later++] = static_cast<uint8_t>(i);
    }
    for (size_t j = 0; j < num_later; ++j) {
        const size_t i = later[j];
        uint32_t row = probe_bucket(*second[j], group->fids[i]).row;
        if (row == kNoRow && group->first[i]->version.load(std::memory_order_relaxed) != versions[j])
            row = find_row(group->views[i]->map, group->fids[i], group->hashes[i]);
        if (row == kNoRow)
            group->rows[i] = nullptr;
        else
            hit(i, row);
    }
}

// Sum the rows of a group into their bags by `pool_bag`; a bag that goes on in the next group keeps its sum in `out`.
template <typename PoolBag>
[[gnu::always_inline]] inline void use_group(BagCursor* cursor, const ReplicaGroup& group, PoolBag&& pool_bag) {
    for (size_t i = 0; i < group.size;) {
        cursor->skip_empty<true>();
        const ReplicaView& view = cursor->view();
        const size_t num = least(cursor->left, group.size - i);
        cursor->left -= num;
        const bool divides = view.is_mean && cursor->left == 0 && cursor->length() > 1;
        const float divisor = divides ? static_cast<float>(cursor->length()) : 1.0f;
        pool_bag(view, BagPart{group.rows + i, num, cursor->begins, divisor}, cursor->out());
        cursor->begins = false;
        i += num;
        if (cursor->left == 0) cursor->advance();
    }
}

using UseGroup = void (*)(BagCursor* cursor, const ReplicaGroup& group);

template <Encoding kEncoding, uint32_t kDim>
void use_alike(BagCursor* cursor, const ReplicaGroup& group) {
    use_group(cursor, group,
              [](const ReplicaView&, const BagPart& part, float* out) { pool_bag<kEncoding, kDim>(part, kDim, out); });
}

void use_any(BagCursor* cursor, const ReplicaGroup& group) {
    use_group(cursor, group, [](const ReplicaView& view, const BagPart& part, float* out) {
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
    });
}

template <Encoding kEncoding>
UseGroup use_of_dim(uint32_t dim) {
    switch (dim) {
        case 8:
            return use_alike<kEncoding, 8>;
        case 16:
            return use_alike<kEncoding, 16>;
        case 32:
            return use_alike<kEncoding, 32>;
        case 64:
            return use_alike<kEncoding, 64>;
        case 128:
            return use_alike<kEncoding, 128>;
        default:
            return use_any;
    }
}

UseGroup use_of(const ReplicaPoolJob& job) {
    const ReplicaView& one = job.views[job.features[0]];
    for (size_t k = 1; k < job.num_features; ++k) {
        const ReplicaView& other = job.views[job.features[k]];
        if (other.dim != one.dim || other.encoding != one.encoding) return use_any;
    }
    switch (one.encoding) {
        case Encoding::kFp32:
            return use_of_dim<Encoding::kFp32>(one.dim);
        case Encoding::kFp16:
            return use_of_dim<Encoding::kFp16>(one.dim);
        case Encoding::kInt8:
            return use_of_dim<Encoding::kInt8>(one.dim);
        default:
            return use_any;
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

void replica_pool(const ReplicaPoolJob& job) {
    if (job.num_features == 0) return;
    const size_t num_bags = job.num_features * job.num_rows;
    size_t num_fids = job.lengths ? 0 : num_bags;
    for (size_t bag = 0; job.lengths && bag < num_bags; ++bag) num_fids += static_cast<size_t>(job.lengths[bag]);

    const UseGroup use = use_of(job);
    const size_t most = group_size(job), num_groups = (num_fids + most - 1) / most;
    ReplicaGroup groups[3];
    BagCursor fetched(job), used(job);
    for (size_t g = 0; g < num_groups + 2; ++g) {
        if (g < num_groups) {
            ReplicaGroup* const group = &groups[g % 3];
            group->fids = job.fids + g * most;
            group->size = least(most, num_fids - g * most);
            fetch_group(&fetched, group);
        }
        if (g >= 1 && g - 1 < num_groups) probe_group(&groups[(g - 1) % 3]);
        if (g >= 2 && g - 2 < num_groups) use(&used, groups[(g - 2) % 3]);
    }
    used.skip_empty<true>();
}

}  // namespace
}  // namespace monolith
