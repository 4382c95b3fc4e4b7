// Rank requests, read from their bytes.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "ranking/order.hpp"

namespace monolith::ranking {

struct RequestLimits {
    size_t max_candidates, max_fids;
    int64_t least_time_ms, max_skew_ms;
    int64_t max_age_ms = 0;  // 0: any age
    // Values of an answer: of an explanation, and of returned features.
    size_t max_contributions = 0, max_returned = 0;
};

// Wishes about the answer.
struct Choice {
    uint64_t top_k = 0;                        // 0: all candidates, in request order
    std::vector<std::string_view> task_names;  // empty: all tasks
    std::string_view rank_by;                  // task that orders the candidates of `top_k`; empty: the first one
    std::string_view model_version;            // empty: any
    uint64_t max_staleness_ms = 0;             // 0: any
    bool explains = false;                     // whether the answer has the contribution of each feature
    std::vector<std::string_view> returned;    // features that the answer has as they were read
};

struct Request {
    std::string_view request_id;  // of the bytes; may be empty
    int64_t time_ms = 0;          // 0: none
    int64_t user_id = 0;
    std::string_view item_ids;  // (n,) int64
    bool logs_impression = true;
    Rows context;     // one row
    Rows candidates;  // the request's own features of each candidate, n rows
    Choice choice;

    size_t num_candidates() const { return item_ids.size() / sizeof(int64_t); }
};

// Read a request of monolith.v1.RankRequest. Returns false for one that breaks a rule, or is in another form than the
// usual serializers write: the Python path knows all rules and words all refusals.
bool read_request(std::string_view bytes, const RequestOrder& order, const RequestLimits& limits, int64_t now_ms,
                  Request& request);

}  // namespace monolith::ranking
