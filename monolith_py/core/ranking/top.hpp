// Layers after the interaction of a ranking model: dense ones, or sparse stacks and a dense head.
// Letters: n candidates.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "ranking/dense_stack.hpp"
#include "tower/stack.hpp"

namespace monolith::ranking {

class Top {
  public:
    // Columns of the first dense layer: its inputs in this order. With `stacks` these come before the layers, one after
    // the other; they must outlive this.
    Top(std::span<const LayerWeights> layers, std::span<const uint32_t> shared, std::span<const uint32_t> candidate,
        std::vector<const TowerStack*> stacks);

    bool has_stacks() const { return !stacks_.empty(); }
    size_t width() const { return layers_.width(); }
    size_t start_width() const { return layers_.start_width(); }
    // Part of the first layer's outputs from the shared inputs, which may be rounded in place; unused with stacks.
    void begin(std::vector<float>& shared, float* start) const;
    // Outputs (n, width) of candidates' inputs (n, even), valid until the thread's next call. Without stacks.
    float* run(float* inputs, size_t n, const float* start) const { return layers_.run(inputs, n, start); }
    // The same of all inputs, in parts of whole rows. With stacks.
    float* run_stacks(Columns<const float> inputs, size_t n, const float* start) const;

  private:
    DenseStack layers_;
    std::vector<const TowerStack*> stacks_;
};

}  // namespace monolith::ranking
