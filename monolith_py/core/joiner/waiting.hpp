// The requests of one partition that wait, in memory: found by id, closed by due time. The rules are those of the state
// machine; the order of results is that of streaming/joiner/request_joiner.py.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "joiner/due_times.hpp"
#include "joiner/request_map.hpp"
#include "joiner/rules.hpp"

namespace monolith::joiner {

// Most requests that one step closes.
constexpr size_t kMaxClosed = 4096;
// A step that emits this much closes no further request.
constexpr size_t kMaxEmitted = 1 << 13, kMaxEmittedBytes = 32 << 20;

class WaitingRequests {
  public:
    explicit WaitingRequests(const Rules& rules) : machine_(rules, outcome_) {}
    WaitingRequests(const WaitingRequests&) = delete;
    WaitingRequests& operator=(const WaitingRequests&) = delete;

    // Process an impression; return false if its request has one already.
    bool see_impression(const Impression& impression, const ImpressionBytes& bytes, int64_t offset);
    void see_action(std::string_view request_id, SeenAction seen);
    // Return whether `advance` to `watermark_ms` would change a request.
    bool is_due(int64_t watermark_ms) const { return !due_.empty() && due_.first_ms() <= watermark_ms; }
    // Advance event time; return whether more requests are due at it than a step may close.
    bool advance(int64_t watermark_ms);
    // Close windows as if their time had passed, as many as a step may; return whether more are left. The first call
    // fixes which; requests stay remembered for late actions.
    bool close_some();

    size_t num_requests() const { return map_.size(); }
    int64_t num_waiting() const { return num_waiting_; }  // candidates
    size_t index_bytes() const { return map_.capacity_bytes() + due_.capacity_bytes(); }
    const Outcome& outcome() const { return outcome_; }
    // Requests that this step changed, null where one was forgotten since, and the ids of stored ones it forgot.
    const std::vector<Request*>& changed() const { return changed_; }
    const std::vector<std::string>& forgotten() const { return forgotten_; }
    // References of stored blocks that forgotten requests gave up.
    const std::vector<uint32_t>& released() const { return released_; }
    void clear_step();

    // Return the request of this id to fill it from the store, then `restored` once all are filled.
    Request& restore(std::string_view id) { return map_.insert(id); }
    void drop(std::string_view id);
    void restored();
    template <typename Visit>
    void for_each(Visit visit) const {
        map_.for_each(visit);
    }

  private:
    bool is_full() const { return outcome_.emissions.size() >= kMaxEmitted || emitted_bytes_ >= kMaxEmittedBytes; }
    void take(Request& request, size_t first_emission);
    void note_change(Request& request);
    void forget(Request& request);

    Outcome outcome_;
    StateMachine machine_;
    RequestMap map_;
    DueTimes due_;
    std::vector<Request*> changed_;
    std::vector<std::string> forgotten_;
    std::vector<uint32_t> released_;
    std::vector<Request*> closing_;  // what `close_some` has yet to close, the last one first
    bool is_closing_ = false;
    int64_t num_waiting_ = 0;
    size_t emitted_bytes_ = 0;  // about, of the step's examples
};

}  // namespace monolith::joiner
