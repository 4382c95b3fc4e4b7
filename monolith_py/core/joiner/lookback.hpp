// The oldest place in the log from which the joiner's state can be built again.
//
// Intervals of steps, each with its first place and the event time at which the last of its requests is forgotten. Once
// the watermark has passed that time, no record before the next interval is needed any more.
#pragma once

#include <algorithm>
#include <cstdint>
#include <deque>
#include <optional>

#include "joiner/watermark.hpp"

namespace monolith::joiner {

// Place from which a joiner without state must read again, so that it sees all records of every request not forgotten.
struct OpenPlace {
    std::array<int64_t, kNumInputs> offsets{};  // of the inputs
    int64_t examples = 0;                       // offset: all examples of these requests are at or after it
    int64_t step = 0;                           // number of the last step before `examples`
};

class Lookback {
  public:
    // The requests open at `place` are needed up to `until_ms`.
    Lookback(const OpenPlace& place, int64_t until_ms, int64_t remembered_ms)
        : intervals_{{place, until_ms, std::nullopt}},
          length_ms_(std::max<int64_t>(remembered_ms / kNumIntervals, 1)) {}

    // Keep the record at `offset` within reach up to the watermark `until_ms`.
    void note(InputTopic topic, int64_t offset, int64_t until_ms) {
        size_t place = intervals_.size() - 1;
        while (place > 0 && offset < intervals_[place].place.offsets[topic]) --place;
        Interval& interval = intervals_[place];
        interval.until_ms = std::max(interval.until_ms, until_ms);
        if (!interval.first_until_ms) interval.first_until_ms = until_ms;
    }

    // Begin an interval at `place`, after a step, if the last one is long; return the place from which to read.
    OpenPlace commit(const OpenPlace& place, std::optional<int64_t> closed_ms) {
        const Interval& last = intervals_.back();
        if (last.first_until_ms && last.until_ms >= *last.first_until_ms + length_ms_)
            intervals_.push_back({place, 0, std::nullopt});
        while (intervals_.size() > 1 && closed_ms && intervals_.front().until_ms <= *closed_ms) intervals_.pop_front();
        return intervals_.front().place;
    }

  private:
    struct Interval {
        OpenPlace place;
        int64_t until_ms;  // the last record in it is needed up to this watermark
        std::optional<int64_t> first_until_ms;
    };
    // Over the time that a request is remembered: a state is built from at most 1/64 more records than needed.
    static constexpr int64_t kNumIntervals = 64;
    std::deque<Interval> intervals_;
    int64_t length_ms_;
};

}  // namespace monolith::joiner
