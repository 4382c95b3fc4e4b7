#include "joiner/watermark.hpp"

#include <algorithm>
#include <functional>

namespace monolith::joiner {

Watermark::Watermark(int64_t max_out_of_orderness_ms, double idle_timeout_s, size_t num_agreeing,
                     const WatermarkState& state, double now_s)
    : max_out_of_orderness_ms_(max_out_of_orderness_ms),
      idle_timeout_s_(idle_timeout_s),
      num_agreeing_(num_agreeing),
      state_(state),
      empty_since_s_{now_s, now_s} {}

void Watermark::note_read(InputTopic topic, bool has_records, double now_s) {
    if (has_records)
        empty_since_s_[topic].reset();
    else if (!empty_since_s_[topic])
        empty_since_s_[topic] = now_s;
}

void Watermark::observe(InputTopic topic, int64_t time_ms, int64_t wall_ms) {
    std::vector<int64_t>& recent = state_.recent_ms[topic];
    if (recent.size() >= kRecent) recent.erase(recent.begin());
    recent.push_back(time_ms);
    const int64_t before_ms = clock_ms(topic);
    if (time_ms <= before_ms) return;
    size_t num_ahead = 0;
    int64_t agreed_ms = time_ms;  // the oldest of those that are ahead
    for (const int64_t recent_ms : recent) {
        num_ahead += recent_ms > before_ms;
        if (recent_ms > before_ms) agreed_ms = std::min(agreed_ms, recent_ms);
    }
    if (num_ahead < num_agreeing_) return;
    if (num_ahead > num_agreeing_) {
        std::array<int64_t, kRecent> sorted{};
        const auto end = std::copy(recent.begin(), recent.end(), sorted.begin());
        const auto place = sorted.begin() + static_cast<std::ptrdiff_t>(num_agreeing_ - 1);
        std::nth_element(sorted.begin(), place, end, std::greater<>());
        agreed_ms = *place;
    }
    state_.newest_ms[topic] = agreed_ms;
    state_.newest_at_ms = wall_ms;
}

std::optional<int64_t> Watermark::advance(double now_s) {
    state_.watermark_ms = std::max(state_.watermark_ms, computed(now_s));
    return state_.watermark_ms;
}

// Return the event time of the newest record, at most the wall clock at it; of a topic whose records do not agree yet,
// of the oldest.
std::optional<int64_t> Watermark::newest_of_both() const {
    std::optional<int64_t> newest_ms;
    for (int topic = 0; topic < kNumInputs; ++topic) {
        const std::vector<int64_t>& recent = state_.recent_ms[topic];
        std::optional<int64_t> of_topic = state_.newest_ms[topic];
        if (!recent.empty()) {
            const auto [oldest, newest] = std::minmax_element(recent.begin(), recent.end());
            of_topic = of_topic ? std::max(*of_topic, std::min(*newest, state_.newest_at_ms)) : *oldest;
        }
        newest_ms = std::max(newest_ms, of_topic);  // nothing is below any time
    }
    return newest_ms;
}

std::optional<int64_t> Watermark::computed(double now_s) const {
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
        const std::optional<int64_t> newest_ms = newest_of_both();
        if (!newest_ms) return std::nullopt;
        const double idle_s = std::min(idle_for_s[0], idle_for_s[1]);
        return *newest_ms + static_cast<int64_t>(idle_s * 1000) - max_out_of_orderness_ms_;
    }
    return *oldest_ms - max_out_of_orderness_ms_;
}

}  // namespace monolith::joiner
