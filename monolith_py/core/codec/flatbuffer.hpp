// Reading of flatbuffers within their bounds: tables, and vectors of tables or structs. What is read is checked as the
// verifier of the flatbuffers library does it, places and their alignment.
#pragma once

#include <cstddef>
#include <cstdint>
#include <exception>
#include <string_view>

#include "joiner/wire.hpp"

namespace monolith::codec {

// Bytes that have another form than the one that is read. It says nothing about whether they are valid.
class OtherForm : public std::exception {};

inline void require(bool holds) {
    if (!holds) throw OtherForm();
}

// Read a number at `at`, which its size must divide.
template <typename T>
T number_at(std::string_view bytes, size_t at) {
    require(at % sizeof(T) == 0 && at <= bytes.size() && bytes.size() - at >= sizeof(T));
    return joiner::load<T>(bytes.data() + at);
}

class FlatVector;

// Return the place that the offset at `at` leads to.
inline size_t follow(std::string_view bytes, size_t at) {
    const auto offset = number_at<uint32_t>(bytes, at);
    require(offset != 0);
    return at + offset;
}

// A table. Fields have their number in the schema; reads throw OtherForm beyond the bytes.
class FlatTable {
  public:
    FlatTable(std::string_view bytes, size_t at) : bytes_(bytes), at_(at) {
        const int64_t places = static_cast<int64_t>(at) - number_at<int32_t>(bytes, at);
        require(places >= 0);
        places_ = static_cast<size_t>(places);
        num_bytes_ = number_at<uint16_t>(bytes, places_);
        require(num_bytes_ % 2 == 0 && num_bytes_ >= 2 && bytes.size() - places_ >= num_bytes_);
    }
    static FlatTable root(std::string_view bytes) { return {bytes, follow(bytes, 0)}; }

    bool has(int field) const { return place(field) != 0; }
    template <typename T>
    T number(int field, T absent = 0) const {
        const size_t at = place(field);
        return at == 0 ? absent : number_at<T>(bytes_, at);
    }
    FlatTable table(int field) const { return {bytes_, target(field)}; }
    std::string_view text(int field) const {
        const size_t at = target(field), size = number_at<uint32_t>(bytes_, at);
        require(bytes_.size() - at - sizeof(uint32_t) > size && bytes_[at + sizeof(uint32_t) + size] == 0);
        return bytes_.substr(at + sizeof(uint32_t), size);
    }
    // Return a vector of `item_bytes` each; an absent one is empty.
    FlatVector vector(int field, size_t item_bytes) const;

  private:
    // Return the place of a field, 0 if it is absent.
    size_t place(int field) const {
        const size_t at = 4 + 2 * static_cast<size_t>(field);
        if (at + 2 > num_bytes_) return 0;
        const auto offset = number_at<uint16_t>(bytes_, places_ + at);
        return offset == 0 ? 0 : at_ + offset;
    }
    size_t target(int field) const {
        const size_t at = place(field);
        require(at != 0);
        return follow(bytes_, at);
    }

    std::string_view bytes_;
    size_t at_, places_, num_bytes_;
};

// A vector of structs, or of tables (4 bytes each).
class FlatVector {
  public:
    FlatVector() = default;
    FlatVector(std::string_view bytes, size_t at, size_t item_bytes)
        : bytes_(bytes), first_(at + sizeof(uint32_t)), size_(number_at<uint32_t>(bytes, at)), item_bytes_(item_bytes) {
        require((bytes.size() - first_) / item_bytes >= size_);
    }
    size_t size() const { return size_; }
    FlatTable table(size_t index) const { return {bytes_, follow(bytes_, first_ + index * item_bytes_)}; }
    // Return the number `place` bytes into the struct at `index`.
    int64_t number(size_t index, size_t place) const {
        return joiner::load<int64_t>(bytes_.data() + first_ + index * item_bytes_ + place);
    }

  private:
    std::string_view bytes_;
    size_t first_ = 0, size_ = 0, item_bytes_ = 1;
};

inline FlatVector FlatTable::vector(int field, size_t item_bytes) const {
    return has(field) ? FlatVector(bytes_, target(field), item_bytes) : FlatVector();
}

}  // namespace monolith::codec
