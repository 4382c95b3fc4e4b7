// Rows at stable addresses: weights and optimizer state in slabs, recycled by a free list; and the rules that update
// them.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace monolith {

enum class Optimizer : uint32_t { kSgd, kAdagrad, kRowwiseAdagrad, kAdam, kFtrl };

struct Hyper {
    float lr = 0.01f, eps = 1e-8f, initial_accumulator = 0, beta1 = 0.9f, beta2 = 0.999f, l1 = 0, l2 = 0, beta = 0;
};

// Floats of state that a row of `dim` weights needs.
inline uint32_t state_width(Optimizer optimizer, uint32_t dim) {
    switch (optimizer) {
        case Optimizer::kSgd:
            return 0;
        case Optimizer::kAdagrad:
            return dim;
        case Optimizer::kRowwiseAdagrad:
            return 1;
        case Optimizer::kAdam:
            return 2 * dim + 1;  // m, v, step
        case Optimizer::kFtrl:
            return 2 * dim;  // z, n
    }
    return 0;
}

inline void start_state(Optimizer optimizer, const Hyper& hyper, uint32_t dim, float* state) {
    const uint32_t width = state_width(optimizer, dim);
    for (uint32_t d = 0; d < width; ++d) state[d] = 0;
    if (optimizer == Optimizer::kAdagrad || optimizer == Optimizer::kRowwiseAdagrad)
        for (uint32_t d = 0; d < width; ++d) state[d] = hyper.initial_accumulator;
    if (optimizer == Optimizer::kFtrl)
        for (uint32_t d = dim; d < 2 * dim; ++d) state[d] = hyper.initial_accumulator;
}

inline void step_row(Optimizer optimizer, const Hyper& h, uint32_t dim, float* w, float* s, const float* g) {
    switch (optimizer) {
        case Optimizer::kSgd:
            for (uint32_t d = 0; d < dim; ++d) w[d] -= h.lr * g[d];
            return;
        case Optimizer::kAdagrad:  // Duchi et al. 2011
            for (uint32_t d = 0; d < dim; ++d) {
                s[d] += g[d] * g[d];
                w[d] -= h.lr * g[d] / (std::sqrt(s[d]) + h.eps);
            }
            return;
        case Optimizer::kRowwiseAdagrad: {  // one accumulator a row: the mean square of its gradient
            float sum = 0;
            for (uint32_t d = 0; d < dim; ++d) sum += g[d] * g[d];
            s[0] += sum / static_cast<float>(dim);
            const float step = h.lr / (std::sqrt(s[0]) + h.eps);
            for (uint32_t d = 0; d < dim; ++d) w[d] -= step * g[d];
            return;
        }
        case Optimizer::kAdam: {  // Kingma and Ba 2015, algorithm 1, each row with its own step count
            float *m = s, *v = s + dim, &t = s[2 * dim];
            t += 1;
            const float c1 = static_cast<float>(1 - std::pow(static_cast<double>(h.beta1), t));
            const float c2 = static_cast<float>(1 - std::pow(static_cast<double>(h.beta2), t));
            for (uint32_t d = 0; d < dim; ++d) {
                m[d] = h.beta1 * m[d] + (1 - h.beta1) * g[d];
                v[d] = h.beta2 * v[d] + (1 - h.beta2) * g[d] * g[d];
                w[d] -= h.lr * (m[d] / c1) / (std::sqrt(v[d] / c2) + h.eps);
            }
            return;
        }
        case Optimizer::kFtrl: {  // McMahan et al. 2013, algorithm 1
            float *z = s, *n = s + dim;
            for (uint32_t d = 0; d < dim; ++d) {
                const float next = n[d] + g[d] * g[d];
                z[d] += g[d] - (std::sqrt(next) - std::sqrt(n[d])) / h.lr * w[d];
                n[d] = next;
                const float excess = std::fabs(z[d]) - h.l1;
                w[d] = excess <= 0 ? 0 : -std::copysign(excess, z[d]) / ((h.beta + std::sqrt(next)) / h.lr + h.l2);
            }
            return;
        }
    }
}

class RowStore {
  public:
    RowStore(uint32_t dim, uint32_t state) : dim_(dim), state_(state) {}

    uint32_t allocate() {
        if (!free_.empty()) {
            const uint32_t row = free_.back();
            free_.pop_back();
            return row;
        }
        if (next_ == kMaxRows) throw std::length_error("table is full: 4,294,967,280 rows");
        if (next_ % kRowsPerSlab == 0) {
            weights_.push_back(std::make_unique<float[]>(size_t{kRowsPerSlab} * dim_));
            states_.push_back(std::make_unique<float[]>(size_t{kRowsPerSlab} * state_));
        }
        return next_++;
    }
    void release(uint32_t row) { free_.push_back(row); }

    float* weights(uint32_t row) const { return &weights_[row / kRowsPerSlab][size_t{row % kRowsPerSlab} * dim_]; }
    float* state(uint32_t row) const { return &states_[row / kRowsPerSlab][size_t{row % kRowsPerSlab} * state_]; }
    uint32_t end() const { return next_; }
    size_t bytes() const { return weights_.size() * kRowsPerSlab * size_t{dim_ + state_} * sizeof(float); }

  private:
    static constexpr uint32_t kRowsPerSlab = 1024;
    static constexpr uint32_t kMaxRows = 0xFFFFFFF0u;
    uint32_t dim_, state_;
    std::vector<std::unique_ptr<float[]>> weights_, states_;
    std::vector<uint32_t> free_;
    uint32_t next_ = 0;
};

}  // namespace monolith
