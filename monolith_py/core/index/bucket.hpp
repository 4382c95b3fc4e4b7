// One cache line of the id map: four entries of key, row, last occurrence and number of occurrences.
#pragma once

#include <cstddef>
#include <cstdint>

namespace monolith {

constexpr uint32_t kNoRow = 0xFFFFFFFFu;      // empty slot; also the answer for an absent fid
constexpr uint32_t kCandidate = 0xFFFFFFFEu;  // entry of a fid that is counted and not yet admitted

struct alignas(64) Bucket {
    int64_t keys[4];
    uint32_t rows[4];
    uint16_t seen[4];    // ticks of event time since the map's base
    uint16_t counts[4];  // occurrences, saturating
};
static_assert(sizeof(Bucket) == 64);

constexpr int kSlotsPerBucket = 4;

// One entry's place in a bucket; kNoSlot for an absent fid.
struct Slot {
    Bucket* bucket = nullptr;
    int index = 0;
    explicit operator bool() const { return bucket != nullptr; }
    uint32_t& row() const { return bucket->rows[index]; }
    uint16_t& seen() const { return bucket->seen[index]; }
    uint16_t& count() const { return bucket->counts[index]; }
    int64_t key() const { return bucket->keys[index]; }
};

inline constexpr Slot kNoSlot{};

// Unit of growth, of one thread's work in a batch, and of a snapshot's chunks.
struct Shard {
    Bucket* buckets = nullptr;
    uint32_t num_buckets = 0;
    uint32_t size = 0;
    uint32_t limit = 0;  // number of entries above which it grows
};

// Odd factors that choose the two buckets of a hash.
struct BucketFactors {
    uint64_t first, second;
};

// The map as the kernels see it. The top bits of a hash choose the shard, its products with the factors two buckets.
struct MapView {
    const Shard* shards;
    int shift;  // 63 - log2(number of shards)
    BucketFactors factors;

    [[gnu::always_inline]] size_t shard_of(uint64_t hash) const { return (hash >> 1) >> shift; }
};

// Multiply-shift hashing (Dietzfelbinger et al. 1997): whatever the hashes, few share buckets under random factors.
[[gnu::always_inline]] inline Bucket* bucket_of(const Shard& shard, uint64_t hash, uint64_t factor) {
    return shard.buckets + (((hash * factor) >> 32) * shard.num_buckets >> 32);
}
[[gnu::always_inline]] inline Bucket* first_bucket(const Shard& shard, uint64_t hash, const BucketFactors& factors) {
    return bucket_of(shard, hash, factors.first);
}
[[gnu::always_inline]] inline Bucket* second_bucket(const Shard& shard, uint64_t hash, const BucketFactors& factors) {
    return bucket_of(shard, hash, factors.second);
}

}  // namespace monolith
