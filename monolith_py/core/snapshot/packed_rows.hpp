// Packed rows of a table in a file of their own, for replicas: fids and rows as a drain packs them, without the state
// that only the trainer needs. Made from a snapshot, so the table is not touched.
//
// Chunks: one kPackedHeader; kPackedRows, each with its fids (int64), their rows, and zeros up to a multiple of 8
// bytes; one kPackedEnd.
#pragma once

#include <cstdint>
#include <cstring>
#include <numeric>
#include <stdexcept>
#include <string>
#include <unordered_set>
#include <utility>
#include <vector>

#include "kernels/kernels.hpp"
#include "kernels/settings.hpp"
#include "snapshot/conversion.hpp"
#include "snapshot/entries.hpp"
#include "snapshot/file.hpp"
#include "snapshot/meta.hpp"
#include "table/row_digest.hpp"

namespace monolith {

constexpr uint32_t kPackedVersion = 1;

struct PackedHeader {
    uint32_t version = kPackedVersion;
    Encoding encoding = Encoding::kFp32;
    uint32_t dim = 0, row_bytes = 0;
    uint64_t snapshot_id = 0;
};
struct PackedEnd {
    uint64_t num_rows = 0, digest = 0;  // digest: of all rows, as `rows_digest`
};

constexpr size_t whole_words(size_t bytes) { return (bytes + 7) / 8 * 8; }

// Whether packed rows hold no NaN and no infinity.
inline bool rows_are_finite(const uint8_t* rows, size_t n, const PackedHeader& header) {
    bool finite = true;
    const auto check_halves = [&](const uint8_t* from, size_t num) {
        for (size_t i = 0; i < num; ++i) {
            uint16_t bits;
            std::memcpy(&bits, from + 2 * i, sizeof bits);
            finite &= (bits & 0x7C00) != 0x7C00;
        }
    };
    switch (header.encoding) {
        case Encoding::kFp32:
            for (size_t i = 0; i < n * header.dim; ++i) {
                uint32_t bits;
                std::memcpy(&bits, rows + 4 * i, sizeof bits);
                finite &= (bits & 0x7F800000) != 0x7F800000;
            }
            break;
        case Encoding::kFp16:
            check_halves(rows, n * header.dim);
            break;
        case Encoding::kInt8:
        case Encoding::kInt4:  // scale and bias
            for (size_t i = 0; i < n; ++i) check_halves(rows + i * header.row_bytes, 2);
            break;
    }
    return finite;
}

// Packs the rows of a snapshot. Later chunks of entries replace earlier ones, so they are read from the last.
class RowPacking {
  public:
    RowPacking(const std::string& snapshot, const std::string& path) : file_(snapshot), out_(path) {
        const SnapshotMeta meta = read_meta(file_);
        if (meta.parent != 0) throw std::invalid_argument(snapshot + ": must be a base, got an increment");
        settings_ = laid_out(meta.settings);
        header_.encoding = settings_.slices.front().encoding;
        header_.dim = settings_.dim();
        header_.snapshot_id = meta.id;
        header_.row_bytes = encoded_bytes(header_.encoding, header_.dim);
        if (settings_.slices.size() != 1)
            throw std::invalid_argument(snapshot + ": must have one slice, got " +
                                        std::to_string(settings_.slices.size()));
        row_bytes_ = RowConversion(settings_, meta.settings).row_bytes();
    }

    PackedEnd run() {
        write(ChunkTag::kPackedHeader, {reinterpret_cast<const char*>(&header_), sizeof header_}, 0);
        std::vector<const MappedChunk*> chunks;
        for (const MappedChunk& chunk : file_.chunks())
            if (chunk.head.tag == static_cast<uint32_t>(ChunkTag::kEntries)) chunks.push_back(&chunk);
        for (size_t c = chunks.size(); c-- > 0;) {
            pack(*chunks[c], c > 0 && chunks[c]->head.shard_id == kAnyShard);
            if (fids_.size() >= kRowsOfChunk) write_rows();
        }
        write_rows();
        write(ChunkTag::kPackedEnd, {reinterpret_cast<const char*>(&end_), sizeof end_}, 0);
        out_.commit();
        return end_;
    }

  private:
    static constexpr size_t kRowsAtOnce = 1024;
    // Enough for the threads of a replica, which inserts one chunk at a time.
    static constexpr size_t kRowsOfChunk = 1 << 16;

    // `replaces`: the chunk holds changes, which replace the entries of chunks before it.
    void pack(const MappedChunk& chunk, bool replaces) {
        Reader entries = file_.reader(chunk);
        for (uint64_t left = chunk.head.num_entries; left > 0; --left) {
            const auto head = entries.value<EntryHead>();
            const bool is_row = head.kind == EntryKind::kRow;
            const bool is_newest = replaces ? replaced_.insert(head.fid).second : !replaced_.count(head.fid);
            if (is_row && is_newest) {
                fids_.push_back(head.fid);
                weights_.resize(weights_.size() + header_.dim);
                entries.bytes(&weights_[weights_.size() - header_.dim], header_.dim * sizeof(float));
                entries.skip(row_bytes_ - header_.dim * sizeof(float));
                if (weights_.size() == kRowsAtOnce * header_.dim) encode();
            } else if (is_row) {
                entries.skip(row_bytes_);
            }
        }
        encode();
    }
    void write_rows() {
        if (fids_.empty()) return;
        end_.num_rows += fids_.size();
        end_.digest += rows_digest(fids_.data(), reinterpret_cast<const uint8_t*>(rows_.data()), fids_.size(),
                                   header_.row_bytes, header_.encoding);
        std::string payload(reinterpret_cast<const char*>(fids_.data()), fids_.size() * sizeof(int64_t));
        payload += rows_;
        payload.resize(whole_words(payload.size()));
        write(ChunkTag::kPackedRows, std::move(payload), fids_.size());
        fids_.clear();
        rows_.clear();
    }
    void encode() {
        const size_t n = weights_.size() / header_.dim, at = rows_.size();
        if (n == 0) return;
        numbers_.resize(n);
        std::iota(numbers_.begin(), numbers_.end(), 0u);
        rows_.resize(at + n * header_.row_bytes);
        kernels().encode({weights_.data(), nullptr, header_.dim, 0}, settings_.slices.data(), settings_.slices.size(),
                         numbers_.data(), n, reinterpret_cast<uint8_t*>(&rows_[at]), header_.row_bytes);
        weights_.clear();
    }
    void write(ChunkTag tag, std::string payload, size_t num_rows) {
        Chunk chunk;
        chunk.head.tag = static_cast<uint32_t>(tag);
        chunk.head.num_entries = chunk.head.num_rows = num_rows;
        chunk.payload = std::move(payload);
        out_.write(chunk);
    }

    SnapshotFileReader file_;
    SnapshotFileWriter out_;
    TableSettings settings_;
    PackedHeader header_;
    PackedEnd end_;
    size_t row_bytes_ = 0;  // of an entry's weights and state
    std::unordered_set<int64_t> replaced_;
    std::vector<int64_t> fids_;  // that are not written yet, and their rows
    std::vector<float> weights_;
    std::vector<uint32_t> numbers_;
    std::string rows_;
};

// Reads packed rows. `chunk` checks what it returns; const calls may run together.
class PackedRowsFile {
  public:
    struct Rows {
        const int64_t* fids;
        const uint8_t* rows;
        size_t size;
    };

    explicit PackedRowsFile(const std::string& path) : file_(path, ChunkChecks::kLater) {
        header_ = only<PackedHeader>(ChunkTag::kPackedHeader);
        if (header_.version != kPackedVersion)
            throw SnapshotError(path + ": version must be " + std::to_string(kPackedVersion) + ", got " +
                                std::to_string(header_.version));
        end_ = only<PackedEnd>(ChunkTag::kPackedEnd);
        if (header_.encoding > Encoding::kInt4 || header_.dim == 0 || header_.dim > kMostDim ||
            header_.row_bytes != encoded_bytes(header_.encoding, header_.dim))
            throw SnapshotError(path + ": damaged: dim, encoding and bytes of a row do not fit together");
        uint64_t num_rows = 0;
        for (const MappedChunk& chunk : file_.chunks()) {
            if (chunk.head.tag != static_cast<uint32_t>(ChunkTag::kPackedRows)) continue;
            const uint64_t n = chunk.head.num_rows, row = sizeof(int64_t) + header_.row_bytes;
            if (n > chunk.head.bytes / row || whole_words(n * row) != chunk.head.bytes)
                throw SnapshotError(path + ": damaged: a chunk of " + std::to_string(n) + " rows must have " +
                                    std::to_string(row) + " bytes each, got " + std::to_string(chunk.head.bytes));
            chunks_.push_back(&chunk);
            num_rows += n;
        }
        if (num_rows != end_.num_rows)
            throw SnapshotError(path + ": damaged: must have " + std::to_string(end_.num_rows) + " rows, got " +
                                std::to_string(num_rows));
    }
    PackedRowsFile(const PackedRowsFile&) = delete;
    PackedRowsFile& operator=(const PackedRowsFile&) = delete;

    const PackedHeader& header() const { return header_; }
    const PackedEnd& end() const { return end_; }
    size_t num_chunks() const { return chunks_.size(); }
    // Rows of one chunk, after its checksum; they are finite.
    Rows chunk(size_t index) const {
        const MappedChunk& chunk = *chunks_[index];
        file_.check(chunk);
        const size_t n = chunk.head.num_rows;
        const Rows rows{reinterpret_cast<const int64_t*>(chunk.payload),
                        reinterpret_cast<const uint8_t*>(chunk.payload) + n * sizeof(int64_t), n};
        if (!rows_are_finite(rows.rows, n, header_))
            throw SnapshotError(file_.path() + ": weights must be finite, got NaN or Inf in chunk " +
                                std::to_string(index));
        return rows;
    }

  private:
    template <typename T>
    T only(ChunkTag tag) const {
        const MappedChunk& chunk = file_.only(tag);
        file_.check(chunk);
        Reader in = file_.reader(chunk);
        const T value = in.value<T>();
        in.finish();
        return value;
    }

    SnapshotFileReader file_;
    PackedHeader header_;
    PackedEnd end_;
    std::vector<const MappedChunk*> chunks_;
};

}  // namespace monolith
