// Update: sort by row, then take one step for each run of equal rows.
#pragma once

#include <cmath>
#include <cstring>

#include "kernels/kernels.hpp"
#include "kernels/per_target/common-inl.hpp"
#include "kernels/per_target/rules-inl.hpp"

namespace monolith {
namespace {

// Positions of the part as row << 32 | source, in order; returns their number. Without a branch: parts are random.
size_t select_own(const SortJob& job, uint64_t* own) {
    size_t num = 0;
    for (size_t i = 0; i < job.n; ++i) {
        const uint32_t row = job.rows[i];
        own[num] = uint64_t{row} << 32 | (job.sources ? job.sources[i] : static_cast<uint32_t>(i));
        num += row < kCandidate && (uint64_t{row * 0x9E3779B1u} * job.parts >> 32) == job.part;
    }
    return num;
}

constexpr int kMaxDigit = 12;  // bits

// Radix sort from the least digit (Knuth, volume 3, 5.2.5): stable. `each` calls its argument with (row, row << 32 |
// source) for all positions, in order; it may read `sorted`.
template <int kPasses, typename Each>
[[gnu::always_inline]] inline uint64_t* radix_sort(SortJob& job, int width, Each&& each) {
    const uint32_t mask = (1u << width) - 1;
    uint32_t starts[kPasses][1 << kMaxDigit];
    for (int p = 0; p < kPasses; ++p) std::memset(starts[p], 0, sizeof(uint32_t) << width);
    size_t num = 0;
    uint64_t *order = job.order, *sorted = job.scratch;
    each([&](uint32_t row, uint64_t) __attribute__((always_inline)) {
        if (num % 8 == 0) __builtin_prefetch(order + num, 1, 3);  // a pass writes its lines at random
        ++num;
#pragma GCC unroll 6
        for (int p = 0; p < kPasses; ++p) ++starts[p][row >> (p * width) & mask];
    });
    job.num = num;
    for (int p = 0; p < kPasses; ++p) {
        uint32_t sum = 0;
        for (uint32_t digit = 0; digit <= mask; ++digit) {
            const uint32_t count = starts[p][digit];
            starts[p][digit] = sum;
            sum += count;
        }
    }
    size_t i = 0;
    each([&](uint32_t row, uint64_t entry) __attribute__((always_inline)) {
        if (i++ % 8 == 0) __builtin_prefetch(sorted + i, 1, 3);
        order[starts[0][row & mask]++] = entry;
    });
    for (int p = 1; p < kPasses; ++p) {
        for (size_t i = 0; i < num; ++i)
            sorted[starts[p][static_cast<uint32_t>(order[i] >> 32) >> (p * width) & mask]++] = order[i];
        uint64_t* const from = order;
        order = sorted;
        sorted = from;
    }
    return order;
}

template <int kPasses>
uint64_t* sort_in_passes(SortJob& job, int width) {
    if (job.parts > 1) {
        const size_t num_own = select_own(job, job.scratch);
        return radix_sort<kPasses>(job, width, [&](auto&& visit) __attribute__((always_inline)) {
            for (size_t i = 0; i < num_own; ++i) visit(static_cast<uint32_t>(job.scratch[i] >> 32), job.scratch[i]);
        });
    }
    return radix_sort<kPasses>(job, width, [&](auto&& visit) __attribute__((always_inline)) {
        for (size_t i = 0; i < job.n; ++i)
            if (const uint32_t row = job.rows[i]; row < kCandidate)
                visit(row, uint64_t{row} << 32 | (job.sources ? job.sources[i] : static_cast<uint32_t>(i)));
    });
}

uint64_t* sort_rows(SortJob& job) {
    // A pass over few positions is cheaper than one over many counters.
    const int bits = 32 - __builtin_clz(static_cast<uint32_t>(job.end) | 1), log_n = 63 - __builtin_clzll(job.n | 64),
              most = log_n < kMaxDigit ? log_n : kMaxDigit, passes = (bits + most - 1) / most;
    switch (passes) {
        case 1:
            return sort_in_passes<1>(job, bits);
        case 2:
            return sort_in_passes<2>(job, (bits + 1) / 2);
        case 3:
            return sort_in_passes<3>(job, (bits + 2) / 3);
        case 4:
            return sort_in_passes<4>(job, (bits + 3) / 4);
        default:
            return sort_in_passes<6>(job, (bits + 5) / 6);
    }
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
    const auto gradient_of = [&](size_t k) __attribute__((always_inline)) {
        const uint32_t source = static_cast<uint32_t>(order[k]);
        return from.addresses ? from.addresses[source] : from.base + source * from.stride;
    };
    const auto fetch_row = [&](size_t k) __attribute__((always_inline)) {
        const size_t row = order[k] >> 32;
        touch_ahead_to_write(weights + row * dim, dim);
        if (state_width) touch_ahead_to_write(state + row * state_width, state_width);
    };
    for (size_t k = 0; k < least(ahead, n); ++k) fetch_row(k);
    RowSum<kDim> sum(job.sum);
    size_t num_updated = 0;
    for (size_t k = 0; k < n;) {
        const uint32_t row = static_cast<uint32_t>(order[k] >> 32);
        sum.clear();
        do {
            if (k + ahead < n) fetch_row(k + ahead);
            if (k + kGradientsAhead < n) touch_ahead(gradient_of(k + kGradientsAhead), dim);
            if (from.scales)
                sum.add(gradient_of(k), dim, from.scales[static_cast<uint32_t>(order[k])]);
            else
                sum.add(gradient_of(k), dim);
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
