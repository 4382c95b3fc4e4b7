// Gates of a mixture of experts: from the scores of their linear layer to a weight for each task and expert, as
// monolith_py/model/gates.py defines them.
//
// Letters: T tasks, E experts, S slots of a gate: one, or the trees of a tree gate.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace monolith::ranking {

enum class GateKind { kFlat, kTree };

struct GateShape {
    GateKind kind;
    uint32_t tasks, experts, slots;
    uint32_t kept;      // experts of a slot with a weight above 0: those of the greatest
    float temperature;  // flat: divisor of the scores
    float width;        // tree: of the range in which a split is soft

    // Scores of one task: E, or for each tree its E - 1 splits, level by level, and its E leaves.
    uint32_t num_scores() const { return kind == GateKind::kFlat ? experts : slots * (2 * experts - 1); }
};

// Weights (T, E) of one candidate from its scores (T, num_scores); those of a task sum to 1.
void weigh(const GateShape& shape, const float* scores, std::vector<float>& leaves, float* weights);

}  // namespace monolith::ranking
