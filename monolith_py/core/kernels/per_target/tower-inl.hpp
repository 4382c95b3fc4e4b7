// Building blocks of the tower kernels: 16 floats in registers, rounding, transposition.
#pragma once

#include <cstring>

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

#include "kernels/tower_kernels.hpp"

namespace monolith {
namespace {

// kHeld: sums of 16 floats that fit into registers beside the operands.
#if defined(__AVX512F__)
constexpr uint32_t kVectorWidth = 16, kHeld = 16;
#elif defined(__AVX2__)
constexpr uint32_t kVectorWidth = 8, kHeld = 4;
#else
constexpr uint32_t kVectorWidth = 4, kHeld = 2;
#endif

typedef float Floats __attribute__((vector_size(kVectorWidth * sizeof(float))));
typedef uint32_t Bits __attribute__((vector_size(kVectorWidth * sizeof(float))));

// Keep sums in source order: reordering would break the chain of fused multiply-adds.
[[gnu::always_inline]] inline Floats in_order(Floats sum) {
#if defined(__x86_64__)
    asm("" : "+v"(sum));
#endif
    return sum;
}

// Round to the nearest bfloat16, ties to even; NaN stays NaN.
[[gnu::always_inline]] inline Floats rounded(const Floats& values) {
    const Bits bits = (Bits)values;
    const Bits nearest = bits + 0x7fff + ((bits >> 16) & 1);
    return (Floats)((values == values ? nearest : bits | 0x400000) & 0xffff0000);
}

// 16 floats in registers.
class Lanes {
  public:
    [[gnu::always_inline]] static Lanes load(const float* from) {
        Lanes lanes;
#pragma GCC unroll 4
        for (uint32_t i = 0; i < kParts; ++i) std::memcpy(&lanes.parts_[i], from + i * kVectorWidth, sizeof(Floats));
        return lanes;
    }
    [[gnu::always_inline]] static Lanes all(float value) {
        Lanes lanes;
#pragma GCC unroll 4
        for (uint32_t i = 0; i < kParts; ++i) lanes.parts_[i] = value - Floats{};
        return lanes;
    }
    [[gnu::always_inline]] void store(float* to) const {
#pragma GCC unroll 4
        for (uint32_t i = 0; i < kParts; ++i) std::memcpy(to + i * kVectorWidth, &parts_[i], sizeof(Floats));
    }
    [[gnu::always_inline]] void add(const Lanes& other) {
#pragma GCC unroll 4
        for (uint32_t i = 0; i < kParts; ++i) parts_[i] = in_order(parts_[i] + other.parts_[i]);
    }
    [[gnu::always_inline]] void add(float scale, const Lanes& other) {
#pragma GCC unroll 4
        for (uint32_t i = 0; i < kParts; ++i) parts_[i] = in_order(parts_[i] + scale * other.parts_[i]);
    }
    [[gnu::always_inline]] void add(const Lanes& scale, const Lanes& other) {
#pragma GCC unroll 4
        for (uint32_t i = 0; i < kParts; ++i) parts_[i] = in_order(parts_[i] + scale.parts_[i] * other.parts_[i]);
    }
    [[gnu::always_inline]] void rectify() {  // NaN stays
#pragma GCC unroll 4
        for (uint32_t i = 0; i < kParts; ++i) parts_[i] = parts_[i] < 0 ? Floats{} : parts_[i];
    }
    [[gnu::always_inline]] void zero_where_not_above_zero(const Lanes& other) {
#pragma GCC unroll 4
        for (uint32_t i = 0; i < kParts; ++i) parts_[i] = other.parts_[i] <= 0 ? Floats{} : parts_[i];
    }
    [[gnu::always_inline]] void round() {
#pragma GCC unroll 4
        for (uint32_t i = 0; i < kParts; ++i) parts_[i] = rounded(parts_[i]);
    }
    [[gnu::always_inline]] float sum() const {
        Floats sum = parts_[0];
#pragma GCC unroll 4
        for (uint32_t i = 1; i < kParts; ++i) sum += parts_[i];
        float total = 0;
        for (uint32_t i = 0; i < kVectorWidth; ++i) total += sum[i];
        return total;
    }

  private:
    static constexpr uint32_t kParts = kLanes / kVectorWidth;
    Floats parts_[kParts];
};

// Transpose 16 x 16 floats; rows of `from` are `from_stride` apart, rows of `to` `to_stride`.
#if defined(__AVX512F__)
[[gnu::always_inline]] inline Floats four_quarters(const float* from, size_t stride) {
    __m512 rows = _mm512_castps128_ps512(_mm_loadu_ps(from));
    rows = _mm512_insertf32x4(rows, _mm_loadu_ps(from + 4 * stride), 1);
    rows = _mm512_insertf32x4(rows, _mm_loadu_ps(from + 8 * stride), 2);
    return (Floats)_mm512_insertf32x4(rows, _mm_loadu_ps(from + 12 * stride), 3);
}
[[gnu::always_inline]] inline Floats pairs_low(const Floats& a, const Floats& b) {
    return __builtin_shufflevector(a, b, 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29);
}
[[gnu::always_inline]] inline Floats pairs_high(const Floats& a, const Floats& b) {
    return __builtin_shufflevector(a, b, 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31);
}
[[gnu::always_inline]] inline Floats fours_low(const Floats& a, const Floats& b) {
    return __builtin_shufflevector(a, b, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29);
}
[[gnu::always_inline]] inline Floats fours_high(const Floats& a, const Floats& b) {
    return __builtin_shufflevector(a, b, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31);
}
[[gnu::always_inline]] inline void transpose(const float* from, size_t from_stride, float* to, size_t to_stride) {
#pragma GCC unroll 4
    for (uint32_t c = 0; c < kLanes; c += 4) {  // columns c .. c + 3: quarter q of register i is row 4 q + i
        const Floats r0 = four_quarters(from + c, from_stride), r1 = four_quarters(from + from_stride + c, from_stride);
        const Floats r2 = four_quarters(from + 2 * from_stride + c, from_stride);
        const Floats r3 = four_quarters(from + 3 * from_stride + c, from_stride);
        const Floats low01 = pairs_low(r0, r1), low23 = pairs_low(r2, r3);
        const Floats high01 = pairs_high(r0, r1), high23 = pairs_high(r2, r3);
        const Floats columns[4] = {fours_low(low01, low23), fours_high(low01, low23), fours_low(high01, high23),
                                   fours_high(high01, high23)};
#pragma GCC unroll 4
        for (uint32_t i = 0; i < 4; ++i) std::memcpy(to + (c + i) * to_stride, &columns[i], sizeof(Floats));
    }
}
#else
[[gnu::always_inline]] inline void transpose(const float* from, size_t from_stride, float* to, size_t to_stride) {
    typedef float Four __attribute__((vector_size(16)));
    for (uint32_t r = 0; r < kLanes; r += 4)
        for (uint32_t c = 0; c < kLanes; c += 4) {
            Four a, b, d, e;
            std::memcpy(&a, from + r * from_stride + c, sizeof a);
            std::memcpy(&b, from + (r + 1) * from_stride + c, sizeof b);
            std::memcpy(&d, from + (r + 2) * from_stride + c, sizeof d);
            std::memcpy(&e, from + (r + 3) * from_stride + c, sizeof e);
            const Four ab_low = __builtin_shufflevector(a, b, 0, 4, 1, 5);
            const Four ab_high = __builtin_shufflevector(a, b, 2, 6, 3, 7);
            const Four de_low = __builtin_shufflevector(d, e, 0, 4, 1, 5);
            const Four de_high = __builtin_shufflevector(d, e, 2, 6, 3, 7);
            const Four columns[4] = {__builtin_shufflevector(ab_low, de_low, 0, 1, 4, 5),
                                     __builtin_shufflevector(ab_low, de_low, 2, 3, 6, 7),
                                     __builtin_shufflevector(ab_high, de_high, 0, 1, 4, 5),
                                     __builtin_shufflevector(ab_high, de_high, 2, 3, 6, 7)};
            for (uint32_t i = 0; i < 4; ++i) std::memcpy(to + (c + i) * to_stride + r, &columns[i], sizeof(Four));
        }
}
#endif

// Prefetch the feature rows of coming atoms: their order is irregular, so hardware prefetch cannot follow. Without
// `columns` rows are sequential and need none.
struct Ahead {
    const uint16_t* columns;
    size_t end;  // number of atoms of the layer
    const float* rows;
    size_t num, stride;  // of chunks

    // Prefetch the rows of `n` atoms, kAtoms after atom k.
    [[gnu::always_inline]] void touch(size_t k, size_t n) const {
        constexpr size_t kAtoms = 16;
        if (!columns) return;
        const uint16_t* const at = columns + (k + kAtoms + n <= end ? k + kAtoms : end - n);
        for (size_t i = 0; i < num; ++i)
#pragma GCC unroll 8
            for (size_t j = 0; j < n; ++j) __builtin_prefetch(rows + i * stride + size_t{at[j]} * kLanes, 0, 3);
    }
};

void tower_add(const float* from, size_t n, float* to) {
#pragma GCC ivdep
    for (size_t i = 0; i < n; ++i) to[i] += from[i];
}

void tower_round(float* values, size_t n) {
    for (size_t i = 0; i < n; ++i) {
        uint32_t bits;
        std::memcpy(&bits, values + i, sizeof bits);
        // NOLINTNEXTLINE(misc-redundant-expression): false for NaN
        bits = values[i] == values[i] ? bits + 0x7fff + ((bits >> 16) & 1) : bits | 0x400000;
        bits &= 0xffff0000;
        std::memcpy(values + i, &bits, sizeof bits);
    }
}

void tower_pack(const float* rows, size_t stride, uint32_t width, uint32_t examples, bool round, float* chunk) {
    alignas(64) float transposed[kLanes * kLanes];
    const uint32_t whole = examples == kLanes ? width / kLanes * kLanes : 0;
    for (uint32_t c = 0; c < whole; c += kLanes) transpose(rows + c, stride, chunk + size_t{c} * kLanes, kLanes);
    for (uint32_t c = whole; c < width; c += kLanes) {
        const uint32_t left = width - c < kLanes ? width - c : kLanes;
        alignas(64) float corner[kLanes * kLanes] = {};
        for (uint32_t n = 0; n < examples; ++n)
            std::memcpy(corner + n * kLanes, rows + n * stride + c, left * sizeof(float));
        transpose(corner, kLanes, transposed, kLanes);
        std::memcpy(chunk + size_t{c} * kLanes, transposed, left * kLanes * sizeof(float));
    }
    if (round) tower_round(chunk, size_t{width} * kLanes);
}

void tower_unpack(const float* chunk, uint32_t width, uint32_t examples, float* rows, size_t stride) {
    const uint32_t whole = examples == kLanes ? width / kLanes * kLanes : 0;
    for (uint32_t c = 0; c < whole; c += kLanes) transpose(chunk + size_t{c} * kLanes, kLanes, rows + c, stride);
    for (uint32_t c = whole; c < width; c += kLanes) {
        const uint32_t left = width - c < kLanes ? width - c : kLanes;
        alignas(64) float corner[kLanes * kLanes] = {}, transposed[kLanes * kLanes];
        std::memcpy(corner, chunk + size_t{c} * kLanes, left * kLanes * sizeof(float));
        transpose(corner, kLanes, transposed, kLanes);
        for (uint32_t n = 0; n < examples; ++n)
            std::memcpy(rows + n * stride + c, transposed + n * kLanes, left * sizeof(float));
    }
}

void tower_mask(const float* activations, size_t n, bool round, float* gradients) {
    for (size_t i = 0; i < n; i += kLanes) {
        Lanes gradient = Lanes::load(gradients + i);
        if (activations) gradient.zero_where_not_above_zero(Lanes::load(activations + i));
        if (round) gradient.round();
        gradient.store(gradients + i);
    }
}

}  // namespace
}  // namespace monolith
