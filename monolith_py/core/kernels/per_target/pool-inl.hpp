// Rows to weights: gather, and bags summed, averaged or concatenated.
#pragma once

#include <cstring>

#include "kernels/kernels.hpp"
#include "kernels/per_target/common-inl.hpp"

namespace monolith {
namespace {

template <uint32_t kDim>
void gather_rows(RowsView table, const uint32_t* rows, size_t n, float* weights) {
    const uint32_t dim = kDim ? kDim : table.dim;
    const size_t ahead = lines_ahead(dim);
    for (size_t i = 0; i < n; ++i) {
        if (i + ahead < n && rows[i + ahead] < kCandidate)
            touch_ahead(table.weights + size_t{rows[i + ahead]} * dim, dim);
        float* out = weights + i * dim;
        if (rows[i] < kCandidate)
            std::memcpy(out, table.weights + size_t{rows[i]} * dim, dim * sizeof(float));
        else
            std::memset(out, 0, dim * sizeof(float));
    }
}

template <uint32_t kDim>
void pool_rows(const PoolJob& job) {
    const uint32_t dim = kDim ? kDim : job.table.dim;
    const float* const weights = job.table.weights;
    const uint32_t* const rows = job.rows;
    const float* const scales = job.scales;
    const bool is_first = job.pooling == Pooling::kFirst;
    const size_t ahead = lines_ahead(dim), last = static_cast<size_t>(job.offsets[job.end]);
    size_t i = static_cast<size_t>(job.offsets[job.begin]);
    for (size_t k = i; k < least(i + ahead, last); ++k)
        if (rows[k] < kCandidate) touch_ahead(weights + size_t{rows[k]} * dim, dim);
    for (size_t b = job.begin; b < job.end; ++b) {
        const size_t end = static_cast<size_t>(job.offsets[b + 1]), size = end - i;
        float* const out = job.pooled + b * job.stride;
        if (b + 8 < job.end) touch_ahead_to_write(out + 8 * job.stride, dim);
        RowSum<kDim> sum(out);
        sum.clear();
        if (is_first) std::memset(out, 0, size_t{job.first} * dim * sizeof(float));
        for (size_t k = 0; i < end; ++i, ++k) {
            if (i + ahead < last && rows[i + ahead] < kCandidate)
                touch_ahead(weights + size_t{rows[i + ahead]} * dim, dim);
            if (rows[i] >= kCandidate) continue;
            const float* row = weights + size_t{rows[i]} * dim;
            if (is_first) {
                const float scale = scales ? scales[i] : 1.0f;
                if (k < job.first)
                    for (uint32_t d = 0; d < dim; ++d) out[k * dim + d] = scale * row[d];
            } else if (scales) {
                sum.add(row, dim, scales[i]);
            } else {
                sum.add(row, dim);
            }
        }
        if (!is_first)
            sum.store(out, dim, job.pooling == Pooling::kMean && size > 1 ? 1.0f / static_cast<float>(size) : 1.0f);
    }
}

template <uint32_t kDim>
struct Gather {
    static void run(RowsView table, const uint32_t* rows, size_t n, float* weights) {
        gather_rows<kDim>(table, rows, n, weights);
    }
};
template <uint32_t kDim>
struct Pool {
    static void run(const PoolJob& job) { pool_rows<kDim>(job); }
};

void gather(RowsView table, const uint32_t* rows, size_t n, float* weights) {
    by_dim<Gather>(table.dim, table, rows, n, weights);
}
void pool(const PoolJob& job) { by_dim<Pool>(job.table.dim, job); }

}  // namespace
}  // namespace monolith
