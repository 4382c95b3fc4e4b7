// Steps of the optimizers of live atoms. Included by kernels_impl.hpp alone.
#pragma once

#include "tower_kernels.hpp"

namespace monolith {
namespace {

void tower_adam(float* values, const float* gradients, float* m, float* v, uint32_t* steps, size_t n, uint32_t height,
                const AdamRates& rates) {
    for (size_t begin = 0, end; begin < n; begin = end) {  // runs of atoms with the same count
        const uint32_t step = steps[begin] + 1;
        for (end = begin; end < n && steps[end] + 1 == step; ++end) steps[end] = step;
        const double t = step, beta1 = rates.beta1, beta2 = rates.beta2;
        const float rate = static_cast<float>(rates.lr / (1 - __builtin_pow(beta1, t)));
        const float scale = static_cast<float>(1 / __builtin_sqrt(1 - __builtin_pow(beta2, t)));
        const float keep1 = static_cast<float>(beta1), keep2 = static_cast<float>(beta2);
        const float eps = static_cast<float>(rates.eps);
        const float take1 = static_cast<float>(1 - beta1), take2 = static_cast<float>(1 - beta2);
#pragma GCC ivdep
        for (size_t i = begin * height; i < end * height; ++i) {
            m[i] = keep1 * m[i] + take1 * gradients[i];
            v[i] = keep2 * v[i] + take2 * gradients[i] * gradients[i];
            values[i] -= rate * m[i] / (__builtin_sqrtf(v[i]) * scale + eps);
        }
    }
}

void tower_adagrad(float* values, const float* gradients, float* state, size_t n, float lr, float eps) {
#pragma GCC ivdep
    for (size_t i = 0; i < n; ++i) {
        state[i] += gradients[i] * gradients[i];
        values[i] -= lr * gradients[i] / (__builtin_sqrtf(state[i]) + eps);
    }
}

}  // namespace
}  // namespace monolith
