#include "ranking/gates.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace monolith::ranking {

namespace {

// Set all but the `kept` greatest of n values to `absent`; of equal ones the first are kept.
void keep_greatest(float* values, size_t n, size_t kept, float absent) {
    if (kept >= n) return;
    bool dropped[64];
    for (size_t i = 0; i < n; ++i) {
        size_t before = 0;
        for (size_t j = 0; j < n; ++j) before += values[j] > values[i] || (values[j] == values[i] && j < i);
        dropped[i] = before >= kept;
    }
    for (size_t i = 0; i < n; ++i)
        if (dropped[i]) values[i] = absent;
}

void normalize(float* weights, size_t n) {
    float sum = 0;
    for (size_t i = 0; i < n; ++i) sum += weights[i];
    for (size_t i = 0; i < n; ++i) weights[i] /= sum;
}

void weigh_flat(const GateShape& shape, const float* scores, float* weights) {
    const size_t experts = shape.experts;
    std::copy_n(scores, experts, weights);
    keep_greatest(weights, experts, shape.kept, -std::numeric_limits<float>::infinity());
    const float greatest = *std::max_element(weights, weights + experts);
    for (size_t e = 0; e < experts; ++e) weights[e] = std::exp((weights[e] - greatest) / shape.temperature);
    normalize(weights, experts);
}

// Smooth-step (Hazimeh et al. 2020, equation 5): 0 and 1 outside of the width, a cubic polynomial in it.
float smooth_step(float value, float width) {
    const float at = value / width;
    if (at <= -0.5f) return 0;
    if (at >= 0.5f) return 1;
    return at * (1.5f - 2.0f * at * at) + 0.5f;
}

// Probabilities of the leaves of one tree.
void reach(const GateShape& shape, const float* splits, float* leaves) {
    leaves[0] = 1;
    for (size_t level = 1; level < shape.experts; level *= 2)
        for (size_t node = level; node-- > 0;) {
            const float left = smooth_step(splits[level - 1 + node], shape.width), reached = leaves[node];
            leaves[2 * node] = reached * left;
            leaves[2 * node + 1] = reached * (1 - left);
        }
    keep_greatest(leaves, shape.experts, shape.kept, 0);
}

void weigh_tree(const GateShape& shape, const float* scores, std::vector<float>& leaves, float* weights) {
    const size_t experts = shape.experts, tree = 2 * experts - 1;
    leaves.resize(shape.slots * experts);
    float greatest = -std::numeric_limits<float>::infinity();
    for (size_t s = 0; s < shape.slots; ++s) {
        reach(shape, scores + s * tree, leaves.data() + s * experts);
        for (size_t e = 0; e < experts; ++e)
            if (leaves[s * experts + e] > 0) greatest = std::max(greatest, scores[s * tree + experts - 1 + e]);
    }
    std::fill_n(weights, experts, 0.0f);
    for (size_t s = 0; s < shape.slots; ++s)
        for (size_t e = 0; e < experts; ++e)
            if (const float leaf = leaves[s * experts + e]; leaf > 0)
                weights[e] += leaf * std::exp(scores[s * tree + experts - 1 + e] - greatest);
    normalize(weights, experts);
}

}  // namespace

void weigh(const GateShape& shape, const float* scores, std::vector<float>& leaves, float* weights) {
    for (uint32_t t = 0; t < shape.tasks; ++t) {
        const float* const own = scores + size_t{t} * shape.num_scores();
        float* const into = weights + size_t{t} * shape.experts;
        if (shape.kind == GateKind::kFlat)
            weigh_flat(shape, own, into);
        else
            weigh_tree(shape, own, leaves, into);
    }
}

}  // namespace monolith::ranking
