// CRC-32C (Castagnoli); uses the SSE4.2 instruction where the machine has it.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <nmmintrin.h>
#endif

namespace monolith {

inline uint32_t crc32c_portable(const char* data, size_t size, uint32_t crc) {
    static const auto table = [] {
        std::array<uint32_t, 256> entries{};
        for (uint32_t i = 0; i < 256; ++i) {
            uint32_t value = i;
            for (int bit = 0; bit < 8; ++bit) value = (value >> 1) ^ ((value & 1) ? 0x82F63B78u : 0);
            entries[i] = value;
        }
        return entries;
    }();
    for (size_t i = 0; i < size; ++i) crc = (crc >> 8) ^ table[(crc ^ static_cast<uint8_t>(data[i])) & 0xFF];
    return crc;
}

#if defined(__x86_64__)
__attribute__((target("sse4.2"))) inline uint32_t crc32c_sse42(const char* data, size_t size, uint32_t crc) {
    uint64_t wide = crc;
    for (; size >= 8; size -= 8, data += 8) {
        uint64_t word;
        std::memcpy(&word, data, 8);
        wide = _mm_crc32_u64(wide, word);
    }
    crc = static_cast<uint32_t>(wide);
    for (; size > 0; --size, ++data) crc = _mm_crc32_u8(crc, static_cast<uint8_t>(*data));
    return crc;
}
#endif

// `start`: checksum of the preceding bytes.
inline uint32_t crc32c(const char* data, size_t size, uint32_t start = 0) {
#if defined(__x86_64__)
    static const bool has_instruction = __builtin_cpu_supports("sse4.2");
    if (has_instruction) return ~crc32c_sse42(data, size, ~start);
#endif
    return ~crc32c_portable(data, size, ~start);
}

}  // namespace monolith
