// Snapshots of a table that keeps changing: copy shard after shard, then the changes meanwhile, again and again, until
// the last copy is a short pause. All parts of the snapshot are of the moment of that pause.
//
// Entries are grouped by shard, the top 8 bits of a fid's hash, so that any number of tables can share them on restore.
// An increment holds the changes since its parent.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "snapshot/entries.hpp"
#include "snapshot/file.hpp"
#include "snapshot/load.hpp"
#include "snapshot/meta.hpp"
#include "snapshot/state.hpp"
#include "table/embedding_table.hpp"

namespace monolith {

// Outcome of `copy`: more to copy, or little enough for `finish`.
enum class CopyStatus { kMore, kCaughtUp };

// Writes one snapshot; one thread at a time. The constructor, `copy` and `finish` need the table exclusively: the
// caller holds its lock. `flush` and `commit` write the file and need no lock.
class SnapshotWriter {
  public:
    // An increment (`parent` not 0) requires that the table has tracked its changes since that snapshot.
    SnapshotWriter(EmbeddingTable& table, const std::string& path, uint64_t id, uint64_t parent)
        : content_(table.content()), file_(path), is_base_(parent == 0), id_(id) {
        if (!is_base_ && !content_.changes.is_tracking())
            throw std::invalid_argument("an increment needs changes to be tracked since a snapshot, got none tracked");
        if (!is_base_ && content_.snapshot_id != parent)
            throw std::invalid_argument("parent must be " + std::to_string(content_.snapshot_id) +
                                        ", the snapshot since which changes are tracked, got " +
                                        std::to_string(parent));
        Chunk header = chunk_of(ChunkTag::kHeader);
        Writer out;
        write_meta(out, {content_.settings, id, parent});
        header.payload = std::move(out.buffer());
        pending_.push_back(std::move(header));
        if (is_base_) content_.changes.start_tracking();
    }

    // Copy one shard or, after the shards, the tracked changes if they are more than `max_rows`.
    CopyStatus copy(size_t max_rows) {
        // The map may have split since the start.
        if (is_base_ && next_shard_ == 0) num_shards_ = content_.map.num_shards();
        if (next_shard_ < num_shards_) {
            Chunk chunk = chunk_of(ChunkTag::kEntries);
            if (num_shards_ == IdMap::kShards) chunk.head.shard_id = static_cast<uint32_t>(next_shard_);
            Writer out;
            out.buffer().reserve(content_.map.shard(next_shard_).size * entry_bytes());
            copy_shard(content_, next_shard_, [&](auto... entry) { write_entry(out, chunk.head, entry...); });
            ++next_shard_;
            add(std::move(chunk), out);
            return CopyStatus::kMore;
        }
        if (content_.changes.num_tracked() <= max_rows) return CopyStatus::kCaughtUp;
        copy_changes();
        return CopyStatus::kMore;
    }
    // Copy everything left: this moment is the snapshot's.
    void finish() {
        if (is_base_ && next_shard_ == 0) copy(0);
        while (next_shard_ < num_shards_) copy(0);
        copy_changes();
        Chunk state = chunk_of(ChunkTag::kState);
        Writer out;
        write_state(out, content_);
        add(std::move(state), out);
        content_.snapshot_id = id_;
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
        const RowsView rows = content_.store.view();
        return sizeof(EntryHead) + (rows.dim + rows.state_width) * sizeof(float);
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
        out.buffer().reserve(content_.changes.num_tracked() * entry_bytes());
        monolith::copy_changes(content_, [&](auto... entry) { write_entry(out, chunk.head, entry...); });
        if (chunk.head.num_entries > 0) add(std::move(chunk), out);
    }
    void write_entry(Writer& out, ChunkHead& chunk, const EntryHead& head, const float* weights,
                     const float* state) const {
        out.field(head);
        ++chunk.num_entries;
        if (head.kind != EntryKind::kRow) return;
        ++chunk.num_rows;
        const RowsView rows = content_.store.view();
        out.bytes(weights, rows.dim * sizeof(float));
        out.bytes(state, rows.state_width * sizeof(float));
    }

    TableContent& content_;
    SnapshotFileWriter file_;
    bool is_base_;
    uint64_t id_;
    size_t next_shard_ = 0, num_shards_ = 0;
    std::vector<Chunk> pending_;
};

// Restore a new table from a base, or apply an increment to the table that it continues. Needs the table exclusively.
// The whole file is checked first, against people as well as accidents: a refused one leaves the table as it was.
// Without memory for its entries (std::bad_alloc) the table is whole, but may hold a part of them.
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
    SavedState state = read_state(file, meta.settings, share);
    EntryLoader loader(table.content(), file, share, meta.settings);
    loader.prepare();
    take_state(std::move(state), meta.settings, table.content(), loader.newest_seen());
    loader.load();
    table.content().snapshot_id = meta.id;
}

}  // namespace monolith
