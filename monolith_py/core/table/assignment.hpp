// Rows put into a table and taken out by their fids: assignment and removal.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "table/eviction.hpp"
#include "table/lookup.hpp"
#include "table/table_content.hpp"

namespace monolith {

// Rows of n fids, row-major. Null: rows without state keep theirs, new ones start as an insertion starts them; counts
// of sightings and times go by the call. Of a fid given twice the last row counts.
struct AssignedRows {
    const int64_t* fids;
    size_t n;
    const float* weights;    // (n, dim)
    const float* state;      // (n, state width) or null
    const uint16_t* counts;  // (n,) or null: one more sighting
    const int64_t* seen_s;   // (n,) or null: seen at the time of the call
};

// Puts rows into the table whatever its admission says. Needs the table exclusively. On failure (TableFull,
// std::bad_alloc) the table is unchanged.
class Assignment {
  public:
    explicit Assignment(TableContent& content) : content_(content) {}

    void run(const AssignedRows& given, int64_t now_s) {
        if (given.n == 0) return;
        // The newest time comes last, as the table's time.
        const uint16_t now = content_.ticks.take(now_s, content_.map);
        rows_.resize(given.n);
        find_rows(content_.map, {given.fids, given.n, rows_.data()});
        list_fresh(given);
        content_.map.expect(fresh_.size());
        ids_.clear();
        content_.store.allocate(fresh_.size(), ids_);
        try {
            content_.changes.reserve(given.n);
            enter(now);
        } catch (...) {
            abandon();
            throw;
        }
        for (size_t i = 0; i < fresh_.size(); ++i) start(fresh_[i], ids_[i]);
        for (size_t i = 0; i < given.n; ++i) write(given, i, now);
        content_.counts.rows += ids_.size();
        content_.counts.admitted += ids_.size();
        content_.counts.candidates -= num_candidates_;
        content_.changes.record_inserted(rows_);
        content_.changes.record_occurrences({given.fids, given.n, rows_.data()}, false);
    }

  private:
    // List the fids without a row, each once.
    void list_fresh(const AssignedRows& given) {
        fresh_.clear();
        for (size_t i = 0; i < given.n; ++i)
            if (rows_[i] >= kCandidate) fresh_.push_back(given.fids[i]);
        std::sort(fresh_.begin(), fresh_.end());
        fresh_.erase(std::unique(fresh_.begin(), fresh_.end()), fresh_.end());
        was_candidate_.assign(fresh_.size(), 0);
    }
    // Give the fresh fids entries with their rows. On failure `num_entered_` of them have one.
    void enter(uint16_t now) {
        num_candidates_ = 0;
        for (num_entered_ = 0; num_entered_ < fresh_.size(); ++num_entered_) {
            const int64_t fid = fresh_[num_entered_];
            Slot slot = content_.map.find(fid);
            was_candidate_[num_entered_] = static_cast<bool>(slot);
            if (slot)
                ++num_candidates_;
            else
                slot = content_.map.insert(fid, kCandidate, now, 0);
            slot.row() = ids_[num_entered_];
        }
    }
    void abandon() noexcept {
        for (size_t i = 0; i < num_entered_; ++i) {
            const Slot slot = content_.map.find(fresh_[i]);
            if (was_candidate_[i])
                slot.row() = kCandidate;
            else
                content_.map.erase(slot);
        }
        for (size_t i = ids_.size(); i-- > 0;) {
            content_.store.fid(ids_[i]) = 0;
            content_.store.release(ids_[i]);
        }
    }
    void start(int64_t fid, uint32_t row) const {
        const TableSettings& settings = content_.settings;
        content_.store.fid(row) = fid;
        kernels().start_row(settings.slices.data(), settings.slices.size(), seeded_hash(settings.seed, fid),
                            content_.store.weights(row), content_.store.state(row));
    }
    void write(const AssignedRows& given, size_t i, uint16_t now) {
        const RowsView rows = content_.store.view();
        const Slot slot = content_.map.find(given.fids[i]);
        rows_[i] = slot.row();
        std::copy_n(given.weights + i * rows.dim, rows.dim, content_.store.weights(slot.row()));
        if (given.state)
            std::copy_n(given.state + i * rows.state_width, rows.state_width, content_.store.state(slot.row()));
        if (given.seen_s)
            slot.seen() = content_.ticks.tick_of(given.seen_s[i]);
        else
            slot.seen() = std::max(slot.seen(), now);
        if (given.counts)
            slot.count() = given.counts[i];
        else if (slot.count() < 0xFFFF)
            ++slot.count();
    }

    TableContent& content_;
    std::vector<uint32_t> rows_, ids_;  // of the given fids, NO_ROW at first; of the fresh ones
    std::vector<int64_t> fresh_;        // fids without a row, sorted
    std::vector<uint8_t> was_candidate_;
    size_t num_entered_ = 0, num_candidates_ = 0;
};

// Remove the entries of n fids, rows and candidates; returns the fids that had rows, sorted. A sketch keeps its counts,
// which name no fid. Needs the table exclusively. On failure (std::bad_alloc) the entries before are removed.
inline std::vector<int64_t> remove_entries(TableContent& content, const int64_t* fids, size_t n) {
    std::vector<int64_t> removed;
    removed.reserve(n);
    for (size_t i = 0; i < n; ++i) {
        const Slot slot = content.map.find(fids[i]);
        if (!slot) continue;
        if (slot.row() != kCandidate) removed.push_back(fids[i]);
        evict(content, slot);
    }
    std::sort(removed.begin(), removed.end());
    return removed;
}

// Remove all entries. The same holds.
inline void clear_entries(TableContent& content) {
    content.map.for_each([&](Slot slot) { evict(content, slot); });
    if (content.sketch)
        content.sketch =
            std::make_unique<SlidingSketch>(content.settings.sketch_bytes, content.settings.sketch_window_s);
}

}  // namespace monolith
