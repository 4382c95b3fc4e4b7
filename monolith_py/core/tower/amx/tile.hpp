// AMX instructions and the moves around them. Only for sources compiled for AMX.
//
// The compiler's own intrinsics do not declare that tiles are read from and written to memory, so that it may drop or
// move stores; these do.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "tower/amx/engine.hpp"

namespace monolith::amx {
namespace {

constexpr long kLine = 64;  // bytes of a tile's row

template <int kRegister>
inline void load_tile(const void* from, long stride = kLine) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(from), "r"(stride), "i"(kRegister) : "memory");
}

// `load_tile` for memory that is not read again soon: leaves the L1 cache to the other factor.
template <int kRegister>
inline void stream_tile(const void* from, long stride = kLine) {
    asm volatile("tileloaddt1 (%0,%1,1), %%tmm%c2" ::"r"(from), "r"(stride), "i"(kRegister) : "memory");
}

template <int kRegister>
inline void store_tile(void* to, long stride = kLine) {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(to), "r"(stride), "i"(kRegister) : "memory");
}

template <int kRegister>
inline void zero_tile() {
    asm volatile("tilezero %%tmm%c0" ::"i"(kRegister) : "memory");
}

// sum (16, 16) float32 += a (16, 32) * b (32, 16), whose pairs of rows are interleaved.
template <int kSum, int kA, int kB>
inline void multiply_tiles() {
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(kSum), "i"(kA), "i"(kB) : "memory");
}

// Tiles 0-3 are sums, 4 and 5 left factors, 6 and 7 right ones; 16 `pairs` make the inner dimension 32.
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

// Round the sums of 32 examples and convert them from the order of interleaved tiles to that of activations.
inline __m512i round_sums(__m512 first, __m512 second) {
    const __m512i words = (__m512i)_mm512_cvtne2ps_pbh(second, first);
    return _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7), words);
}

// Example of a unit in lane `i` of the first tile; the second tile has the one 4 further on.
inline size_t example_of_lane(size_t i) { return i / 4 * 8 + i % 4; }

// Interleave one pair of rows into its lines of two tiles.
inline void interleave(__m512i even, __m512i odd, size_t pair, Bf16* tiles) {
    Bf16* to = tiles + pair / 16 * 2 * kTile + pair % 16 * 32;
    _mm512_store_si512(to, _mm512_unpacklo_epi16(even, odd));
    _mm512_store_si512(to + kTile, _mm512_unpackhi_epi16(even, odd));
}

inline __mmask32 infinite_of(__m512i row) {
    const __m512i exponent = _mm512_set1_epi16(0x7f80);
    return _mm512_cmpeq_epi16_mask(_mm512_and_si512(row, exponent), exponent);
}

// Interleave rows (count, 32) of bf16, `count` even; returns whether all values are finite.
inline bool interleave(const Bf16* rows, size_t count, Bf16* tiles) {
    __mmask32 infinite = 0;
    for (size_t r = 0; r < count; r += 2) {
        const __m512i even = _mm512_load_si512(rows + r * kUnit), odd = _mm512_load_si512(rows + (r + 1) * kUnit);
        interleave(even, odd, r / 2, tiles);
        infinite |= infinite_of(even) | infinite_of(odd);
    }
    return infinite == 0;
}

// ReLU that keeps NaN: with a NaN operand the instruction returns its second one.
inline __m512 relu_of(__m512 x) { return _mm512_max_ps(_mm512_setzero_ps(), x); }

inline __mmask16 first_lanes(size_t n) { return n >= 16 ? 0xffff : static_cast<__mmask16>((1u << n) - 1); }

// Number of pieces in which a block of 16 x 32 sums is finished, between products: a whole block at once would fill the
// reorder buffer, and AMX would idle.
constexpr size_t kPieces = 8;

// Product of `row_tiles` x `inner` tiles of `a` with the interleaved tiles `b` (inner, 2) of one unit. finish(r, sums,
// piece) gets float32 (16, 32) of row tile r, with lanes in the order of the tiles. `sums` has 2 x 4 KiB: read one turn
// after their store. `b` stays in the L1 cache while `a` streams.
template <typename Finish>
class DenseProduct {
  public:
    DenseProduct(const Bf16* a, size_t row_tiles, size_t inner, const Bf16* b, float* sums, const Finish& finish)
        : a_(a), row_tiles_(row_tiles), inner_(inner), b_(b), sums_(sums), finish_(finish) {}

    void run() {
        for (size_t r = 0; r < row_tiles_; r += 2, ++turn_) {
            if (r + 1 < row_tiles_)
                multiply<true>(r);
            else
                multiply<false>(r);
        }
        finish_up_to(pieces_);
    }

  private:
    template <bool kTwo>
    void multiply(size_t r) {
        const Bf16 *a0 = a_ + r * inner_ * kTile, *a1 = a0 + inner_ * kTile, *b = b_;
        const size_t inner = inner_, step = (pieces_ + inner - 1) / inner;
        size_t target = 0;
        zero_tile<0>(), zero_tile<1>(), zero_tile<2>(), zero_tile<3>();
        for (size_t k = 0; k < inner; ++k, a0 += kTile, a1 += kTile, b += 2 * kTile) {
            stream_tile<4>(a0);
            load_tile<6>(b);
            multiply_tiles<0, 4, 6>();
            load_tile<7>(b + kTile);
            multiply_tiles<1, 4, 7>();
            if constexpr (kTwo) {
                stream_tile<5>(a1);
                multiply_tiles<2, 5, 6>();
                multiply_tiles<3, 5, 7>();
            }
            finish_up_to(target += step);
        }
        float* to = sums_ + turn_ % 2 * 1024;
        store_tile<0>(to, 2 * kLine);
        store_tile<1>(to + 16, 2 * kLine);
        if constexpr (kTwo) {
            store_tile<2>(to + 512, 2 * kLine);
            store_tile<3>(to + 528, 2 * kLine);
        }
        row_ = r, pieces_ = kTwo ? 2 * kPieces : kPieces, done_ = 0;
    }

    void finish_up_to(size_t target) {
        const float* from = sums_ + (turn_ + 1) % 2 * 1024;
        for (; done_ < target && done_ < pieces_; ++done_)
            finish_(row_ + done_ / kPieces, from + done_ / kPieces * 512, done_ % kPieces);
    }

    const Bf16* const a_;
    const size_t row_tiles_, inner_;
    const Bf16* const b_;
    float* const sums_;
    const Finish& finish_;
    size_t turn_ = 0, row_ = 0, pieces_ = 0, done_ = 0;  // sums that are not finished yet
};

}  // namespace
}  // namespace monolith::amx
