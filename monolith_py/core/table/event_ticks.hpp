// Event time in 16-bit ticks, relative to a base that moves forward.
#pragma once

#include <algorithm>
#include <cstdint>

#include "bytes/archive.hpp"
#include "index/id_map.hpp"

namespace monolith {

class EventTicks {
  public:
    explicit EventTicks(int64_t ttl_s)
        : tick_s_(ttl_s > 0 ? std::max<int64_t>(1, (ttl_s + kTicksPerTtl - 1) / kTicksPerTtl) : kFreeTick) {}

    // Ticks since the base. When they exceed 16 bits, the base moves forward and the entries of `map` with it; an entry
    // before the new base stays at 0: long expired. Changes the map, so it needs the table exclusively.
    uint16_t tick(int64_t now_s, const IdMap& map) {
        if (!has_base_) {
            base_ = now_s / tick_s_ - kBaseAge;
            has_base_ = true;
        }
        int64_t ticks = now_s / tick_s_ - base_;
        if (ticks > 0xFFFF) {
            const int64_t shift = ticks - 0x8000;
            map.for_each(
                [&](Slot slot) { slot.seen() = static_cast<uint16_t>(std::max<int64_t>(0, slot.seen() - shift)); });
            base_ += shift;
            ticks -= shift;
        }
        return static_cast<uint16_t>(std::max<int64_t>(ticks, 0));
    }
    // Number of ticks in a time to live.
    int64_t span(int64_t ttl_s) const { return (ttl_s + tick_s_ - 1) / tick_s_; }
    int64_t seconds(int64_t ticks) const { return ticks * tick_s_; }

    // Conversion between absolute ticks, used by snapshots, and ticks since the base.
    int64_t absolute(uint16_t seen) const { return base_ + seen; }
    uint16_t relative(int64_t absolute) const {
        return static_cast<uint16_t>(std::clamp<int64_t>(absolute - base_, 0, 0xFFFF));
    }

    void write(Writer& out) const { out.fields(base_, has_base_); }
    // Restore the base of a snapshot; entries of `map` keep their time.
    void read(Reader& in, const IdMap& map) {
        const int64_t old_base = base_;
        in.fields(base_, has_base_);
        map.for_each([&](Slot slot) { slot.seen() = relative(old_base + slot.seen()); });
    }

  private:
    static constexpr int64_t kTicksPerTtl = 1000;
    static constexpr int64_t kFreeTick = 10;   // seconds, used without a TTL
    static constexpr int64_t kBaseAge = 4096;  // ticks that an event may lie before the first one

    int64_t tick_s_;
    int64_t base_ = 0;
    bool has_base_ = false;
};

}  // namespace monolith
