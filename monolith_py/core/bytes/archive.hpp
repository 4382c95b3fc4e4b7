// Serialisation of fields in the machine's byte order (little-endian). Writer and Reader have the same calls, so one
// list of fields serves both.
#pragma once

#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <string_view>
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
    void length(const Items& items, size_t /*width*/ = 1) {
        field(uint64_t{items.size()});
    }
    void bytes(const void* data, size_t size) { buffer_.append(static_cast<const char*>(data), size); }
    std::string& buffer() { return buffer_; }

  private:
    std::string buffer_;
};

class Reader {
  public:
    // `name` is for errors, and must outlive the reader.
    Reader(const char* data, size_t size, std::string_view name) : data_(data), end_(data + size), name_(name) {}
    template <typename... T>
    void fields(T&... each) {
        (field(each), ...);
    }
    template <typename T>
    void field(T& value) {
        static_assert(std::is_trivially_copyable_v<T>);
        bytes(&value, sizeof value);
    }
    void field(bool& value) {
        const auto stored = this->value<uint8_t>();
        if (stored > 1) throw SnapshotError(std::string(name_) + ": damaged: a flag must be 0 or 1");
        value = stored == 1;
    }
    void field(std::string& text) {
        length(text);
        bytes(text.data(), text.size());
    }
    void field(std::vector<int64_t>& fids) {
        length(fids, sizeof(int64_t));
        bytes(fids.data(), fids.size() * sizeof(int64_t));
    }
    // Resize `items` to the stored count; each item takes at least `width` bytes.
    template <typename Items>
    void length(Items& items, size_t width = 1) {
        const auto size = value<uint64_t>();
        if (size > left() / width) fail(std::to_string(size) + " items of " + std::to_string(width));
        items.resize(size);
    }
    template <typename T>
    T value() {
        T value;
        field(value);
        return value;
    }
    void skip(size_t size) {
        if (size > left()) fail(std::to_string(size));
        data_ += size;
    }
    void bytes(void* out, size_t size) {
        if (size > left()) fail(std::to_string(size));
        if (size > 0) std::memcpy(out, data_, size);  // an empty vector may have no address
        data_ += size;
    }
    // Check that all bytes are read.
    void finish() const {
        if (left() > 0)
            throw SnapshotError(std::string(name_) + ": damaged: expected the end, got " + std::to_string(left()) +
                                " more bytes");
    }

    size_t left() const { return static_cast<size_t>(end_ - data_); }

  private:
    [[noreturn]] void fail(const std::string& expected) const {
        throw SnapshotError(std::string(name_) + ": damaged: expected " + expected + " bytes, got " +
                            std::to_string(left()));
    }
    const char* data_;
    const char* end_;
    std::string_view name_;
};

}  // namespace monolith
