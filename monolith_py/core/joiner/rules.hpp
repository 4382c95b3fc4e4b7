// The state machine of one request: the rules of streaming/joiner/rules.py, whose docstring states them.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "joiner/labels.hpp"
#include "joiner/negative_rates.hpp"
#include "joiner/request.hpp"

namespace monolith::joiner {

// Most actions that wait for the impression of their request: MAX_EARLY of rules.py.
constexpr size_t kMaxEarly = 256;

// Effect of a kind of action.
struct Kind {
    std::string name;
    uint64_t bits = 0;  // places of the labels that it makes positive
    bool is_terminal = false;
    bool closes_request = false;
};

// Joining rules of a job, times in milliseconds.
struct Rules {
    std::vector<std::string> tasks;
    LabelLayout labels;  // of the tasks
    std::vector<Kind> kinds;
    bool emits_requests = false;
    bool waits_for_window = false;  // emits no request before its deadline
    bool retracts = true;
    int64_t window_ms = 0;
    int64_t allowed_lateness_ms = 0;
    int64_t max_out_of_orderness_ms = 0;
    NegativeRates negative_rates;

    // Return the index of a kind of action that can make a label or end a wait, else kNoKind.
    uint32_t kind_of(std::string_view name) const;
    int64_t deadline_ms(int64_t time_ms) const { return time_ms + window_ms; }
    int64_t forget_ms(int64_t time_ms) const { return deadline_ms(time_ms) + allowed_lateness_ms; }
    // An action waits from its time on, or from that of its topic before it if it came late.
    int64_t expire_ms(int64_t time_ms, int64_t clock_ms) const {
        return std::max(time_ms, clock_ms) + window_ms + max_out_of_orderness_ms;
    }
    int64_t expire_ms(const SeenAction& seen) const { return expire_ms(seen.time_ms, seen.clock_ms); }
    // Return whether a topic with this event time has passed `time_ms`.
    bool has_passed(int64_t clock_ms, int64_t time_ms) const { return clock_ms - max_out_of_orderness_ms >= time_ms; }
};

// Return whether sampling at `rate` keeps the negative of this candidate: `is_kept` of streaming/joiner/sampling.py.
bool is_kept(std::string_view request_id, int64_t item_id, double rate);

// The steps of the state machine; their results go to the outcome.
class StateMachine {
  public:
    StateMachine(const Rules& rules, Outcome& outcome) : rules_(rules), outcome_(outcome) {}
    // Process the impression of a request without one, then the actions that waited for it.
    void see_impression(Request& request, const Impression& impression, const Arrival& arrival);
    // Process an action of a kind of the rules.
    void see_action(Request& request, SeenAction seen);
    // Close the window, or refuse actions that waited too long for their impression.
    void advance(Request& request, int64_t watermark_ms);
    // Return the watermark at which `advance` has an effect or the request can be forgotten, kForeverMs for a request
    // without any state.
    int64_t due_ms(const Request& request) const;
    // Return whether the request may still emit an example.
    bool can_emit(const Request& request) const;

  private:
    void keep_early(Request& request, SeenAction seen);
    void see_on_candidate(Request& request, uint32_t row, SeenAction seen);
    void keep_late(Request& request, uint32_t row, SeenAction seen);
    void emit_all(Request& request, int64_t known_ms);
    void emit(Request& request, uint32_t row, int64_t known_ms);
    void see_late(Request& request, uint32_t row, SeenAction seen);
    bool is_late(const Request& request, const SeenAction& seen) const {
        return seen.time_ms >= request.deadline_ms || rules_.has_passed(seen.clock_ms, request.deadline_ms);
    }
    void refuse(const Request& request, SeenAction seen, Reason reason);
    // Keep the rates of an impression's candidates: later its features may be in the log alone.
    void keep_rates(Request& request, const Impression& impression);
    double rate_of(const Request& request, uint32_t row) const {
        return request.rates ? request.rates[row] : rules_.negative_rates.default_rate();
    }
    uint64_t bits_of(const SeenAction& seen) const {
        if (!seen.is_positive || seen.kind == kNoKind) return 0;
        return rules_.labels.of_value(rules_.kinds[seen.kind].bits, seen.number);
    }
    bool is_terminal(const SeenAction& seen) const {
        return seen.kind != kNoKind && rules_.kinds[seen.kind].is_terminal;
    }
    bool closes_request(const SeenAction& seen) const {
        return seen.kind != kNoKind && rules_.kinds[seen.kind].closes_request;
    }

    const Rules& rules_;
    Outcome& outcome_;
    std::vector<double> rates_;  // keeps its memory
};

}  // namespace monolith::joiner
