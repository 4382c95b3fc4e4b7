// Forward pass of a few examples with AVX-512: AMX would compute a whole unit of 32.
#include "tower/amx/tile.hpp"

namespace monolith::amx {

namespace {

// y (num_rows, 16) of a block = bias + values * x; several chains of sums for one or two rows.
template <size_t kNumRows>
void block_of_rows(const Layer& layer, size_t block, const float* x, __m512 (&y)[kNumRows]) {
    constexpr size_t kChains = kNumRows <= 2 ? 4 / kNumRows : 1;
    __m512 sums[kNumRows][kChains];
    for (size_t r = 0; r < kNumRows; ++r)
        for (size_t chain = 0; chain < kChains; ++chain)
            sums[r][chain] = chain == 0 ? _mm512_loadu_ps(layer.biases + block * kAtom) : _mm512_setzero_ps();
    const auto add = [&](size_t k, size_t chain) {
        const __m256i atom = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(layer.values + k * kAtom));
        const __m512 values = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(atom), 16));
        for (size_t r = 0; r < kNumRows; ++r)
            sums[r][chain] =
                _mm512_fmadd_ps(values, _mm512_set1_ps(x[r * layer.in + layer.columns[k]]), sums[r][chain]);
    };
    size_t k = layer.bounds[block];
    const size_t end = layer.bounds[block + 1];
    for (; k + kChains <= end; k += kChains)
        for (size_t chain = 0; chain < kChains; ++chain) add(k + chain, chain);
    for (; k < end; ++k) add(k, 0);
    for (size_t r = 0; r < kNumRows; ++r) {
        y[r] = sums[r][0];
        for (size_t chain = 1; chain < kChains; ++chain) y[r] = _mm512_add_ps(y[r], sums[r][chain]);
    }
}

template <size_t kNumRows>
void rows_forward(const Layer& layer, const float* x, bool is_last, float* to) {
    for (size_t b = 0; b < layer.blocks; ++b) {
        __m512 y[kNumRows];
        block_of_rows<kNumRows>(layer, b, x, y);
        for (size_t r = 0; r < kNumRows; ++r) {
            if (layer.relu) y[r] = relu_of(y[r]);
            if (!is_last) {
                const __m512i words = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(y[r]));
                y[r] = _mm512_castsi512_ps(_mm512_slli_epi32(words, 16));
            }
            _mm512_mask_storeu_ps(to + r * layer.out + b * kAtom, first_lanes(layer.out - b * kAtom), y[r]);
        }
    }
}

}  // namespace

void forward_rows(const Layer& layer, const float* x, size_t num_rows, bool is_last, float* y) {
    switch (num_rows) {
        case 1:
            return rows_forward<1>(layer, x, is_last, y);
        case 2:
            return rows_forward<2>(layer, x, is_last, y);
        case 3:
            return rows_forward<3>(layer, x, is_last, y);
        default:
            return rows_forward<4>(layer, x, is_last, y);
    }
}

void round_row(const float* x, size_t n, float* y) {
    for (size_t i = 0; i < n; i += 16) {
        const __mmask16 mask = first_lanes(n - i);
        const __m512i words = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(mask, x + i)));
        _mm512_mask_storeu_ps(y + i, mask, _mm512_castsi512_ps(_mm512_slli_epi32(words, 16)));
    }
}

}  // namespace monolith::amx
