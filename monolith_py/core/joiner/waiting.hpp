// The requests of one partition that wait or are closed, in memory: found by id, closed and forgotten by due time. The
// rules are those of the state machine; the order of results is that of tests/unit/streaming/joiner/request_joiner.py.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "joiner/adoption.hpp"
#include "joiner/closed.hpp"
#include "joiner/due_times.hpp"
#include "joiner/request_map.hpp"
#include "joiner/rules.hpp"

namespace monolith::joiner {

// Most requests that one step closes.
constexpr size_t kMaxClosed = 4096;
// A step that emits this much closes no further request: its records stay in the caches.
constexpr size_t kMaxEmitted = 1 << 13, kMaxEmittedBytes = 32 << 20;

class WaitingRequests {
  public:
    explicit WaitingRequests(const Rules& rules)
        : rules_(rules), machine_(rules, outcome_), closed_(rules.window_ms, rules.allowed_lateness_ms) {}
    WaitingRequests(const WaitingRequests&) = delete;
    WaitingRequests& operator=(const WaitingRequests&) = delete;

    // Process an impression; return false if its request has one already. The offsets of the actions that waited for
    // it are added to `early`.
    bool see_impression(const Impression& impression, const Arrival& arrival, std::vector<int64_t>& early);
    // Process an action; return whether it waits for its impression now, and none like it did before.
    bool see_action(std::string_view request_id, SeenAction seen);
    // Return whether `advance` to `watermark_ms` would change a request.
    bool is_due(int64_t watermark_ms) const { return first_due_ms() <= watermark_ms; }
    // Note that event time has reached `watermark_ms`, unless a request is due at it.
    void reach(std::optional<int64_t> watermark_ms) {
        if (watermark_ms && !is_due(*watermark_ms)) advanced_ms_ = std::max(advanced_ms_, watermark_ms);
    }
    // Return the watermark up to which every due request was processed.
    std::optional<int64_t> advanced_ms() const { return advanced_ms_; }
    void set_advanced_ms(std::optional<int64_t> advanced_ms) { advanced_ms_ = advanced_ms; }
    // Return a time up to which every request with an earlier or equal deadline is closed.
    std::optional<int64_t> closed_ms() const {
        if (!advanced_ms_) return advanced_ms_;
        return std::min(*advanced_ms_, first_due_ms() - 1);
    }
    // Return a watermark at which every request that is remembered now is forgotten.
    int64_t needed_until_ms() const;
    // Advance event time; return whether more requests are due at it than a step may close.
    bool advance(int64_t watermark_ms);
    // Close windows as if their time had passed, as many as a step may; return whether more are left. The first call
    // fixes which; requests stay remembered for late actions. With `refuses_early` actions that wait for their
    // impression are refused as well.
    bool close_some(bool refuses_early);

    // Take over the examples in the log of the requests that are remembered.
    void adopt(const Facts& facts);
    // Process an impression that an earlier run has processed; actions that waited for it still do, until `settle`.
    void recover_impression(const Impression& impression, const Arrival& arrival);
    // Return the requests to settle once all facts were adopted: those closed by `closed_ms`, and those with actions
    // that wait although their impression is here.
    std::vector<std::string> unsettled(int64_t closed_ms) const;
    void settle(const std::string& request_id, int64_t closed_ms);
    // Process an action that an earlier run has processed: the facts say what became of it.
    void recover_action(std::string_view request_id, SeenAction seen);
    bool remembers(std::string_view request_id) const {
        return map_.find(request_id) != nullptr || closed_.has(id_hash(request_id));
    }
    // Return whether the request of this id has its impression.
    bool has_arrived(std::string_view request_id) const {
        const Request* request = map_.find(request_id);
        return request != nullptr ? request->has_arrived() : closed_.has(id_hash(request_id));
    }

    size_t num_requests() const { return map_.size() + closed_.size(); }
    int64_t num_waiting() const { return num_waiting_; }  // candidates
    size_t num_early() const;                             // actions that wait for their impression
    // Return the bytes of memory of all requests, about.
    size_t num_bytes() const {
        return map_.capacity_bytes() + due_.capacity_bytes() + map_.size() * sizeof(Request) + content_bytes_ +
               closed_.num_bytes();
    }
    const Outcome& outcome() const { return outcome_; }
    // Call `supply(emission)` for each emission of the step without its impression; it gives the impression, or returns
    // false to have the emission dropped.
    template <typename Supply>
    void complete(Supply supply) {
        std::erase_if(outcome_.emissions,
                      [&](Emission& emission) { return !emission.impression.is_there() && !supply(emission); });
    }
    // Bound the memory: once half of `max_bytes` is in use, closed requests keep no impression; once all is, no request
    // that a step changes does. The log has the impressions.
    void set_max_bytes(size_t max_bytes) { max_bytes_ = max_bytes; }
    // Requests that this step changed, null where one was forgotten since, and the ids of stored ones it forgot, or the
    // offsets of their impressions.
    const std::vector<Request*>& changed() const { return changed_; }
    const std::vector<std::string>& forgotten() const { return forgotten_; }
    const std::vector<int64_t>& forgotten_offsets() const { return forgotten_offsets_; }
    // References of stored blocks that forgotten requests gave up.
    const std::vector<uint32_t>& released() const { return released_; }
    void clear_step();

    // Return the request of this id to fill it from the store, then `drop_forgotten` and `restored` once all are
    // filled.
    Request& restore(std::string_view id) { return map_.insert(id); }
    void drop(std::string_view id);
    // Drop the requests with an impression at these offsets, each if its state is of an earlier block than the one
    // given with the offset. Pairs of offset and block.
    void drop_forgotten(std::vector<std::pair<int64_t, uint32_t>> offsets);
    void restored();
    // Visit the requests that wait, and closed ones in no particular part.
    template <typename Visit>
    void for_each(Visit visit) const {
        map_.for_each(visit);
    }

  private:
    int64_t first_due_ms() const { return std::min(due_.empty() ? kForeverMs : due_.first_ms(), closed_.first_ms()); }
    // Return the request of this id, null without one; one among the closed is given back. `take` keeps it again.
    Request* find(std::string_view id);
    Request& find_or_insert(std::string_view id);
    Request& give_back(std::string_view id, uint64_t hash);
    bool is_full() const { return outcome_.emissions.size() >= kMaxEmitted || emitted_bytes_ >= kMaxEmittedBytes; }
    void see_arrival(Request& request, const Impression& impression, const Arrival& arrival);
    // Keep the results of a request's step and its next due time; return false if it was forgotten.
    bool take(Request& request, size_t first_emission);
    void drop_impression(Request& request);
    void bound_memory(Request& request);
    void note_change(Request& request);
    void forget(Request& request);
    void forget_closed();
    // Keep a closed request without an impression in few bytes, if it fits.
    void keep_closed(Request& request);

    const Rules& rules_;
    Outcome outcome_;
    StateMachine machine_;
    RequestMap map_;
    DueTimes due_;           // of those in the map
    ClosedRequests closed_;  // those not in the map
    std::vector<Request*> changed_;
    std::vector<std::string> forgotten_;
    std::vector<int64_t> forgotten_offsets_;
    std::vector<uint32_t> released_;
    std::vector<Request*> closing_;  // what `close_some` has yet to close, the last one first
    bool is_closing_ = false;
    int64_t num_waiting_ = 0;
    size_t content_bytes_ = 0;  // of impressions and candidates
    std::optional<int64_t> advanced_ms_;
    size_t emitted_bytes_ = 0;  // about, of the step's examples
    size_t max_bytes_ = SIZE_MAX;
};

}  // namespace monolith::joiner
