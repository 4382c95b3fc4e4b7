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

// CRC-32C (Castagnoli), eight bytes of table look-up at a time are not needed: bodies are read once.
inline uint32_t crc32c(const char* data, size_t size) {
    static const auto table = [] {
        std::array<uint32_t, 256> entries{};
        for (uint32_t i = 0; i < 256; ++i) {
            uint32_t crc = i;
            for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) ? 0x82F63B78u : 0);
            entries[i] = crc;
        }
        return entries;
    }();
    uint32_t crc = 0xFFFFFFFFu;
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
        std::memcpy(out, data_, size);
        data_ += size;
    }
    const char* data_;
    const char* end_;
};

struct SnapshotHeader {
    char magic[8] = {'M', 'N', 'L', 'T', 'B', 'L', '0', '1'};
    uint32_t dim = 0, optimizer = 0, admit_after = 0, crc = 0;
    float init_scale = 0, initial_accumulator = 0;
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
    header.initial_accumulator = s.hyper.initial_accumulator;
    header.seed = s.seed;
    header.ttl_s = s.ttl_s;
    return header;
}

inline void save(EmbeddingTable& table, const std::string& path) {
    Writer writer;
    table.serialize(writer);
    SnapshotHeader header = header_of(table.settings());
    header.body_bytes = writer.bytes().size();
    header.crc = crc32c(writer.bytes().data(), writer.bytes().size());
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

// Fill `table`, which must be new, from the file. A file that is torn, damaged or of other settings is refused by name.
inline void restore(EmbeddingTable& table, const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) throw SnapshotError(path + ": cannot be opened");
    std::string bytes((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
    SnapshotHeader header, expected = header_of(table.settings());
    if (bytes.size() < sizeof header) throw SnapshotError(path + ": torn, header is incomplete");
    std::memcpy(&header, bytes.data(), sizeof header);
    if (std::memcmp(header.magic, expected.magic, sizeof header.magic) != 0)
        throw SnapshotError(path + ": is no table snapshot");
    if (header.body_bytes != bytes.size() - sizeof header)
        throw SnapshotError(path + ": torn, expected " + std::to_string(header.body_bytes) + " bytes of body, got " +
                            std::to_string(bytes.size() - sizeof header));
    if (crc32c(bytes.data() + sizeof header, header.body_bytes) != header.crc)
        throw SnapshotError(path + ": damaged, the checksum differs");
    expected.crc = header.crc;
    expected.body_bytes = header.body_bytes;
    if (std::memcmp(&header, &expected, sizeof header) != 0)
        throw SnapshotError(path + ": is of a table with other settings (dim " + std::to_string(header.dim) +
                            ", seed " + std::to_string(header.seed) + ", admit_after " +
                            std::to_string(header.admit_after) + ", ttl_s " + std::to_string(header.ttl_s) +
                            ", optimizer " + std::to_string(header.optimizer) + ")");
    Reader reader(bytes.data() + sizeof header, header.body_bytes);
    table.serialize(reader);
}

}  // namespace monolith
