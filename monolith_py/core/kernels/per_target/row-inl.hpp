// One row: initial weights and state, and its bytes in each encoding.
#pragma once

#include <cmath>
#include <cstring>

#include "index/hash.hpp"
#include "kernels/kernels.hpp"
#include "kernels/per_target/common-inl.hpp"

namespace monolith {
namespace {

// 24 bits as a number in [-1, 1).
[[gnu::always_inline]] inline float symmetric(uint32_t bits) {
    return static_cast<float>(static_cast<int32_t>(bits) >> 8) * (1.0f / 8388608.0f);
}

void start_weights(const Slice& slice, uint64_t bits, float* w) {
    const uint32_t dim = slice.dim, half = dim / 2;
    switch (slice.initializer) {
        case Initializer::kZeros:
            for (uint32_t d = 0; d < dim; ++d) w[d] = 0;
            return;
        case Initializer::kConstant:
            for (uint32_t d = 0; d < dim; ++d) w[d] = slice.init_scale;
            return;
        case Initializer::kXavier:
        case Initializer::kUniform: {
            const float width =
                slice.initializer == Initializer::kUniform
                    ? slice.init_scale
                    // Glorot and Bengio 2010, equation 16, for a layer of one input (the fid) and D outputs
                    : slice.init_scale * std::sqrt(6.0f / static_cast<float>(1 + dim));
            for (uint32_t p = 0; p < half; ++p) {
                const uint64_t x = mix(bits + (p + 1) * kGolden);
                w[p] = width * symmetric(static_cast<uint32_t>(x));
                w[half + p] = width * symmetric(static_cast<uint32_t>(x >> 32));
            }
            if (dim % 2) w[dim - 1] = width * symmetric(static_cast<uint32_t>(mix(bits + (half + 1) * kGolden)));
            return;
        }
        case Initializer::kNormal:
            for (uint32_t d = 0; d < dim; ++d) {  // Box and Muller 1958
                const uint64_t x = mix(bits + (d + 1) * kGolden);
                const double radius =
                    std::sqrt(-2 * std::log((static_cast<double>(x >> 32) + 1) * (1.0 / 4294967296.0)));
                const double angle = static_cast<double>(x & 0xFFFFFFFFu) * (6.283185307179586 / 4294967296.0);
                w[d] = slice.init_scale * static_cast<float>(radius * std::cos(angle));
            }
            return;
    }
}

void start_row(const Slice* slices, size_t num_slices, uint64_t bits, float* weights, float* state) {
    for (size_t i = 0; i < num_slices; ++i) {
        const Slice& slice = slices[i];
        start_weights(slice, i == 0 ? bits : mix(bits + i), weights + slice.weights_at);
        float* s = state + slice.state_at;
        const uint32_t width = state_width(slice), dim = slice.dim;
        for (uint32_t d = 0; d < width; ++d) s[d] = 0;
        switch (slice.optimizer) {
            case Optimizer::kAdagrad:
            case Optimizer::kRowwiseAdagrad:
            case Optimizer::kGroupAdagrad:
                for (uint32_t d = 0; d < width; ++d) s[d] = slice.hyperparameters.initial_accumulator;
                break;
            case Optimizer::kFtrl:
            case Optimizer::kGroupFtrl:
                for (uint32_t d = dim; d < 2 * dim; ++d) s[d] = slice.hyperparameters.initial_accumulator;
                break;
            default:
                break;
        }
    }
}

inline float clamped(float value, float low, float high) { return value < low ? low : value > high ? high : value; }

constexpr float kMaxHalf = 65504.0f;

// By the exponent: sums may be taken in any order here, so the compiler takes w - w for 0.
inline bool is_finite(float w) {
    uint32_t bits;
    std::memcpy(&bits, &w, sizeof bits);
    return (bits & 0x7F800000u) != 0x7F800000u;
}

// The nearest fp16 number, held within +-65504; NaN and infinity stay, so that a reader can refuse them.
inline _Float16 half_of(float w) { return static_cast<_Float16>(is_finite(w) ? clamped(w, -kMaxHalf, kMaxHalf) : w); }

// fp16 scale, fp16 bias, then levels of 8 or 4 bits between minimum and maximum: the layout of FBGEMM's row-wise
// quantiser. A row with a weight that is not finite gets a scale and a bias of NaN.
template <int kBits>
void quantise(const float* w, uint32_t dim, uint8_t* out) {
    constexpr float kLevels = (1 << kBits) - 1;
    float low = w[0], high = w[0];
    uint32_t num_finite = 0;
    for (uint32_t d = 0; d < dim; ++d) {
        low = w[d] < low ? w[d] : low;
        high = w[d] > high ? w[d] : high;
        num_finite += is_finite(w[d]);
    }
    if (num_finite != dim) {
        const uint16_t nans[2] = {0x7E00, 0x7E00};
        std::memset(out, 0, encoded_bytes(kBits == 8 ? Encoding::kInt8 : Encoding::kInt4, dim));
        std::memcpy(out, nans, sizeof nans);
        return;
    }
    const _Float16 bias = static_cast<_Float16>(clamped(low, -kMaxHalf, kMaxHalf));
    _Float16 scale = static_cast<_Float16>(clamped((high - static_cast<float>(bias)) / kLevels, 0, kMaxHalf));
    if (static_cast<float>(scale) == 0) scale = static_cast<_Float16>(1.0f);  // all weights are equal: every level is 0
    std::memcpy(out, &scale, 2);
    std::memcpy(out + 2, &bias, 2);
    const float start = static_cast<float>(bias), inverse = 1.0f / static_cast<float>(scale);
    if constexpr (kBits == 8) {
        for (uint32_t d = 0; d < dim; ++d)
            out[4 + d] = static_cast<uint8_t>(clamped(std::nearbyint((w[d] - start) * inverse), 0, kLevels));
    } else {
        for (uint32_t d = 0; d < dim; d += 2) {
            const auto level = [&](uint32_t at) {
                return static_cast<unsigned>(clamped(std::nearbyint((w[at] - start) * inverse), 0, kLevels));
            };
            out[4 + d / 2] = static_cast<uint8_t>(level(d) | (d + 1 < dim ? level(d + 1) : 0u) << 4);
        }
    }
}

void encode(RowsView table, const Slice* slices, size_t num_slices, const uint32_t* rows, size_t n, uint8_t* encoded,
            size_t row_bytes) {
    const size_t ahead = lines_ahead(table.dim);
    for (size_t i = 0; i < n; ++i) {
        if (i + ahead < n) touch_ahead(table.weights + size_t{rows[i + ahead]} * table.dim, table.dim);
        uint8_t* out = encoded + i * row_bytes;
        for (size_t k = 0; k < num_slices; ++k) {
            const Slice& slice = slices[k];
            const float* w = table.weights + size_t{rows[i]} * table.dim + slice.weights_at;
            switch (slice.encoding) {
                case Encoding::kFp32:
                    std::memcpy(out, w, slice.dim * sizeof(float));
                    break;
                case Encoding::kFp16:
                    for (uint32_t d = 0; d < slice.dim; ++d) {
                        const _Float16 half = half_of(w[d]);
                        std::memcpy(out + 2 * d, &half, 2);
                    }
                    break;
                case Encoding::kInt8:
                    quantise<8>(w, slice.dim, out);
                    break;
                case Encoding::kInt4:
                    quantise<4>(w, slice.dim, out);
                    break;
            }
            out += encoded_bytes(slice.encoding, slice.dim);
        }
    }
}

// Tests the exponent, all ones in NaN and infinity; counts without a branch.
bool all_bounded(const float* values, size_t n) {
    uint32_t num = 0;
    for (size_t i = 0; i < n; ++i) {
        uint32_t bits;
        std::memcpy(&bits, values + i, sizeof bits);
        num += (bits & 0x7F800000u) >= (127u + 48u) << 23;
    }
    return num == 0;
}

}  // namespace
}  // namespace monolith
