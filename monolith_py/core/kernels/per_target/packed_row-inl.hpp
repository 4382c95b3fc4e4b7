// Packed rows to floats, summed over a bag. Each sum runs over the rows in their order, int8 and int4 by a fused
// multiply-add of level and scale onto sum and bias: the order of FBGEMM's inference kernels, so the sums are equal.
#pragma once

#include <cstdint>
#include <cstring>

#include "kernels/per_target/common-inl.hpp"
#include "kernels/settings.hpp"

namespace monolith {
namespace {

// Some rows of one bag; a null row adds nothing.
struct BagPart {
    const uint8_t* const* rows;
    size_t num;
    bool begins;    // no sum yet
    float divisor;  // of the sum; 1 if rows are still to come
};

// GCC 12's unmasked AVX-512 intrinsics use an uninitialised variable, and it warns of them.
#if defined(__AVX512F__) && defined(__AVX512VL__)
constexpr uint32_t kColumns = 16;
using Columns = __m512;
[[gnu::always_inline]] inline Columns spread(float value) { return _mm512_set1_ps(value); }
[[gnu::always_inline]] inline Columns muladd(Columns a, Columns b, Columns c) { return _mm512_fmadd_ps(a, b, c); }
[[gnu::always_inline]] inline Columns from_bytes(__m128i bytes) {
    return __builtin_convertvector((__v16si)_mm512_maskz_cvtepu8_epi32(0xFFFF, bytes), Columns);
}
[[gnu::always_inline]] inline __m128i load_bytes(const uint8_t* at) {
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(at));
}
[[gnu::always_inline]] inline __m128i load_half_bytes(const uint8_t* at) {
    return _mm_loadl_epi64(reinterpret_cast<const __m128i*>(at));
}
[[gnu::always_inline]] inline Columns load_halves(const uint8_t* at) {
    return _mm512_maskz_cvtph_ps(0xFFFF, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at)));
}
#elif defined(__AVX2__)
constexpr uint32_t kColumns = 8;
using Columns = __m256;
[[gnu::always_inline]] inline Columns spread(float value) { return _mm256_set1_ps(value); }
[[gnu::always_inline]] inline Columns muladd(Columns a, Columns b, Columns c) { return _mm256_fmadd_ps(a, b, c); }
[[gnu::always_inline]] inline Columns from_bytes(__m128i bytes) {
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes));
}
[[gnu::always_inline]] inline __m128i load_bytes(const uint8_t* at) {
    return _mm_loadl_epi64(reinterpret_cast<const __m128i*>(at));
}
[[gnu::always_inline]] inline __m128i load_half_bytes(const uint8_t* at) {
    int bytes;
    std::memcpy(&bytes, at, sizeof bytes);
    return _mm_cvtsi32_si128(bytes);
}
[[gnu::always_inline]] inline Columns load_halves(const uint8_t* at) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(at)));
}
#else
constexpr uint32_t kColumns = 4;
typedef float Columns __attribute__((vector_size(16)));
[[gnu::always_inline]] inline Columns spread(float value) { return Columns{value, value, value, value}; }
[[gnu::always_inline]] inline Columns muladd(Columns a, Columns b, Columns c) { return a * b + c; }
[[gnu::always_inline]] inline Columns load_halves(const uint8_t* at) {
    _Float16 halves[kColumns];
    std::memcpy(halves, at, sizeof halves);
    Columns lanes{};
    for (uint32_t i = 0; i < kColumns; ++i) lanes[i] = static_cast<float>(halves[i]);
    return lanes;
}
#endif

[[gnu::always_inline]] inline float half_at(const uint8_t* at) {
    _Float16 half;
    std::memcpy(&half, at, sizeof half);
    return static_cast<float>(half);
}

constexpr bool is_quantised(Encoding encoding) { return encoding == Encoding::kInt8 || encoding == Encoding::kInt4; }

// Bytes before weight d, a multiple of kColumns, in a row.
template <Encoding kEncoding>
[[gnu::always_inline]] constexpr uint32_t bytes_before(uint32_t d) {
    switch (kEncoding) {
        case Encoding::kFp32:
            return 4 * d;
        case Encoding::kFp16:
            return 2 * d;
        case Encoding::kInt8:
            return 4 + d;
        case Encoding::kInt4:
            return 4 + d / 2;
    }
}

// Weights, or levels, of kColumns columns.
template <Encoding kEncoding>
[[gnu::always_inline]] inline Columns load(const uint8_t* at) {
    if constexpr (kEncoding == Encoding::kFp32) {
        Columns lanes{};
        std::memcpy(&lanes, at, sizeof lanes);
        return lanes;
    } else if constexpr (kEncoding == Encoding::kFp16) {
        return load_halves(at);
    } else {
#if defined(__AVX2__)
        if constexpr (kEncoding == Encoding::kInt8) return from_bytes(load_bytes(at));
        const __m128i pairs = load_half_bytes(at), low = _mm_set1_epi8(15);
        return from_bytes(_mm_unpacklo_epi8(_mm_and_si128(pairs, low), _mm_and_si128(_mm_srli_epi16(pairs, 4), low)));
#else
        Columns lanes{};
        for (uint32_t i = 0; i < kColumns; ++i)
            lanes[i] = static_cast<float>(kEncoding == Encoding::kInt8 ? at[i] : at[i / 2] >> 4 * (i % 2) & 15);
        return lanes;
#endif
    }
}

// Sum kParts times kColumns columns from d on. `kTail`: only the first `num_columns` of them.
template <Encoding kEncoding, uint32_t kParts, bool kTail>
[[gnu::always_inline]] inline void sum_columns(const BagPart& part, uint32_t d, uint32_t num_columns, float* out) {
    Columns sums[kParts];
    float values[kColumns] = {};
    if (part.begins) {
        for (Columns& sum : sums) sum = spread(0);
    } else if constexpr (kTail) {
        std::memcpy(values, out, num_columns * sizeof(float));
        std::memcpy(sums, values, sizeof values);
    } else {
        std::memcpy(sums, out, sizeof sums);
    }
    for (size_t i = 0; i < part.num; ++i) {
        const uint8_t* const row = part.rows[i];
        if (row == nullptr) continue;
        const uint8_t* at = row + bytes_before<kEncoding>(d);
        uint8_t padded[kColumns * sizeof(float)] = {};
        if constexpr (kTail) {
            const uint32_t head = is_quantised(kEncoding) ? 4 : 0;
            std::memcpy(padded, at, encoded_bytes(kEncoding, num_columns) - head);
            at = padded;
        }
        if constexpr (is_quantised(kEncoding)) {
            const Columns scale = spread(half_at(row)), bias = spread(half_at(row + 2));
            for (uint32_t p = 0; p < kParts; ++p)
                sums[p] =
                    muladd(load<kEncoding>(at + bytes_before<kEncoding>(p * kColumns) - 4), scale, sums[p] + bias);
        } else {
            for (uint32_t p = 0; p < kParts; ++p)
                sums[p] += load<kEncoding>(at + bytes_before<kEncoding>(p * kColumns));
        }
    }
    if (part.divisor != 1.0f)
        for (Columns& sum : sums) sum /= spread(part.divisor);
    std::memcpy(out, sums, kTail ? num_columns * sizeof(float) : sizeof sums);
}

// Sum the rows of a part of a bag into `out`. `kDim`: their dim if it is known, else 0.
template <Encoding kEncoding, uint32_t kDim>
[[gnu::always_inline]] inline void pool_bag(const BagPart& part, uint32_t any_dim, float* out) {
    constexpr uint32_t kParts = 4;
    const uint32_t dim = kDim ? kDim : any_dim;
    uint32_t d = 0;
    for (; d + kParts * kColumns <= dim; d += kParts * kColumns)
        sum_columns<kEncoding, kParts, false>(part, d, kParts * kColumns, out + d);
    for (; d + kColumns <= dim; d += kColumns) sum_columns<kEncoding, 1, false>(part, d, kColumns, out + d);
    if (d < dim) sum_columns<kEncoding, 1, true>(part, d, dim - d, out + d);
}

}  // namespace
}  // namespace monolith
