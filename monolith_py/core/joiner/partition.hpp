// The joiner of one partition: records in, examples and refused records out. No I/O and no clock. The order of its
// steps is that of streaming/joiner/loop.py.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "joiner/blocks.hpp"
#include "joiner/impression.hpp"
#include "joiner/intake.hpp"
#include "joiner/lookback.hpp"
#include "joiner/range.hpp"
#include "joiner/waiting.hpp"
#include "joiner/watermark.hpp"

namespace monolith::joiner {

// Settings of a partition's joiner. A valid event time is at most `max_skew_ms` ahead of the wall clock and not in
// [not_from_ms, not_to_ms): times of today in seconds.
struct Settings {
    Rules rules;
    Widths widths;
    size_t num_ahead = 0;     // of `Intake`
    size_t num_agreeing = 1;  // of `Watermark`
    double idle_timeout_s = 0;
    int64_t max_skew_ms = 0;
    int64_t not_from_ms = 0, not_to_ms = 0;
    // Of a replay: both topics are read to their ends, and invalid records are refused as they are read.
    std::optional<Range> range;
};

// Decision of the Python codec on a record that the core leaves to it.
struct Judgement {
    bool is_valid;
    std::string text;  // the record in the form that the core reads, or the reason for refusing it
};
using Judge = std::function<Judgement(std::string_view value)>;

// A record refused before it reached its request.
struct RefusedRecord {
    InputTopic topic;
    int64_t offset;
    std::string value;
    std::string reason;
};

// An action that waits for its impression.
struct EarlyAction {
    std::string request_id;
    int64_t time_ms;
    std::string value;
};

// Numbers of a step.
struct Counts {
    std::array<uint64_t, kNumInputs> read{};
    uint64_t unused_kinds = 0;
    uint64_t unused_values = 0;
    uint64_t repeated = 0;           // impressions
    uint64_t valid_impressions = 0;  // as the census counts them
    std::vector<uint64_t> by_kind;   // actions, by index in `Rules::kinds`
};

class Partition {
  public:
    Partition(Settings settings, const WatermarkState& watermark, std::array<int64_t, kNumInputs> offsets,
              double now_s);

    // Read ahead: append records of a topic. `wanted`: the number asked for; fewer mean that the topic has no more.
    void push(InputTopic topic, const std::vector<std::pair<int64_t, std::string_view>>& records, size_t wanted,
              int64_t wall_ms, const Judge& judge);
    // Append one record that cannot be read, for `reason`.
    void push_damaged(InputTopic topic, int64_t offset, std::string reason, size_t wanted);
    void note_read(InputTopic topic, double now_s) { watermark_.note_read(topic, intake_.has_valid(topic), now_s); }
    // Records lost: read on at `offset`.
    void skip_to(InputTopic topic, int64_t offset) {
        if (intake_.size(topic) == 0) offsets_[topic] = offset;
    }
    size_t num_read_ahead(InputTopic topic) const { return intake_.size(topic); }

    // Go on from here with the requests that are remembered now; what was read ahead must be none.
    void resume(const std::array<int64_t, kNumInputs>& offsets, const WatermarkState& watermark,
                std::optional<int64_t> advanced_ms, const OpenPlace& open);
    void forget_wall_clock(int64_t wall_ms) { watermark_.forget_wall_clock(wall_ms); }
    // Note that every request due by the watermark was processed, if none is left.
    void reach() { waiting_.reach(watermark_.state().watermark_ms); }
    // Note the end of a step: the number of the last step in the log and the end of the examples. Returns the place
    // from which a state must be built again.
    OpenPlace end_step(int64_t examples_end, int64_t step);

    // Begin a recovery: `recover` impressions, `adopt` all facts in parts, `settle_some` until none is left, `recover`
    // actions.
    // The joiner before had processed every due request up to `reached_ms`, and its topics had come to `newest_ms`.
    void begin_recovery(int64_t reached_ms, const std::array<std::optional<int64_t>, kNumInputs>& newest_ms) {
        reached_ms_ = reached_ms;
        reached_newest_ms_ = newest_ms;
    }
    void adopt(const Facts& facts) { waiting_.adopt(facts); }
    // Settle up to `num` requests; return whether more are left.
    bool settle_some(size_t num);
    // Process records that an earlier run has processed.
    void recover(InputTopic topic, const std::vector<std::pair<int64_t, std::string_view>>& records, int64_t wall_ms,
                 const Judge& judge);

    // Process the records read ahead and close windows; return their number, and whether more windows are due.
    std::pair<size_t, bool> run(double now_s, int64_t wall_ms);
    bool close_some(bool refuses_early) { return waiting_.close_some(refuses_early); }
    // Return the offsets of the impressions that emissions of this step lack, in order; `with_sampled_away`: those of
    // negatives that were sampled away too.
    std::vector<int64_t> lacking(bool with_sampled_away) const;
    // Give the emissions their impressions as read again from the log, and drop those whose impression is none of them
    // or not valid; return the offsets of the impressions that examples were dropped for.
    std::vector<int64_t> supply(const std::vector<std::pair<int64_t, std::string_view>>& records, const Judge& judge);
    void set_max_bytes(size_t max_bytes) { waiting_.set_max_bytes(max_bytes); }

    const Settings& settings() const { return settings_; }
    const WaitingRequests& waiting() const { return waiting_; }
    const WatermarkState& watermark() const { return watermark_.state(); }
    const std::array<int64_t, kNumInputs>& offsets() const { return offsets_; }
    const std::vector<RefusedRecord>& refused() const { return refused_; }
    const std::vector<RefusedRecord>& too_late() const { return too_late_; }
    // Report the actions that begin to wait for their impression, and those that wait now if `waiting`.
    void report_early(bool waiting);
    const std::vector<EarlyAction>& early_actions() const { return early_actions_; }
    // Report the impressions of new requests from now on.
    void report_arrived() { reports_arrived_ = true; }
    // Return offset and bytes of the impressions of the requests that are new in this step, in order.
    const std::vector<std::pair<int64_t, ImpressionBytes>>& arrived() const { return arrived_; }
    // Return the numbers since the last call.
    Counts take_counts();
    // Return the numbers of the range since the last call, those of the open step included: call it once a step.
    RangeCounts take_range_counts();
    bool has_changes() const {
        return !waiting_.changed().empty() || !waiting_.forgotten().empty() || !waiting_.forgotten_offsets().empty() ||
               !too_late_.empty() || !early_actions_.empty();
    }
    Blocks::Changes changes() { return blocks_.changes(waiting_, settings_.rules); }
    void clear_step();
    void restore_block(uint32_t number, std::string_view value) {
        blocks_.restore(number, value, settings_.rules, waiting_);
    }
    void restored() { blocks_.restored(waiting_); }

  private:
    bool refuses(InputTopic topic, Entry& entry);
    bool accepts(InputTopic topic, std::string_view value, int64_t wall_ms, int64_t& time_ms);
    Entry entry_of(InputTopic topic, std::string_view value, int64_t wall_ms, const Judge& judge);
    void process(Intake::Next& next, std::optional<int64_t> watermark_ms, int64_t wall_ms);
    void see_impression(Entry& entry, std::optional<int64_t> watermark_ms, int64_t clock_ms);
    void see_action(Entry& entry, int64_t clock_ms);
    void recover_impression(const Entry& entry, int64_t clock_ms);
    void recover_action(Entry& entry, int64_t clock_ms);

    Settings settings_;
    Watermark watermark_;
    std::array<int64_t, kNumInputs> offsets_;  // to read on from after the records processed
    Intake intake_;
    FeatureRules features_;
    WaitingRequests waiting_;
    Blocks blocks_;
    Lookback lookback_;
    int64_t reached_ms_ = 0;  // of a recovery
    std::array<std::optional<int64_t>, kNumInputs> reached_newest_ms_;
    std::optional<std::vector<std::string>> unsettled_;
    std::vector<int64_t> early_;  // offsets of the actions that waited for an impression
    std::vector<RefusedRecord> refused_, too_late_;
    bool reports_early_ = false;
    std::vector<EarlyAction> early_actions_;  // of this step
    bool reports_arrived_ = false;
    std::vector<std::pair<int64_t, ImpressionBytes>> arrived_;  // of this step
    Counts counts_;
    RangeCounts range_counts_;
    int64_t order_ms_ = 0;   // of the record that is processed
    Impression impression_;  // keeps its memory
};

}  // namespace monolith::joiner
