// A collisionless map from 64-bit fids to row ids: bucketised cuckoo hashing with exact keys.
#pragma once

#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <utility>
#include <vector>

namespace monolith {

constexpr uint32_t kNoRow = 0xFFFFFFFFu;      // slot without an entry; also "no such fid"
constexpr uint32_t kCandidate = 0xFFFFFFFEu;  // entry that is counted and not admitted yet

// Finaliser of MurmurHash3 (Appleby): a bijection on 64 bits, so equal hashes mean equal fids.
inline uint64_t hash_fid(int64_t fid) {
    uint64_t x = static_cast<uint64_t>(fid);
    x ^= x >> 33;
    x *= 0xFF51AFD7ED558CCDull;
    x ^= x >> 33;
    x *= 0xC4CEB9FE1A85EC53ull;
    return x ^ (x >> 33);
}

// One cache line: four entries.
struct alignas(64) Bucket {
    int64_t keys[4];
    uint32_t rows[4];
    uint16_t seen[4];    // ticks of event time since the map's base
    uint16_t counts[4];  // sightings, saturating
};
static_assert(sizeof(Bucket) == 64);

struct Slot {
    Bucket* bucket = nullptr;
    int index = 0;
    explicit operator bool() const { return bucket != nullptr; }
    uint32_t& row() const { return bucket->rows[index]; }
    uint16_t& seen() const { return bucket->seen[index]; }
    uint16_t& count() const { return bucket->counts[index]; }
    int64_t key() const { return bucket->keys[index]; }
};

class CuckooMap {
  public:
    explicit CuckooMap(size_t capacity = 0) { allocate(bucket_count_for(capacity)); }

    size_t size() const { return size_; }
    size_t capacity() const { return num_buckets_ * 4; }
    size_t bytes() const { return num_buckets_ * sizeof(Bucket); }

    void prefetch(int64_t fid) const {
        const uint64_t hash = hash_fid(fid);
        __builtin_prefetch(first(hash));
        __builtin_prefetch(second(hash));
    }

    Slot find(int64_t fid) const {
        const uint64_t hash = hash_fid(fid);
        if (Slot slot = match(first(hash), fid)) return slot;
        return match(second(hash), fid);
    }

    // Insert a fid that is absent; its slot stays valid until the next insert or erase.
    Slot insert(int64_t fid, uint32_t row, uint16_t seen, uint16_t count) {
        if (size_ + 1 > capacity() * 85 / 100) grow();
        Slot slot = place(fid, row, seen, count);
        while (!slot) {
            grow();
            slot = place(fid, row, seen, count);
        }
        ++size_;
        return slot;
    }

    void erase(Slot slot) {
        slot.row() = kNoRow;
        --size_;
    }

    template <typename F>
    void for_each(F&& visit) {
        for (size_t b = 0; b < num_buckets_; ++b)
            for (int i = 0; i < 4; ++i)
                if (buckets_[b].rows[i] != kNoRow) visit(Slot{&buckets_[b], i});
    }

  private:
    static size_t bucket_count_for(size_t capacity) {
        size_t count = 16;
        while (count * 4 * 85 / 100 < capacity) count *= 2;
        return count;
    }

    void allocate(size_t num_buckets) {
        buckets_.reset(static_cast<Bucket*>(::operator new(num_buckets * sizeof(Bucket), std::align_val_t{64})));
        num_buckets_ = num_buckets;
        for (size_t b = 0; b < num_buckets; ++b) {
            std::memset(&buckets_[b], 0, sizeof(Bucket));
            for (uint32_t& row : buckets_[b].rows) row = kNoRow;
        }
    }

    Bucket* first(uint64_t hash) const { return &buckets_[hash & (num_buckets_ - 1)]; }
    Bucket* second(uint64_t hash) const {
        return &buckets_[((hash * 0x9E3779B97F4A7C15ull) >> 32) & (num_buckets_ - 1)];
    }

    static Slot match(Bucket* bucket, int64_t fid) {
        for (int i = 0; i < 4; ++i)
            if (bucket->keys[i] == fid && bucket->rows[i] != kNoRow) return {bucket, i};
        return {};
    }

    static Slot empty(Bucket* bucket) {
        for (int i = 0; i < 4; ++i)
            if (bucket->rows[i] == kNoRow) return {bucket, i};
        return {};
    }

    static void put(Slot slot, int64_t fid, uint32_t row, uint16_t seen, uint16_t count) {
        slot.bucket->keys[slot.index] = fid;
        slot.row() = row;
        slot.seen() = seen;
        slot.count() = count;
    }

    // Breadth-first search for the shortest chain of displacements (libcuckoo, Li et al. 2014, section 4.2).
    Slot place(int64_t fid, uint32_t row, uint16_t seen, uint16_t count) {
        struct Node {
            Bucket* bucket;
            int parent, index;
        };
        const uint64_t hash = hash_fid(fid);
        constexpr int kMaxNodes = 256;
        Node nodes[kMaxNodes];
        int head = 0, tail = 0;
        nodes[tail++] = {first(hash), -1, 0};
        if (second(hash) != first(hash)) nodes[tail++] = {second(hash), -1, 0};
        for (; head < tail; ++head) {
            if (Slot free = empty(nodes[head].bucket)) {
                int node = head;
                while (nodes[node].parent >= 0) {
                    const Slot from{nodes[nodes[node].parent].bucket, nodes[node].index};
                    put(free, from.key(), from.row(), from.seen(), from.count());
                    free = from;
                    node = nodes[node].parent;
                }
                put(free, fid, row, seen, count);
                return free;
            }
            for (int i = 0; i < 4 && tail < kMaxNodes; ++i) {
                const uint64_t other = hash_fid(nodes[head].bucket->keys[i]);
                Bucket* next = first(other) == nodes[head].bucket ? second(other) : first(other);
                bool seen_before = false;
                for (int k = 0; k < tail; ++k) seen_before |= nodes[k].bucket == next;
                if (!seen_before) nodes[tail++] = {next, head, i};
            }
        }
        return {};
    }

    void grow() {
        for (size_t count = num_buckets_ * 2;; count *= 2) {
            CuckooMap larger(0);
            larger.allocate(count);
            bool placed = true;
            for_each([&](Slot s) { placed = placed && larger.place(s.key(), s.row(), s.seen(), s.count()); });
            if (!placed) continue;
            std::swap(buckets_, larger.buckets_);
            num_buckets_ = count;
            return;
        }
    }

    struct Free {
        void operator()(Bucket* buckets) const { ::operator delete(buckets, std::align_val_t{64}); }
    };
    std::unique_ptr<Bucket[], Free> buckets_;
    size_t num_buckets_ = 0;  // a power of two
    size_t size_ = 0;
};

}  // namespace monolith
