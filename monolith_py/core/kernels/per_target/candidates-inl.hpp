// Interaction of candidates' rows with each other and with the rows that all candidates share.
#pragma once

#include <cstring>

#include "kernels/dense_kernels.hpp"
#include "kernels/per_target/common-inl.hpp"
#include "kernels/per_target/tower-inl.hpp"

namespace monolith {
namespace {

template <uint32_t kWidth>
struct FactorizeAfter {
    typedef float Vector __attribute__((vector_size(kWidth * sizeof(float))));
    static void run(const CandidateRows& rows, float* terms) {
        for (size_t i = 0; i < rows.n; ++i) {
            const float* const own = rows.rows + i * rows.stride;
            float first = 0, pairs = 0;
            for (uint32_t at = 0; at < rows.dim; at += kWidth) {
                Vector before, products{};
                std::memcpy(&before, rows.shared + at, sizeof before);
                for (uint32_t r = 0; r < rows.num_rows; ++r) {
                    Vector x;
                    std::memcpy(&x, own + size_t{r} * rows.dim + at, sizeof x);
                    products += before * x;
                    before += x;
                }
                float values[kWidth];
                std::memcpy(values, &products, sizeof values);
                for (uint32_t k = at == 0; k < kWidth; ++k) pairs += values[k];
                if (at == 0) std::memcpy(&first, &before, sizeof first);
            }
            terms[2 * i] = first;
            terms[2 * i + 1] = pairs;
        }
    }
};

void factorize_after(const CandidateRows& rows, float* terms) {
    if (rows.dim % 16 == 0) return FactorizeAfter<16>::run(rows, terms);
    if (rows.dim % 4 == 0) return FactorizeAfter<4>::run(rows, terms);
    FactorizeAfter<1>::run(rows, terms);
}

[[gnu::always_inline]] inline float dot_of(const float* a, const float* b, uint32_t dim) {
    float sum = 0;
    for (uint32_t d = 0; d < dim; ++d) sum += a[d] * b[d];
    return sum;
}

void cross_dots(const CandidateRows& rows, float* pairs, size_t stride) {
    const size_t width = padded(rows.num_shared);
    for (size_t i = 0; i < rows.n; ++i) {
        const float* const own = rows.rows + i * rows.stride;
        float* out = pairs + i * stride;
        for (uint32_t r = 0; r < rows.num_rows; ++r) {
            const float* const row = own + size_t{r} * rows.dim;
            for (uint32_t s = 0; s < rows.num_shared; s += kLanes) {
                Lanes sum = Lanes::all(0);
                for (uint32_t d = 0; d < rows.dim; ++d) sum.add(row[d], Lanes::load(rows.shared + d * width + s));
                float values[kLanes];
                sum.store(values);
                const size_t count = least(kLanes, rows.num_shared - s);
                std::memcpy(out, values, count * sizeof(float));
                out += count;
            }
            for (uint32_t q = 0; q < r; ++q) *out++ = dot_of(row, own + size_t{q} * rows.dim, rows.dim);
        }
    }
}

}  // namespace
}  // namespace monolith
