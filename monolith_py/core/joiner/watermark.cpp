#include "joiner/watermark.hpp"

#include <algorithm>

namespace monolith::joiner {

Watermark::Watermark(int64_t max_out_of_orderness_ms, double idle_timeout_s, const WatermarkState& state, double now_s)
    : max_out_of_orderness_ms_(max_out_of_orderness_ms), idle_timeout_s_(idle_timeout_s), empty_since_s_{now_s, now_s} {
    restore(state);
}

void Watermark::restore(const WatermarkState& state) {
    state_ = state;
    newest_ms_.reset();
    for (const auto& newest : state_.newest_ms) newest_ms_ = std::max(newest_ms_, newest);  // nothing is below any time
}

void Watermark::note_read(InputTopic topic, bool has_records, double now_s) {
    if (has_records)
        empty_since_s_[topic].reset();
    else if (!empty_since_s_[topic])
        empty_since_s_[topic] = now_s;
}

std::string Watermark::observe(InputTopic topic, int64_t time_ms, int64_t wall_ms, int64_t limit_ms) {
    const std::optional<int64_t> seen_ms = state_.furthest_seen_ms ? state_.furthest_seen_ms : newest_ms_;
    if (seen_ms && refuses(topic, time_ms, wall_ms, *seen_ms, limit_ms))
        return "time_ms must be at most " + std::to_string(kMaxJumpMs) + " ms ahead of the newest event " +
               std::to_string(*seen_ms) + ", got " + std::to_string(time_ms);
    state_.refusals[topic] = 0;
    time_ms = std::min(time_ms, wall_ms);
    state_.furthest_seen_ms = std::max(seen_ms, std::optional(time_ms));
    time_ms = std::min(time_ms, limit_ms);
    if (!newest_ms_ || time_ms > *newest_ms_) {
        newest_ms_ = time_ms;
        state_.newest_at_ms = wall_ms;
    }
    std::optional<int64_t>& of_topic = state_.newest_ms[topic];
    if (!of_topic || time_ms > *of_topic) of_topic = time_ms;
    return {};
}

// Return whether the time is too far ahead of the records before it, and count it; note one that agrees with them.
bool Watermark::refuses(InputTopic topic, int64_t time_ms, int64_t wall_ms, int64_t seen_ms, int64_t limit_ms) {
    const int64_t furthest_ms = seen_ms + kMaxJumpMs + std::max<int64_t>(0, wall_ms - state_.newest_at_ms);
    const bool has_moved_on = trusts_limits_ && limit_ms > furthest_ms;
    if (time_ms > furthest_ms && !has_moved_on && state_.is_confirmed && state_.refusals[topic] < kMaxRefusals) {
        ++state_.refusals[topic];
        return true;
    }
    state_.is_confirmed |= seen_ms - kMaxJumpMs <= time_ms && time_ms <= furthest_ms;
    return false;
}

std::optional<int64_t> Watermark::advance(double now_s) {
    state_.watermark_ms = std::max(state_.watermark_ms, computed(now_s));
    return state_.watermark_ms;
}

std::optional<int64_t> Watermark::computed(double now_s) const {
    if (!newest_ms_) return std::nullopt;
    std::array<double, kNumInputs> idle_for_s{};
    std::optional<int64_t> oldest_ms;
    bool any_active = false;
    for (int topic = 0; topic < kNumInputs; ++topic) {
        idle_for_s[topic] = empty_since_s_[topic] ? now_s - *empty_since_s_[topic] : 0.0;
        if (!(idle_for_s[topic] < idle_timeout_s_)) continue;
        const std::optional<int64_t>& newest = state_.newest_ms[topic];
        if (!newest) return std::nullopt;
        oldest_ms = any_active ? std::min(oldest_ms, newest) : newest;
        any_active = true;
    }
    if (!any_active) {
        const double idle_s = std::min(idle_for_s[0], idle_for_s[1]);
        return *newest_ms_ + static_cast<int64_t>(idle_s * 1000) - max_out_of_orderness_ms_;
    }
    return *oldest_ms - max_out_of_orderness_ms_;
}

}  // namespace monolith::joiner
