// Eviction by age (TTL) and by memory budget. Both sweep the id map in pieces and continue where the last sweep ended.
// Every call needs the table exclusively.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <optional>
#include <vector>

#include "table/table_content.hpp"

namespace monolith {

enum class Visit { kContinue, kStop };

// Position of a sweep in an id map.
class Cursor {
  public:
    Cursor() = default;
    // Start at a bucket chosen by `bits`.
    Cursor(const IdMap& map, uint64_t bits)
        : shard_(bits % map.num_shards()), bucket_((bits >> 16) % map.shard(shard_).num_buckets) {}

    // Visit the entries of up to `num_slots` slots from here on; kStop ends the sweep.
    template <typename F>
    void sweep(const IdMap& map, size_t num_slots, F&& visit) {
        for (size_t slots = 0; slots < num_slots; slots += kSlotsPerBucket) {
            if (shard_ >= map.num_shards()) *this = {};
            const Shard& shard = map.shard(shard_);
            if (bucket_ >= shard.num_buckets) {
                ++shard_;
                bucket_ = 0;
                slots -= kSlotsPerBucket;
                continue;
            }
            Bucket* bucket = &shard.buckets[bucket_++];
            for (int i = 0; i < kSlotsPerBucket; ++i)
                if (bucket->rows[i] != kNoRow && visit(Slot{bucket, i}) == Visit::kStop) return;
        }
    }

  private:
    size_t shard_ = 0, bucket_ = 0;
};

// Erase an entry; count it as evicted if it has a row.
inline void evict(TableContent& content, Slot slot) {
    const bool has_row = slot.row() != kCandidate;
    content.erase_entry(slot);
    content.counts.evicted += has_row;
}

class TtlEvictor {
  public:
    explicit TtlEvictor(TableContent& content) : content_(content) {}

    // Evict entries not seen for more than ttl_s at tick `now`; returns the fids that had rows, sorted. `max_slots`:
    // slots to look at, continuing from the last call; 0: all.
    std::vector<int64_t> evict_expired(int64_t now, size_t max_slots) {
        std::vector<int64_t> evicted;
        const int64_t oldest = now - content_.ticks.span(content_.settings.ttl_s);
        const size_t all = content_.map.capacity();
        cursor_.sweep(content_.map, max_slots == 0 ? all : std::min(max_slots, all), [&](Slot slot) {
            if (slot.seen() >= oldest) return Visit::kContinue;
            if (slot.row() != kCandidate) evicted.push_back(slot.key());
            evict(content_, slot);
            return Visit::kContinue;
        });
        std::sort(evicted.begin(), evicted.end());
        return evicted;
    }

  private:
    TableContent& content_;
    Cursor cursor_;
};

class BudgetEvictor {
  public:
    explicit BudgetEvictor(TableContent& content) : content_(content) {}

    // Evict by priority until the table is within its budget. Entries seen before tick `now` go first, then all: a tick
    // of a long time to live takes an hour, and without times there is only one. A sample of entries estimates the
    // priority threshold; the sweep continues from the last one's end.
    void shrink(uint16_t now) {
        const double budget = static_cast<double>(content_.settings.budget_bytes);
        if (content_.used_bytes() > budget) shrink(now, budget * (1 - 1.0 / 256));
    }
    void shrink(uint16_t now, double target) {
        for (const uint32_t before : {uint32_t{now}, kEver})
            for (int round = 0; round < 8 && content_.used_bytes() > target; ++round) {
                const std::optional<double> threshold = threshold_of(now, before, target);
                if (!threshold) break;
                cursor_.sweep(content_.map, content_.map.capacity(), [&](Slot slot) {
                    if (slot.seen() < before && priority(slot, now) <= *threshold) evict(content_, slot);
                    return content_.used_bytes() > target ? Visit::kContinue : Visit::kStop;
                });
            }
    }

  private:
    static constexpr size_t kSample = 1024;
    static constexpr uint32_t kEver = 0x10000;  // after every tick

    // Priority threshold of the entries seen before tick `before`; std::nullopt if none is found.
    std::optional<double> threshold_of(uint16_t now, uint32_t before, double target) {
        std::vector<double> sample;  // priorities of entries that may be evicted
        size_t num_seen = 0;
        for (size_t tries = 0; sample.size() < kSample && tries < 4 * kSample; ++tries) {
            Cursor at(content_.map, mix(++content_.counts.samples));
            at.sweep(content_.map, kSlotsPerBucket, [&](Slot slot) {
                ++num_seen;
                if (slot.seen() < before) sample.push_back(priority(slot, now));
                return Visit::kContinue;
            });
        }
        if (sample.empty()) return std::nullopt;
        std::sort(sample.begin(), sample.end());
        const double used = content_.used_bytes();
        const double may_go = used * static_cast<double>(sample.size()) / static_cast<double>(num_seen);
        const double share = std::clamp(2 * (used - target) / may_go, 1.0 / 32, 1.0);
        return sample[std::min(sample.size() - 1, static_cast<size_t>(share * static_cast<double>(sample.size())))];
    }

    // The lowest priority is evicted first.
    double priority(Slot slot, uint16_t now) const {
        switch (content_.settings.eviction) {
            case Eviction::kNone:
            case Eviction::kLru:
                return slot.seen() + slot.count() / 65536.0;
            case Eviction::kLfu:
                return slot.count() + slot.seen() / 65536.0;
            case Eviction::kScore:  // log2 of count * 2^(-age / half-life)
                return std::log2(slot.count() + 1.0) - static_cast<double>(content_.ticks.seconds(now - slot.seen())) /
                                                           static_cast<double>(content_.settings.half_life_s);
        }
        return 0;
    }

    TableContent& content_;
    Cursor cursor_;
};

}  // namespace monolith
