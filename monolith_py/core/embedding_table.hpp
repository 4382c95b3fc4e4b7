// One embedding table: id map, row store, admission, expiry, touched sets.
#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "id_map.hpp"
#include "row_store.hpp"
#include "touched_set.hpp"

namespace monolith {

struct TableSettings {
    uint32_t dim = 0;
    Optimizer optimizer = Optimizer::kSgd;
    Hyper hyper;
    float init_scale = 0;
    uint64_t seed = 0;
    uint32_t admit_after = 1;
    int64_t ttl_s = 0;  // 0: rows never expire
};

class EmbeddingTable {
  public:
    explicit EmbeddingTable(const TableSettings& settings)
        : settings_(settings),
          state_width_(state_width(settings.optimizer, settings.dim)),
          store_(settings.dim, state_width_),
          tick_s_(std::max<int64_t>(1, (settings.ttl_s + kTicksPerTtl - 1) / kTicksPerTtl)) {}

    const TableSettings& settings() const { return settings_; }
    uint32_t dim() const { return settings_.dim; }
    size_t num_rows() const { return num_rows_; }
    void set_lr(float lr) { settings_.hyper.lr = lr; }

    void find(const int64_t* fids, size_t n, uint32_t* rows) const {
        for (size_t i = 0; i < n; ++i) {
            if (i + kAhead < n) map_.prefetch(fids[i + kAhead]);
            const Slot slot = map_.find(fids[i]);
            rows[i] = slot && slot.row() < kCandidate ? slot.row() : kNoRow;
        }
    }

    // A fid gets its row in the batch in which its sightings reach admit_after: all its occurrences there have the row.
    void find_or_insert(const int64_t* fids, size_t n, int64_t now_s, uint32_t* rows) {
        const uint16_t now = tick(now_s);
        size_t without = 0;
        for (size_t i = 0; i < n; ++i) {
            if (i + kAhead < n) map_.prefetch(fids[i + kAhead]);
            Slot slot = map_.find(fids[i]);
            if (!slot) {
                slot = map_.insert(fids[i], kCandidate, now, 0);
                ++num_candidates_;
            }
            slot.seen() = std::max(slot.seen(), now);
            if (slot.count() < 0xFFFF) ++slot.count();
            if (slot.row() == kCandidate && slot.count() >= settings_.admit_after) admit(slot, fids[i]);
            rows[i] = slot.row() < kCandidate ? slot.row() : kNoRow;
            without += rows[i] == kNoRow;
        }
        if (without == 0) return;
        for (size_t i = 0; i < n; ++i)
            if (rows[i] == kNoRow) {
                const Slot slot = map_.find(fids[i]);
                if (slot.row() < kCandidate)
                    rows[i] = slot.row();
                else
                    ++num_filtered_;
            }
    }

    // Rows from here on were never given out.
    uint32_t end_row() const { return store_.end(); }

    // `rows` must be below end_row(), or no row.
    void gather(const uint32_t* rows, size_t n, float* weights) const {
        const size_t width = dim() * sizeof(float);
        for (size_t i = 0; i < n; ++i)
            if (rows[i] < kCandidate)
                std::memcpy(weights + i * dim(), store_.weights(rows[i]), width);
            else
                std::memset(weights + i * dim(), 0, width);
    }

    // `gradient(i, out)` adds the gradient of rows[i] to out; duplicates are summed in the order of the batch.
    // `rows` must be below end_row(), or no row.
    template <typename AddGradient>
    size_t update(const uint32_t* rows, size_t n, AddGradient&& add_gradient) {
        order_.clear();
        for (size_t i = 0; i < n; ++i)
            if (rows[i] < kCandidate) order_.push_back({rows[i], static_cast<uint32_t>(i)});
        std::sort(order_.begin(), order_.end());
        sum_.assign(dim(), 0);
        size_t num_updated = 0;
        for (size_t k = 0; k < order_.size();) {
            const uint32_t row = order_[k].first;
            std::fill(sum_.begin(), sum_.end(), 0.0f);
            for (; k < order_.size() && order_[k].first == row; ++k) add_gradient(order_[k].second, sum_.data());
            step_row(settings_.optimizer, settings_.hyper, dim(), store_.weights(row), store_.state(row), sum_.data());
            for (auto& [name, touched] : consumers_) touched.touch(row);
            ++num_updated;
        }
        return num_updated;
    }

    std::vector<int64_t> evict(int64_t now_s) {
        std::vector<int64_t> evicted;
        if (settings_.ttl_s == 0) return evicted;
        const int64_t oldest = static_cast<int64_t>(tick(now_s)) - (settings_.ttl_s + tick_s_ - 1) / tick_s_;
        std::vector<int64_t> gone;
        map_.for_each([&](Slot slot) {
            if (static_cast<int64_t>(slot.seen()) < oldest) gone.push_back(slot.key());
        });
        for (int64_t fid : gone) {
            const Slot slot = map_.find(fid);
            const uint32_t row = slot.row();
            map_.erase(slot);
            if (row == kCandidate) {
                --num_candidates_;
                continue;
            }
            for (auto& [name, touched] : consumers_) touched.evict(row, fid);
            store_.release(row);
            --num_rows_;
            ++num_evicted_;
            evicted.push_back(fid);
        }
        std::sort(evicted.begin(), evicted.end());
        return evicted;
    }

    // A consumer's first drain hands out every live row.
    TouchedSet::Drained drain(const std::string& consumer) {
        if (!consumers_.contains(consumer)) {
            TouchedSet& touched = consumers_[consumer];
            map_.for_each([&](Slot slot) {
                if (slot.row() < kCandidate) touched.touch(slot.row());
            });
        }
        return consumers_[consumer].drain([&](int64_t fid) { return row_of(fid); },
                                          [&](uint32_t row) { return fids_[row]; });
    }
    void register_consumer(const std::string& consumer) { consumers_[consumer]; }
    void ack(const std::string& consumer, uint64_t ticket) {
        const auto found = consumers_.find(consumer);
        if (found == consumers_.end()) throw std::invalid_argument("consumer " + consumer + " has not drained");
        found->second.ack(ticket);
    }

    std::vector<std::pair<int64_t, uint32_t>> sorted_rows() {
        std::vector<std::pair<int64_t, uint32_t>> rows;
        map_.for_each([&](Slot slot) {
            if (slot.row() < kCandidate) rows.push_back({slot.key(), slot.row()});
        });
        std::sort(rows.begin(), rows.end());
        return rows;
    }
    int64_t fid(uint32_t row) const { return fids_[row]; }
    const float* weights(uint32_t row) const { return store_.weights(row); }

    std::map<std::string, uint64_t> stats() const {
        return {{"rows", num_rows_},
                {"candidates", num_candidates_},
                {"admitted", num_admitted_},
                {"filtered", num_filtered_},
                {"evicted", num_evicted_},
                {"bytes", map_.bytes() + store_.bytes() + fids_.size() * 8},
                {"id_map_capacity", map_.capacity()}};
    }

    // Pass every field that a snapshot holds to `archive`, which reads or writes it.
    template <typename Archive>
    void serialize(Archive& archive);

  private:
    static constexpr int64_t kTicksPerTtl = 1000;
    static constexpr size_t kAhead = 12;

    uint32_t row_of(int64_t fid) const {
        const Slot slot = map_.find(fid);
        return slot ? slot.row() : kNoRow;
    }

    void admit(Slot slot, int64_t fid) {
        const uint32_t row = store_.allocate();
        slot.row() = row;
        if (row >= fids_.size()) fids_.resize(row + 1);
        fids_[row] = fid;
        start_row(fid, row);
        for (auto& [name, touched] : consumers_) {
            touched.born(fid);
            touched.touch(row);
        }
        --num_candidates_;
        ++num_rows_;
        ++num_admitted_;
    }

    // Uniform in [-init_scale, init_scale), a pure function of (seed, fid, dimension).
    void start_row(int64_t fid, uint32_t row) {
        float* weights = store_.weights(row);
        const uint64_t base = hash_fid(fid) ^ hash_fid(static_cast<int64_t>(settings_.seed + 0x9E3779B97F4A7C15ull));
        for (uint32_t d = 0; d < dim(); ++d) {
            const uint64_t bits = hash_fid(static_cast<int64_t>(base + d * 0xD1B54A32D192ED03ull)) >> 40;  // 24 bits
            weights[d] = settings_.init_scale * (static_cast<float>(bits) * (1.0f / 8388608.0f) - 1.0f);
        }
        start_state(settings_.optimizer, settings_.hyper, dim(), store_.state(row));
    }

    // Ticks since the base; when they no longer fit, the base moves and all entries age by as much (0 stays 0: long
    // expired).
    uint16_t tick(int64_t now_s) {
        if (!has_base_) {
            base_tick_ = now_s / tick_s_ - kBaseAge;
            has_base_ = true;
        }
        int64_t ticks = now_s / tick_s_ - base_tick_;
        if (ticks > 0xFFFF) {
            const int64_t shift = ticks - 0x8000;
            map_.for_each(
                [&](Slot slot) { slot.seen() = static_cast<uint16_t>(std::max<int64_t>(0, slot.seen() - shift)); });
            base_tick_ += shift;
            ticks -= shift;
        }
        return static_cast<uint16_t>(std::max<int64_t>(ticks, 0));
    }

    static constexpr int64_t kBaseAge = 4096;  // how many ticks before the first event an event may lie

    TableSettings settings_;
    uint32_t state_width_;
    CuckooMap map_;
    RowStore store_;
    int64_t tick_s_;
    int64_t base_tick_ = 0;
    bool has_base_ = false;
    std::vector<int64_t> fids_;  // by row
    std::map<std::string, TouchedSet> consumers_;
    uint64_t num_rows_ = 0, num_candidates_ = 0, num_admitted_ = 0, num_filtered_ = 0, num_evicted_ = 0;
    std::vector<std::pair<uint32_t, uint32_t>> order_;
    std::vector<float> sum_;
};

template <typename Archive>
void EmbeddingTable::serialize(Archive& archive) {
    archive.value(base_tick_);
    archive.value(has_base_);
    archive.value(num_admitted_);
    archive.value(num_filtered_);
    archive.value(num_evicted_);
    uint64_t num_entries = map_.size();
    archive.value(num_entries);
    if constexpr (Archive::kReading) {
        for (uint64_t i = 0; i < num_entries; ++i) {
            int64_t fid;
            uint32_t row;
            uint16_t seen, count;
            archive.value(fid);
            archive.value(row);
            archive.value(seen);
            archive.value(count);
            if (row != kCandidate) {
                row = store_.allocate();
                if (row >= fids_.size()) fids_.resize(row + 1);
                fids_[row] = fid;
                archive.floats(store_.weights(row), dim());
                archive.floats(store_.state(row), state_width_);
                ++num_rows_;
            } else {
                ++num_candidates_;
            }
            map_.insert(fid, row, seen, count);
        }
    } else {
        std::vector<Slot> slots;
        map_.for_each([&](Slot slot) { slots.push_back(slot); });
        std::sort(slots.begin(), slots.end(), [](Slot a, Slot b) { return a.key() < b.key(); });
        for (Slot slot : slots) {
            archive.value(slot.bucket->keys[slot.index]);
            uint32_t row = slot.row() == kCandidate ? kCandidate : 0;
            archive.value(row);
            archive.value(slot.seen());
            archive.value(slot.count());
            if (row != kCandidate) {
                archive.floats(store_.weights(slot.row()), dim());
                archive.floats(store_.state(slot.row()), state_width_);
            }
        }
    }
    uint64_t num_consumers = consumers_.size();
    archive.value(num_consumers);
    if constexpr (Archive::kReading) {
        for (uint64_t i = 0; i < num_consumers; ++i) {
            std::string name;
            std::vector<int64_t> pending, evicted;
            archive.text(name);
            archive.fids(pending);
            archive.fids(evicted);
            consumers_[name].restore(pending, evicted);
        }
    } else {
        for (auto& [consumer, touched] : consumers_) {
            std::string name = consumer;
            std::vector<int64_t> pending = touched.pending([&](uint32_t row) { return fids_[row]; });
            std::vector<int64_t> evicted = touched.pending_evicted();
            archive.text(name);
            archive.fids(pending);
            archive.fids(evicted);
        }
    }
}

}  // namespace monolith
