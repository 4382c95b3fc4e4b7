// Event time in 16-bit ticks, relative to a base that follows the time of the batches.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <optional>

#include "index/id_map.hpp"
#include "kernels/settings.hpp"

namespace monolith {

class EventTicks {
  public:
    explicit EventTicks(int64_t ttl_s) : tick_s_(step_s(ttl_s)) {}

    // Take the time of a batch; returns its tick. A time more than `reach_` ticks (at first 4 times the TTL) from the
    // last batch's is not believed until kFarBatches batches in a row are that far on the same side: until then it
    // counts as the nearest time in reach. So one batch with a wrong time ages no row. Time may go back. Changes the
    // map, so it needs the table exclusively.
    uint16_t take(int64_t now_s, const IdMap& map) {
        const int64_t now = floor_div(now_s, tick_s_);
        if (!has_base_) {
            base_ = now - kBaseAge;
            has_base_ = true;
        }
        const int64_t ticks = now - base_;
        const bool is_near = has_clock_ ? std::abs(ticks - clock_) <= reach_ : ticks >= 0 && ticks <= 0xFFFF;
        if (!is_near && !is_confirmed(ticks > clock_)) return in_reach(ticks);
        // Batches may be that far apart: the next one is believed at once.
        if (!is_near && has_clock_ && ticks > clock_) reach_ = std::min(2 * (ticks - clock_), kMostReach);
        num_far_ = 0;
        clock_ = ticks;
        has_clock_ = true;
        if (!is_near || ticks < 0 || ticks > 0xFFFF - kReach) move_base(map, is_near ? 0xFFFF : kClockAfterMove);
        return static_cast<uint16_t>(clock_);
    }
    // Ticks since the base of a time that expires rows; the table's time stays.
    int64_t expiry(int64_t now_s) const {
        const int64_t ticks = floor_div(now_s, tick_s_) - base_;
        return has_clock_ ? std::min(ticks, clock_ + reach_) : ticks;
    }
    bool has_base() const { return has_base_; }
    // Number of ticks in a time to live.
    int64_t span(int64_t ttl_s) const { return (ttl_s + tick_s_ - 1) / tick_s_; }
    int64_t seconds(int64_t ticks) const { return ticks * tick_s_; }

    // Conversion between absolute ticks, used by snapshots, and ticks since the base.
    int64_t absolute(uint16_t seen) const { return base_ + seen; }
    uint16_t relative(int64_t absolute) const {
        return static_cast<uint16_t>(std::clamp<int64_t>(absolute - base_, 0, 0xFFFF));
    }
    // Tick of a time in seconds, within the reach of 16 bits.
    uint16_t tick_of(int64_t seen_s) const { return relative(floor_div(seen_s, tick_s_)); }
    // Absolute ticks of `step_s` seconds in ticks of this table: its TTL may differ from that of a snapshot.
    int64_t converted(int64_t absolute, int64_t step_s) const {
        return step_s == tick_s_ ? absolute : floor_div(absolute * step_s, tick_s_);
    }

    // Base of event times, in ticks since the epoch.
    struct Base {
        int64_t ticks = 0;
        bool is_set = false;
    };
    Base base() const { return {base_, has_base_}; }
    // Restore the base of a snapshot; entries of `map` keep their time. `newest`: time of the newest entry of a
    // snapshot with other ticks. In shorter ticks its base may be too far back for 16 bits.
    void restore(Base base, const IdMap& map, std::optional<int64_t> newest) {
        const int64_t old_base = base_;
        base_ = newest ? *newest - kClockAfterMove : base.ticks;
        has_base_ = base.is_set;
        has_clock_ = false;
        map.for_each([&](Slot slot) { slot.seen() = relative(old_base + slot.seen()); });
    }

    // Whether ticks of `step_s` seconds are a time that a table may have: beyond, sums of times could overflow.
    static bool is_time(int64_t absolute, int64_t step_s) {
        const int64_t most = kMostSeconds / step_s + 2 * 0xFFFF;
        return absolute >= -most && absolute <= most;
    }

    // Seconds of a tick: a thousandth of the TTL.
    static int64_t step_s(int64_t ttl_s) {
        return ttl_s > 0 ? std::max<int64_t>(1, ttl_s / kTicksPerTtl + (ttl_s % kTicksPerTtl > 0)) : kFreeTick;
    }

  private:
    static constexpr int64_t kTicksPerTtl = 1000;
    static constexpr int64_t kFreeTick = 10;   // seconds, used without a TTL
    static constexpr int64_t kBaseAge = 4096;  // ticks that an event may lie before the first one
    static constexpr int64_t kReach = 4096, kMostReach = 1 << 20;
    static constexpr int kFarBatches = 3;
    static constexpr int64_t kClockAfterMove = 0x8000;

    static int64_t floor_div(int64_t value, int64_t step) { return value / step - (value % step < 0); }

    bool is_confirmed(bool is_ahead) {
        num_far_ = num_far_ > 0 && is_ahead == is_ahead_ ? num_far_ + 1 : 1;
        is_ahead_ = is_ahead;
        return num_far_ >= kFarBatches;
    }
    uint16_t in_reach(int64_t ticks) const {
        if (has_clock_) ticks = std::clamp(ticks, clock_ - reach_, clock_ + reach_);
        return static_cast<uint16_t>(std::clamp<int64_t>(ticks, 0, 0xFFFF));
    }
    // Move the base so that the clock is at kClockAfterMove. Entries move with it: one before the new base stays at 0,
    // long expired; none comes after `latest`.
    void move_base(const IdMap& map, int64_t latest) {
        const int64_t shift = clock_ - kClockAfterMove;
        map.for_each([&](Slot slot) {
            slot.seen() = static_cast<uint16_t>(std::clamp<int64_t>(slot.seen() - shift, 0, latest));
        });
        base_ += shift;
        clock_ = kClockAfterMove;
    }

    int64_t tick_s_;
    int64_t base_ = 0;
    bool has_base_ = false;
    // Not in snapshots: the next batch after a restore is near if it is within 16 bits of the base.
    bool has_clock_ = false;
    int64_t clock_ = 0;  // ticks of the last believed batch
    int64_t reach_ = kReach;
    int num_far_ = 0;        // batches in a row that were not believed
    bool is_ahead_ = false;  // their side
};

}  // namespace monolith
