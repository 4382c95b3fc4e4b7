// Fields to bytes and back, little-endian as the machine has them.
#pragma once

#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

namespace monolith {

struct SnapshotError : std::runtime_error {
    using std::runtime_error::runtime_error;
};

class Writer {
  public:
    template <typename T>
    void value(const T& value) {
        bytes(&value, sizeof value);
    }
    void bytes(const void* data, size_t size) { buffer_.append(static_cast<const char*>(data), size); }
    void text(const std::string& text) {
        value(uint64_t{text.size()});
        buffer_.append(text);
    }
    void fids(const std::vector<int64_t>& fids) {
        value(uint64_t{fids.size()});
        bytes(fids.data(), fids.size() * sizeof(int64_t));
    }
    std::string& buffer() { return buffer_; }

  private:
    std::string buffer_;
};

class Reader {
  public:
    Reader(const char* data, size_t size) : data_(data), end_(data + size) {}
    template <typename T>
    T value() {
        T value;
        bytes(&value, sizeof value);
        return value;
    }
    void bytes(void* out, size_t size) {
        if (size > left()) throw SnapshotError("content ends too early");
        if (size > 0) std::memcpy(out, data_, size);  // an empty vector has no address
        data_ += size;
    }
    std::string text() {
        std::string text(length(1), 0);
        bytes(text.data(), text.size());
        return text;
    }
    std::vector<int64_t> fids() {
        std::vector<int64_t> fids(length(sizeof(int64_t)));
        bytes(fids.data(), fids.size() * sizeof(int64_t));
        return fids;
    }
    size_t left() const { return static_cast<size_t>(end_ - data_); }

  private:
    size_t length(size_t width) {
        const auto size = value<uint64_t>();
        if (size > left() / width) throw SnapshotError("length runs over the end");
        return size;
    }
    const char* data_;
    const char* end_;
};

}  // namespace monolith
