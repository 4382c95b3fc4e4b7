// Feature interactions: terms of a factorization machine, and dot products of all pairs.
//
// Letters: F features, D their dim, P = F (F - 1) / 2 pairs. The rows of one example, (F, D), stay in the L1 cache.
#pragma once

#include <cstring>

#include "kernels/kernels.hpp"
#include "kernels/per_target/common-inl.hpp"

namespace monolith {
namespace {

// Instantiate for the widest of 16, 8 and 4 floats that divides D (a multiple of 4).
template <template <uint32_t> typename F, typename... Args>
[[gnu::always_inline]] inline void by_width(uint32_t dim, Args&&... args) {
    if (dim % 16 == 0) return F<16>::run(args...);
    if (dim % 8 == 0) return F<8>::run(args...);
    F<4>::run(args...);
}

// Sum over pairs = sum over f of row f times the sum of rows 0 .. f - 1: as many operations as equation 5 of Rendle
// 2010, without its subtraction.
template <uint32_t kWidth>
struct Factorize {
    typedef float Vector __attribute__((vector_size(kWidth * sizeof(float))));
    static void run(const PooledRows& rows, float* terms) {
        for (size_t b = rows.begin; b < rows.end; ++b) {
            const float* const example = rows.pooled + b * rows.width();
            float first = 0, pairs = 0;
            for (uint32_t at = 0; at < rows.dim; at += kWidth) {
                Vector before{}, products{};
                for (uint32_t f = 0; f < rows.num_features; ++f) {
                    Vector x;
                    std::memcpy(&x, example + size_t{f} * rows.dim + at, sizeof x);
                    products += before * x;
                    before += x;
                }
                float values[kWidth];
                std::memcpy(values, &products, sizeof values);
                for (uint32_t i = at == 0; i < kWidth; ++i) pairs += values[i];
                if (at == 0) std::memcpy(&first, &before, sizeof first);
            }
            terms[2 * b] = first;
            terms[2 * b + 1] = pairs;
        }
    }
};

template <uint32_t kWidth>
struct FactorizeBack {
    typedef float Vector __attribute__((vector_size(kWidth * sizeof(float))));
    static void run(const PooledRows& rows, const float* grad_terms, const GradientsOfRows& out) {
        for (size_t b = rows.begin; b < rows.end; ++b) {
            const float* const example = rows.pooled + b * rows.width();
            const float* const beside = out.beside ? out.beside + b * out.beside_stride : nullptr;
            float* const gradients = out.gradients + b * rows.width();
            for (uint32_t at = 0; at < rows.dim; at += kWidth) {
                Vector total{}, x, scale = Vector{} + grad_terms[2 * b + 1], shift{};
                for (uint32_t f = 0; f < rows.num_features; ++f) {
                    std::memcpy(&x, example + size_t{f} * rows.dim + at, sizeof x);
                    total += x;
                }
                if (at == 0) {  // component 0 is the first-order weight
                    constexpr float kNone = 0;
                    std::memcpy(&scale, &kNone, sizeof kNone);
                    std::memcpy(&shift, grad_terms + 2 * b, sizeof kNone);
                }
                shift += scale * total;
                for (size_t place = at; place < rows.width(); place += rows.dim) {
                    std::memcpy(&x, example + place, sizeof x);
                    Vector gradient = shift - scale * x;
                    if (beside) {
                        std::memcpy(&x, beside + place, sizeof x);
                        gradient += x;
                    }
                    if (kWidth == 16 && out.past_cache)
                        store_line(reinterpret_cast<const float*>(&gradient), gradients + place);
                    else
                        std::memcpy(gradients + place, &gradient, sizeof gradient);
                }
            }
        }
        if (out.past_cache) end_lines();
    }
};

constexpr uint32_t kDotWidth = 16;

// Multiply row f by all later rows at once; `scratch` has the rows transposed: (D, F rounded up to 16).
void dots(const PooledRows& rows, float* pairs, float* scratch) {
    typedef float Vector __attribute__((vector_size(kDotWidth * sizeof(float))));
    const uint32_t count = rows.num_features, dim = rows.dim, padded = (count + kDotWidth - 1) / kDotWidth * kDotWidth;
    std::memset(scratch, 0, size_t{padded} * dim * sizeof(float));
    for (size_t b = rows.begin; b < rows.end; ++b) {
        const float* const example = rows.pooled + b * rows.width();
        float* out = pairs + b * num_pairs(count);
        for (uint32_t f = 0; f < count; ++f)
            for (uint32_t d = 0; d < dim; ++d) scratch[size_t{d} * padded + f] = example[size_t{f} * dim + d];
        for (uint32_t f = 0; f + 1 < count; ++f)
            for (uint32_t g = (f + 1) / kDotWidth * kDotWidth; g < count; g += kDotWidth) {
                Vector sum{}, column;
                for (uint32_t d = 0; d < dim; ++d) {
                    std::memcpy(&column, scratch + size_t{d} * padded + g, sizeof column);
                    sum += example[size_t{f} * dim + d] * column;
                }
                const uint32_t from = g > f ? 0 : f + 1 - g, to = static_cast<uint32_t>(least(kDotWidth, count - g));
                float values[kDotWidth];
                std::memcpy(values, &sum, sizeof values);
                std::memcpy(out, values + from, (to - from) * sizeof(float));
                out += to - from;
            }
    }
}

// Gradient of row f = sum over the other rows of the pair's gradient times that row.
template <uint32_t kWidth>
struct DotsBack {
    typedef float Vector __attribute__((vector_size(kWidth * sizeof(float))));
    static void run(const PooledRows& rows, const float* grad_pairs, const GradientsOfRows& out, float* scratch) {
        const uint32_t count = rows.num_features, dim = rows.dim;
        for (uint32_t f = 0; f < count; ++f) scratch[f * count + f] = 0;
        for (size_t b = rows.begin; b < rows.end; ++b) {
            const float* const example = rows.pooled + b * rows.width();
            const float* const beside = out.beside ? out.beside + b * out.beside_stride : nullptr;
            const float* given = grad_pairs + b * num_pairs(count);
            for (uint32_t f = 0; f < count; ++f)
                for (uint32_t g = f + 1; g < count; ++g) scratch[f * count + g] = scratch[g * count + f] = *given++;
            for (uint32_t f = 0; f < count; ++f)
                for (uint32_t at = 0; at < dim; at += kWidth) {
                    const size_t place = size_t{f} * dim + at;
                    Vector sum{}, x;
                    if (beside) std::memcpy(&sum, beside + place, sizeof sum);
                    for (uint32_t g = 0; g < count; ++g) {
                        std::memcpy(&x, example + size_t{g} * dim + at, sizeof x);
                        sum += scratch[f * count + g] * x;
                    }
                    std::memcpy(out.gradients + b * rows.width() + place, &sum, sizeof sum);
                }
        }
    }
};

void factorize(const PooledRows& rows, float* terms) { by_width<Factorize>(rows.dim, rows, terms); }
void factorize_back(const PooledRows& rows, const float* grad_terms, const GradientsOfRows& out) {
    by_width<FactorizeBack>(rows.dim, rows, grad_terms, out);
}
void dots_back(const PooledRows& rows, const float* grad_pairs, const GradientsOfRows& out, float* scratch) {
    by_width<DotsBack>(rows.dim, rows, grad_pairs, out, scratch);
}

}  // namespace
}  // namespace monolith
