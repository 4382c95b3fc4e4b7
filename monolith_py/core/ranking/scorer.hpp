// Scores of the candidates of a request, and their explanation by feature.
//
// Letters: n candidates, T tasks, F features.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "ranking/model.hpp"
#include "ranking/order.hpp"
#include "replica/replica_rows.hpp"

namespace monolith::ranking {

// Features of the candidates, and results.
struct Scored {
    const Rows& shared;
    const Rows& candidates;
    size_t num_candidates;
    std::vector<float>& scores;         // (n, T)
    std::vector<float>& contributions;  // (n, T, F) of an explanation
};

enum class Outcome { kScored, kLate, kNotFinite };

// Calls may run together.
class Scorer {
  public:
    Scorer(const RequestOrder& order, size_t num_tasks);

    // Set the scores; give up after `left_s`.
    Outcome score(const Model& model, const ReplicaRows& rows, double left_s, const Scored& to) const;
    // Set scores and contributions: a score minus the score without the feature, which is then an empty bag, or zeros.
    Outcome explain(const Model& model, const ReplicaRows& rows, double left_s, const Scored& to) const;

  private:
    // Rows that the model reads of one group.
    struct Group {
        explicit Group(const GroupOrder& of);
        // Pool the bags of `num_rows` rows of features, from `lengths` and `fids` on; returns the end of the latter.
        const int64_t* pool(const ReplicaRows& from, size_t num_rows, const int32_t* lengths, const int64_t* fids,
                            size_t dim, float* out, size_t stride) const;

        const GroupOrder& order;
        bool has_sequences;
        std::vector<uint32_t> features;  // of each row of the model
    };
    struct Pooled;

    // Set the scores (n, T) of pooled rows.
    Outcome run(const Model& model, const Pooled& pooled, double left_s, std::vector<float>& scores) const;

    const RequestOrder& order_;
    const size_t num_tasks_;
    const Group shared_, own_;
};

}  // namespace monolith::ranking
