// Cross layers of a DCN with fixed weights, in float32: x0 * (W x + b) + x, as monolith_py/model/cross.py defines them.
// Letters: n candidates, S and C inputs that they share and inputs of each of them.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "ranking/dense_stack.hpp"

namespace monolith::ranking {

class CrossNetwork {
  public:
    // `layers`: the product W x + b of each, as one layer or as two of low rank; its inputs are the shared ones, then
    // the candidate's. `beside`: part of the head that reads the last cross layer while the tower reads the inputs,
    // empty if the tower reads the last cross layer.
    CrossNetwork(std::span<const std::vector<LayerWeights>> layers, std::span<const LayerWeights> beside, size_t shared,
                 size_t candidate);

    bool is_parallel() const { return !beside_.empty(); }
    size_t width() const { return shared_ + candidate_; }
    // Part of the first product from the shared inputs (S,), padded to an even number.
    void begin(float* shared, std::vector<float>& start) const;
    // Outputs of the last layer, (n, even(S + C)), from the shared inputs (S,) and those of each candidate, `stride`
    // floats apart; valid until the thread's next call.
    float* run(const float* shared, const float* candidate, size_t stride, size_t n, const float* start) const;
    // Add the head of parallel layers, for their outputs, to logits (n, `tasks`).
    void add_head(float* outputs, size_t n, size_t tasks, float* logits) const;

  private:
    size_t shared_, candidate_;
    std::vector<DenseStack> products_, beside_;
};

}  // namespace monolith::ranking
