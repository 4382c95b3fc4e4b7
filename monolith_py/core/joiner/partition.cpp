#include "joiner/partition.hpp"

#include <stdexcept>

namespace monolith::joiner {

namespace {

constexpr const char* kNames[kNumInputs] = {"impression", "action"};

}  // namespace

Partition::Partition(Settings settings, const WatermarkState& watermark, std::array<int64_t, kNumInputs> offsets,
                     double now_s)
    : settings_(std::move(settings)),
      watermark_(settings_.rules.max_out_of_orderness_ms, settings_.idle_timeout_s, settings_.num_agreeing, watermark,
                 now_s),
      offsets_(offsets),
      intake_(settings_.num_ahead, settings_.range.has_value()),
      features_(settings_.widths),
      waiting_(settings_.rules),
      lookback_({offsets}, 0, settings_.rules.window_ms + settings_.rules.allowed_lateness_ms) {
    counts_.by_kind.resize(settings_.rules.kinds.size());
}

void Partition::push(InputTopic topic, const std::vector<std::pair<int64_t, std::string_view>>& records, size_t wanted,
                     int64_t wall_ms, const Judge& judge) {
    std::deque<Entry> entries;
    int64_t before_ms = intake_.last_ms(topic);
    for (const auto& [offset, value] : records) {
        Entry entry = entry_of(topic, value, wall_ms, judge);
        entry.offset = offset;
        if (!entry.fault.empty()) entry.time_ms = before_ms;
        before_ms = entry.time_ms;
        if (!refuses(topic, entry)) entries.push_back(std::move(entry));
    }
    intake_.set_backlog(topic, entries.size() >= wanted);
    intake_.extend(topic, std::move(entries));
}

void Partition::push_damaged(InputTopic topic, int64_t offset, std::string reason, size_t wanted) {
    std::deque<Entry> entries(1);
    entries.front() = {intake_.last_ms(topic), offset, {}, {}, std::move(reason)};
    intake_.set_backlog(topic, wanted <= 1);
    intake_.extend(topic, std::move(entries));
}

// Refuse an invalid record of a replay now; return whether it was.
bool Partition::refuses(InputTopic topic, Entry& entry) {
    if (!settings_.range || entry.fault.empty()) return false;
    refused_.push_back({topic, entry.offset, std::move(entry.value), std::move(entry.fault)});
    return true;
}

// Return whether the core reads the record and finds it valid.
bool Partition::accepts(InputTopic topic, std::string_view value, int64_t wall_ms, int64_t& time_ms) {
    if (topic == kImpressions) {
        if (!read_impression(value, impression_) || !features_.hold(impression_)) return false;
        time_ms = impression_.time_ms;
    } else {
        Action action;
        if (!read_action(value, action)) return false;
        time_ms = action.time_ms;
    }
    const bool is_in_seconds = time_ms >= settings_.not_from_ms && time_ms < settings_.not_to_ms;
    return time_ms <= wall_ms + settings_.max_skew_ms && !is_in_seconds;
}

Entry Partition::entry_of(InputTopic topic, std::string_view value, int64_t wall_ms, const Judge& judge) {
    Entry entry;
    std::string canonical;
    if (!accepts(topic, value, wall_ms, entry.time_ms)) {
        Judgement judgement = judge(value);
        if (!judgement.is_valid) {
            entry.value = value;
            entry.fault = std::move(judgement.text);
            return entry;
        }
        canonical = std::move(judgement.text);
        value = canonical;
        if (!accepts(topic, value, wall_ms, entry.time_ms))
            throw std::logic_error(std::string("the joiner's core must read every valid ") + kNames[topic]);
    }
    if (topic == kImpressions)
        entry.impression = ImpressionBytes(value);
    else
        entry.value = value;
    return entry;
}

std::pair<size_t, bool> Partition::run(double now_s, int64_t wall_ms) {
    std::optional<int64_t> watermark_ms = watermark_.advance(now_s);
    // No record comes between windows that are due and their end, however many a step may close.
    if (watermark_ms && waiting_.is_due(*watermark_ms) && waiting_.advance(*watermark_ms)) return {0, true};
    const int64_t horizon_ms = intake_.horizon_ms();
    size_t num_records = 0;
    Intake::Next next;
    while (intake_.take(horizon_ms, next)) {
        ++num_records;
        order_ms_ = next.order_ms;
        process(next, watermark_ms, wall_ms);
        watermark_ms = watermark_.advance(now_s);
        if (watermark_ms && waiting_.is_due(*watermark_ms) && waiting_.advance(*watermark_ms))
            return {num_records, true};
    }
    watermark_ms = watermark_.advance(now_s);
    return {num_records, watermark_ms && waiting_.advance(*watermark_ms)};
}

void Partition::process(Intake::Next& next, std::optional<int64_t> watermark_ms, int64_t wall_ms) {
    Entry& entry = next.entry;
    offsets_[next.topic] = entry.offset + 1;
    ++counts_.read[next.topic];
    // A record is judged by its topic's time before it: by the log, not by how far the other topic was read.
    const int64_t clock_ms = watermark_.clock_ms(next.topic);
    if (entry.fault.empty()) {
        if (watermark_.is_jump(next.topic, entry.time_ms) && intake_.is_alone(next.topic, entry.time_ms))
            entry.fault = std::string(kNames[next.topic]) + ".time_ms must be at most " + std::to_string(kMaxJumpMs) +
                          " ms ahead of the newest event " + std::to_string(clock_ms) + ", got " +
                          std::to_string(entry.time_ms);
        else
            watermark_.observe(next.topic, entry.time_ms, wall_ms);
    }
    if (!entry.fault.empty()) {
        std::string value =
            entry.impression.is_there() ? std::string(entry.impression.value()) : std::move(entry.value);
        refused_.push_back({next.topic, entry.offset, std::move(value), std::move(entry.fault)});
    } else if (next.topic == kImpressions) {
        see_impression(entry, watermark_ms, clock_ms);
    } else {
        see_action(entry, clock_ms);
    }
}

void Partition::see_impression(Entry& entry, std::optional<int64_t> watermark_ms, int64_t clock_ms) {
    ++counts_.valid_impressions;
    const Rules& rules = settings_.rules;
    const int64_t until_ms = rules.forget_ms(entry.time_ms), deadline_ms = rules.deadline_ms(entry.time_ms);
    lookback_.note(kImpressions, entry.offset, until_ms);
    waiting_.reach(watermark_ms);
    if (!read_impression(entry.impression.value(), impression_))
        throw std::logic_error("an impression was read before");
    // Actions on it may have been refused: by its topic's time, or where that stood still while time went on.
    const bool is_closed = waiting_.advanced_ms() && *waiting_.advanced_ms() >= deadline_ms;
    if ((is_closed || rules.has_passed(clock_ms, deadline_ms)) && !waiting_.has_arrived(impression_.request_id)) {
        too_late_.push_back({kImpressions, entry.offset, std::string(entry.impression.value()), {}});
        return;
    }
    early_.clear();
    const bool is_in_range = settings_.range && settings_.range->has(entry.time_ms);
    range_counts_.impressions += is_in_range;
    const bool is_new = waiting_.see_impression(impression_, {entry.impression, entry.offset, clock_ms}, early_);
    if (!is_new)
        ++counts_.repeated;
    else
        range_counts_.requests += is_in_range;
    if (reports_arrived_ && is_new) arrived_.emplace_back(entry.offset, entry.impression);
    for (int64_t offset : early_) lookback_.note(kActions, offset, until_ms);
}

void Partition::see_action(Entry& entry, int64_t clock_ms) {
    Action action;
    if (!read_action(entry.value, action)) throw std::logic_error("an action was read before");
    // Of any kind: it has a part in the time of its topic.
    lookback_.note(kActions, entry.offset, settings_.rules.expire_ms(action.time_ms, clock_ms));
    const uint32_t kind = settings_.rules.kind_of(action.kind);
    if (kind == kNoKind) {
        ++counts_.unused_kinds;
        return;
    }
    const bool is_positive = action.value > 0;
    if (!is_positive && settings_.rules.kinds[kind].bits) ++counts_.unused_values;
    ++counts_.by_kind[kind];
    range_counts_.actions += settings_.range && settings_.range->counts_action(order_ms_);
    const std::string request_id(action.request_id);
    std::string value = reports_early_ ? entry.value : std::string();
    const int64_t time_ms = action.time_ms;
    const bool waits = waiting_.see_action(request_id, {entry.offset, action.item_id, action.time_ms, kind, is_positive,
                                                        std::move(entry.value), clock_ms, order_ms_, action.value});
    if (reports_early_ && waits) early_actions_.push_back({request_id, time_ms, std::move(value)});
}

void Partition::report_early(bool waiting) {
    reports_early_ = true;
    if (!waiting) return;
    waiting_.for_each([&](const Request& request) {
        if (request.num_early() == 0) return;
        for (const SeenAction& seen : request.actions->early)
            early_actions_.push_back({request.id, seen.time_ms, seen.value});
    });
}

void Partition::resume(const std::array<int64_t, kNumInputs>& offsets, const WatermarkState& watermark,
                       std::optional<int64_t> advanced_ms, const OpenPlace& open) {
    offsets_ = offsets;
    watermark_.restore(watermark);
    waiting_.set_advanced_ms(advanced_ms);
    const int64_t remembered_ms = settings_.rules.window_ms + settings_.rules.allowed_lateness_ms;
    lookback_ = Lookback(open, waiting_.needed_until_ms(), remembered_ms);
}

OpenPlace Partition::end_step(int64_t examples_end, int64_t step) {
    return lookback_.commit({offsets_, examples_end, step}, waiting_.closed_ms());
}

bool Partition::settle_some(size_t num) {
    if (!unsettled_) unsettled_ = waiting_.unsettled(reached_ms_);
    for (; num > 0 && !unsettled_->empty(); --num) {
        waiting_.settle(unsettled_->back(), reached_ms_);
        unsettled_->pop_back();
    }
    if (!unsettled_->empty()) return true;
    unsettled_.reset();
    return false;
}

void Partition::recover(InputTopic topic, const std::vector<std::pair<int64_t, std::string_view>>& records,
                        int64_t wall_ms, const Judge& judge) {
    std::deque<Entry> entries;
    for (const auto& [offset, value] : records) {
        Entry entry = entry_of(topic, value, wall_ms, judge);
        if (!entry.fault.empty()) continue;  // a dead letter already
        entry.offset = offset;
        entries.push_back(std::move(entry));
    }
    while (!entries.empty()) {
        Entry entry = std::move(entries.front());
        entries.pop_front();
        const bool is_jump = watermark_.is_jump(topic, entry.time_ms);
        if (is_jump && is_alone(entries, entry.time_ms)) continue;  // as well
        const int64_t clock_ms = watermark_.clock_ms(topic);
        // A clock ahead, which was refused but does not show here: its topic never had this time.
        const std::optional<int64_t>& newest_ms = reached_newest_ms_[topic];
        if (newest_ms && (entry.time_ms <= *newest_ms || !is_jump))
            watermark_.observe(topic, std::min(entry.time_ms, *newest_ms), wall_ms);
        if (topic == kImpressions)
            recover_impression(entry, clock_ms);
        else
            recover_action(entry, clock_ms);
    }
}

void Partition::recover_impression(const Entry& entry, int64_t clock_ms) {
    const Rules& rules = settings_.rules;
    if (rules.forget_ms(entry.time_ms) <= reached_ms_) return;
    if (!read_impression(entry.impression.value(), impression_))
        throw std::logic_error("an impression was read before");
    if (rules.has_passed(clock_ms, rules.deadline_ms(entry.time_ms))) return;  // too late, or a copy
    waiting_.recover_impression(impression_, {entry.impression, entry.offset, clock_ms});
}

void Partition::recover_action(Entry& entry, int64_t clock_ms) {
    Action action;
    if (!read_action(entry.value, action)) throw std::logic_error("an action was read before");
    const uint32_t kind = settings_.rules.kind_of(action.kind);
    const bool is_expired = settings_.rules.expire_ms(action.time_ms, clock_ms) <= reached_ms_;
    if (kind == kNoKind || (is_expired && !waiting_.remembers(action.request_id))) return;
    const std::string request_id(action.request_id);
    waiting_.recover_action(request_id, {entry.offset, action.item_id, action.time_ms, kind, action.value > 0,
                                         std::move(entry.value), clock_ms});
}

void Partition::clear_step() {
    blocks_.stored(waiting_);
    waiting_.clear_step();
    refused_.clear();
    too_late_.clear();
    early_actions_.clear();
    arrived_.clear();
}

Counts Partition::take_counts() {
    Counts counts = std::move(counts_);
    counts_ = {};
    counts_.by_kind.resize(settings_.rules.kinds.size());
    return counts;
}

RangeCounts Partition::take_range_counts() {
    RangeCounts counts = std::exchange(range_counts_, {});
    const Range range = settings_.range.value_or(Range{});
    for (const Emission& emission : waiting_.outcome().emissions) {
        if (!range.has(emission.time_ms)) continue;
        counts.labelled += emission.kind == Emission::kLabelled;
        counts.retracted += emission.kind == Emission::kRetraction;
        counts.sampled_away += emission.kind == Emission::kSampledAway;
    }
    for (const RefusedAction& action : waiting_.outcome().refused) {
        if (!range.counts_action(action.seen.order_ms)) continue;
        ++(action.reason == Reason::kNoImpression ? counts.without_impression : counts.refused);
    }
    for (const RefusedRecord& record : too_late_)
        counts.too_late += read_impression(record.value, impression_) && range.has(impression_.time_ms);
    return counts;
}

}  // namespace monolith::joiner
