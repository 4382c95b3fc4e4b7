// A range of history that is joined again: event times, and places in the order (about the time of arrival).
#pragma once

#include <cstdint>

#include "joiner/request.hpp"

namespace monolith::joiner {

// Milliseconds, intervals [from, to).
struct Range {
    int64_t from_ms = 0, to_ms = kForeverMs;  // event times of the impressions whose examples are written
    int64_t actions_from_ms = 0, actions_to_ms = kForeverMs;  // places of the actions that count

    bool has(int64_t time_ms) const { return time_ms >= from_ms && time_ms < to_ms; }
    bool counts_action(int64_t order_ms) const { return order_ms >= actions_from_ms && order_ms < actions_to_ms; }
};

// Numbers of a part of a range.
struct RangeCounts {
    uint64_t requests = 0, impressions = 0, actions = 0;
    uint64_t labelled = 0, retracted = 0, sampled_away = 0;
    uint64_t without_impression = 0, refused = 0;  // actions
    uint64_t too_late = 0;                         // impressions
};

}  // namespace monolith::joiner
