// Insertion of a batch of fids: count occurrences, then give rows to the admitted fids.
#pragma once

#include <algorithm>
#include <cstdint>
#include <unordered_map>
#include <utility>
#include <vector>

#include "table/eviction.hpp"
#include "table/lookup.hpp"
#include "table/table_content.hpp"

namespace monolith {

// Outcome of `plan`: whether the phase `insert` follows.
enum class Plan { kNothingMissed, kInsert };

// Phases: `begin`; `record_occurrences` for all parts; `plan`; if that returns kInsert, `insert` for all parts;
// `finish`. Parts of a phase may run together; everything else needs the table exclusively. A fid gets its row in the
// batch of its admission: all its occurrences in the batch have the row.
class Insertion {
  public:
    explicit Insertion(TableContent& content) : content_(content), budget_evictor_(content) {}

    void begin(int64_t now_s, size_t parts) {
        now_ = content_.ticks.tick(now_s, content_.map);
        now_s_ = now_s;
        if (content_.settings.eviction != Eviction::kNone) budget_evictor_.shrink(now_);
        parts_.resize(std::max(parts_.size(), parts));
        num_parts_ = parts;
    }
    void record_occurrences(const Lookup& lookup, size_t part) {
        Part& own = parts_[part];
        own.missed.resize(lookup.n);
        own.num_missed = kernels().record_occurrences(content_.map.view(), lookup.fids, lookup.n, first_shard(part),
                                                      first_shard(part + 1), now_, lookup.rows, own.missed.data());
    }
    Plan plan() {
        size_t num_missed = 0;
        for (size_t p = 0; p < num_parts_; ++p) {
            parts_[p].ids_at = num_missed;
            num_missed += parts_[p].num_missed;
        }
        ids_.clear();
        if (num_missed == 0) return Plan::kNothingMissed;
        content_.map.expect(num_missed);  // a split means that there was one shard, so one part has all
        content_.store.allocate(num_missed, ids_);
        ++content_.counts.plans;
        return Plan::kInsert;
    }
    void insert(const Lookup& lookup, size_t part) {
        Part& own = parts_[part];
        const size_t begin = first_shard(part), end = first_shard(part + 1);
        sort_by_shard(lookup, own, begin, end);
        own.inserted.clear();
        own.unused.clear();
        own.num_filtered = 0;
        own.candidates = 0;
        for (size_t shard = begin; shard < end; ++shard)
            insert_into_shard(lookup, own, own.starts[shard - begin], own.starts[shard - begin + 1]);
    }
    void finish(const Lookup& lookup) {
        if (!ids_.empty()) apply_parts();
        content_.changes.record_occurrences(lookup, content_.settings.admission == Admission::kCount);
    }

  private:
    static constexpr size_t kAhead = 16;

    // State of one part.
    struct Part {
        std::vector<uint32_t> missed;  // positions without a row, in batch order
        size_t num_missed = 0, ids_at = 0;
        std::vector<uint32_t> by_shard, starts;  // positions ordered by shard; first position of each shard
        std::vector<int64_t> fids;               // fids in the order of by_shard
        std::vector<uint32_t> inserted, unused;
        uint64_t num_filtered = 0;
        int64_t candidates = 0;
    };

    size_t first_shard(size_t part) const { return content_.map.num_shards() * part / num_parts_; }

    void sort_by_shard(const Lookup& lookup, Part& own, size_t begin, size_t end) {
        own.starts.assign(end - begin + 1, 0);
        own.by_shard.resize(own.num_missed);
        own.fids.resize(own.num_missed);
        const auto shard_at = [&](size_t i) {
            return content_.map.shard_of(hash_fid(lookup.fids[own.missed[i]])) - begin;
        };
        for (size_t i = 0; i < own.num_missed; ++i) ++own.starts[shard_at(i)];
        uint32_t sum = 0;
        for (uint32_t& start : own.starts) sum += std::exchange(start, sum);
        for (size_t i = 0; i < own.num_missed; ++i) {
            const uint32_t to = own.starts[shard_at(i)]++;
            own.by_shard[to] = own.missed[i];
            own.fids[to] = lookup.fids[own.missed[i]];
        }
        for (size_t s = end - begin; s > 0; --s) own.starts[s] = own.starts[s - 1];
        own.starts[0] = 0;
    }

    void insert_into_shard(const Lookup& lookup, Part& own, size_t from, size_t to) {
        IdMap& map = content_.map;
        const TableSettings& settings = content_.settings;
        const uint32_t* ids = ids_.data() + own.ids_at;
        const uint32_t* const end_ids = ids + to;
        ids += from;
        size_t without = 0;
        const size_t inserted_before = own.inserted.size();
        std::unordered_map<int64_t, uint32_t> occurrences;  // in this batch, for the probabilistic rules
        for (size_t k = from; k < to; ++k) {
            if (k + kAhead < own.num_missed) {
                const int64_t coming = own.fids[k + kAhead];
                map.prefetch(coming);
                if (content_.sketch) content_.sketch->prefetch(hash_fid(coming));
            }
            const uint32_t at = own.by_shard[k];
            const int64_t fid = own.fids[k];
            Slot slot = map.find(fid);
            if (!slot) {
                uint32_t count = 1;
                if (settings.admission == Admission::kCount && settings.admit_after > 1) {
                    map.insert(fid, kCandidate, now_, 1);
                    ++own.candidates;
                    ++without;
                    continue;
                }
                if (!admits(fid, occurrences, &count)) {
                    ++without;
                    continue;
                }
                slot = map.insert(fid, kCandidate, now_, static_cast<uint16_t>(std::min<uint32_t>(count, 0xFFFF)));
                lookup.rows[at] = admit(slot, fid, *ids++, own);
                continue;
            }
            slot.seen() = std::max(slot.seen(), now_);
            if (slot.count() < 0xFFFF) ++slot.count();
            if (slot.row() != kCandidate) {
                lookup.rows[at] = slot.row();
            } else if (slot.count() >= settings.admit_after) {
                --own.candidates;
                lookup.rows[at] = admit(slot, fid, *ids++, own);
            } else {
                ++without;
            }
        }
        own.unused.insert(own.unused.end(), ids, end_ids);
        if (without > 0 && own.inserted.size() > inserted_before) without -= fill_in(lookup, own, from, to);
        own.num_filtered += without;
    }

    // Fill in the row for occurrences before the admission; returns their number.
    size_t fill_in(const Lookup& lookup, const Part& own, size_t from, size_t to) const {
        size_t num = 0;
        for (size_t k = from; k < to; ++k) {
            uint32_t& row = lookup.rows[own.by_shard[k]];
            if (row != kNoRow) continue;
            const uint32_t found = content_.map.row_of(own.fids[k]);
            if (found >= kCandidate) continue;
            row = found;
            ++num;
        }
        return num;
    }

    uint32_t admit(Slot slot, int64_t fid, uint32_t row, Part& own) {
        const TableSettings& settings = content_.settings;
        const RowStore& store = content_.store;
        slot.row() = row;
        store.fid(row) = fid;
        kernels().start_row(settings.slices.data(), settings.slices.size(), seeded_hash(settings.seed, fid),
                            store.weights(row), store.state(row));
        own.inserted.push_back(row);
        return row;
    }

    // Whether this occurrence admits a fid without an entry.
    bool admits(int64_t fid, std::unordered_map<int64_t, uint32_t>& occurrences, uint32_t* count) {
        const TableSettings& settings = content_.settings;
        switch (settings.admission) {
            case Admission::kCount:
                return true;
            case Admission::kSketch:
                *count = content_.sketch->add(hash_fid(fid), now_s_);
                return *count >= settings.admit_after;
            case Admission::kProportional:
            case Admission::kGeometric: {
                // One draw per fid and batch, compared with the probability for all its occurrences so far.
                *count = ++occurrences[fid];
                // Mixed twice: initial weights use the first stream, and admission by a low draw would correlate with
                // low weights.
                const double draw =
                    unit_interval(mix(mix(seeded_hash(settings.seed, fid)) + kGolden * content_.counts.plans));
                return draw < admission_probability(settings.admission, settings.admit_after, *count);
            }
        }
        return false;
    }

    // Apply the effects of all parts to the table.
    void apply_parts() {
        Counts& counts = content_.counts;
        content_.changes.reserve();
        for (size_t p = 0; p < num_parts_; ++p) {
            const Part& own = parts_[p];
            content_.changes.record_inserted(own.inserted);
            counts.rows += own.inserted.size();
            counts.admitted += own.inserted.size();
            counts.filtered += own.num_filtered;
            counts.candidates += static_cast<uint64_t>(own.candidates);
        }
        for (size_t p = num_parts_; p-- > 0;)
            for (size_t i = parts_[p].unused.size(); i-- > 0;) content_.store.release(parts_[p].unused[i]);
    }

    TableContent& content_;
    BudgetEvictor budget_evictor_;
    int64_t now_s_ = 0;
    uint16_t now_ = 0;
    std::vector<Part> parts_;
    size_t num_parts_ = 1;
    std::vector<uint32_t> ids_;  // rows allocated for the missed positions
};

}  // namespace monolith
