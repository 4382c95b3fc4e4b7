// Collisionless map from 64-bit fids to row ids, read without locks while it changes: bucketised cuckoo hashing with
// exact keys, in blocks that grow one at a time.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <new>
#include <vector>

#include "index/arena.hpp"
#include "index/hash.hpp"
#include "index/secret.hpp"
#include "index/versioned_bucket.hpp"

namespace monolith {

using VersionedArena = BlockArena<VersionedBucket>;

// Blocks that a map has left. Their owner gives them back to the arena when no reader can hold them.
using OutgrownBlocks = std::vector<BlockWord>;

// Concurrency: `find`, `view` and `prefetch` run beside anything. Changes of fids in different blocks may run together,
// those in one block may not.
class ConcurrentIdMap {
  public:
    static constexpr size_t kBlocks = ConcurrentMapView::kBlocks;

    explicit ConcurrentIdMap(VersionedArena& arena, BucketFactors factors = bucket_factors())
        : arena_(arena), factors_(factors) {
        for (auto& block : blocks_) block.store(nothing().word, std::memory_order_relaxed);
    }

    ConcurrentMapView view() const { return {blocks_.data(), factors_}; }
    uint32_t find(int64_t fid) const { return find_row(view(), fid, hash_fid(fid)); }
    size_t size() const {  // needs the map exclusively
        size_t sum = 0;
        for (const uint32_t size : sizes_) sum += size;
        return sum;
    }

    // Inlined by force: GCC 12 drops calls of functions that only prefetch.
    [[gnu::always_inline]] void prefetch(int64_t fid) const {
        const uint64_t hash = hash_fid(fid);
        const BlockWord block = view().block(hash);
        __builtin_prefetch(block.bucket(hash, factors_.first), 1);
        __builtin_prefetch(block.bucket(hash, factors_.second), 1);
    }

    // Map a fid to `row`; returns the row that it had, kNoRow for none. On failure (std::bad_alloc) the map stays as it
    // was.
    uint32_t assign(int64_t fid, uint32_t row, OutgrownBlocks& outgrown) {
        const uint64_t hash = hash_fid(fid);
        const size_t at = ConcurrentMapView::block_of(hash);
        BlockWord block = view().block(hash);
        if (const Entry entry = find(block, hash, fid)) {
            const uint32_t old = entry.row();
            entry.set_row(row);
            return old;
        }
        if (sizes_[at] >= limit(block)) block = grow(at, block.size_class() + 1, outgrown);
        while (!insert(block, hash, fid, row)) block = grow(at, block.size_class() + 1, outgrown);
        ++sizes_[at];
        return kNoRow;
    }

    // Remove a fid; returns the row that it had, kNoRow for none.
    uint32_t erase(int64_t fid) {
        const uint64_t hash = hash_fid(fid);
        const Entry entry = find(view().block(hash), hash, fid);
        if (!entry) return kNoRow;
        const uint32_t old = entry.row();
        entry.set_row(kNoRow);
        --sizes_[ConcurrentMapView::block_of(hash)];
        return old;
    }

    // Make room in one block for its share of `n` entries in the map.
    void reserve(size_t block, size_t n, OutgrownBlocks& outgrown) {
        const size_t share = n / kBlocks + n / kBlocks / 32;
        const BlockWord now{blocks_[block].load(std::memory_order_relaxed)};
        size_t size_class = now.size_class();
        while (size_class + 1 < kBlockClasses && share > limit_of(size_class)) ++size_class;
        if (size_class > now.size_class()) grow(block, size_class, outgrown);
    }

  private:
    static constexpr double kMaxLoad = 0.93;
    static constexpr int kSlots = VersionedBucket::kSlots;

    struct Entry {
        VersionedBucket* bucket = nullptr;
        int slot = 0;
        explicit operator bool() const { return bucket != nullptr; }
        int64_t key() const { return bucket->keys[slot].load(std::memory_order_relaxed); }
        uint32_t row() const { return bucket->rows[slot].load(std::memory_order_relaxed); }
        void set_row(uint32_t row) const { bucket->rows[slot].store(row, std::memory_order_release); }
        // Readers need this order: see VersionedBucket.
        void fill(int64_t fid, uint32_t row) const {
            const uint32_t version = bucket->version.load(std::memory_order_relaxed);
            bucket->version.store(version + 1, std::memory_order_release);
            bucket->keys[slot].store(fid, std::memory_order_release);
            bucket->rows[slot].store(row, std::memory_order_release);
            bucket->version.store(version + 2, std::memory_order_release);
        }
    };

    // The block of a map without entries: of class 0, and never filled.
    static BlockWord nothing() {
        static VersionedBucket* const buckets = [] {
            alignas(kBlockClasses) static VersionedBucket empty[kBlockSizes.of[0]];
            for (VersionedBucket& bucket : empty)
                for (auto& row : bucket.rows) row.store(kNoRow, std::memory_order_relaxed);
            return empty;
        }();
        return BlockWord::of(buckets, 0);
    }

    static uint32_t limit_of(size_t size_class) {
        return static_cast<uint32_t>(kBlockSizes.of[size_class] * kSlots * kMaxLoad);
    }
    static uint32_t limit(BlockWord block) { return block.word == nothing().word ? 0 : limit_of(block.size_class()); }

    static Entry empty(VersionedBucket* bucket) {
        for (int i = 0; i < kSlots; ++i)
            if (bucket->rows[i].load(std::memory_order_relaxed) == kNoRow) return {bucket, i};
        return {};
    }
    static Entry match(VersionedBucket* bucket, int64_t fid) {
        for (int i = 0; i < kSlots; ++i) {
            const Entry entry{bucket, i};
            if (entry.key() == fid && entry.row() != kNoRow) return entry;
        }
        return {};
    }
    Entry find(BlockWord block, uint64_t hash, int64_t fid) const {
        if (const Entry entry = match(block.bucket(hash, factors_.first), fid)) return entry;
        return match(block.bucket(hash, factors_.second), fid);
    }

    bool insert(BlockWord block, uint64_t hash, int64_t fid, uint32_t row) const {
        VersionedBucket *first = block.bucket(hash, factors_.first), *second = block.bucket(hash, factors_.second);
        Entry entry = empty(first);
        if (!entry) entry = empty(second);
        if (!entry) entry = make_room(block, first, second);
        if (entry) entry.fill(fid, row);
        return static_cast<bool>(entry);
    }

    // Free a slot in one of two full buckets by the shortest chain of displacements (Li et al. 2014, section 4.2).
    // Entries move from the end of the chain, each written before it is removed.
    Entry make_room(BlockWord block, VersionedBucket* first, VersionedBucket* second) const {
        struct Node {
            VersionedBucket* bucket;
            int parent, slot;
        };
        constexpr int kMaxNodes = 312;  // two roots and three generations of their entries
        std::array<Node, kMaxNodes> nodes;
        int tail = 0;
        nodes[tail++] = {first, -1, 0};
        if (second != first) nodes[tail++] = {second, -1, 0};
        for (int head = 0; head < tail; ++head)
            for (int i = 0; i < kSlots; ++i) {
                const uint64_t hash = hash_fid(Entry{nodes[head].bucket, i}.key());
                VersionedBucket* other = block.bucket(hash, factors_.first);
                if (other == nodes[head].bucket) other = block.bucket(hash, factors_.second);
                if (other == nodes[head].bucket) continue;
                if (Entry free = empty(other)) {
                    Entry from{nodes[head].bucket, i};
                    for (int node = head;; node = nodes[node].parent) {
                        free.fill(from.key(), from.row());
                        from.set_row(kNoRow);
                        free = from;
                        if (nodes[node].parent < 0) return free;
                        from = {nodes[nodes[node].parent].bucket, nodes[node].slot};
                    }
                }
                bool is_known = false;  // a chain that visits a bucket twice would move a displaced entry again
                for (int node = head; node >= 0 && !is_known; node = nodes[node].parent)
                    is_known = nodes[node].bucket == other;
                if (!is_known && tail < kMaxNodes) nodes[tail++] = {other, head, i};
            }
        return {};
    }

    // Move the entries of a block to one of a larger class; readers of the old one find it as it was.
    BlockWord grow(size_t at, size_t size_class, OutgrownBlocks& outgrown) {
        const BlockWord old{blocks_[at].load(std::memory_order_relaxed)};
        if (old.word == nothing().word && size_class == 1) size_class = 0;
        outgrown.reserve(outgrown.size() + 1);
        for (;; ++size_class) {
            if (size_class >= kBlockClasses) throw std::bad_alloc();
            const BlockWord larger = allocate(size_class);
            if (fill(larger, old)) {
                blocks_[at].store(larger.word, std::memory_order_release);
                if (old.word != nothing().word) outgrown.push_back(old);
                return larger;
            }
            arena_.release(larger.buckets(), larger.num_buckets());
        }
    }
    BlockWord allocate(size_t size_class) {
        VersionedBucket* const buckets = arena_.allocate(kBlockSizes.of[size_class]);
        for (uint32_t b = 0; b < kBlockSizes.of[size_class]; ++b) {
            new (&buckets[b]) VersionedBucket{};
            for (auto& row : buckets[b].rows) row.store(kNoRow, std::memory_order_relaxed);
        }
        return BlockWord::of(buckets, size_class);
    }
    bool fill(BlockWord larger, BlockWord old) const {
        constexpr uint32_t kAhead = 8;
        for (uint32_t b = 0; b < old.num_buckets(); ++b) {
            if (b + kAhead < old.num_buckets())
                for (const auto& key : old.buckets()[b + kAhead].keys)
                    __builtin_prefetch(larger.bucket(hash_fid(key.load(std::memory_order_relaxed)), factors_.first), 1);
            for (int i = 0; i < kSlots; ++i) {
                const Entry entry{&old.buckets()[b], i};
                if (entry.row() != kNoRow && !insert(larger, hash_fid(entry.key()), entry.key(), entry.row()))
                    return false;
            }
        }
        return true;
    }

    VersionedArena& arena_;
    BucketFactors factors_;
    std::array<std::atomic<uintptr_t>, kBlocks> blocks_;
    std::array<uint32_t, kBlocks> sizes_{};
};

}  // namespace monolith
