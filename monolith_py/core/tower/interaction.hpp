// Feature interactions of a batch, divided among threads.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <vector>

#include "kernels/kernels.hpp"
#include "memory/thread_pool.hpp"

namespace monolith {

constexpr size_t kFloatsPerThread = size_t{1} << 15;  // minimum of floats per thread

inline bool all_bounded(const float* values, size_t n) {
    std::atomic<bool> bounded{true};
    split(n, kFloatsPerThread, [&](size_t begin, size_t end) {
        if (!kernels().all_bounded(values + begin, end - begin)) bounded = false;
    });
    return bounded;
}

struct Interaction {
    const float* pooled;  // (B, F * D)
    size_t batch;         // B
    uint32_t num_features, dim;

    void terms(float* terms) const {
        share([&](const PooledRows& rows) { kernels().factorize(rows, terms); });
    }
    void terms_back(const float* grad_terms, const GradientsOfRows& out) const {
        share([&](const PooledRows& rows) { kernels().factorize_back(rows, grad_terms, out); });
    }
    void dots(float* pairs) const {
        share([&](const PooledRows& rows) { kernels().dots(rows, pairs, scratch().data()); });
    }
    void dots_back(const float* grad_pairs, const GradientsOfRows& out) const {
        share([&](const PooledRows& rows) { kernels().dots_back(rows, grad_pairs, out, scratch().data()); });
    }

  private:
    template <typename Task>
    void share(Task&& task) const {
        const size_t floats = size_t{num_features} * dim;
        split(batch, kFloatsPerThread / (floats + 1) + 1,
              [&](size_t begin, size_t end) { task(PooledRows{pooled, num_features, dim, begin, end}); });
    }
    std::vector<float> scratch() const {
        return std::vector<float>((size_t{num_features} + 15) / 16 * 16 * std::max(num_features, dim));
    }
};

}  // namespace monolith
