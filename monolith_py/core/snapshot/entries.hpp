// Entries of a table in a snapshot.
#pragma once

#include <cstdint>
#include <vector>

#include "table/table_content.hpp"

namespace monolith {

enum class EntryKind : uint16_t { kRow, kCandidate, kGone };

// An entry; a row's entry is followed by its weights and state.
struct EntryHead {
    int64_t fid;
    int64_t seen;  // ticks of event time
    uint16_t count;
    EntryKind kind;
    uint32_t unused;
};
static_assert(sizeof(EntryHead) == 24);

// Part of a snapshot that one table takes: the shards (of 256) of its range.
struct Share {
    size_t part = 0, parts = 1;
    bool has(int64_t fid) const { return (hash_fid(fid) >> 56) * parts / 256 == part; }
};

// Call entry(head, weights, state) with the id map's entry of a fid.
template <typename F>
void copy_entry(const TableContent& content, int64_t fid, Slot slot, F&& entry) {
    if (!slot) return entry(EntryHead{fid, 0, 0, EntryKind::kGone, 0}, nullptr, nullptr);
    const int64_t seen = content.ticks.absolute(slot.seen());
    const uint32_t row = slot.row();
    if (row == kCandidate)
        entry(EntryHead{fid, seen, slot.count(), EntryKind::kCandidate, 0}, nullptr, nullptr);
    else
        entry(EntryHead{fid, seen, slot.count(), EntryKind::kRow, 0}, content.store.weights(row),
              content.store.state(row));
}

// Call entry(head, weights, state) for each entry of a shard.
template <typename F>
void copy_shard(const TableContent& content, size_t shard, F&& entry) {
    constexpr uint32_t kBucketsAhead = 4;
    const Shard& from = content.map.shard(shard);
    for (uint32_t b = 0; b < from.num_buckets; ++b) {
        if (b + kBucketsAhead < from.num_buckets)
            for (const uint32_t row : from.buckets[b + kBucketsAhead].rows)
                if (row < kCandidate) __builtin_prefetch(content.store.weights(row));
        for (int i = 0; i < kSlotsPerBucket; ++i) {
            const Slot slot{&from.buckets[b], i};
            if (slot.row() != kNoRow) copy_entry(content, slot.key(), slot, entry);
        }
    }
}

// Call entry(head, weights, state) for each fid that changed since it was copied.
template <typename F>
void copy_changes(TableContent& content, F&& entry) {
    constexpr size_t kAhead = 16;
    const std::vector<int64_t> fids = content.changes.take_tracked();
    for (size_t i = 0; i < fids.size(); ++i) {
        if (i + kAhead < fids.size()) content.map.prefetch(fids[i + kAhead]);
        copy_entry(content, fids[i], content.map.find(fids[i]), entry);
    }
}

}  // namespace monolith
