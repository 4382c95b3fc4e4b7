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

// Outcome of `plan`: whether the phases of insertion follow.
enum class Plan { kNothingMissed, kInsert };

// Whether `begin` may evict rows to keep the memory budget.
enum class Shrink { kYes, kNo };

// Phases: `begin`; `record_occurrences` for all parts; `plan`; if that returns kInsert, `insert` for all parts,
// `allocate_rows`, `start_rows` for all parts; `finish`. Parts of a phase may run together; everything else needs the
// table exclusively. A fid gets its row in the batch of its admission: all its occurrences in the batch have the row.
// After a phase that failed (TableFull, std::bad_alloc), `abandon` takes the new rows back; counts of fids stay.
class Insertion {
  public:
    explicit Insertion(TableContent& content) : content_(content), budget_evictor_(content) {}

    void begin(int64_t now_s, size_t parts, Shrink shrink) {
        now_ = content_.ticks.take(now_s, content_.map);
        now_s_ = now_s;
        if (shrink == Shrink::kYes && content_.settings.eviction != Eviction::kNone) budget_evictor_.shrink(now_);
        parts_.resize(std::max(parts_.size(), parts));
        num_parts_ = parts;
        is_open_ = true;
        for (Part& part : parts_) part.clear();
    }
    // Evict as for a budget until rows take at most `bytes`, outside of a batch.
    void shrink(double bytes) { budget_evictor_.shrink(now_, bytes); }
    void record_occurrences(const Lookup& lookup, size_t part) {
        Part& own = parts_[part];
        if (own.missed.size() < lookup.n) own.missed.resize(lookup.n);
        own.num_missed = kernels().record_occurrences(content_.map.view(), lookup.fids, lookup.n, first_shard(part),
                                                      first_shard(part + 1), now_, lookup.rows, own.missed.data());
    }
    Plan plan() {
        size_t num_missed = 0;
        for (size_t p = 0; p < num_parts_; ++p) num_missed += parts_[p].num_missed;
        if (num_missed == 0) return Plan::kNothingMissed;
        content_.map.expect(num_missed);  // a split means that there was one shard, so one part has all
        ++content_.counts.plans;
        return Plan::kInsert;
    }
    // Enter the missed fids into the map. An admitted fid has its number within the part in place of a row.
    void insert(const Lookup& lookup, size_t part) {
        Part& own = parts_[part];
        const size_t begin = first_shard(part), end = first_shard(part + 1);
        sort_by_shard(lookup, own, begin, end);
        own.admitted.reserve(own.num_missed);
        for (size_t shard = begin; shard < end; ++shard)
            insert_into_shard(lookup, own, own.starts[shard - begin], own.starts[shard - begin + 1]);
    }
    // Allocate one row for each admitted fid: memory follows rows, not sightings.
    void allocate_rows() {
        size_t num = 0;
        for (size_t p = 0; p < num_parts_; ++p) {
            parts_[p].ids_at = num;
            num += parts_[p].admitted.size();
        }
        content_.store.allocate(num, ids_);
        content_.changes.reserve(num);
    }
    void start_rows(const Lookup& lookup, size_t part) {
        const Part& own = parts_[part];
        const uint32_t* const ids = ids_.data() + own.ids_at;
        for (size_t i = 0; i < own.admitted.size(); ++i) {
            if (i + kAhead < own.admitted.size()) __builtin_prefetch(own.admitted[i + kAhead].slot.bucket, 1);
            auto [fid, slot] = own.admitted[i];
            if (slot.key() != fid || slot.row() != i) slot = content_.map.find(fid);  // displaced
            slot.row() = ids[i];
            start_row(fid, ids[i]);
        }
        for (size_t i = 0; i < own.num_missed; ++i) {
            uint32_t& row = lookup.rows[own.missed[i]];
            if (row != kNoRow) row = ids[row];
        }
    }
    void finish(const Lookup& lookup) {
        apply_parts();
        content_.changes.record_occurrences(lookup, content_.settings.admission == Admission::kCount);
        close();
    }
    // Undo the insertions of a batch without `finish`; no effect after it.
    void abandon() noexcept {
        if (!is_open_) return;
        const bool keeps_candidates =
            content_.settings.admission == Admission::kCount && content_.settings.admit_after > 1;
        for (size_t p = 0; p < num_parts_; ++p) {
            Part& own = parts_[p];
            for (const Admitted& one : own.admitted) {
                const Slot slot = content_.map.find(one.fid);
                if (keeps_candidates)
                    slot.row() = kCandidate;
                else
                    content_.map.erase(slot);
            }
            if (keeps_candidates) own.candidates += static_cast<int64_t>(own.admitted.size());
            content_.counts.candidates += static_cast<uint64_t>(own.candidates);
        }
        for (size_t i = ids_.size(); i-- > 0;) {
            content_.store.fid(ids_[i]) = 0;
            content_.store.release(ids_[i]);
        }
        content_.changes.lose_track();  // of the occurrences
        close();
    }

  private:
    static constexpr size_t kAhead = 16, kRoomAhead = 6;
    // Of each fid in a batch, for the probabilistic rules.
    using Occurrences = std::unordered_map<int64_t, uint32_t, FidHash>;

    struct Admitted {
        int64_t fid;
        Slot slot;  // of its insertion: another fid may have displaced it since
    };
    // State of one part.
    struct Part {
        std::vector<uint32_t> missed;  // positions without a row, in batch order
        size_t num_missed = 0, ids_at = 0;
        std::vector<uint32_t> by_shard, starts;  // positions ordered by shard; first position of each shard
        std::vector<uint16_t> shards;            // of the missed positions, from the part's first
        std::vector<int64_t> fids;               // fids in the order of by_shard
        std::vector<Admitted> admitted;          // fids that get a row
        uint64_t num_filtered = 0;
        int64_t candidates = 0;

        void clear() {
            num_missed = ids_at = num_filtered = 0;
            candidates = 0;
            admitted.clear();
        }
    };

    size_t first_shard(size_t part) const { return content_.map.num_shards() * part / num_parts_; }

    void sort_by_shard(const Lookup& lookup, Part& own, size_t begin, size_t end) {
        own.starts.assign(end - begin + 1, 0);
        own.by_shard.resize(own.num_missed);
        own.fids.resize(own.num_missed);
        own.shards.resize(own.num_missed);
        for (size_t i = 0; i < own.num_missed; ++i) {
            own.shards[i] = static_cast<uint16_t>(content_.map.shard_of(hash_fid(lookup.fids[own.missed[i]])) - begin);
            ++own.starts[own.shards[i]];
        }
        uint32_t sum = 0;
        for (uint32_t& start : own.starts) sum += std::exchange(start, sum);
        for (size_t i = 0; i < own.num_missed; ++i) {
            const uint32_t to = own.starts[own.shards[i]]++;
            own.by_shard[to] = own.missed[i];
            own.fids[to] = lookup.fids[own.missed[i]];
        }
        for (size_t s = end - begin; s > 0; --s) own.starts[s] = own.starts[s - 1];
        own.starts[0] = 0;
    }

    void insert_into_shard(const Lookup& lookup, Part& own, size_t from, size_t to) {
        if (from == to) return;
        IdMap& map = content_.map;
        const TableSettings& settings = content_.settings;
        size_t without = 0;
        const size_t admitted_before = own.admitted.size();
        const Shard& shard = map.shard(map.shard_of(hash_fid(own.fids[from])));
        const uint32_t buckets_before = shard.num_buckets;
        Occurrences occurrences;
        for (size_t k = from; k < to; ++k) {
            if (k + kAhead < own.num_missed) {
                const int64_t coming = own.fids[k + kAhead];
                map.prefetch(coming);
                if (content_.sketch) content_.sketch->prefetch(hash_fid(coming));
            }
            if (k + kRoomAhead < own.num_missed) map.prefetch_room(own.fids[k + kRoomAhead]);
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
                lookup.rows[at] = admit(slot, fid, own);
                continue;
            }
            slot.seen() = std::max(slot.seen(), now_);
            if (slot.count() < 0xFFFF) ++slot.count();
            if (slot.row() != kCandidate) {
                lookup.rows[at] = slot.row();
            } else if (slot.count() >= settings.admit_after) {
                --own.candidates;
                lookup.rows[at] = admit(slot, fid, own);
            } else {
                ++without;
            }
        }
        if (shard.num_buckets != buckets_before)  // it has grown, perhaps twice and back to the address it had
            for (size_t i = admitted_before; i < own.admitted.size(); ++i)
                own.admitted[i].slot = map.find(own.admitted[i].fid);
        if (without > 0 && own.admitted.size() > admitted_before) without -= fill_in(lookup, own, from, to);
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

    // Mark a fid as admitted; returns its number within the part. `admitted` has room.
    static uint32_t admit(Slot slot, int64_t fid, Part& own) {
        slot.row() = static_cast<uint32_t>(own.admitted.size());
        own.admitted.push_back({fid, slot});
        return slot.row();
    }

    void start_row(int64_t fid, uint32_t row) {
        const TableSettings& settings = content_.settings;
        const RowStore& store = content_.store;
        store.fid(row) = fid;
        kernels().start_row(settings.slices.data(), settings.slices.size(), seeded_hash(settings.seed, fid),
                            store.weights(row), store.state(row));
    }

    // Whether this occurrence admits a fid without an entry.
    bool admits(int64_t fid, Occurrences& occurrences, uint32_t* count) {
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
        content_.changes.record_inserted(ids_);
        counts.rows += ids_.size();
        counts.admitted += ids_.size();
        for (size_t p = 0; p < num_parts_; ++p) {
            counts.filtered += parts_[p].num_filtered;
            counts.candidates += static_cast<uint64_t>(parts_[p].candidates);
        }
    }
    void close() {
        ids_.clear();
        is_open_ = false;
    }

    TableContent& content_;
    BudgetEvictor budget_evictor_;
    int64_t now_s_ = 0;
    uint16_t now_ = 0;
    std::vector<Part> parts_;
    size_t num_parts_ = 1;
    std::vector<uint32_t> ids_;  // rows allocated for the admitted fids
    bool is_open_ = false;       // between `begin` and `finish`
};

}  // namespace monolith
