// One cache line of the concurrent id map: five entries of key and row, and a version that readers check.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "index/bucket.hpp"
#include "index/hash.hpp"

namespace monolith {

// A slot is empty while its row is kNoRow. A writer that fills one changes the version, the key, the row, and the
// version again. A reader that loads version, rows, keys and the same version again has rows that belong to the keys,
// by the first change; whoever saw the slot empty, even in the midst of a filling, sees a new version after it, by the
// second.
struct alignas(64) VersionedBucket {
    static constexpr int kSlots = 5;
    std::atomic<int64_t> keys[kSlots];
    std::atomic<uint32_t> rows[kSlots];
    std::atomic<uint32_t> version;
};
static_assert(sizeof(VersionedBucket) == 64);

// Number of buckets of each class of blocks, each about an eighth larger than the one before. Even numbers, so that
// blocks side by side all begin at a multiple of 128 bytes.
constexpr size_t kBlockClasses = 128;
struct BlockSizes {
    uint32_t of[kBlockClasses];
};
constexpr BlockSizes kBlockSizes = [] {
    BlockSizes sizes{{2}};
    for (size_t i = 1; i < kBlockClasses; ++i) sizes.of[i] = sizes.of[i - 1] + (sizes.of[i - 1] / 8 / 2 + 1) * 2;
    return sizes;
}();

// A block of buckets in one word: its address, which is a multiple of 128, and its class.
struct BlockWord {
    uintptr_t word = 0;

    static BlockWord of(VersionedBucket* buckets, size_t size_class) {
        return {reinterpret_cast<uintptr_t>(buckets) | size_class};
    }
    [[gnu::always_inline]] size_t size_class() const { return word & (kBlockClasses - 1); }
    [[gnu::always_inline]] uint32_t num_buckets() const { return kBlockSizes.of[size_class()]; }
    [[gnu::always_inline]] VersionedBucket* buckets() const {
        // NOLINTNEXTLINE(performance-no-int-to-ptr): one word is swapped at once
        return reinterpret_cast<VersionedBucket*>(word & ~uintptr_t{kBlockClasses - 1});
    }
    [[gnu::always_inline]] VersionedBucket* bucket(uint64_t hash, uint64_t factor) const {
        return buckets() + (((hash * factor) >> 32) * num_buckets() >> 32);
    }
};

// The concurrent map as readers see it. The top bits of a hash choose the block, as in IdMap.
struct ConcurrentMapView {
    static constexpr size_t kBlocks = 256;
    const std::atomic<uintptr_t>* blocks;
    BucketFactors factors;

    [[gnu::always_inline]] static size_t block_of(uint64_t hash) { return hash >> 56; }
    [[gnu::always_inline]] BlockWord block(uint64_t hash) const {
        return {blocks[block_of(hash)].load(std::memory_order_acquire)};
    }
};

// Row of a key in a bucket, kNoRow for none, and the version at which it was there. Never waits for a writer; repeats
// only after the bucket has changed.
struct Reading {
    uint32_t row, version;
};
[[gnu::always_inline]] inline Reading read_bucket(const VersionedBucket& bucket, int64_t key) {
    for (;;) {
        const uint32_t version = bucket.version.load(std::memory_order_acquire);
        uint32_t row = kNoRow;
        for (int i = 0; i < VersionedBucket::kSlots; ++i) {
            const uint32_t found = bucket.rows[i].load(std::memory_order_acquire);
            if (found != kNoRow && bucket.keys[i].load(std::memory_order_acquire) == key) row = found;
        }
        if (bucket.version.load(std::memory_order_relaxed) == version) return {row, version};
    }
}

// Row of a fid, kNoRow for none. An entry moves to a bucket before it leaves the other one: absent from both, and no
// filling of the first one ended meanwhile, means that the fid has no row.
[[gnu::always_inline]] inline uint32_t find_row(const ConcurrentMapView& map, int64_t fid, uint64_t hash) {
    for (;;) {
        const BlockWord block = map.block(hash);
        const VersionedBucket& first = *block.bucket(hash, map.factors.first);
        const Reading reading = read_bucket(first, fid);
        if (reading.row != kNoRow) return reading.row;
        const uint32_t row = read_bucket(*block.bucket(hash, map.factors.second), fid).row;
        if (row != kNoRow || first.version.load(std::memory_order_relaxed) == reading.version) return row;
    }
}

}  // namespace monolith
