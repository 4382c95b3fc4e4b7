#include "joiner/intake.hpp"

#include <algorithm>
#include <utility>

namespace monolith::joiner {

void Intake::extend(InputTopic topic, std::deque<Entry> entries) {
    Buffer& buffer = buffers_[topic];
    const size_t before = buffer.order_ms.size();
    if (is_replay_) {
        for (Entry& entry : entries) {
            buffer.num_valid += entry.fault.empty();
            buffer.entries.push_back(std::move(entry));
        }
        place(buffer, before - std::min(before, num_ahead_));
        return;
    }
    int64_t oldest_ms = kForeverMs;
    buffer.order_ms.resize(before + entries.size());
    for (size_t i = entries.size(); i-- > 0;) {
        oldest_ms = std::min(oldest_ms, entries[i].time_ms);
        buffer.order_ms[before + i] = oldest_ms;
        buffer.num_valid += entries[i].fault.empty();
    }
    for (size_t i = before; i-- > 0 && buffer.order_ms[i] > oldest_ms;) buffer.order_ms[i] = oldest_ms;
    for (Entry& entry : entries) buffer.entries.push_back(std::move(entry));
}

// Place the records from `first` on: each at the oldest event time among it and those behind it that is not before the
// place of the one before; there if all are.
void Intake::place(Buffer& buffer, size_t first) const {
    const size_t size = buffer.entries.size();
    buffer.order_ms.resize(size);
    int64_t order_ms = first > 0 ? buffer.order_ms[first - 1] : buffer.taken_ms;
    for (size_t i = first; i < size; ++i) {
        int64_t oldest_ms = kForeverMs;
        for (size_t behind = i; behind < std::min(size, i + 1 + num_ahead_); ++behind)
            if (const int64_t time_ms = buffer.entries[behind].time_ms; time_ms >= order_ms)
                oldest_ms = std::min(oldest_ms, time_ms);
        if (oldest_ms < kForeverMs) order_ms = oldest_ms;
        buffer.order_ms[i] = order_ms;
    }
}

int64_t Intake::horizon_ms() const {
    int64_t horizon_ms = kForeverMs;
    if (is_replay_) return horizon_ms;
    for (const Buffer& buffer : buffers_) {
        if (!buffer.has_backlog || buffer.entries.empty()) continue;
        const size_t back = std::min(buffer.entries.size(), std::max<size_t>(num_ahead_, 1));
        horizon_ms = std::min(horizon_ms, buffer.order_ms[buffer.order_ms.size() - back]);
    }
    return horizon_ms;
}

bool is_alone(const std::deque<Entry>& behind, int64_t time_ms) {
    size_t num_behind = 0, num_agreeing = 0;
    for (const Entry& entry : behind) {
        if (!entry.fault.empty()) continue;
        num_agreeing += entry.time_ms >= time_ms - kMaxJumpMs;
        if (++num_behind == kBehind) return num_agreeing < kAgreeing;
    }
    return false;
}

bool Intake::take(int64_t horizon_ms, Next& next) {
    int first = -1;
    if (is_replay_ && !(is_complete(buffers_[kImpressions]) && is_complete(buffers_[kActions]))) return false;
    for (int topic = 0; topic < kNumInputs; ++topic) {
        if (buffers_[topic].entries.empty()) continue;
        if (first < 0 || buffers_[topic].order_ms.front() < buffers_[first].order_ms.front()) first = topic;
    }
    if (first < 0) return false;
    Buffer& buffer = buffers_[first];
    const int64_t order_ms = buffer.order_ms.front();
    if (order_ms > horizon_ms || !is_complete(buffer)) return false;
    next.topic = static_cast<InputTopic>(first);
    next.order_ms = buffer.taken_ms = order_ms;
    next.entry = std::move(buffer.entries.front());
    buffer.num_valid -= next.entry.fault.empty();
    buffer.entries.pop_front();
    buffer.order_ms.pop_front();
    return true;
}

}  // namespace monolith::joiner
