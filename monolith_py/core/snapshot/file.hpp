// Snapshot file: a header chunk, more chunks, and a trailer chunk; each has a checksum. It is written beside its final
// name and renamed after fsync. A file without a trailer is torn.
#pragma once

#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "bytes/archive.hpp"
#include "bytes/crc32c.hpp"

namespace monolith {

enum class ChunkTag : uint32_t {
    kHeader = 1,
    kEntries = 2,
    kState = 3,
    kEnd = 4,
    // packed_rows.hpp
    kPackedHeader = 5,
    kPackedRows = 6,
    kPackedEnd = 7,
};

constexpr uint32_t kAnyShard = 0xFFFFFFFFu;

struct ChunkHead {
    char magic[4] = {'M', 'N', 'L', 'T'};
    uint32_t tag = 0;
    uint32_t shard_id = kAnyShard;                      // shard of all entries; kAnyShard: they are mixed
    uint32_t crc = 0;                                   // of this head with crc 0, and the payload
    uint64_t num_entries = 0, num_rows = 0, bytes = 0;  // num_entries of the trailer: number of chunks before it
};

inline uint32_t checksum(ChunkHead head, const char* payload) {
    head.crc = 0;
    return crc32c(payload, head.bytes, crc32c(reinterpret_cast<const char*>(&head), sizeof head));
}

struct Chunk {
    ChunkHead head;
    std::string payload;
};

// The regular file to write for `path`: symbolic links stay, their target is written.
inline std::string file_to_write(const std::string& path) {
    constexpr int kMostLinks = 40;  // as in the kernel
    std::filesystem::path target = path;
    std::error_code error;
    for (int links = 0; std::filesystem::is_symlink(target, error); ++links) {
        if (links == kMostLinks) throw SnapshotError(path + ": " + std::strerror(ELOOP));
        target = target.parent_path() / std::filesystem::read_symlink(target, error);
    }
    const std::filesystem::file_type type = std::filesystem::status(target, error).type();
    if (std::filesystem::exists(target, error) && type != std::filesystem::file_type::regular)
        throw SnapshotError(path + ": must be a regular file or absent, got " +
                            (type == std::filesystem::file_type::directory ? "a directory" : "another kind of file"));
    return target.string();
}

class SnapshotFileWriter {
  public:
    explicit SnapshotFileWriter(const std::string& path) : path_(file_to_write(path)), temporary_(path_ + ".tmp") {
        file_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644);
        if (file_ < 0) fail();
        if (!is_ours()) {
            ::close(std::exchange(file_, -1));
            throw SnapshotError(path_ + ": another snapshot is being written there");
        }
        if (::ftruncate(file_, 0) != 0) {
            const int reason = errno;
            ::close(std::exchange(file_, -1));
            throw SnapshotError(path_ + ": " + std::strerror(reason));
        }
    }
    SnapshotFileWriter(const SnapshotFileWriter&) = delete;
    SnapshotFileWriter& operator=(const SnapshotFileWriter&) = delete;
    ~SnapshotFileWriter() {
        if (file_ < 0) return;
        ::close(file_);
        ::unlink(temporary_.c_str());
    }

    void write(Chunk& chunk) {
        chunk.head.bytes = chunk.payload.size();
        chunk.head.crc = checksum(chunk.head, chunk.payload.data());
        write_all(reinterpret_cast<const char*>(&chunk.head), sizeof chunk.head);
        write_all(chunk.payload.data(), chunk.payload.size());
        ++num_chunks_;
        // Start writing to the disk now, so that the final fsync is short.
        if (unsynced_ += chunk.payload.size(); unsynced_ >= (size_t{16} << 20)) {
            ::sync_file_range(file_, 0, 0, SYNC_FILE_RANGE_WRITE);
            unsynced_ = 0;
        }
    }
    void commit() {
        Chunk end;
        end.head.tag = static_cast<uint32_t>(ChunkTag::kEnd);
        end.head.num_entries = num_chunks_;
        write(end);
        if (::fsync(file_) != 0) fail();
        // The lock of the file is held until it has its name: then no other writer can take it for its own.
        if (std::rename(temporary_.c_str(), path_.c_str()) != 0) {
            const int reason = errno;
            ::unlink(temporary_.c_str());
            ::close(std::exchange(file_, -1));
            throw SnapshotError(path_ + ": " + std::strerror(reason));
        }
        if (::close(std::exchange(file_, -1)) != 0) fail();
    }

  private:
    // Lock the file; false if another writer has it, or has just given it its name.
    bool is_ours() const {
        struct stat held{}, named{};
        return ::flock(file_, LOCK_EX | LOCK_NB) == 0 && ::fstat(file_, &held) == 0 &&
               ::stat(temporary_.c_str(), &named) == 0 && held.st_ino == named.st_ino;
    }
    [[noreturn]] void fail() { throw SnapshotError(path_ + ": " + std::strerror(errno)); }
    void write_all(const char* data, size_t size) {
        while (size > 0) {
            const ssize_t n = ::write(file_, data, size);
            if (n < 0 && errno == EINTR) continue;
            if (n < 0) fail();
            data += n;
            size -= static_cast<size_t>(n);
        }
    }
    std::string path_, temporary_;
    int file_ = -1;
    uint64_t num_chunks_ = 0;
    size_t unsynced_ = 0;
};

// One chunk of a mapped file.
struct MappedChunk {
    ChunkHead head;
    const char* payload;
};

// Checks of a reader: all checksums at once, or each by the caller (`check`) when it reads the chunk.
enum class ChunkChecks { kAtOnce, kLater };

// Maps a snapshot and checks every chunk's checksum; errors name the file. Const calls may run together.
class SnapshotFileReader {
  public:
    explicit SnapshotFileReader(std::string path, ChunkChecks checks = ChunkChecks::kAtOnce)
        : path_(std::move(path)), checks_(checks) {
        const int file = ::open(path_.c_str(), O_RDONLY | O_CLOEXEC);
        if (file < 0) throw SnapshotError(path_ + ": cannot be opened: " + std::strerror(errno));
        struct stat status{};
        const bool known = ::fstat(file, &status) == 0 && S_ISREG(status.st_mode);
        size_ = known ? static_cast<size_t>(status.st_size) : 0;
        const int populate = checks_ == ChunkChecks::kAtOnce ? MAP_POPULATE : 0;
        void* data = size_ > 0 ? ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE | populate, file, 0) : MAP_FAILED;
        ::close(file);
        if (data == MAP_FAILED) {
            size_ = 0;
            throw SnapshotError(path_ + ": torn: empty, or not a regular file");
        }
        data_ = static_cast<const char*>(data);
        try {
            index();
        } catch (...) {
            ::munmap(const_cast<char*>(data_), size_);
            throw;
        }
    }
    SnapshotFileReader(const SnapshotFileReader&) = delete;
    SnapshotFileReader& operator=(const SnapshotFileReader&) = delete;
    ~SnapshotFileReader() { ::munmap(const_cast<char*>(data_), size_); }

    const std::string& path() const { return path_; }
    const std::vector<MappedChunk>& chunks() const { return chunks_; }
    Reader reader(const MappedChunk& chunk) const { return {chunk.payload, chunk.head.bytes, path_}; }
    const MappedChunk& only(ChunkTag tag) const {
        for (const MappedChunk& chunk : chunks_)
            if (chunk.head.tag == static_cast<uint32_t>(tag)) return chunk;
        throw SnapshotError(path_ + ": damaged: no chunk has tag " + std::to_string(static_cast<uint32_t>(tag)));
    }
    void check(const MappedChunk& chunk) const {
        if (const uint32_t crc = checksum(chunk.head, chunk.payload); crc != chunk.head.crc)
            throw SnapshotError(path_ + ": damaged: checksum of the chunk at byte " +
                                std::to_string(chunk.payload - data_ - sizeof chunk.head) + " must be " +
                                std::to_string(chunk.head.crc) + ", got " + std::to_string(crc));
    }

  private:
    void index() {
        size_t at = 0;
        const ChunkHead fresh;
        for (;;) {
            MappedChunk chunk{};
            if (size_ - at < sizeof chunk.head)
                throw SnapshotError(path_ + ": torn: ends after " + std::to_string(size_) + " bytes without a trailer");
            std::memcpy(&chunk.head, data_ + at, sizeof chunk.head);
            if (std::memcmp(chunk.head.magic, fresh.magic, sizeof fresh.magic) != 0)
                throw SnapshotError(path_ + (at == 0 ? ": is not a table snapshot"
                                                     : ": damaged: no chunk begins at byte " + std::to_string(at)));
            at += sizeof chunk.head;
            chunk.payload = data_ + at;
            if (chunk.head.bytes > size_ - at)
                throw SnapshotError(path_ + ": torn: chunk " + std::to_string(chunks_.size()) + " must have " +
                                    std::to_string(chunk.head.bytes) + " bytes, got " + std::to_string(size_ - at));
            const bool is_end = chunk.head.tag == static_cast<uint32_t>(ChunkTag::kEnd);
            if (is_end || checks_ == ChunkChecks::kAtOnce) check(chunk);
            at += chunk.head.bytes;
            if (is_end) {
                if (chunk.head.num_entries != chunks_.size())
                    throw SnapshotError(path_ + ": damaged: trailer announces " +
                                        std::to_string(chunk.head.num_entries) + " chunks, file has " +
                                        std::to_string(chunks_.size()));
                if (at != size_)
                    throw SnapshotError(path_ + ": damaged: trailer must end at byte " + std::to_string(size_) +
                                        ", got " + std::to_string(at));
                return;
            }
            chunks_.push_back(chunk);
        }
    }
    std::string path_;
    ChunkChecks checks_;
    const char* data_ = nullptr;
    size_t size_ = 0;
    std::vector<MappedChunk> chunks_;
};

}  // namespace monolith
