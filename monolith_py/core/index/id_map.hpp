// Collisionless map from 64-bit fids to row ids: bucketised cuckoo hashing with exact keys, in shards that grow one at
// a time.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <utility>
#include <vector>

#include "index/arena.hpp"
#include "index/bucket.hpp"
#include "index/hash.hpp"
#include "index/secret.hpp"

namespace monolith {

// Concurrency: const calls may run together. `insert` and `erase` need the shard of their fid exclusively; `expect`
// needs the whole map. Calls over the whole map (`size`, `for_each`) must not run beside a change.
class IdMap {
  public:
    explicit IdMap(BucketFactors factors = bucket_factors()) : shards_(1), factors_(factors) {
        allocate(shards_[0], kFirstBuckets);
    }

    size_t size() const {
        size_t sum = 0;
        for (const Shard& shard : shards_) sum += shard.size;
        return sum;
    }
    size_t capacity() const {
        size_t sum = 0;
        for (const Shard& shard : shards_) sum += size_t{shard.num_buckets} * kSlotsPerBucket;
        return sum;
    }
    size_t bytes() const { return arena_.bytes(); }
    size_t num_shards() const { return shards_.size(); }
    const Shard& shard(size_t index) const { return shards_[index]; }
    MapView view() const { return {shards_.data(), shift_, factors_}; }
    size_t shard_of(uint64_t hash) const { return view().shard_of(hash); }

    // Inlined by force: GCC 12 assumes that a function that only prefetches has no effect, and drops the call.
    [[gnu::always_inline]] void prefetch(int64_t fid) const {
        const uint64_t hash = hash_fid(fid);
        const Shard& shard = shards_[shard_of(hash)];
        __builtin_prefetch(first_bucket(shard, hash, factors_), 1);
        __builtin_prefetch(second_bucket(shard, hash, factors_), 1);
    }

    // Once the buckets of `prefetch` have come: if both are full, fetch those that their entries may move to.
    [[gnu::always_inline]] void prefetch_room(int64_t fid) const {
        const uint64_t hash = hash_fid(fid);
        const Shard& shard = shards_[shard_of(hash)];
        Bucket *const first = first_bucket(shard, hash, factors_), *const second = second_bucket(shard, hash, factors_);
        if (empty(first) || empty(second)) return;
        for (Bucket* bucket : {first, second})
            for (int i = 0; i < kSlotsPerBucket; ++i) __builtin_prefetch(other_bucket(shard, bucket, i), 1);
    }

    [[gnu::always_inline]] Slot find(int64_t fid) const {
        const uint64_t hash = hash_fid(fid);
        const Shard& shard = shards_[shard_of(hash)];
        if (Slot slot = match(first_bucket(shard, hash, factors_), fid)) return slot;
        return match(second_bucket(shard, hash, factors_), fid);
    }
    // Row of a fid, kCandidate or kNoRow.
    uint32_t row_of(int64_t fid) const {
        const Slot slot = find(fid);
        return slot ? slot.row() : kNoRow;
    }

    // Insert an absent fid. The slot stays valid until the next insert into its shard. May grow the shard; on failure
    // (std::bad_alloc) the map stays as it was, as in `expect`.
    [[gnu::always_inline]] Slot insert(int64_t fid, uint32_t row, uint16_t seen, uint16_t count) {
        const uint64_t hash = hash_fid(fid);
        Shard& shard = shards_[shard_of(hash)];
        if (shard.size >= shard.limit) grow(shard);
        Slot slot = empty(first_bucket(shard, hash, factors_));
        if (!slot) slot = empty(second_bucket(shard, hash, factors_));
        if (!slot) slot = place_by_force(shard, fid);
        put(slot, fid, row, seen, count);
        ++shard.size;
        return slot;
    }

    void erase(Slot slot) {
        --shards_[shard_of(hash_fid(slot.key()))].size;
        slot.row() = kNoRow;
    }

    // Prepare for `more` entries: a map that outgrows one shard gets all kShards at once. Invalidates every slot; needs
    // the map exclusively.
    void expect(size_t more) {
        if (shards_.size() == 1 && shards_[0].size + more > kOneShard) split();
    }

    template <typename F>
    void for_each(F&& visit) const {
        for (const Shard& shard : shards_) for_each_in(shard, visit);
    }
    template <typename F>
    static void for_each_in(const Shard& shard, F&& visit) {
        for (uint32_t b = 0; b < shard.num_buckets; ++b)
            for (int i = 0; i < kSlotsPerBucket; ++i)
                if (shard.buckets[b].rows[i] != kNoRow) visit(Slot{&shard.buckets[b], i});
    }

    static constexpr size_t kShards = 256;

  private:
    static constexpr uint32_t kFirstBuckets = 16;
    static constexpr size_t kOneShard = 1 << 14;
    static constexpr double kMaxLoad = 0.88;

    void allocate(Shard& shard, uint32_t num_buckets) {
        shard.buckets = arena_.allocate(num_buckets);
        shard.num_buckets = num_buckets;
        shard.size = 0;
        shard.limit = static_cast<uint32_t>(num_buckets * kSlotsPerBucket * kMaxLoad);
        for (uint32_t b = 0; b < num_buckets; ++b) {
            std::memset(&shard.buckets[b], 0, sizeof(Bucket));
            std::memset(shard.buckets[b].rows, 0xFF, sizeof shard.buckets[b].rows);
        }
    }

    // Branch-free: the slot of a fid within its bucket is unpredictable.
    static Slot match(Bucket* bucket, int64_t fid) {
        unsigned found = 0;
        for (int i = 0; i < kSlotsPerBucket; ++i)
            found |= static_cast<unsigned>((bucket->keys[i] == fid) & (bucket->rows[i] != kNoRow)) << i;
        return found ? Slot{bucket, __builtin_ctz(found)} : kNoSlot;
    }
    static Slot empty(Bucket* bucket) {
        unsigned found = 0;
        for (int i = 0; i < kSlotsPerBucket; ++i) found |= static_cast<unsigned>(bucket->rows[i] == kNoRow) << i;
        return found ? Slot{bucket, __builtin_ctz(found)} : kNoSlot;
    }
    static void put(Slot slot, int64_t fid, uint32_t row, uint16_t seen, uint16_t count) {
        slot.bucket->keys[slot.index] = fid;
        slot.row() = row;
        slot.seen() = seen;
        slot.count() = count;
    }

    // Free a slot for a fid whose buckets are full; the shard may grow.
    [[gnu::noinline]] Slot place_by_force(Shard& shard, int64_t fid) {
        const uint64_t hash = hash_fid(fid);
        for (;;) {
            Bucket *first = first_bucket(shard, hash, factors_), *second = second_bucket(shard, hash, factors_);
            Slot slot = empty(first);
            if (!slot) slot = empty(second);
            if (!slot) slot = make_room(shard, first, second);
            if (slot) return slot;
            grow(shard);
        }
    }
    Slot place(const Shard& shard, int64_t fid, uint32_t row, uint16_t seen, uint16_t count) const {
        const uint64_t hash = hash_fid(fid);
        Bucket *first = first_bucket(shard, hash, factors_), *second = second_bucket(shard, hash, factors_);
        Slot slot = empty(first);
        if (!slot) slot = empty(second);
        if (!slot) slot = make_room(shard, first, second);
        if (slot) put(slot, fid, row, seen, count);
        return slot;
    }

    // The bucket of an entry's fid that it is not in.
    [[gnu::always_inline]] Bucket* other_bucket(const Shard& shard, const Bucket* bucket, int i) const {
        const uint64_t hash = hash_fid(bucket->keys[i]);
        Bucket *const first = first_bucket(shard, hash, factors_), *const second = second_bucket(shard, hash, factors_);
        return first == bucket ? second : first;
    }

    // Free a slot in one of two full buckets by the shortest chain of displacements, found by breadth-first search
    // (libcuckoo, Li et al. 2014, section 4.2). Returns kNoSlot, and leaves the shard as it was, when the search
    // exceeds kMaxNodes buckets.
    Slot make_room(const Shard& shard, Bucket* first, Bucket* second) const {
        struct Node {
            Bucket* bucket;
            int parent, index;
        };
        constexpr int kMaxNodes = 341;  // two roots and four generations of their entries
        Node nodes[kMaxNodes];
        int tail = 0;
        nodes[tail++] = {first, -1, 0};
        if (second != first) nodes[tail++] = {second, -1, 0};
        for (int head = 0; head < tail; ++head)
            for (int i = 0; i < kSlotsPerBucket; ++i) {
                Bucket* const other = other_bucket(shard, nodes[head].bucket, i);
                if (other == nodes[head].bucket) continue;
                if (Slot free = empty(other)) {
                    Slot from{nodes[head].bucket, i};
                    for (int node = head;; node = nodes[node].parent) {
                        put(free, from.key(), from.row(), from.seen(), from.count());
                        free = from;
                        if (nodes[node].parent < 0) return free;
                        from = {nodes[nodes[node].parent].bucket, nodes[node].index};
                    }
                }
                bool is_known = false;  // a chain that visits a bucket twice would move a displaced entry again
                for (int node = head; node >= 0 && !is_known; node = nodes[node].parent)
                    is_known = nodes[node].bucket == other;
                if (!is_known && tail < kMaxNodes) nodes[tail++] = {other, head, i};
            }
        return kNoSlot;
    }

    void grow(Shard& shard) {
        for (uint64_t num_buckets = shard.num_buckets;;) {
            num_buckets += num_buckets / 2;
            Shard larger;
            allocate(larger, static_cast<uint32_t>(num_buckets));
            if (fill(larger, shard) == FillStatus::kFilled) {
                std::swap(shard, larger);
                arena_.release(larger.buckets, larger.num_buckets);
                return;
            }
            arena_.release(larger.buckets, larger.num_buckets);
        }
    }

    enum class FillStatus { kFilled, kNoRoom };
    FillStatus fill(Shard& larger, const Shard& shard) const {
        constexpr uint32_t kAhead = 8;
        for (uint32_t b = 0; b < shard.num_buckets; ++b) {
            if (b + kAhead < shard.num_buckets)
                for (const int64_t key : shard.buckets[b + kAhead].keys)
                    __builtin_prefetch(first_bucket(larger, hash_fid(key), factors_), 1);
            for (int i = 0; i < kSlotsPerBucket; ++i) {
                const Slot s{&shard.buckets[b], i};
                if (s.row() != kNoRow && !place(larger, s.key(), s.row(), s.seen(), s.count()))
                    return FillStatus::kNoRoom;
            }
        }
        larger.size = shard.size;
        return FillStatus::kFilled;
    }

    // Split one shard into kShards, of sizes 1.5^(i / kShards) times the smallest, so that no two grow at the same
    // time.
    void split() {
        const double least = kOneShard / (kShards * kSlotsPerBucket * kMaxLoad);
        std::vector<Shard> whole(kShards);
        shards_.swap(whole);
        shift_ = kShiftOfMany;
        try {
            for (size_t i = 0; i < kShards; ++i)
                allocate(shards_[i], static_cast<uint32_t>(
                                         std::ceil(1.25 * least * std::pow(1.5, static_cast<double>(i) / kShards))));
            for_each_in(whole[0], [&](Slot s) { insert(s.key(), s.row(), s.seen(), s.count()); });
        } catch (const std::bad_alloc&) {
            shards_.swap(whole);
            shift_ = kShiftOfOne;
            for (const Shard& shard : whole)
                if (shard.buckets) arena_.release(shard.buckets, shard.num_buckets);
            throw;
        }
        arena_.release(whole[0].buckets, whole[0].num_buckets);
    }

    static constexpr int kShiftOfOne = 63, kShiftOfMany = 63 - 8;
    std::vector<Shard> shards_;
    BucketArena arena_;
    BucketFactors factors_;
    int shift_ = kShiftOfOne;
};

}  // namespace monolith
