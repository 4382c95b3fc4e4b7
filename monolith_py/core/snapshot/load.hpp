// Loads the entries of a snapshot into a table.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "memory/thread_pool.hpp"
#include "snapshot/entries.hpp"
#include "snapshot/file.hpp"
#include "table/table_content.hpp"

namespace monolith {

class EntryLoader {
  public:
    // `step_s`: seconds of a tick of the snapshot.
    EntryLoader(TableContent& content, const SnapshotFileReader& file, Share share, int64_t step_s)
        : content_(content), file_(file), share_(share), step_s_(step_s) {}

    // Check the sizes of all chunks and allocate their rows, in file order.
    void prepare() {
        const size_t num_rows = plan();
        is_taken_.assign(num_rows, 0);
        content_.store.allocate(num_rows, ids_);
    }

    // Load all chunks. The table has the snapshot's state already, which defines the base of event times. Chunks of one
    // shard each load in parallel, if the map has the same shards; the other chunks follow one by one. Needs the table
    // exclusively.
    void load() {
        size_t num_parallel = 0;
        if (content_.map.num_shards() == IdMap::kShards)
            while (num_parallel < parts_.size() && parts_[num_parallel].chunk->head.shard_id == num_parallel)
                ++num_parallel;
        ThreadPool::instance().run(num_parallel, [&](size_t c) { load_chunk(parts_[c]); });
        for (size_t c = num_parallel; c < parts_.size(); ++c) load_chunk(parts_[c]);
    }
    // Count what was loaded, also before a failure, and release the other rows.
    ~EntryLoader() {
        for (size_t c = parts_.size(); c-- > 0;) {
            const Part& own = parts_[c];
            for (const uint32_t row : own.freed) content_.store.release(row);
            content_.counts.rows += static_cast<uint64_t>(own.rows);
            content_.counts.candidates += static_cast<uint64_t>(own.candidates);
        }
        for (size_t i = ids_.size(); i-- > 0;)
            if (!is_taken_[i]) content_.store.release(ids_[i]);
    }
    EntryLoader(const EntryLoader&) = delete;
    EntryLoader& operator=(const EntryLoader&) = delete;

  private:
    // One chunk of entries, and the effect of its load.
    struct Part {
        const MappedChunk* chunk;
        size_t ids_at, num_used = 0;
        int64_t rows = 0, candidates = 0;
        std::vector<uint32_t> freed = {};
    };

    // Prepare for all chunks; returns their number of rows.
    size_t plan() {
        size_t num_rows = 0, num_entries = 0;
        for (const MappedChunk& chunk : file_.chunks())
            if (chunk.head.tag == static_cast<uint32_t>(ChunkTag::kEntries)) {
                if (chunk.head.num_entries > chunk.head.bytes / sizeof(EntryHead) ||
                    chunk.head.num_rows > chunk.head.num_entries)
                    throw SnapshotError(file_.path() + ": damaged: a chunk of " + std::to_string(chunk.head.bytes) +
                                        " bytes announces " + std::to_string(chunk.head.num_entries) + " entries and " +
                                        std::to_string(chunk.head.num_rows) + " rows");
                parts_.push_back({&chunk, num_rows});
                num_rows += chunk.head.num_rows;
                num_entries += chunk.head.num_entries;
            }
        content_.map.expect(num_entries / share_.parts);
        return num_rows;
    }

    void load_chunk(Part& own) {
        const RowsView table = content_.store.view();
        const size_t weights_bytes = table.dim * sizeof(float), state_bytes = table.state_width * sizeof(float);
        std::vector<char> skipped(weights_bytes + state_bytes);  // row of another share
        Reader entries = file_.reader(*own.chunk);
        for (uint64_t left = own.chunk->head.num_entries; left > 0; --left) {
            const auto head = entries.value<EntryHead>();
            const Slot slot = share_.has(head.fid) ? place(head, own) : kNoSlot;
            if (head.kind != EntryKind::kRow) continue;
            if (slot) {
                entries.bytes(content_.store.weights(slot.row()), weights_bytes);
                entries.bytes(content_.store.state(slot.row()), state_bytes);
            } else {
                entries.bytes(skipped.data(), skipped.size());
            }
        }
    }

    // Make the id map's entry equal to the snapshot's; returns its slot, kNoSlot for an erased fid.
    Slot place(const EntryHead& head, Part& own) {
        IdMap& map = content_.map;
        Slot slot = map.find(head.fid);
        if (head.kind > EntryKind::kGone) throw SnapshotError(file_.path() + ": damaged: an entry has no known kind");
        if (head.kind == EntryKind::kRow && (!slot || slot.row() == kCandidate) &&
            own.num_used == own.chunk->head.num_rows)
            throw SnapshotError(file_.path() + ": damaged: a chunk has more rows than it announces, " +
                                std::to_string(own.num_used));
        if (slot && head.kind != EntryKind::kRow && slot.row() != kCandidate) {
            own.freed.push_back(slot.row());
            --own.rows;
            slot.row() = kCandidate;
            ++own.candidates;
        }
        if (head.kind == EntryKind::kGone) {
            if (!slot) return kNoSlot;
            map.erase(slot);
            --own.candidates;
            return kNoSlot;
        }
        const uint16_t seen = content_.ticks.relative(content_.ticks.converted(head.seen, step_s_));
        if (!slot) {
            slot = map.insert(head.fid, kCandidate, seen, head.count);
            ++own.candidates;
        }
        slot.seen() = seen;
        slot.count() = head.count;
        if (head.kind == EntryKind::kRow && slot.row() == kCandidate) {
            const size_t id = own.ids_at + own.num_used++;
            slot.row() = ids_[id];
            is_taken_[id] = 1;
            content_.store.fid(slot.row()) = head.fid;
            --own.candidates;
            ++own.rows;
        }
        return slot;
    }

    TableContent& content_;
    const SnapshotFileReader& file_;
    Share share_;
    std::vector<Part> parts_;
    const int64_t step_s_;
    std::vector<uint32_t> ids_;      // allocated rows, by chunk
    std::vector<uint8_t> is_taken_;  // by id
};

}  // namespace monolith
