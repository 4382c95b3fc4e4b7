// Update: sort by row, then take one step for each run of equal rows.
#pragma once

#include <cmath>
#include <cstring>

#include "kernels/kernels.hpp"
#include "kernels/per_target/common-inl.hpp"
#include "kernels/per_target/rules-inl.hpp"

namespace monolith {
namespace {

uint64_t* sort_rows(const uint32_t* rows, size_t n, size_t part, size_t parts, uint64_t* order, uint64_t* scratch,
                    size_t* num) {
    size_t m = 0;
    uint32_t top = 0;
    for (size_t i = 0; i < n; ++i) {
        const uint32_t row = rows[i];
        const bool own = row < kCandidate && (parts == 1 || (uint64_t{row * 0x9E3779B1u} * parts >> 32) == part);
        order[m] = uint64_t{row} << 32 | static_cast<uint32_t>(i);
        m += own;
        top = own && row > top ? row : top;
    }
    *num = m;
    // Radix sort from the least digit (Knuth, volume 3, 5.2.5): stable; the largest row determines the number of
    // passes.
    const int bits = 32 - __builtin_clz(top | 1),
              passes = bits <= 12   ? 1
                       : bits <= 24 ? 2
                                    : 3,
              width = (bits + passes - 1) / passes;
    const uint32_t mask = (1u << width) - 1;
    uint32_t starts[3][4096];
    std::memset(starts, 0, sizeof starts[0] * static_cast<size_t>(passes));
    for (size_t i = 0; i < m; ++i) {
        const uint32_t row = static_cast<uint32_t>(order[i] >> 32);
        for (int p = 0; p < passes; ++p) ++starts[p][row >> (p * width) & mask];
    }
    for (int p = 0; p < passes; ++p) {
        uint32_t sum = 0;
        for (uint32_t digit = 0; digit <= mask; ++digit) {
            const uint32_t count = starts[p][digit];
            starts[p][digit] = sum;
            sum += count;
        }
        for (size_t i = 0; i < m; ++i)
            scratch[starts[p][static_cast<uint32_t>(order[i] >> 32) >> (p * width) & mask]++] = order[i];
        uint64_t* const sorted = scratch;
        scratch = order;
        order = sorted;
    }
    return order;
}

// Weight decay as part of the gradient, then the clip of its norm: before every rule.
[[gnu::always_inline]] inline void prepare(const Slice& slice, uint32_t dim, const float* w, float* g) {
    const Hyperparameters& h = slice.hyperparameters;
    if (h.weight_decay != 0 && slice.optimizer != Optimizer::kAdamW)
        for (uint32_t d = 0; d < dim; ++d) g[d] += h.weight_decay * w[d];
    if (h.clip_norm > 0) {
        float square = 0;
        for (uint32_t d = 0; d < dim; ++d) square += g[d] * g[d];
        if (square > h.clip_norm * h.clip_norm) {
            const float keep = h.clip_norm / std::sqrt(square);
            for (uint32_t d = 0; d < dim; ++d) g[d] *= keep;
        }
    }
}

// Not inlined: else computed for every row, also where it is not wanted.
[[gnu::noinline]] bool is_zero(const float* values, uint32_t n) {
    for (uint32_t i = 0; i < n; ++i)
        if (values[i] != 0) return false;
    return true;
}

// Visit the runs of equal rows; `step(w, s, g)` takes the step.
template <uint32_t kDim, typename Step>
[[gnu::always_inline]] inline size_t each_row(UpdateJob& job, Step&& step) {
    const uint32_t dim = kDim ? kDim : job.table.dim, state_width = job.table.state_width;
    float* const weights = job.table.weights;
    float* const state = job.table.state;
    const Gradients from = job.gradients;
    const uint64_t* const order = job.order;
    uint32_t* const updated = job.updated;
    const size_t n = job.n, ahead = lines_ahead(dim);
    constexpr size_t kGradientsAhead = 16;
    const bool is_strided = from.gradients == nullptr;
    RowSum<kDim> sum(job.sum);
    size_t num_updated = 0;
    for (size_t k = 0; k < n;) {
        const uint32_t row = static_cast<uint32_t>(order[k] >> 32);
        sum.clear();
        do {
            if (k + ahead < n) {
                const size_t coming = static_cast<size_t>(order[k + ahead] >> 32);
                touch_ahead_to_write(weights + coming * dim, dim);
                if (state_width) touch_ahead_to_write(state + coming * state_width, state_width);
            }
            const uint32_t source = static_cast<uint32_t>(order[k]);
            if (is_strided) {
                if (k + kGradientsAhead < n)
                    touch_ahead(from.base + static_cast<uint32_t>(order[k + kGradientsAhead]) * from.stride, dim);
                sum.add(from.base + source * from.stride, dim);
            } else {
                sum.add(from.gradients[source], dim, from.scales[source]);
            }
        } while (++k < n && static_cast<uint32_t>(order[k] >> 32) == row);
        float* const w = weights + size_t{row} * dim;
        const bool may_become_zero = job.counts_zeroed && !is_zero(w, dim);
        step(w, state + size_t{row} * state_width, sum.values());
        updated[num_updated++] = row;
        if (may_become_zero) job.num_zeroed += is_zero(w, dim);
    }
    return num_updated;
}

template <typename Rule, uint32_t kDim>
size_t update_single(UpdateJob& job) {
    const Slice& slice = job.slices[0];
    const Hyperparameters hyperparameters = slice.hyperparameters;
    const uint32_t dim = kDim ? kDim : slice.dim;
    const bool plain = hyperparameters.weight_decay == 0 && hyperparameters.clip_norm == 0;
    return each_row<kDim>(job, [&](float* w, float* s, float* g) __attribute__((always_inline)) {
        if (!plain) prepare(slice, dim, w, g);
        Rule::step(hyperparameters, dim, w, s, g);
    });
}

template <typename Rule>
struct Single {
    template <uint32_t kDim>
    struct Of {
        static size_t run(UpdateJob& job) { return update_single<Rule, kDim>(job); }
    };
};

void step_slice(const Slice& slice, float* w, float* s, float* g) {
    prepare(slice, slice.dim, w, g);
    const Hyperparameters& h = slice.hyperparameters;
    switch (slice.optimizer) {
        case Optimizer::kSgd:
            return Sgd::step(h, slice.dim, w, s, g);
        case Optimizer::kMomentum:
            return Momentum::step(h, slice.dim, w, s, g);
        case Optimizer::kAdagrad:
            return Adagrad::step(h, slice.dim, w, s, g);
        case Optimizer::kRowwiseAdagrad:
            return RowwiseAdagrad::step(h, slice.dim, w, s, g);
        case Optimizer::kAdadelta:
            return Adadelta::step(h, slice.dim, w, s, g);
        case Optimizer::kRmsprop:
            return Rmsprop::step(h, slice.dim, w, s, g);
        case Optimizer::kAdam:
            return Adam::step(h, slice.dim, w, s, g);
        case Optimizer::kAmsgrad:
            return Amsgrad::step(h, slice.dim, w, s, g);
        case Optimizer::kAdamW:
            return AdamW::step(h, slice.dim, w, s, g);
        case Optimizer::kFtrl:
            return Ftrl::step(h, slice.dim, w, s, g);
        case Optimizer::kGroupAdagrad:
            return GroupAdagrad::step(h, slice.dim, w, s, g);
        case Optimizer::kGroupFtrl:
            return GroupFtrl::step(h, slice.dim, w, s, g);
    }
}

size_t update(UpdateJob& job) {
    job.num_zeroed = 0;
    if (job.num_slices == 1) switch (job.slices[0].optimizer) {  // specialised loops for the most common rules
            case Optimizer::kSgd:
                return by_dim<Single<Sgd>::Of>(job.table.dim, job);
            case Optimizer::kAdagrad:
                return by_dim<Single<Adagrad>::Of>(job.table.dim, job);
            case Optimizer::kRowwiseAdagrad:
                return by_dim<Single<RowwiseAdagrad>::Of>(job.table.dim, job);
            case Optimizer::kAdam:
                return by_dim<Single<Adam>::Of>(job.table.dim, job);
            default:
                break;
        }
    return each_row<0>(job, [&](float* w, float* s, float* g) {
        for (size_t i = 0; i < job.num_slices; ++i) {
            const Slice& slice = job.slices[i];
            step_slice(slice, w + slice.weights_at, s + slice.state_at, g + slice.weights_at);
        }
    });
}

}  // namespace
}  // namespace monolith
