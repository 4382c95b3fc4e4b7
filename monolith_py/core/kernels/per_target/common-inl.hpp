// Shared by all kernels: prefetch of a row, non-temporal stores, and loops specialised for common dims.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

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

// Non-temporal store of 16 floats; `to` begins a cache line. Call `end_lines` before another thread reads them.
[[gnu::always_inline]] inline void store_line(const float* from, float* to) {
#if defined(__AVX512F__)
    _mm512_stream_ps(to, _mm512_loadu_ps(from));
#elif defined(__AVX2__)
    for (uint32_t i = 0; i < 16; i += 8) _mm256_stream_ps(to + i, _mm256_loadu_ps(from + i));
#elif defined(__SSE2__)
    for (uint32_t i = 0; i < 16; i += 4) _mm_stream_ps(to + i, _mm_loadu_ps(from + i));
#else
    std::memcpy(to, from, 16 * sizeof(float));
#endif
}
inline void end_lines() {
#if defined(__SSE2__)
    _mm_sfence();
#endif
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

// Sum of rows: in vector registers for a known dim, else in `scratch` for one row.
template <uint32_t kDim>
class RowSum {
  public:
    explicit RowSum(float*) {}
    [[gnu::always_inline]] void clear() {
        for (Vector& part : sum_) part = Vector{};
    }
    [[gnu::always_inline]] void add(const float* g, uint32_t) {
        for (uint32_t i = 0; i < kParts; ++i) {
            Vector part;
            std::memcpy(&part, g + i * kWidth, sizeof part);
            sum_[i] += part;
        }
    }
    [[gnu::always_inline]] void add(const float* g, uint32_t, float scale) {
        for (uint32_t i = 0; i < kParts; ++i) {
            Vector part;
            std::memcpy(&part, g + i * kWidth, sizeof part);
            sum_[i] += scale * part;
        }
    }
    // The sum in memory. The asm hides its origin, so that the compiler leaves it there.
    [[gnu::always_inline]] float* values() {
        float* values = values_;
        for (uint32_t i = 0; i < kParts; ++i) std::memcpy(values_ + i * kWidth, &sum_[i], sizeof(Vector));
        asm volatile("" : "+r"(values) : : "memory");
        return values;
    }

    [[gnu::always_inline]] void store(float* out, uint32_t, float share) const {
        for (uint32_t i = 0; i < kParts; ++i) {
            const Vector part = sum_[i] * share;
            std::memcpy(out + i * kWidth, &part, sizeof part);
        }
    }

  private:
    static constexpr uint32_t kWidth = kDim % 16 == 0 ? 16 : 8, kParts = kDim / kWidth;
    typedef float Vector __attribute__((vector_size(kWidth * sizeof(float))));
    Vector sum_[kParts];
    alignas(64) float values_[kDim];
};

template <>
class RowSum<0> {
  public:
    explicit RowSum(float* scratch) : sum_(scratch) {}
    void clear() { is_empty_ = true; }
    void add(const float* g, uint32_t dim) { add(g, dim, 1.0f); }
    void add(const float* g, uint32_t dim, float scale) {
        if (is_empty_)
            for (uint32_t d = 0; d < dim; ++d) sum_[d] = 0;
        is_empty_ = false;
        for (uint32_t d = 0; d < dim; ++d) sum_[d] += scale * g[d];
    }
    float* values() { return sum_; }
    void store(float* out, uint32_t dim, float share) const {
        for (uint32_t d = 0; d < dim; ++d) out[d] = is_empty_ ? 0 : sum_[d] * share;
    }

  private:
    float* sum_;
    bool is_empty_ = true;
};

}  // namespace
}  // namespace monolith
