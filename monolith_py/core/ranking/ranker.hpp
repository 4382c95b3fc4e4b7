// The path of a request: from its bytes to the bytes of its answer, and what its impression is made of.
//
// Letters: n candidates, T tasks.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "codec/impression_encoder.hpp"
#include "ranking/entity_store.hpp"
#include "ranking/model.hpp"
#include "ranking/order.hpp"
#include "ranking/request.hpp"
#include "ranking/scorer.hpp"
#include "ranking/work_limit.hpp"
#include "replica/replica_rows.hpp"

namespace monolith::ranking {

enum class Status {
    kDone,
    kOther,       // a request that the Python path must answer
    kMissing,     // stored features or counters must be read first
    kOverloaded,  // the answer would come after the deadline
    kLate,        // the deadline has passed
    kNotFinite,   // a probability is NaN or infinite
};

// One call.
struct Call {
    std::string_view bytes;
    std::string_view own_id;  // of the request, if it has none
    std::string_view model_version;
    int64_t now_ms = 0;        // wall clock
    int64_t monotonic_ms = 0;  // clock of the stores
    double left_s = 0;         // time to the deadline
    int64_t staleness_ms = 0, event_staleness_ms = 0;
    Age age = Age::kFresh;
    bool takes_absent_entities = false;  // whether a user or item that is not held counts as unknown
    bool takes_absent = false;           // the same for counters
    bool is_quick = false;               // whether a request that takes long is left to another thread
};

// Entries that the stores lack.
struct Missing {
    std::vector<int64_t> users, items;
    std::vector<std::pair<uint32_t, int64_t>> counters;  // number of the counter's feature, and fid

    bool of_entities() const { return !users.empty() || !items.empty(); }
    bool any() const { return of_entities() || !counters.empty(); }
};

// A request and its answer.
struct Ranked {
    Status status = Status::kOther;
    std::string request_id, model_version;
    int64_t time_ms = 0, user_id = 0;
    bool logs_impression = true;
    size_t num_scored = 0;    // candidates of the request; `item_ids` are those of the answer
    bool is_complete = true;  // all stored features could be read
    double expected_s = 0;    // of an overloaded one
    std::vector<int64_t> item_ids;
    Rows shared, candidates;
    std::vector<float> scores;         // (n, T)
    std::vector<float> contributions;  // (n, T, features) of an explanation
    std::string response;              // bytes of monolith.v1.RankResponse
    Missing missing;

    // Not less than the impression takes for its values.
    size_t num_bytes() const {
        return shared.num_bytes() + candidates.num_bytes() + (item_ids.size() * sizeof(int64_t)) +
               scores.size() * sizeof(float);
    }
};

struct Wish;

// Features of a request in its answer, as they were read.
class Returner {
  public:
    explicit Returner(const RequestOrder& order);
    // Append the fields of the features that `chosen` has, by place in the schema. Returns false for more than
    // `most_values`.
    bool append(const std::vector<bool>& chosen, size_t most_values, const Ranked& ranked, std::string& out) const;

  private:
    struct Group {
        codec::RowFeatures features;
        std::vector<uint32_t> places;  // of each in the schema
    };
    static Group group_of(const GroupOrder& order, const std::vector<std::string>& names);

    Group shared_, own_;
};

class Ranker {
  public:
    // `counters`: one store for each feature with live counters, those of shared features first.
    Ranker(RequestOrder order, const RequestLimits& limits, std::vector<std::string> tasks, StoreLimits store_limits);

    EntityStore& users() { return users_; }
    EntityStore& items() { return items_; }
    EntityStore& counter(size_t number) { return *counters_[number]; }
    size_t num_counters() const { return counters_.size(); }
    const RequestOrder& order() const { return order_; }

    // Any number of threads may call at once.
    void rank(const Call& call, const Model& model, const ReplicaRows& rows, Ranked& ranked);

  private:
    void gather(const Call& call, const Request& request, Ranked& ranked) const;
    void read_counters(const Call& call, const GroupOrder& group, size_t first, Rows& rows, Missing& missing) const;
    void score(const Call& call, const Model& model, const ReplicaRows& rows, double left_s, Wish& wish,
               Ranked& ranked);

    const RequestOrder order_;
    const RequestLimits limits_;
    const std::vector<std::string> tasks_;
    const Scorer scorer_;
    const Returner returner_;
    EntityStore users_, items_;
    std::vector<std::unique_ptr<EntityStore>> counters_;
    WorkLimit work_;
};

}  // namespace monolith::ranking
