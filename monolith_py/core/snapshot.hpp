// Snapshots of a table, taken while it goes on changing: shard after shard is copied, then what has changed meanwhile,
// again and again, until so little is left that the last copy is a short pause. The snapshot is of the moment of that
// pause, in all its parts.
//
// Entries lie by virtual bucket, the top 8 bits of a fid's hash, so any number of tables can share them out when they
// restore. An increment holds what has changed since the snapshot before it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "embedding_table.hpp"
#include "snapshot_file.hpp"
#include "snapshot_meta.hpp"

namespace monolith {

enum class EntryKind : uint16_t { kRow, kCandidate, kGone };

// Followed by weights and state where it is of a row.
struct EntryHead {
    int64_t fid;
    int64_t seen;  // ticks of event time
    uint16_t count;
    EntryKind kind;
    uint32_t unused;
};
static_assert(sizeof(EntryHead) == 24);

// Which of the virtual buckets a table takes when several share a snapshot out.
struct Share {
    size_t part = 0, parts = 1;
    bool has(uint64_t hash) const { return (hash >> 56) * parts / 256 == part; }
};

template <typename F>
void EmbeddingTable::copy_shard(size_t shard, F&& entry) const {
    constexpr uint32_t kBucketsAhead = 4;
    const Shard& from = map_.shard(shard);
    for (uint32_t b = 0; b < from.num_buckets; ++b) {
        if (b + kBucketsAhead < from.num_buckets)
            for (const uint32_t row : from.buckets[b + kBucketsAhead].rows)
                if (row < kCandidate) __builtin_prefetch(store_.weights(row));
        for (int i = 0; i < kSlotsPerBucket; ++i) {
            const Slot s{&from.buckets[b], i};
            if (s.row() == kNoRow) continue;
            const int64_t seen = base_tick_ + s.seen();
            if (s.row() == kCandidate)
                entry(s.key(), seen, s.count(), EntryKind::kCandidate, nullptr, nullptr);
            else
                entry(s.key(), seen, s.count(), EntryKind::kRow, store_.weights(s.row()), store_.state(s.row()));
        }
    }
}

template <typename F>
void EmbeddingTable::copy_changes(F&& entry) {
    const TouchedSet::Drained drained = tracker_->touched.drain([&](int64_t fid) { return row_of(fid); },
                                                                [&](uint32_t row) { return store_.fid(row); });
    tracker_->touched.ack_all();
    std::vector<int64_t> fids(tracker_->candidates.begin(), tracker_->candidates.end());
    tracker_->candidates.clear();
    for (const uint32_t row : drained.rows) fids.push_back(store_.fid(row));
    fids.insert(fids.end(), drained.evicted.begin(), drained.evicted.end());
    for (size_t i = 0; i < fids.size(); ++i) {
        if (i + kAhead < fids.size()) map_.prefetch(fids[i + kAhead]);
        const Slot s = map_.find(fids[i]);
        if (!s)
            entry(fids[i], 0, 0, EntryKind::kGone, nullptr, nullptr);
        else if (s.row() == kCandidate)
            entry(fids[i], base_tick_ + s.seen(), s.count(), EntryKind::kCandidate, nullptr, nullptr);
        else
            entry(fids[i], base_tick_ + s.seen(), s.count(), EntryKind::kRow, store_.weights(s.row()),
                  store_.state(s.row()));
    }
}

inline void EmbeddingTable::write_state(Writer& out) const {
    out.field(base_tick_);
    out.field(has_base_);
    for (const uint64_t count :
         {num_admitted_, num_filtered_, num_evicted_, num_freed_, num_updates_, num_plans_, num_samples_})
        out.field(count);
    out.field(uint64_t{consumers_.size()});
    for (const auto& [name, touched] : consumers_) {
        out.fields(name, touched.pending([&](uint32_t row) { return store_.fid(row); }), touched.pending_evicted());
    }
    out.field(uint64_t{sketch_ ? sketch_->bytes() : 0});
    if (sketch_) out.bytes(sketch_->data(), sketch_->bytes());
}

inline void EmbeddingTable::load(const SnapshotFileReader& file, Share share) {
    // 1. The state, of which an increment has a newer one.
    Reader in = file.reader(file.only(ChunkTag::kState));
    const int64_t old_base_tick = std::exchange(base_tick_, in.value<int64_t>());
    map_.for_each([&](Slot slot) {
        slot.seen() = static_cast<uint16_t>(std::clamp<int64_t>(slot.seen() + old_base_tick - base_tick_, 0, 0xFFFF));
    });
    has_base_ = in.value<bool>();
    for (uint64_t* count :
         {&num_admitted_, &num_filtered_, &num_evicted_, &num_freed_, &num_updates_, &num_plans_, &num_samples_})
        *count = in.value<uint64_t>();
    consumers_.clear();
    for (auto left = in.value<uint64_t>(); left > 0; --left) {
        std::string name;
        std::vector<int64_t> pending, evicted;
        in.fields(name, pending, evicted);
        std::erase_if(evicted, [&](int64_t fid) { return !share.has(hash_fid(fid)); });
        consumers_[name].restore(pending, evicted);
    }
    const auto sketch_bytes = in.value<uint64_t>();
    if (sketch_bytes != (sketch_ ? sketch_->bytes() : 0))
        throw SnapshotError(file.path() + ": is of another table, the sketch differs");
    if (sketch_) in.bytes(sketch_->data(), sketch_bytes);

    // 2. Entries, chunk by chunk. Rows are handed out in the order of the file; chunks of one virtual bucket each are
    // loaded side by side
    //    where the bucket is a shard, which no other chunk then touches until all of them are in.
    std::vector<const MappedChunk*> chunks;
    size_t num_rows = 0, num_entries = 0;
    for (const MappedChunk& chunk : file.chunks())
        if (chunk.head.tag == static_cast<uint32_t>(ChunkTag::kEntries)) {
            chunks.push_back(&chunk);
            num_rows += chunk.head.num_rows;
            num_entries += chunk.head.num_entries;
        }
    map_.expect(num_entries / share.parts);
    std::vector<uint32_t> ids;
    store_.allocate(num_rows, ids);
    struct Loaded {
        size_t first_id = 0, used = 0;
        int64_t rows = 0, candidates = 0;
        std::vector<uint32_t> freed;
    };
    std::vector<Loaded> loaded(chunks.size());
    for (size_t c = 1; c < chunks.size(); ++c)
        loaded[c].first_id = loaded[c - 1].first_id + chunks[c - 1]->head.num_rows;
    const auto load_chunk = [&](size_t c) {
        Loaded& own = loaded[c];
        Reader entries = file.reader(*chunks[c]);
        for (uint64_t left = chunks[c]->head.num_entries; left > 0; --left) {
            const auto head = entries.value<EntryHead>();
            const bool is_row = head.kind == EntryKind::kRow, is_ours = share.has(hash_fid(head.fid));
            Slot slot = is_ours ? map_.find(head.fid) : Slot{};
            if (slot && head.kind != EntryKind::kRow && slot.row() != kCandidate) {
                own.freed.push_back(slot.row());
                --own.rows;
                slot.row() = kCandidate;
                ++own.candidates;
            }
            if (is_ours && head.kind == EntryKind::kGone) {
                if (slot) {
                    map_.erase(slot);
                    --own.candidates;
                }
                continue;
            }
            const auto seen = static_cast<uint16_t>(std::clamp<int64_t>(head.seen - base_tick_, 0, 0xFFFF));
            if (is_ours && !slot) {
                slot = map_.insert(head.fid, kCandidate, seen, head.count);
                ++own.candidates;
            }
            if (is_ours) {
                slot.seen() = seen;
                slot.count() = head.count;
            }
            if (!is_row) continue;
            if (is_ours && slot.row() == kCandidate) {
                slot.row() = ids[own.first_id + own.used++];
                store_.fid(slot.row()) = head.fid;
                --own.candidates;
                ++own.rows;
            }
            std::vector<float> skipped(is_ours ? 0 : dim_ + state_width_);
            entries.bytes(is_ours ? store_.weights(slot.row()) : skipped.data(), dim_ * sizeof(float));
            entries.bytes(is_ours ? store_.state(slot.row()) : skipped.data(), state_width_ * sizeof(float));
        }
    };
    const bool by_shard = map_.num_shards() == IdMap::kShards;
    size_t alone = 0;
    while (by_shard && alone < chunks.size() && chunks[alone]->head.bucket == alone) ++alone;
    ThreadPool::instance().run(alone, load_chunk);
    for (size_t c = alone; c < chunks.size(); ++c) load_chunk(c);
    for (size_t c = chunks.size(); c-- > 0;) {
        const Loaded& own = loaded[c];
        for (size_t i = chunks[c]->head.num_rows; i-- > own.used;) store_.release(ids[own.first_id + i]);
        for (const uint32_t row : own.freed) store_.release(row);
        num_rows_ += static_cast<uint64_t>(own.rows);
        num_candidates_ += static_cast<uint64_t>(own.candidates);
    }
}

// Writes one snapshot. `copy`, `num_pending` and `finish` want the table still; `flush` and `commit` do not.
class SnapshotWriter {
  public:
    // An increment (`parent` not 0) needs the table to have tracked its changes since that snapshot.
    SnapshotWriter(EmbeddingTable& table, const std::string& path, uint64_t id, uint64_t parent)
        : table_(table), file_(path), is_base_(parent == 0) {
        if (!is_base_ && !table.is_tracking())
            throw std::invalid_argument("an increment needs changes to be tracked since a snapshot, got none tracked");
        if (!is_base_ && table.snapshot_id() != parent)
            throw std::invalid_argument("parent must be the snapshot " + std::to_string(table.snapshot_id()) +
                                        " that changes are tracked since, got " + std::to_string(parent));
        id_ = id;
        Chunk header = chunk_of(ChunkTag::kHeader);
        Writer out;
        write_meta(out, {table.settings(), id, parent});
        header.payload = std::move(out.buffer());
        pending_.push_back(std::move(header));
        if (is_base_) table.start_tracking();
    }

    // Copy one shard, or up to `max_rows` of what has changed since it was copied; return whether calling again is
    // worth while.
    bool copy(size_t max_rows) {
        if (is_base_ && next_shard_ == 0) num_shards_ = table_.num_shards();  // the map may have split since the start
        if (next_shard_ < num_shards_) {
            Chunk chunk = chunk_of(ChunkTag::kEntries);
            if (num_shards_ == IdMap::kShards) chunk.head.bucket = static_cast<uint32_t>(next_shard_);
            Writer out;
            out.buffer().reserve(table_.shard_size(next_shard_) * entry_bytes());
            table_.copy_shard(next_shard_, [&](auto... entry) { write_entry(out, chunk.head, entry...); });
            ++next_shard_;
            add(std::move(chunk), out);
            return true;
        }
        if (table_.num_changed() <= max_rows) return false;
        copy_changes();
        return true;
    }
    // Copy all that is left: the snapshot is of this moment.
    void finish() {
        if (is_base_ && next_shard_ == 0) copy(0);
        while (next_shard_ < num_shards_) copy(0);
        copy_changes();
        Chunk state = chunk_of(ChunkTag::kState);
        Writer out;
        table_.write_state(out);
        add(std::move(state), out);
        table_.set_snapshot_id(id_);
    }
    void flush() {
        for (Chunk& chunk : pending_) file_.write(chunk);
        pending_.clear();
    }
    void commit() {
        flush();
        file_.commit();
    }

  private:
    size_t entry_bytes() const {
        return sizeof(EntryHead) + (table_.dim() + table_.rows().state_width) * sizeof(float);
    }
    static Chunk chunk_of(ChunkTag tag) {
        Chunk chunk;
        chunk.head.tag = static_cast<uint32_t>(tag);
        return chunk;
    }
    void add(Chunk&& chunk, Writer& out) {
        chunk.payload = std::move(out.buffer());
        pending_.push_back(std::move(chunk));
    }
    void copy_changes() {
        Chunk chunk = chunk_of(ChunkTag::kEntries);
        Writer out;
        out.buffer().reserve(table_.num_changed() * entry_bytes());
        table_.copy_changes([&](auto... entry) { write_entry(out, chunk.head, entry...); });
        if (chunk.head.num_entries > 0) add(std::move(chunk), out);
    }
    void write_entry(Writer& out, ChunkHead& head, int64_t fid, int64_t seen, uint16_t count, EntryKind kind,
                     const float* weights, const float* state) const {
        out.field(EntryHead{fid, seen, count, kind, 0});
        ++head.num_entries;
        if (kind != EntryKind::kRow) return;
        ++head.num_rows;
        out.bytes(weights, table_.dim() * sizeof(float));
        out.bytes(state, table_.rows().state_width * sizeof(float));
    }

    EmbeddingTable& table_;
    SnapshotFileWriter file_;
    bool is_base_;
    uint64_t id_ = 0;
    size_t next_shard_ = 0, num_shards_ = 0;
    std::vector<Chunk> pending_;
};

// Fill `table`, which must be new, from a base, or bring it on by an increment. All or nothing.
inline void restore(EmbeddingTable& table, const std::string& path, Share share) {
    if (share.part >= share.parts || share.parts > 256)
        throw std::invalid_argument("share must be (k, n) with k < n <= 256, got (" + std::to_string(share.part) +
                                    ", " + std::to_string(share.parts) + ")");
    const SnapshotFileReader file(path);
    const SnapshotMeta meta = read_meta(file);
    check_settings(path, table.settings(), meta.settings);
    if (meta.parent != 0 && meta.parent != table.snapshot_id())
        throw SnapshotError(path + ": continues snapshot " + std::to_string(meta.parent) + ", but the table holds " +
                            std::to_string(table.snapshot_id()));
    if (meta.parent == 0 && table.snapshot_id() + table.num_rows() != 0)
        throw SnapshotError(path + ": is a base, but the table is not new");
    table.load(file, share);
    table.set_snapshot_id(meta.id);
}

}  // namespace monolith
