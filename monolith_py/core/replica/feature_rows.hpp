// Rows of one feature of a replica: its id map, the slabs of its rows, which features of one row size share, and its
// digest.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "index/concurrent_id_map.hpp"
#include "kernels/replica_kernels.hpp"
#include "replica/row_slabs.hpp"
#include "table/row_digest.hpp"

namespace monolith {

// Rows and blocks that no reader can find any more; one list for each thread of a change.
struct Unlinked {
    std::vector<uint32_t> rows;
    OutgrownBlocks blocks;
};

// Concurrency: reading beside one change; parts of one `assign_part` for different parts may run together.
class FeatureRows {
  public:
    FeatureRows(VersionedArena& arena, RowSlabs& slabs, Encoding encoding)
        : slabs_(slabs), map_(arena), encoding_(encoding) {}

    RowSlabs& slabs() const { return slabs_; }
    ConcurrentMapView map() const { return map_.view(); }
    size_t size() const { return size_.load(std::memory_order_relaxed); }
    uint64_t digest() const { return digest_.load(std::memory_order_relaxed); }
    const uint8_t* find(int64_t fid) const {
        const uint32_t row = map_.find(fid);
        return row == kNoRow ? nullptr : slabs_.at(row);
    }

    // Map each fid to the row ids[i], which holds its packed row.
    void assign(const int64_t* fids, const uint32_t* ids, size_t n, Unlinked& unlinked) {
        Change change;
        for (size_t i = 0; i < n; ++i) {
            if (i + 2 * kAhead < n) map_.prefetch(fids[i + 2 * kAhead]);
            if (i + kAhead < n) prefetch_row(fids[i + kAhead]);
            assign_one(fids[i], ids[i], change, unlinked);
        }
        apply(change);
    }

    // The same for the fids in blocks `part`, part + num_parts, ... of the map; fid i has row first_id + i.
    void assign_part(const int64_t* fids, uint32_t first_id, size_t n, size_t part, size_t num_parts,
                     Unlinked& unlinked) {
        for (size_t block = part; block < ConcurrentIdMap::kBlocks; block += num_parts)
            map_.reserve(block, n, unlinked.blocks);
        Change change;
        uint32_t positions[kSelect];
        size_t num = 0;
        const auto assign_selected = [&] {
            for (size_t i = 0; i < num; ++i) assign_one(fids[positions[i]], first_id + positions[i], change, unlinked);
            num = 0;
        };
        for (size_t i = 0; i < n; ++i) {
            if (ConcurrentMapView::block_of(hash_fid(fids[i])) % num_parts != part) continue;
            map_.prefetch(fids[i]);
            positions[num++] = static_cast<uint32_t>(i);
            if (num == kSelect) assign_selected();
        }
        assign_selected();
        apply(change);
    }

    void evict(const int64_t* fids, size_t n, Unlinked& unlinked) {
        Change change;
        for (size_t i = 0; i < n; ++i) {
            if (i + 2 * kAhead < n) map_.prefetch(fids[i + 2 * kAhead]);
            if (i + kAhead < n) prefetch_row(fids[i + kAhead]);
            const uint32_t old = map_.erase(fids[i]);
            if (old == kNoRow) continue;
            --change.size;
            unlink(fids[i], old, change, unlinked);
        }
        apply(change);
    }

  private:
    static constexpr size_t kAhead = 12, kSelect = 32;

    struct Change {
        uint64_t digest = 0;
        size_t size = 0;
    };

    void assign_one(int64_t fid, uint32_t id, Change& change, Unlinked& unlinked) {
        const uint32_t old = map_.assign(fid, id, unlinked.blocks);
        change.digest += hash_of(fid, id);
        if (old == kNoRow)
            ++change.size;
        else
            unlink(fid, old, change, unlinked);
    }
    void unlink(int64_t fid, uint32_t row, Change& change, Unlinked& unlinked) const {
        change.digest -= hash_of(fid, row);
        unlinked.rows.push_back(row);
    }
    uint64_t hash_of(int64_t fid, uint32_t row) const {
        return row_hash(fid, slabs_.at(row), slabs_.row_bytes(), encoding_);
    }
    void prefetch_row(int64_t fid) const {
        const uint32_t row = map_.find(fid);
        if (row != kNoRow) __builtin_prefetch(slabs_.at(row));
    }
    void apply(const Change& change) {
        digest_.fetch_add(change.digest, std::memory_order_relaxed);
        size_.fetch_add(change.size, std::memory_order_relaxed);
    }

    RowSlabs& slabs_;
    ConcurrentIdMap map_;
    const Encoding encoding_;
    std::atomic<uint64_t> digest_{0};
    std::atomic<size_t> size_{0};
};

}  // namespace monolith
