// A table in one file: header, body, checksum; written beside its final name and renamed when it is on the disk.
#pragma once

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "embedding_table.hpp"

namespace monolith {

struct SnapshotError : std::runtime_error {
    using std::runtime_error::runtime_error;
};

// CRC-32C (Castagnoli); `start` is the checksum of what came before.
inline uint32_t crc32c(const char* data, size_t size, uint32_t start = 0) {
    static const auto table = [] {
        std::array<uint32_t, 256> entries{};
        for (uint32_t i = 0; i < 256; ++i) {
            uint32_t crc = i;
            for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) ? 0x82F63B78u : 0);
            entries[i] = crc;
        }
        return entries;
    }();
    uint32_t crc = ~start;
    for (size_t i = 0; i < size; ++i) crc = (crc >> 8) ^ table[(crc ^ static_cast<uint8_t>(data[i])) & 0xFF];
    return ~crc;
}

class Writer {
  public:
    static constexpr bool kReading = false;
    template <typename T>
    void value(T& value) {
        bytes_.append(reinterpret_cast<const char*>(&value), sizeof value);
    }
    void floats(const float* values, size_t n) {
        bytes_.append(reinterpret_cast<const char*>(values), n * sizeof(float));
    }
    void text(std::string& text) {
        uint64_t size = text.size();
        value(size);
        bytes_.append(text);
    }
    void fids(std::vector<int64_t>& fids) {
        uint64_t size = fids.size();
        value(size);
        bytes_.append(reinterpret_cast<const char*>(fids.data()), size * sizeof(int64_t));
    }
    std::string& bytes() { return bytes_; }

  private:
    std::string bytes_;
};

class Reader {
  public:
    static constexpr bool kReading = true;
    Reader(const char* data, size_t size) : data_(data), end_(data + size) {}
    template <typename T>
    void value(T& value) {
        take(&value, sizeof value);
    }
    void floats(float* values, size_t n) { take(values, n * sizeof(float)); }
    void text(std::string& text) {
        text.resize(length(1));
        take(text.data(), text.size());
    }
    void fids(std::vector<int64_t>& fids) {
        fids.resize(length(sizeof(int64_t)));
        take(fids.data(), fids.size() * sizeof(int64_t));
    }

  private:
    size_t length(size_t width) {
        uint64_t size;
        value(size);
        if (size > static_cast<size_t>(end_ - data_) / width) throw SnapshotError("length runs over the end");
        return size;
    }
    void take(void* out, size_t size) {
        if (size > static_cast<size_t>(end_ - data_)) throw SnapshotError("body ends too early");
        if (size > 0) std::memcpy(out, data_, size);  // an empty vector has no address
        data_ += size;
    }
    const char* data_;
    const char* end_;
};

struct SnapshotHeader {
    char magic[8] = {'M', 'N', 'L', 'T', 'B', 'L', '0', '1'};
    uint32_t dim = 0, optimizer = 0, admit_after = 0, crc = 0;
    float init_scale = 0;
    Hyper hyper;
    uint32_t reserved = 0;
    uint64_t seed = 0;
    int64_t ttl_s = 0;
    uint64_t body_bytes = 0;
};

inline SnapshotHeader header_of(const TableSettings& s) {
    SnapshotHeader header;
    header.dim = s.dim;
    header.optimizer = static_cast<uint32_t>(s.optimizer);
    header.admit_after = s.admit_after;
    header.init_scale = s.init_scale;
    header.hyper = s.hyper;
    header.seed = s.seed;
    header.ttl_s = s.ttl_s;
    return header;
}

// Over the header, its own field as zero, and the body.
inline uint32_t checksum(SnapshotHeader header, const std::string& bytes) {
    header.crc = 0;
    const uint32_t crc = crc32c(reinterpret_cast<const char*>(&header), sizeof header);
    return crc32c(bytes.data() + sizeof header, bytes.size() - sizeof header, crc);
}

inline void save(EmbeddingTable& table, const std::string& path) {
    Writer writer;
    table.serialize(writer);
    SnapshotHeader header = header_of(table.settings());
    header.body_bytes = writer.bytes().size();
    header.crc = checksum(header, std::string(sizeof header, 0) + writer.bytes());
    const std::string temporary = path + ".tmp";
    const int file = ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (file < 0) throw SnapshotError(path + ": " + std::strerror(errno));
    auto write_all = [&](const char* data, size_t size) {
        while (size > 0) {
            const ssize_t n = ::write(file, data, size);
            if (n < 0 && errno == EINTR) continue;
            if (n < 0) return false;
            data += n;
            size -= static_cast<size_t>(n);
        }
        return true;
    };
    const bool written = write_all(reinterpret_cast<const char*>(&header), sizeof header) &&
                         write_all(writer.bytes().data(), writer.bytes().size()) && ::fsync(file) == 0;
    const int cause = errno;
    if ((::close(file) != 0 || !written) || std::rename(temporary.c_str(), path.c_str()) != 0) {
        const int reason = written ? errno : cause;
        ::unlink(temporary.c_str());
        throw SnapshotError(path + ": " + std::strerror(reason));
    }
}

struct SnapshotFile {
    SnapshotHeader header;
    std::string bytes;
    Reader body() const { return {bytes.data() + sizeof header, bytes.size() - sizeof header}; }
};

// Read a snapshot; one that is torn or damaged is refused by name.
inline SnapshotFile read_snapshot(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) throw SnapshotError(path + ": cannot be opened");
    SnapshotFile snapshot;
    std::vector<char> chunk(1 << 20);
    while (file.read(chunk.data(), static_cast<std::streamsize>(chunk.size())), file.gcount() > 0)
        snapshot.bytes.append(chunk.data(), static_cast<size_t>(file.gcount()));
    if (file.bad()) throw SnapshotError(path + ": cannot be read");
    const SnapshotHeader fresh;
    SnapshotHeader& header = snapshot.header;
    if (snapshot.bytes.size() < sizeof header) throw SnapshotError(path + ": torn, header is incomplete");
    std::memcpy(&header, snapshot.bytes.data(), sizeof header);
    if (std::memcmp(header.magic, fresh.magic, sizeof header.magic) != 0)
        throw SnapshotError(path + ": is no table snapshot");
    const size_t body_bytes = snapshot.bytes.size() - sizeof header;
    if (header.body_bytes != body_bytes)
        throw SnapshotError(path + ": torn, expected " + std::to_string(header.body_bytes) + " bytes of body, got " +
                            std::to_string(body_bytes));
    if (checksum(header, snapshot.bytes) != header.crc) throw SnapshotError(path + ": damaged, the checksum differs");
    return snapshot;
}

inline TableSettings settings_of(const SnapshotHeader& h) {
    return {h.dim, static_cast<Optimizer>(h.optimizer), h.hyper, h.init_scale, h.seed, h.admit_after, h.ttl_s};
}

// Fill `table`, which must be new, from the file. Settings must be equal; the optimizer's rates may differ.
inline void restore(EmbeddingTable& table, const std::string& path) {
    const SnapshotFile snapshot = read_snapshot(path);
    const TableSettings got = settings_of(snapshot.header), expected = table.settings();
    auto check = [&](const char* field, auto want, auto have) {
        if (want != have)
            throw SnapshotError(path + ": is of another table, " + field + " expected " + std::to_string(want) +
                                ", got " + std::to_string(have));
    };
    check("dim", expected.dim, got.dim);
    check("optimizer", static_cast<uint32_t>(expected.optimizer), static_cast<uint32_t>(got.optimizer));
    check("init_scale", expected.init_scale, got.init_scale);
    check("seed", expected.seed, got.seed);
    check("admit_after", expected.admit_after, got.admit_after);
    check("ttl_s", expected.ttl_s, got.ttl_s);
    Reader reader = snapshot.body();
    table.serialize(reader);
}

}  // namespace monolith
