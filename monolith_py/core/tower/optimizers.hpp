// Optimizer steps of atoms and whole parameters, divided among threads.
#pragma once

#include <algorithm>

#include "kernels/kernels.hpp"
#include "memory/thread_pool.hpp"

namespace monolith {

constexpr size_t kAtomsPerTask = 2048, kFloatsPerStep = kAtomsPerTask * 16;

// Call step(begin, size) for pieces of n.
template <typename Step>
void each_piece(size_t n, size_t piece, Step&& step) {
    ThreadPool::instance().run((n + piece - 1) / piece,
                               [&](size_t task) { step(task * piece, std::min(piece, n - task * piece)); });
}

// values, gradients, m, v: (n, height); steps: (n,). The result does not depend on the number of threads.
inline void step_adam(float* values, const float* gradients, float* m, float* v, uint32_t* steps, size_t n,
                      uint32_t height, const AdamRates& rates) {
    const auto step = [&](size_t i, uint32_t* counts, size_t atoms, uint32_t size) {
        kernels().tower.adam(values + i, gradients + i, m + i, v + i, counts, atoms, size, rates);
    };
    if (n == 1) {  // a whole parameter with one step count
        const uint32_t before = steps[0];
        each_piece(height, kFloatsPerStep, [&](size_t i, size_t size) {
            uint32_t count = before;
            step(i, &count, 1, static_cast<uint32_t>(size));
        });
        steps[0] = before + 1;
        return;
    }
    each_piece(n, kAtomsPerTask, [&](size_t k, size_t atoms) { step(k * height, steps + k, atoms, height); });
}

inline void step_adagrad(float* values, const float* gradients, float* state, size_t n, const AdagradRates& rates) {
    each_piece(n, kFloatsPerStep, [&](size_t i, size_t size) {
        kernels().tower.adagrad(values + i, gradients + i, state + i, size, rates);
    });
}

}  // namespace monolith
