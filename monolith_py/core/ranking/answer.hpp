// Wishes of a request about its answer, and the bytes of the answer.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "ranking/ranker.hpp"

namespace monolith::ranking {

// Wishes by places of tasks and candidates.
struct Wish {
    size_t top_k = 0, rank_by = 0;
    std::vector<uint32_t> tasks;      // empty: all
    std::vector<uint32_t> positions;  // of the `top_k` best
    size_t num_answered = 0;          // candidates
    bool explains = false;
    std::vector<bool> returned;  // by place of the feature in the schema; empty: none
};

// Rows of packed features without gaps, for the codec.
class BagStarts {
  public:
    explicit BagStarts(const Rows& rows);
    codec::PackedRows rows(size_t num_rows) const;

  private:
    const Rows& rows_;
    std::vector<int64_t> starts_;  // empty if each bag has one fid
};

// An answered request in the form of the codec, which must outlive this.
struct ServedRanked {
    explicit ServedRanked(const Ranked& ranked);
    ServedRanked(const ServedRanked&) = delete;
    ServedRanked& operator=(const ServedRanked&) = delete;

    const BagStarts shared, candidates;
    codec::ServedRequest request;
};

inline size_t sum_of(const int32_t* lengths, size_t n) {
    size_t sum = 0;
    for (size_t i = 0; i < n; ++i) sum += static_cast<size_t>(lengths[i]);
    return sum;
}

// Set the wish of a request. Returns false for one that breaks a rule, or that the model of the call does not meet: the
// Python path words the refusals. `names`: those of the features.
bool grants(const Call& call, const std::vector<std::string>& tasks, const std::vector<std::string>& names,
            const RequestLimits& limits, const Request& request, Wish& wish);
// Places of the `num` greatest of n scores, greatest first; equal ones in their order.
std::vector<uint32_t> best(const float* scores, size_t stride, size_t n, size_t num);
// Keep the candidates at `places`, in that order.
void keep(const std::vector<uint32_t>& places, const GroupOrder& order, size_t num_tasks, Ranked& ranked);
// Append all fields but the returned features.
void respond(const Call& call, const std::vector<std::string>& tasks, const std::vector<std::string>& names,
             const Wish& wish, Ranked& ranked);

}  // namespace monolith::ranking
