// Optimizer steps of live atoms.
#pragma once

#include "kernels/tower_kernels.hpp"

namespace monolith {
namespace {

void tower_adam(float* values, const float* gradients, float* m, float* v, uint32_t* steps, size_t n, uint32_t height,
                const AdamRates& rates) {
    for (size_t begin = 0, end; begin < n; begin = end) {  // runs of atoms with equal step counts
        const uint32_t step = steps[begin] + 1;
        for (end = begin; end < n && steps[end] + 1 == step; ++end) steps[end] = step;
        const double t = step, beta1 = rates.beta1, beta2 = rates.beta2;
        const float rate = static_cast<float>(rates.lr / (1 - __builtin_pow(beta1, t)));
        const float scale = static_cast<float>(1 / __builtin_sqrt(1 - __builtin_pow(beta2, t)));
        const float keep1 = static_cast<float>(beta1), keep2 = static_cast<float>(beta2);
        const float eps = static_cast<float>(rates.eps);
        const float take1 = static_cast<float>(1 - beta1), take2 = static_cast<float>(1 - beta2);
        const float share = static_cast<float>(1 / rates.grad_scale);
#pragma GCC ivdep
        for (size_t i = begin * height; i < end * height; ++i) {
            const float gradient = gradients[i] * share;
            m[i] = keep1 * m[i] + take1 * gradient;
            v[i] = keep2 * v[i] + take2 * gradient * gradient;
            values[i] -= rate * m[i] / (__builtin_sqrtf(v[i]) * scale + eps);
        }
    }
}

void tower_adagrad(float* values, const float* gradients, float* state, size_t n, const AdagradRates& rates) {
    const float share = 1 / rates.grad_scale;
#pragma GCC ivdep
    for (size_t i = 0; i < n; ++i) {
        const float gradient = gradients[i] * share;
        state[i] += gradient * gradient;
        values[i] -= rates.lr * gradient / (__builtin_sqrtf(state[i]) + rates.eps);
    }
}

template <uint32_t kHeight>
[[gnu::always_inline]] inline void add_taylor(const float* values, const float* gradients, float* sums, size_t n,
                                              uint32_t height, float share) {
    const uint32_t size = kHeight ? kHeight : height;
    for (size_t k = 0; k < n; ++k) {
        float sum = 0;
        for (size_t i = k * size; i < (k + 1) * size; ++i) sum += values[i] * gradients[i];
        sums[k] += __builtin_fabsf(sum) * share;
    }
}

void tower_taylor(const float* values, const float* gradients, float* sums, size_t n, uint32_t height,
                  float grad_scale) {
    const float share = 1 / grad_scale;
    if (height == kLanes)
        add_taylor<kLanes>(values, gradients, sums, n, height, share);
    else if (height == 1)
        add_taylor<1>(values, gradients, sums, n, height, share);
    else
        add_taylor<0>(values, gradients, sums, n, height, share);
}

}  // namespace
}  // namespace monolith
