// Update rules: one optimizer step of one slice of a row.
//
// Letters: w weights, s state, g gradient of the row (summed over the batch), D floats each.
#pragma once

#include <cmath>
#include <cstdint>

#include "kernels/settings.hpp"

namespace monolith {
namespace {

struct Sgd {
    static void step(const Hyperparameters& h, uint32_t dim, float* __restrict w, float*, const float* __restrict g) {
        for (uint32_t d = 0; d < dim; ++d) w[d] -= h.lr * g[d];
    }
};

struct Momentum {  // Sutskever et al. 2013, in the form of torch.optim.SGD
    static void step(const Hyperparameters& h, uint32_t dim, float* __restrict w, float* __restrict s,
                     const float* __restrict g) {
        if (h.nesterov != 0) {
            for (uint32_t d = 0; d < dim; ++d) {
                s[d] = h.momentum * s[d] + g[d];
                w[d] -= h.lr * (g[d] + h.momentum * s[d]);
            }
            return;
        }
        for (uint32_t d = 0; d < dim; ++d) {
            s[d] = h.momentum * s[d] + g[d];
            w[d] -= h.lr * s[d];
        }
    }
};

struct Adagrad {  // Duchi et al. 2011
    static void step(const Hyperparameters& h, uint32_t dim, float* __restrict w, float* __restrict s,
                     const float* __restrict g) {
        for (uint32_t d = 0; d < dim; ++d) {
            const float n = s[d] + g[d] * g[d];
            s[d] = n;
            w[d] -= h.lr * g[d] / (std::sqrt(n) + h.eps);
        }
    }
};

struct RowwiseAdagrad {  // one accumulator per row: mean square of its gradient, as in FBGEMM
    static void step(const Hyperparameters& h, uint32_t dim, float* __restrict w, float* __restrict s,
                     const float* __restrict g) {
        float sum = 0;
        for (uint32_t d = 0; d < dim; ++d) sum += g[d] * g[d];
        s[0] += sum / static_cast<float>(dim);
        const float rate = h.lr / (std::sqrt(s[0]) + h.eps);
        for (uint32_t d = 0; d < dim; ++d) w[d] -= rate * g[d];
    }
};

struct Adadelta {  // Zeiler 2012, algorithm 1, with the step times lr
    static void step(const Hyperparameters& h, uint32_t dim, float* __restrict w, float* __restrict s,
                     const float* __restrict g) {
        float *a = s, *u = s + dim;
        for (uint32_t d = 0; d < dim; ++d) {
            a[d] = h.rho * a[d] + (1 - h.rho) * g[d] * g[d];
            const float delta = std::sqrt(u[d] + h.eps) / std::sqrt(a[d] + h.eps) * g[d];
            u[d] = h.rho * u[d] + (1 - h.rho) * delta * delta;
            w[d] -= h.lr * delta;
        }
    }
};

struct Rmsprop {  // Tieleman and Hinton 2012
    static void step(const Hyperparameters& h, uint32_t dim, float* __restrict w, float* __restrict s,
                     const float* __restrict g) {
        for (uint32_t d = 0; d < dim; ++d) {
            s[d] = h.rho * s[d] + (1 - h.rho) * g[d] * g[d];
            w[d] -= h.lr * g[d] / (std::sqrt(s[d]) + h.eps);
        }
    }
};

// 1 - beta^t; t is an integer stored as a float.
inline float correction(float beta, float t) {
    return static_cast<float>(1 - std::pow(static_cast<double>(beta), static_cast<double>(t)));
}

struct Adam {  // Kingma and Ba 2015, algorithm 1, with a step count per row
    static void step(const Hyperparameters& h, uint32_t dim, float* __restrict w, float* __restrict s,
                     const float* __restrict g) {
        float *m = s, *v = s + dim, &t = s[2 * dim];
        t += 1;
        const float c1 = correction(h.beta1, t), c2 = correction(h.beta2, t);
        for (uint32_t d = 0; d < dim; ++d) {
            m[d] = h.beta1 * m[d] + (1 - h.beta1) * g[d];
            v[d] = h.beta2 * v[d] + (1 - h.beta2) * g[d] * g[d];
            w[d] -= h.lr * (m[d] / c1) / (std::sqrt(v[d] / c2) + h.eps);
        }
    }
};

struct AdamW {  // Loshchilov and Hutter 2019: decay is separate from the gradient
    static void step(const Hyperparameters& h, uint32_t dim, float* __restrict w, float* __restrict s,
                     const float* __restrict g) {
        const float keep = 1 - h.lr * h.weight_decay;
        for (uint32_t d = 0; d < dim; ++d) w[d] *= keep;
        Adam::step(h, dim, w, s, g);
    }
};

struct Amsgrad {  // Reddi et al. 2018, with Adam's bias corrections, as in torch
    static void step(const Hyperparameters& h, uint32_t dim, float* __restrict w, float* __restrict s,
                     const float* __restrict g) {
        float *m = s, *v = s + dim, *top = s + 2 * dim, &t = s[3 * dim];
        t += 1;
        const float c1 = correction(h.beta1, t), c2 = correction(h.beta2, t);
        for (uint32_t d = 0; d < dim; ++d) {
            m[d] = h.beta1 * m[d] + (1 - h.beta1) * g[d];
            v[d] = h.beta2 * v[d] + (1 - h.beta2) * g[d] * g[d];
            top[d] = top[d] > v[d] ? top[d] : v[d];
            w[d] -= h.lr * (m[d] / c1) / (std::sqrt(top[d] / c2) + h.eps);
        }
    }
};

// z and n of FTRL-Proximal (McMahan et al. 2013, algorithm 1).
inline void accumulate_ftrl(const Hyperparameters& h, uint32_t dim, const float* w, float* z, float* n,
                            const float* g) {
    for (uint32_t d = 0; d < dim; ++d) {
        const float next = n[d] + g[d] * g[d];
        z[d] += g[d] - (std::sqrt(next) - std::sqrt(n[d])) / h.lr * w[d];
        n[d] = next;
    }
}

struct Ftrl {
    static void step(const Hyperparameters& h, uint32_t dim, float* __restrict w, float* __restrict s,
                     const float* __restrict g) {
        if (h.lr == 0) return;  // end of a schedule; the equations divide by lr
        float *z = s, *n = s + dim;
        accumulate_ftrl(h, dim, w, z, n, g);
        for (uint32_t d = 0; d < dim; ++d) {
            const float excess = std::fabs(z[d]) - h.l1;
            w[d] = excess <= 0 ? 0 : -std::copysign(excess, z[d]) / ((h.beta + std::sqrt(n[d])) / h.lr + h.l2);
        }
    }
};

struct GroupFtrl {  // Ni et al. 2021, algorithm 1: a short z brings the whole row to zero; l2: strength of the group
                    // penalty
    static void step(const Hyperparameters& h, uint32_t dim, float* __restrict w, float* __restrict s,
                     const float* __restrict g) {
        if (h.lr == 0) return;
        float *z = s, *n = s + dim;
        accumulate_ftrl(h, dim, w, z, n, g);
        float square = 0;
        for (uint32_t d = 0; d < dim; ++d) {
            const float excess = std::fabs(z[d]) - h.l1;
            square += excess > 0 ? excess * excess : 0;
        }
        const float norm = std::sqrt(square), threshold = h.l2 * std::sqrt(static_cast<float>(dim));
        const float keep = norm > threshold ? 1 - threshold / norm : 0;
        for (uint32_t d = 0; d < dim; ++d) {
            const float excess = std::fabs(z[d]) - h.l1;
            w[d] = excess <= 0 || keep == 0 ? 0
                                            : -std::copysign(excess, z[d]) * keep / ((h.beta + std::sqrt(n[d])) / h.lr);
        }
    }
};

// One accumulator per row, of the greatest squared component of its gradient, as in Monolith; then the proximal step of
// the group lasso (Yuan and Lin 2006; Yang et al. 2010, equation 9): the row shrinks towards zero, and is zero when it
// would cross it. l2: strength of the group penalty.
struct GroupAdagrad {
    static void step(const Hyperparameters& h, uint32_t dim, float* __restrict w, float* __restrict s,
                     const float* __restrict g) {
        float top = 0;
        for (uint32_t d = 0; d < dim; ++d) top = g[d] * g[d] > top ? g[d] * g[d] : top;
        s[0] += top;
        const float rate = h.lr / (std::sqrt(s[0]) + h.eps);
        float square = 0;
        for (uint32_t d = 0; d < dim; ++d) {
            w[d] -= rate * g[d];
            square += w[d] * w[d];
        }
        const float norm = std::sqrt(square), threshold = rate * h.l2 * std::sqrt(static_cast<float>(dim));
        const float keep = norm > threshold ? 1 - threshold / norm : 0;
        for (uint32_t d = 0; d < dim; ++d) w[d] *= keep;
    }
};

}  // namespace
}  // namespace monolith
