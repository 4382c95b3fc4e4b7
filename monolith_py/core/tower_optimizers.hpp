// Steps of the optimizers of live atoms, shared by the threads of the pool.
#pragma once

#include <algorithm>

#include "kernels.hpp"
#include "thread_pool.hpp"

namespace monolith {

constexpr size_t kAtomsPerTask = 2048;

// values, gradients, m, v: (n, height); steps: (n,). What a step changes does not depend on the threads.
inline void step_adam(float* values, const float* gradients, float* m, float* v, uint32_t* steps, size_t n,
                      uint32_t height, const AdamRates& rates) {
    ThreadPool::instance().run((n + kAtomsPerTask - 1) / kAtomsPerTask, [&](size_t task) {
        const size_t k = task * kAtomsPerTask, i = k * height;
        kernels().tower.adam(values + i, gradients + i, m + i, v + i, steps + k, std::min(kAtomsPerTask, n - k), height,
                             rates);
    });
}

inline void step_adagrad(float* values, const float* gradients, float* state, size_t n, float lr, float eps) {
    constexpr size_t kPerTask = kAtomsPerTask * 16;
    ThreadPool::instance().run((n + kPerTask - 1) / kPerTask, [&](size_t task) {
        const size_t i = task * kPerTask;
        kernels().tower.adagrad(values + i, gradients + i, state + i, std::min(kPerTask, n - i), lr, eps);
    });
}

}  // namespace monolith
