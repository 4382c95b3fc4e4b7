// Austin Appleby's MurmurHash2, 32 bits, with Kafka's seed.
#pragma once

#include <cstdint>
#include <cstring>
#include <string_view>

namespace monolith {

inline uint32_t murmur2(std::string_view data) {
    constexpr uint32_t kMultiplier = 0x5BD1E995;
    uint32_t state = 0x9747B28C ^ static_cast<uint32_t>(data.size());
    size_t at = 0;
    for (; at + 4 <= data.size(); at += 4) {
        uint32_t word = 0;
        std::memcpy(&word, data.data() + at, 4);
        word *= kMultiplier;
        word = (word ^ word >> 24) * kMultiplier;
        state = state * kMultiplier ^ word;
    }
    if (at < data.size()) {
        uint32_t rest = 0;
        std::memcpy(&rest, data.data() + at, data.size() - at);
        state = (state ^ rest) * kMultiplier;
    }
    state = (state ^ state >> 13) * kMultiplier;
    return state ^ state >> 15;
}

}  // namespace monolith
