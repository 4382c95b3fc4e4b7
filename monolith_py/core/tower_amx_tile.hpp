// The instructions of the matrix unit, and the small moves around them. Only for sources that are built for it.
//
// The compiler's own intrinsics do not tell it that a tile is read from memory and written to it, so that it may drop
// or move the stores before; these do.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "tower_amx.hpp"

namespace monolith::amx {
namespace {

constexpr long kLine = 64;  // bytes of a tile's row

template <int tile>
inline void load_tile(const void* from, long stride = kLine) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(from), "r"(stride), "i"(tile) : "memory");
}

template <int tile>
inline void store_tile(void* to, long stride = kLine) {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(to), "r"(stride), "i"(tile) : "memory");
}

template <int tile>
inline void zero_tile() {
    asm volatile("tilezero %%tmm%c0" ::"i"(tile) : "memory");
}

// sum (16, 16) float32 += a (16, 32) * b (32, 16), whose pairs of rows are interleaved.
template <int sum, int a, int b>
inline void multiply_tiles() {
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(sum), "i"(a), "i"(b) : "memory");
}

// Tiles 0-3 are sums, 4 and 5 left factors, 6 and 7 right ones; `pairs` of 16 makes the inner dimension 32.
struct TileConfig {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t row_bytes[16] = {};
    uint8_t rows[16] = {};
};

inline void configure_tiles(int pairs) {
    TileConfig config;
    for (int tile = 0; tile < 8; ++tile) {
        config.row_bytes[tile] = tile == 4 || tile == 5 ? static_cast<uint16_t>(4 * pairs) : 64;
        config.rows[tile] = tile >= 6 ? static_cast<uint8_t>(pairs) : 16;
    }
    asm volatile("ldtilecfg (%0)" ::"r"(&config) : "memory");
}

inline void transpose(__m512i (&r)[16]) {
    __m512i t[16];
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
        r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    for (int half = 0; half < 16; half += 8)
        for (int i = 0; i < 4; ++i) {
            t[half + i] = _mm512_shuffle_i32x4(r[half + i], r[half + i + 4], 0x88);
            t[half + i + 4] = _mm512_shuffle_i32x4(r[half + i], r[half + i + 4], 0xdd);
        }
    for (int i = 0; i < 8; ++i) {
        r[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
        r[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
    }
}

// The sums of 32 examples in the order of the interleaved tiles, rounded and in the order of the activations.
inline __m512i round_sums(__m512 first, __m512 second) {
    const __m512i words = (__m512i)_mm512_cvtne2ps_pbh(second, first);
    return _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7), words);
}

// Which example of the unit lane `i` of the first tile is; the second's are 4 further on.
inline size_t example_of_lane(size_t i) { return i / 4 * 8 + i % 4; }

// Rows (count, 32) of bf16 into interleaved tiles from row `first` on, an even number; rows behind an odd `count` are
// read, too. Returns whether all are finite.
inline bool interleave(const Bf16* rows, size_t count, size_t first, Bf16* tiles) {
    const __m512i exponent = _mm512_set1_epi16(0x7f80);
    __mmask32 infinite = 0;
    for (size_t r = 0; r < count; r += 2) {
        const __m512i a = _mm512_load_si512(rows + r * kUnit), b = _mm512_load_si512(rows + (r + 1) * kUnit);
        const size_t pair = (first + r) / 2;
        Bf16* to = tiles + pair / 16 * 2 * kTile + pair % 16 * 32;
        _mm512_store_si512(to, _mm512_unpacklo_epi16(a, b));
        _mm512_store_si512(to + kTile, _mm512_unpackhi_epi16(a, b));
        infinite |= _mm512_cmpeq_epi16_mask(_mm512_and_si512(a, exponent), exponent) |
                    _mm512_cmpeq_epi16_mask(_mm512_and_si512(b, exponent), exponent);
    }
    return infinite == 0;
}

// ReLU that lets NaN through: of a NaN and a number the instruction gives its second operand.
inline __m512 relu_of(__m512 x) { return _mm512_max_ps(_mm512_setzero_ps(), x); }

inline __mmask16 first_lanes(size_t n) { return n >= 16 ? 0xffff : static_cast<__mmask16>((1u << n) - 1); }

// One product of `row_tiles` x `inner` tiles of `a` with the interleaved tiles `b` (units, inner, 2): finish(r, unit,
// sums) gets float32 (16, 32) of row tile r, whose lanes are in the order of the tiles. `sums` has 2 x 4 KiB.
template <typename Finish>
inline void dense_product(const Bf16* a, size_t row_tiles, size_t inner, const Bf16* b, size_t units, float* sums,
                          const Finish& finish) {
    size_t waiting = 0, waiting_rows = 0, waiting_unit = 0, turn = 0;  // sums are read a turn after they were stored
    const auto finish_waiting = [&] {
        const float* from = sums + (turn + 1) % 2 * 1024;
        for (size_t i = 0; i < waiting_rows; ++i) finish(waiting + i, waiting_unit, from + i * 512);
    };
    for (size_t r = 0; r < row_tiles; r += 2)
        for (size_t unit = 0; unit < units; ++unit) {
            const bool two = r + 1 < row_tiles;
            const Bf16 *a0 = a + r * inner * kTile, *a1 = two ? a0 + inner * kTile : a0;
            const Bf16* right = b + unit * inner * 2 * kTile;
            zero_tile<0>(), zero_tile<1>(), zero_tile<2>(), zero_tile<3>();
            for (size_t k = 0; k < inner; ++k) {
                load_tile<4>(a0 + k * kTile);
                load_tile<6>(right + k * 2 * kTile);
                multiply_tiles<0, 4, 6>();
                load_tile<7>(right + k * 2 * kTile + kTile);
                multiply_tiles<1, 4, 7>();
                if (!two) continue;
                load_tile<5>(a1 + k * kTile);
                multiply_tiles<2, 5, 6>();
                multiply_tiles<3, 5, 7>();
            }
            float* to = sums + turn % 2 * 1024;
            store_tile<0>(to, 2 * kLine);
            store_tile<1>(to + 16, 2 * kLine);
            store_tile<2>(to + 512, 2 * kLine);
            store_tile<3>(to + 528, 2 * kLine);
            finish_waiting();
            waiting = r, waiting_rows = two ? 2 : 1, waiting_unit = unit;
            ++turn;
        }
    finish_waiting();
}

}  // namespace
}  // namespace monolith::amx
