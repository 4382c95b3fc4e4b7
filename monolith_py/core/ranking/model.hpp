// A ranking model with fixed weights: DeepFM, DLRM or DCN, as monolith_py/model/ranking.py defines them.
//
// Letters: n candidates, S and C rows that the candidates share and rows of each of them, D the dim of a row, T tasks.
// A DLRM with dense features has one more row, which its bottom tower makes of them: the last of C if candidates have
// dense features, else the last of S.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "ranking/attention.hpp"
#include "ranking/cross_network.hpp"
#include "ranking/dense_stack.hpp"
#include "ranking/experts.hpp"
#include "tower/stack.hpp"

namespace monolith::ranking {

enum class Kind { kDeepFm, kDlrm, kDcn };

struct ModelShape {
    Kind kind;
    uint32_t dim;
    uint32_t shared_features, candidate_features;
    uint32_t shared_dense, candidate_dense;  // widths
    uint32_t tasks;
};

enum class LinkKind { kSigmoid, kSoftmax, kValue, kLog1p };

struct Link {
    LinkKind kind;
    uint32_t size;  // tasks side by side
};

// State that the candidates of one request share, computed once.
struct SharedPart {
    std::vector<float> inputs;  // of the tower
    std::vector<SequencePart> sequences;
    std::vector<float> start, bottom_start, cross_start;
    std::vector<float> rows;  // DeepFM: their sum, (D,); DLRM: transposed, (D, padded(S))
    float pairs = 0;          // DeepFM: the pairwise term of the shared rows
};

// Calls may run together. Inputs of the tower begin with pooled rows; the other inputs follow from them and the dense
// features: `shared_inputs` and `candidate_inputs` say how many there are.
class Model {
  public:
    explicit Model(const ModelShape& shape);

    const ModelShape& shape() const { return shape_; }
    uint32_t shared_rows() const { return shape_.shared_features + (has_bottom() && bottom_is_shared()); }
    uint32_t candidate_rows() const { return shape_.candidate_features + (has_bottom() && !bottom_is_shared()); }
    size_t shared_inputs() const;
    size_t candidate_inputs() const;
    bool has_stacks() const { return !stacks_.empty() || (experts_ && experts_->has_stacks()); }
    // Rows that are pooled for a request and for a candidate: with attention, the rows of sequences among the shared
    // ones in place of one row of each candidate.
    uint32_t pooled_shared() const { return shape_.shared_features + num_sequence_rows_; }
    uint32_t pooled_own() const { return shape_.candidate_features - static_cast<uint32_t>(attentions_.size()); }
    // Floats that hold the shared inputs, or the shared pooled rows before.
    size_t shared_floats() const { return even(std::max(shared_inputs(), size_t{pooled_shared()} * shape_.dim)); }
    // Floats between the inputs of two candidates.
    size_t stride() const { return experts_ || stacks_.empty() ? even(candidate_inputs()) : candidate_inputs(); }

    // Set the layers after the interaction, the head last. Columns of the first one: its inputs in this order. With
    // `stacks` these come before the head, one after the other, and take the shared inputs, then the candidate's; they
    // must outlive the model.
    void set_top(std::span<const LayerWeights> layers, std::span<const uint32_t> shared,
                 std::span<const uint32_t> candidate, std::vector<const TowerStack*> stacks);
    // The rows that attention makes are the last of the candidates' features, in this order.
    void add_attention(Attention attention);
    // Experts in the place of the top, of the same inputs: `num_own` of them differ between candidates.
    void set_experts(Experts experts, size_t num_own);
    void set_bottom(std::span<const LayerWeights> layers, std::span<const uint32_t> shared,
                    std::span<const uint32_t> candidate);
    // DCN: set before the top, whose first layer reads the last cross layer unless they are parallel.
    void set_cross(std::span<const std::vector<LayerWeights>> layers, std::span<const LayerWeights> beside) {
        cross_.emplace(layers, beside, shared_inputs(), candidate_inputs());
    }
    // DeepFM: of the first-order and the pairwise term, (2, T).
    void set_scales(std::vector<float> scales) { scales_ = std::move(scales); }

    // Functions from logits to scores, for `size` tasks each; by default a sigmoid for each task.
    void set_links(std::vector<Link> links) { links_ = std::move(links); }

    // `part.inputs` holds the pooled rows of the shared features.
    void begin(const float* dense, SharedPart& part) const;
    // Logits (n, T), of inputs (n, stride) that hold the pooled rows of the candidates' features, dense (n,
    // candidate_dense).
    void score(const SharedPart& part, float* inputs, const float* dense, size_t n, float* logits) const;
    // Turn logits (n, T) into scores, in place: monolith_py/model/link.py. Return whether all are finite.
    bool to_scores(float* logits, size_t n) const;

  private:
    bool has_bottom() const { return shape_.kind == Kind::kDlrm && shape_.shared_dense + shape_.candidate_dense > 0; }
    bool bottom_is_shared() const { return shape_.candidate_dense == 0; }
    bool reads_cross() const { return cross_ && !cross_->is_parallel(); }
    void begin_attention(SharedPart& part) const;
    void begin_interaction(SharedPart& part) const;
    void interact(const SharedPart& part, float* inputs, const float* dense, size_t n, float* terms) const;
    void run_top(const SharedPart& part, float* inputs, float* crossed, size_t n, float* logits) const;
    float* run_stacks(const SharedPart& part, const float* inputs, size_t n) const;

    ModelShape shape_;
    std::optional<DenseStack> top_, bottom_;
    std::optional<CrossNetwork> cross_;
    std::optional<Experts> experts_;
    std::vector<Attention> attentions_;
    uint32_t num_sequence_rows_ = 0;
    std::vector<const TowerStack*> stacks_;
    std::vector<float> scales_;
    std::vector<Link> links_;
};

}  // namespace monolith::ranking
