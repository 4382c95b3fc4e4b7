// Reading of protobuf's wire format in the one form that its serializers write: fields once, in order, numbers as short
// as possible. What has another form is left to the Python codec.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <string_view>

namespace monolith::joiner {

// Read a little-endian number from bytes without alignment.
template <typename T>
T load(const char* data) {
    T value;
    std::memcpy(&value, data, sizeof value);
    return value;
}

// Bytes of one message, read from the front. Each read returns false if the bytes have another form.
class Wire {
  public:
    explicit Wire(std::string_view bytes) : at_(bytes.data()), end_(bytes.data() + bytes.size()) {}
    bool done() const { return at_ == end_; }

    // Consume the one-byte `tag` if it is next.
    bool tag(uint8_t tag) {
        if (at_ == end_ || static_cast<uint8_t>(*at_) != tag) return false;
        ++at_;
        return true;
    }
    bool varint(uint64_t& value) {
        value = 0;
        for (int shift = 0; at_ != end_ && shift < 63; shift += 7) {
            const auto byte = static_cast<uint8_t>(*at_++);
            value |= static_cast<uint64_t>(byte & 127) << shift;
            if (byte < 128) return byte != 0 || shift == 0;
        }
        return false;
    }
    template <typename T>
    bool fixed(T& value) {
        if (static_cast<size_t>(end_ - at_) < sizeof value) return false;
        value = load<T>(at_);
        at_ += sizeof value;
        return true;
    }
    bool bytes(std::string_view& bytes) {
        uint64_t size = 0;
        if (!varint(size) || size > static_cast<size_t>(end_ - at_)) return false;
        bytes = {at_, size};
        at_ += size;
        return true;
    }

  private:
    const char* at_;
    const char* end_;
};

// Return whether every float32 of the packed `values` is finite.
inline bool are_finite(std::string_view values) {
    bool finite = true;
    for (size_t at = 0; at < values.size(); at += sizeof(float))
        finite &= std::isfinite(load<float>(values.data() + at));
    return finite;
}

// Return the number of characters of UTF-8 text, or SIZE_MAX if it is none.
size_t num_chars(std::string_view text);

}  // namespace monolith::joiner
