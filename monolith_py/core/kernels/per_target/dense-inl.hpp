// Dense layers: tiles of some rows times some vectors of outputs, whose sums stay in registers.
#pragma once

#include <type_traits>

#include "kernels/dense_kernels.hpp"
#include "kernels/per_target/common-inl.hpp"
#include "kernels/per_target/tower-inl.hpp"

namespace monolith {
namespace {

constexpr uint32_t kPanelLanes = kPanel / kLanes;
constexpr uint32_t kMostRows = kHeld >= 8 ? 8 : kHeld;

// Vectors of outputs of a tile: more for few rows, so that enough sums hide the latency of an addition.
constexpr uint32_t columns_for(uint32_t rows) { return kHeld < 8 ? 1 : rows >= 8 ? 2 : rows >= 4 ? 4 : 8; }

[[gnu::always_inline]] inline size_t place_of(uint32_t column, uint32_t in) {
    return size_t{column / kPanelLanes} * in * kPanel + column % kPanelLanes * kLanes;
}

// Outputs [column, column + kColumns) vectors of kRows rows.
template <uint32_t kRows, uint32_t kColumns>
struct Tile {
    [[gnu::always_inline]] static void run(const DenseView& layer, const float* inputs, uint32_t column,
                                           const float* start, float* outputs) {
        const float* weights[kColumns];
        Lanes sums[kRows][kColumns];
#pragma GCC unroll 16
        for (uint32_t c = 0; c < kColumns; ++c) {
            weights[c] = layer.weights + place_of(column + c, layer.in);
            const Lanes first = Lanes::load(start + (column + c) * kLanes);
#pragma GCC unroll 16
            for (uint32_t r = 0; r < kRows; ++r) sums[r][c] = first;
        }
        for (uint32_t k = 0; k < layer.in; ++k) {
            Lanes values[kColumns];
#pragma GCC unroll 16
            for (uint32_t c = 0; c < kColumns; ++c) values[c] = Lanes::load(weights[c] + size_t{k} * kPanel);
#pragma GCC unroll 16
            for (uint32_t r = 0; r < kRows; ++r)
#pragma GCC unroll 16
                for (uint32_t c = 0; c < kColumns; ++c) sums[r][c].add(inputs[size_t{r} * layer.in + k], values[c]);
        }
#pragma GCC unroll 16
        for (uint32_t r = 0; r < kRows; ++r)
#pragma GCC unroll 16
            for (uint32_t c = 0; c < kColumns; ++c) {
                if (layer.relu) sums[r][c].rectify();
                sums[r][c].store(outputs + size_t{r} * layer.width() + (column + c) * kLanes);
            }
    }
};

// Call `tile<kRows, kColumns>` for all rows and columns: columns outside, so that their weights stay in the L1 cache.
template <template <uint32_t, uint32_t> typename T, uint32_t kRows, typename Input>
[[gnu::always_inline]] inline void tiles(const DenseView& layer, const Input* inputs, size_t stride, size_t n,
                                         const float* start, float* outputs) {
    constexpr uint32_t kColumns = columns_for(kRows), kStep = kColumns < kPanelLanes ? kColumns : kPanelLanes;
    const uint32_t columns = layer.panels * kPanelLanes;
    uint32_t column = 0;
    for (; column + kColumns <= columns; column += kColumns)
        for (size_t i = 0; i + kRows <= n; i += kRows)
            T<kRows, kColumns>::run(layer, inputs + i * stride, column, start, outputs + i * layer.width());
    for (; column < columns; column += kStep)
        for (size_t i = 0; i + kRows <= n; i += kRows)
            T<kRows, kStep>::run(layer, inputs + i * stride, column, start, outputs + i * layer.width());
}

template <template <uint32_t, uint32_t> typename T, typename Input>
[[gnu::always_inline]] inline void all_tiles(const DenseView& layer, const Input* inputs, size_t stride, size_t n,
                                             const float* start, float* outputs) {
    const auto rows = [&](auto count) {
        constexpr uint32_t kRows = decltype(count)::value;
        tiles<T, kRows>(layer, inputs, stride, n, start, outputs);
        const size_t done = n / kRows * kRows;
        inputs += done * stride;
        outputs += done * layer.width();
        n -= done;
    };
    rows(std::integral_constant<uint32_t, kMostRows>{});
    if constexpr (kMostRows > 4) rows(std::integral_constant<uint32_t, 4>{});
    if constexpr (kMostRows > 2) rows(std::integral_constant<uint32_t, 2>{});
    rows(std::integral_constant<uint32_t, 1>{});
}

void dense_forward(const DenseView& layer, const float* inputs, size_t n, const float* start, float* outputs) {
    all_tiles<Tile>(layer, inputs, layer.in, n, start, outputs);
}

#if defined(__AVX512F__)
#define MONOLITH_BF16 [[gnu::target("avx512bf16")]]
template <uint32_t kRows, uint32_t kColumns>
struct PairTile {
    MONOLITH_BF16 static void run(const DenseView& layer, const uint32_t* inputs, uint32_t column, const float* start,
                                  float* outputs) {
        const uint32_t in = layer.in / 2;
        const uint32_t* weights[kColumns];
        __m512 sums[kRows][kColumns];
#pragma GCC unroll 16
        for (uint32_t c = 0; c < kColumns; ++c) {
            weights[c] = layer.pairs + place_of(column + c, in);
#pragma GCC unroll 16
            for (uint32_t r = 0; r < kRows; ++r) sums[r][c] = _mm512_loadu_ps(start + (column + c) * kLanes);
        }
        for (uint32_t k = 0; k < in; ++k) {
            __m512bh values[kColumns];
#pragma GCC unroll 16
            for (uint32_t c = 0; c < kColumns; ++c)
                values[c] = (__m512bh)_mm512_loadu_si512(weights[c] + size_t{k} * kPanel);
#pragma GCC unroll 16
            for (uint32_t r = 0; r < kRows; ++r) {
                const auto x = (__m512bh)_mm512_set1_epi32(static_cast<int>(inputs[size_t{r} * in + k]));
#pragma GCC unroll 16
                for (uint32_t c = 0; c < kColumns; ++c) sums[r][c] = _mm512_dpbf16_ps(sums[r][c], x, values[c]);
            }
        }
#pragma GCC unroll 16
        for (uint32_t r = 0; r < kRows; ++r)
#pragma GCC unroll 16
            for (uint32_t c = 0; c < kColumns; ++c) {
                Floats sum = (Floats)sums[r][c];
                if (layer.relu) sum = sum < 0 ? Floats{} : sum;  // NaN stays
                std::memcpy(outputs + size_t{r} * layer.width() + (column + c) * kLanes, &sum, sizeof sum);
            }
    }
};
void dense_forward_pairs(const DenseView& layer, const uint32_t* inputs, size_t n, const float* start, float* outputs) {
    all_tiles<PairTile>(layer, inputs, layer.in / 2, n, start, outputs);
}
#else
// NOLINTNEXTLINE(readability-identifier-naming): a function where the CPU has bf16
constexpr void (*dense_forward_pairs)(const DenseView&, const uint32_t*, size_t, const float*, float*) = nullptr;
#endif

void dense_narrow(const float* values, size_t n, uint32_t* pairs) {
    const auto half = [](float value) {
        uint32_t bits;
        std::memcpy(&bits, &value, sizeof bits);
        return (value == value ? bits + 0x7fff + ((bits >> 16) & 1) : bits | 0x400000) >> 16;
    };
    for (size_t i = 0; i < n / 2; ++i) pairs[i] = half(values[2 * i]) | half(values[2 * i + 1]) << 16;
}

}  // namespace
}  // namespace monolith
