// Attention over a sequence of rows that candidates share, by a row of each candidate (Zhou et al. 2018), as
// monolith_py/model/attention.py defines it.
//
// Letters: n candidates, L rows of a sequence, D the dim of a row.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "ranking/dense_stack.hpp"

namespace monolith::ranking {

// Places among the pooled rows of a request.
struct AttentionPlace {
    uint32_t start, length;  // of the sequence, in the shared rows
    bool target_is_shared;
    uint32_t target;  // row that attends, in the shared rows or in those of a candidate
};

// Rows of one sequence that are not zero, with their part of the first layer.
struct SequencePart {
    std::vector<float> rows;    // (L, D)
    std::vector<float> starts;  // (L, width of the first layer)
    std::vector<float> target;  // a shared one, (D,)
};

class Attention {
  public:
    // The first layer reads (row, target, product of both), 3 D inputs; the last one has one output, the weight of the
    // row.
    Attention(std::span<const LayerWeights> layers, uint32_t dim, const AttentionPlace& place);

    const AttentionPlace& place() const { return place_; }
    // Read a sequence from the shared rows of a request.
    void begin(const float* shared, SequencePart& part) const;
    // Write the weighted sum of the rows for each candidate, at out + i * stride, from its rows at own + i * stride.
    void run(const SequencePart& part, const float* own, size_t stride, size_t n, float* out) const;

  private:
    uint32_t dim_;
    AttentionPlace place_;
    DenseStack layers_;
};

}  // namespace monolith::ranking
