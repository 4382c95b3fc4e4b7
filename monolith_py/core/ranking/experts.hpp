// Mixture of experts in place of the layers after the interaction: one gate for each task weighs the outputs of all
// experts (Ma et al. 2018). An expert computes only the candidates for which a gate's weight of it is not 0.
//
// Letters: n candidates, T tasks, E experts, I inputs.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "ranking/gates.hpp"
#include "ranking/top.hpp"

namespace monolith::ranking {

class Experts {
  public:
    // `scores`: the linear layer of the gates, (T * num_scores, I), all its inputs split as those of the experts, whose
    // outputs are a part of the logits, (n, T). `biases` (T,). `num_shared`: inputs that candidates share.
    Experts(const GateShape& shape, DenseStack scores, std::vector<Top> experts, std::vector<float> biases,
            size_t num_shared);

    size_t num_shared() const { return num_shared_; }
    bool has_stacks() const { return !experts_.empty() && experts_.front().has_stacks(); }
    // Floats of the part that candidates share.
    size_t start_width() const;
    // Compute it from the shared inputs, which may be padded, and rounded in place.
    void begin(std::vector<float>& shared, float* start) const;
    // Logits (n, T) of inputs (n, stride), of which `width` are no padding. Inputs may be rounded in place.
    void run(const std::vector<float>& shared, float* inputs, size_t stride, size_t width, size_t n, const float* start,
             float* logits) const;

  private:
    // Write the numbers of the candidates for which expert e has a weight; return how many.
    size_t choose(const float* weights, size_t n, size_t expert, uint32_t* chosen) const;

    GateShape shape_;
    DenseStack scores_;
    std::vector<Top> experts_;
    std::vector<float> biases_;
    size_t num_shared_;
};

}  // namespace monolith::ranking
