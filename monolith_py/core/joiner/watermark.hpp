// The watermark of one partition: streaming/joiner/watermark.py, whose docstring states its rules.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <optional>
#include <vector>

namespace monolith::joiner {

// The two topics that the joiner reads.
enum InputTopic : uint8_t { kImpressions = 0, kActions = 1 };
constexpr int kNumInputs = 2;

// Longest gap between neighbours in a healthy stream.
constexpr int64_t kMaxJumpMs = int64_t{24} * 3600 * 1000;
// Before every event time.
constexpr int64_t kNeverMs = -(int64_t{1} << 62);
// Records of a topic that tell how far its event time is.
constexpr size_t kRecent = 8;

// The part of a watermark that survives a restart.
struct WatermarkState {
    std::optional<int64_t> watermark_ms;
    std::array<std::optional<int64_t>, kNumInputs> newest_ms;  // event times of the topics
    int64_t newest_at_ms = 0;
    std::array<std::vector<int64_t>, kNumInputs> recent_ms;  // times of the last records
};

class Watermark {
  public:
    // `num_agreeing`: of the last records of a topic, those that must have reached a time before it counts as passed.
    Watermark(int64_t max_out_of_orderness_ms, double idle_timeout_s, size_t num_agreeing, const WatermarkState& state,
              double now_s);
    const WatermarkState& state() const { return state_; }
    // Go on from `state`.
    void restore(const WatermarkState& state) { state_ = state; }

    // Record that a topic had valid records to process after a read.
    void note_read(InputTopic topic, bool has_records, double now_s);
    // Return the event time of a topic, as far as its records before the next one tell; `kNeverMs` at its beginning.
    int64_t clock_ms(InputTopic topic) const { return state_.newest_ms[topic].value_or(kNeverMs); }
    // Return whether a record is too far ahead of its topic to be of a sound clock, unless those behind it agree.
    bool is_jump(InputTopic topic, int64_t time_ms) const {
        return state_.newest_ms[topic] && time_ms > *state_.newest_ms[topic] + kMaxJumpMs;
    }
    // Take the event time of the next record of a topic.
    void observe(InputTopic topic, int64_t time_ms, int64_t wall_ms);
    // Believe that the wall clock is right now, whatever it was at the last advance.
    void forget_wall_clock(int64_t wall_ms) { state_.newest_at_ms = std::min(state_.newest_at_ms, wall_ms); }
    // Move the watermark to `now_s` and return it, nothing before the first event.
    std::optional<int64_t> advance(double now_s);

  private:
    std::optional<int64_t> newest_of_both() const;
    std::optional<int64_t> computed(double now_s) const;

    int64_t max_out_of_orderness_ms_;
    double idle_timeout_s_;
    size_t num_agreeing_;
    WatermarkState state_;
    std::array<std::optional<double>, kNumInputs> empty_since_s_;
};

}  // namespace monolith::joiner
