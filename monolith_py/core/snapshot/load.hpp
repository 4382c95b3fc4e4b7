// Loads the entries of a snapshot into a table.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "memory/thread_pool.hpp"
#include "snapshot/conversion.hpp"
#include "snapshot/entries.hpp"
#include "snapshot/file.hpp"
#include "table/table_content.hpp"

namespace monolith {

class EntryLoader {
  public:
    // `saved`: settings of the snapshot.
    EntryLoader(TableContent& content, const SnapshotFileReader& file, Share share, const TableSettings& saved)
        : content_(content), file_(file), share_(share), saved_(saved), step_s_(EventTicks::step_s(saved.ttl_s)) {}

    // Check all chunks and allocate their rows, in file order.
    void prepare() {
        const size_t num_rows = plan();
        ThreadPool::instance().run(parts_.size(), [&](size_t c) { check(*parts_[c].chunk); });
        content_.map.expect(num_entries_ / share_.parts);
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

    // Newest time of the entries in ticks of the table; std::nullopt if the snapshot has the same ticks.
    std::optional<int64_t> newest_seen() const {
        if (step_s_ == EventTicks::step_s(content_.settings.ttl_s)) return std::nullopt;
        const size_t row_bytes = RowConversion(content_.settings, saved_).row_bytes();
        int64_t newest = 0;
        for (const Part& part : parts_) {
            Reader entries = file_.reader(*part.chunk);
            for (uint64_t left = part.chunk->head.num_entries; left > 0; --left) {
                const auto head = entries.value<EntryHead>();
                if (head.kind != EntryKind::kGone) newest = std::max(newest, head.seen);
                if (head.kind == EntryKind::kRow) entries.skip(row_bytes);
            }
        }
        return content_.ticks.converted(newest, step_s_);
    }

  private:
    // One chunk of entries, and the effect of its load.
    struct Part {
        const MappedChunk* chunk;
        size_t ids_at, num_used = 0;
        int64_t rows = 0, candidates = 0;
        std::vector<uint32_t> freed = {};
    };

    // List all chunks; returns their number of rows.
    size_t plan() {
        size_t num_rows = 0;
        for (const MappedChunk& chunk : file_.chunks())
            if (chunk.head.tag == static_cast<uint32_t>(ChunkTag::kEntries)) {
                parts_.push_back({&chunk, num_rows});
                num_rows += chunk.head.num_rows;
                num_entries_ += chunk.head.num_entries;
            }
        return num_rows;
    }

    // Check the size and all entries of a chunk. Chunks of a shard load on several threads, so an entry of another
    // shard would be a race.
    void check(const MappedChunk& chunk) const {
        const ChunkHead& head = chunk.head;
        const size_t row_bytes = RowConversion(content_.settings, saved_).row_bytes();
        const auto expect = [&](const char* what, bool holds) {
            if (!holds) throw SnapshotError(file_.path() + ": damaged: " + what);
        };
        expect("the size of a chunk is not that of its entries",
               head.num_rows <= head.num_entries && head.num_entries <= head.bytes / sizeof(EntryHead) &&
                   head.num_rows <= head.bytes / row_bytes &&
                   head.bytes == head.num_entries * sizeof(EntryHead) + head.num_rows * row_bytes);
        Reader entries = file_.reader(chunk);
        uint64_t num_rows = 0;
        for (uint64_t left = head.num_entries; left > 0; --left) {
            const auto entry = entries.value<EntryHead>();
            expect("an entry has no known kind", entry.kind <= EntryKind::kGone);
            expect("an entry is of another shard than its chunk",
                   head.shard_id == kAnyShard || head.shard_id == hash_fid(entry.fid) >> 56);
            expect("the time of an entry is out of range", EventTicks::is_time(entry.seen, step_s_));
            if (entry.kind != EntryKind::kRow) continue;
            ++num_rows;
            entries.skip(row_bytes);
        }
        expect("a chunk has another number of rows than it announces", num_rows == head.num_rows);
    }

    void load_chunk(Part& own) {
        RowConversion row(content_.settings, saved_);
        Reader entries = file_.reader(*own.chunk);
        for (uint64_t left = own.chunk->head.num_entries; left > 0; --left) {
            auto head = entries.value<EntryHead>();
            // Without an exact count of sightings nothing would track or admit a candidate.
            if (head.kind == EntryKind::kCandidate && content_.settings.admission != Admission::kCount)
                head.kind = EntryKind::kGone;
            const Slot slot = share_.has(head.fid) ? place(head, own) : kNoSlot;
            if (head.kind != EntryKind::kRow) continue;
            if (slot)
                row.read(entries, content_.store.weights(slot.row()), content_.store.state(slot.row()));
            else  // of another share
                row.skip(entries);
        }
    }

    // Make the id map's entry equal to the snapshot's; returns its slot, kNoSlot for an erased fid.
    Slot place(const EntryHead& head, Part& own) {
        IdMap& map = content_.map;
        Slot slot = map.find(head.fid);
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
    const TableSettings& saved_;
    const int64_t step_s_;           // seconds of a tick of the snapshot
    size_t num_entries_ = 0;         // of all chunks
    std::vector<uint32_t> ids_;      // allocated rows, by chunk
    std::vector<uint8_t> is_taken_;  // by id
};

}  // namespace monolith
