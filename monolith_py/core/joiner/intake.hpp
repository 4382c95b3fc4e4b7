// Records of both topics that were read ahead, merged by event time as the `Intake` of the reference does
// (tests/unit/streaming/joiner/intake.py).
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <string>

#include "joiner/request.hpp"
#include "joiner/watermark.hpp"

namespace monolith::joiner {

// A record read and checked, and not processed yet.
struct Entry {
    int64_t time_ms = 0;  // event time; of an invalid record that of the record before it
    int64_t offset = 0;
    ImpressionBytes impression;  // of a valid impression
    std::string value;           // of an action, or of an invalid record
    std::string fault;           // reason for refusing an invalid record, else empty
};

// Records behind one that are looked at, and those that must agree with it to a day.
constexpr size_t kBehind = 8, kAgreeing = 3;

// Return whether the records behind one show that its time is not that of its topic. Without `kBehind` of them it is
// believed: the wall clock of a joiner that keeps up tells.
bool is_alone(const std::deque<Entry>& behind, int64_t time_ms);

class Intake {
  public:
    // `num_ahead`: in a backlog a record counts as ahead of its neighbours only if this many behind it show it.
    // `is_replay`: the place of a record depends on those before it and on this many behind it, not on the reads. So a
    // record from a clock that is behind comes when it arrived, as it would have come live.
    Intake(size_t num_ahead, bool is_replay) : num_ahead_(num_ahead), is_replay_(is_replay) {}

    // The next record in the order of event time.
    struct Next {
        InputTopic topic;
        int64_t order_ms;  // its place in the order
        Entry entry;
    };

    // Append records of one topic in the order of their offsets.
    void extend(InputTopic topic, std::deque<Entry> entries);
    void set_backlog(InputTopic topic, bool has_backlog) { buffers_[topic].has_backlog = has_backlog; }
    size_t size(InputTopic topic) const { return buffers_[topic].entries.size(); }
    bool has_valid(InputTopic topic) const { return buffers_[topic].num_valid > 0; }
    // Return the event time of the last record read, 0 without one.
    int64_t last_ms(InputTopic topic) const {
        return buffers_[topic].entries.empty() ? 0 : buffers_[topic].entries.back().time_ms;
    }
    // Return the event time up to which all records were read, as far as the last records of each backlog tell.
    int64_t horizon_ms() const;
    // Return whether the records behind the one taken last show that its time is not that of its topic.
    bool is_alone(InputTopic topic, int64_t time_ms) const {
        return joiner::is_alone(buffers_[topic].entries, time_ms);
    }
    // Take the next record into `next`; false where a topic with a backlog may have an earlier one not read yet.
    bool take(int64_t horizon_ms, Next& next);

  private:
    struct Buffer {
        std::deque<Entry> entries;
        // Oldest event time of each entry and those after it: one with a time ahead of its neighbours must not hold
        // them back.
        std::deque<int64_t> order_ms;
        int64_t taken_ms = 0;      // place of the record taken last, in a replay
        bool has_backlog = false;  // the last read was full: the topic has more
        size_t num_valid = 0;
    };

    void place(Buffer& buffer, size_t first) const;
    bool is_complete(const Buffer& buffer) const { return !buffer.has_backlog || buffer.entries.size() > num_ahead_; }

    size_t num_ahead_;
    bool is_replay_;
    std::array<Buffer, kNumInputs> buffers_;
};

}  // namespace monolith::joiner
