// The watermark of one partition: streaming/joiner/watermark.py, whose docstring states its rules.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <optional>
#include <string>

namespace monolith::joiner {

// The two topics that the joiner reads.
enum InputTopic : uint8_t { kImpressions = 0, kActions = 1 };
constexpr int kNumInputs = 2;

// Longest gap between neighbours in a healthy stream.
constexpr int64_t kMaxJumpMs = int64_t{24} * 3600 * 1000;
// More records in a row do not share a broken clock by chance.
constexpr int64_t kMaxRefusals = 3;

// The part of a watermark that survives a restart.
struct WatermarkState {
    std::optional<int64_t> watermark_ms;
    std::array<std::optional<int64_t>, kNumInputs> newest_ms;
    int64_t newest_at_ms = 0;
    std::array<int64_t, kNumInputs> refusals{};
    bool is_confirmed = false;
    std::optional<int64_t> furthest_seen_ms;
};

class Watermark {
  public:
    Watermark(int64_t max_out_of_orderness_ms, double idle_timeout_s, const WatermarkState& state, double now_s);
    const WatermarkState& state() const { return state_; }
    // Go on from `state`.
    void restore(const WatermarkState& state);

    // Record that a topic had valid records to process after a read.
    void note_read(InputTopic topic, bool has_records, double now_s);
    // Advance to the event time of one record, at most to `limit_ms`; return the rule that the time breaks, or "".
    std::string observe(InputTopic topic, int64_t time_ms, int64_t wall_ms, int64_t limit_ms);
    // Believe that the wall clock is right now, whatever it was at the last advance.
    void forget_wall_clock(int64_t wall_ms) { state_.newest_at_ms = std::min(state_.newest_at_ms, wall_ms); }
    // Refuse no record for its time if those behind it show, by the limit, that the stream itself has moved on.
    void trust_limits() { trusts_limits_ = true; }
    // Move the watermark to `now_s` and return it, nothing before the first event.
    std::optional<int64_t> advance(double now_s);

  private:
    bool refuses(InputTopic topic, int64_t time_ms, int64_t wall_ms, int64_t seen_ms, int64_t limit_ms);
    std::optional<int64_t> computed(double now_s) const;

    int64_t max_out_of_orderness_ms_;
    double idle_timeout_s_;
    bool trusts_limits_ = false;
    WatermarkState state_;
    std::array<std::optional<double>, kNumInputs> empty_since_s_;
    std::optional<int64_t> newest_ms_;  // of both topics
};

}  // namespace monolith::joiner
