// Fields to bytes and back, little-endian as the machine has them. Writer and Reader take the same calls, so that one
// list of fields serves both.
#pragma once

#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

namespace monolith {

struct SnapshotError : std::runtime_error {
    using std::runtime_error::runtime_error;
};

class Writer {
  public:
    template <typename... T>
    void fields(const T&... each) {
        (field(each), ...);
    }
    template <typename T>
    void field(const T& value) {
        static_assert(std::is_trivially_copyable_v<T>);
        bytes(&value, sizeof value);
    }
    void field(const std::string& text) {
        length(text);
        buffer_.append(text);
    }
    void field(const std::vector<int64_t>& fids) {
        length(fids);
        bytes(fids.data(), fids.size() * sizeof(int64_t));
    }
    template <typename Items>
    void length(const Items& items) {
        field(uint64_t{items.size()});
    }
    void bytes(const void* data, size_t size) { buffer_.append(static_cast<const char*>(data), size); }
    std::string& buffer() { return buffer_; }

  private:
    std::string buffer_;
};

class Reader {
  public:
    Reader(const char* data, size_t size) : data_(data), end_(data + size) {}
    template <typename... T>
    void fields(T&... each) {
        (field(each), ...);
    }
    template <typename T>
    void field(T& value) {
        static_assert(std::is_trivially_copyable_v<T>);
        bytes(&value, sizeof value);
    }
    void field(std::string& text) {
        length(text);
        bytes(text.data(), text.size());
    }
    void field(std::vector<int64_t>& fids) {
        length(fids, sizeof(int64_t));
        bytes(fids.data(), fids.size() * sizeof(int64_t));
    }
    // Make room for as many items as were written, each of `width` bytes or more.
    template <typename Items>
    void length(Items& items, size_t width = 1) {
        const auto size = value<uint64_t>();
        if (size > left() / width) throw SnapshotError("length runs over the end");
        items.resize(size);
    }
    template <typename T>
    T value() {
        T value;
        field(value);
        return value;
    }
    void bytes(void* out, size_t size) {
        if (size > left()) throw SnapshotError("content ends too early");
        if (size > 0) std::memcpy(out, data_, size);  // an empty vector has no address
        data_ += size;
    }

  private:
    size_t left() const { return static_cast<size_t>(end_ - data_); }
    const char* data_;
    const char* end_;
};

}  // namespace monolith
