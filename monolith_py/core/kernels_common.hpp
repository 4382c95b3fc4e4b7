// What all kernels use: prefetching a row, and loops for the dims that tables mostly have. Included by kernels_impl.hpp
// alone.
#pragma once

#include <cstddef>
#include <cstdint>

namespace monolith {
namespace {

[[gnu::always_inline]] inline size_t least(size_t a, size_t b) { return a < b ? a : b; }

[[gnu::always_inline]] inline void touch_ahead(const float* row, uint32_t floats) {
    const char* line = reinterpret_cast<const char*>(row);
    for (uint32_t at = 0; at < floats * sizeof(float); at += 64) __builtin_prefetch(line + at, 0, 3);
}
[[gnu::always_inline]] inline void touch_ahead_to_write(float* row, uint32_t floats) {
    char* line = reinterpret_cast<char*>(row);
    for (uint32_t at = 0; at < floats * sizeof(float); at += 64) __builtin_prefetch(line + at, 1, 3);
}

constexpr uint32_t lines_ahead(uint32_t dim) { return dim <= 16 ? 48 : dim <= 32 ? 24 : 12; }

template <template <uint32_t> typename F, typename... Args>
[[gnu::always_inline]] inline auto by_dim(uint32_t dim, Args&&... args) {
    switch (dim) {
        case 8:
            return F<8>::run(args...);
        case 16:
            return F<16>::run(args...);
        case 32:
            return F<32>::run(args...);
        case 64:
            return F<64>::run(args...);
        default:
            return F<0>::run(args...);
    }
}

}  // namespace
}  // namespace monolith
