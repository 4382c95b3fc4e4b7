// Changes of a table since each consumer's last drain, and since the last snapshot.
//
// Concurrency: `flag_updated` may run on several threads for different rows; every other call needs the table
// exclusively.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <unordered_set>
#include <vector>

#include "bytes/archive.hpp"
#include "table/lookup.hpp"
#include "table/row_store.hpp"
#include "table/touched_set.hpp"

namespace monolith {

class Changes {
  public:
    Changes(const IdMap& map, const RowStore& store) : map_(map), store_(store) {}

    // Record changes. Call `reserve` first if rows may be new.

    void reserve() {
        each([&](TouchedSet& touched) { touched.reserve(store_.end()); });
    }
    void record_inserted(const std::vector<uint32_t>& rows) {
        each([&](TouchedSet& touched) {
            for (const uint32_t row : rows) {
                touched.cancel_eviction(store_.fid(row));
                touched.touch(row);
            }
        });
    }
    void record_evicted(uint32_t row, int64_t fid) {
        each([&](TouchedSet& touched) { touched.evict(row, fid); });
    }
    // Flag updated rows. The newly flagged ones go to `fresh`, one list per consumer; pass them to `append_updated`
    // afterwards.
    void flag_updated(const uint32_t* rows, size_t n, std::vector<std::vector<uint32_t>>& fresh) {
        fresh.resize(consumers_.size() + 1);
        size_t i = 0;
        each([&](TouchedSet& touched) {
            std::vector<uint32_t>& own = fresh[i++];
            own.resize(n);
            own.resize(touched.flag(rows, n, own.data()));
        });
    }
    void append_updated(const std::vector<std::vector<uint32_t>>& fresh) {
        size_t i = 0;
        each([&](TouchedSet& touched) {
            touched.append(fresh[i].data(), fresh[i].size());
            ++i;
        });
    }

    // Consumers.

    // Return the changes since the last drain; a consumer's first drain returns every live row.
    TouchedSet::Drained drain(const std::string& consumer) {
        const bool is_new = !consumers_.contains(consumer);
        TouchedSet& touched = consumers_[consumer];
        touched.reserve(store_.end());
        if (is_new)
            map_.for_each([&](Slot slot) {
                if (slot.row() < kCandidate) touched.touch(slot.row());
            });
        TouchedSet::Drained drained = drain(touched);
        // Drop rows whose fid was erased after the update.
        std::vector<int64_t> fids;
        for (const uint32_t row : drained.rows) fids.push_back(store_.fid(row));
        std::vector<uint32_t> found(fids.size());
        find_rows(map_, {fids.data(), fids.size(), found.data()});
        size_t num = 0;
        for (size_t i = 0; i < found.size(); ++i)
            if (found[i] == drained.rows[i]) drained.rows[num++] = found[i];
        drained.rows.resize(num);
        return drained;
    }
    void ack(const std::string& consumer, uint64_t ticket) {
        const auto found = consumers_.find(consumer);
        if (found == consumers_.end()) throw std::invalid_argument("consumer '" + consumer + "' has not drained");
        found->second.ack(ticket);
    }

    void write(Writer& out) const {
        out.length(consumers_);
        for (const auto& [name, touched] : consumers_)
            out.fields(name, touched.pending([&](uint32_t row) { return store_.fid(row); }), touched.pending_evicted());
    }
    // Restore the consumers of a snapshot; keep the evicted fids for which `is_ours(fid)` holds.
    template <typename IsOurs>
    void read(Reader& in, IsOurs&& is_ours) {
        consumers_.clear();
        for (auto left = in.value<uint64_t>(); left > 0; --left) {
            std::string name;
            std::vector<int64_t> pending, evicted;
            in.fields(name, pending, evicted);
            std::erase_if(evicted, [&](int64_t fid) { return !is_ours(fid); });
            consumers_[name].restore(pending, evicted);
        }
    }

    // Snapshots. Tracks, from `start_tracking` on, every row, candidate and erased fid that changed.

    bool is_tracking() const { return tracker_ != nullptr; }
    void start_tracking() {
        tracker_ = std::make_unique<Tracker>();
        tracker_->touched.reserve(store_.end());
    }
    void stop_tracking() { tracker_.reset(); }
    // A look-up with insertion has changed the counts and times of its fids.
    void record_occurrences(const Lookup& lookup, bool counts_candidates) {
        if (!tracker_) return;
        tracker_->touched.reserve(store_.end());
        for (size_t i = 0; i < lookup.n; ++i)
            if (lookup.rows[i] < kCandidate)
                tracker_->touched.touch(lookup.rows[i]);
            else if (counts_candidates)
                tracker_->candidates.insert(lookup.fids[i]);
    }
    void record_erased_candidate(int64_t fid) {
        if (tracker_) tracker_->candidates.insert(fid);
    }
    size_t num_tracked() const { return tracker_->touched.num_pending() + tracker_->candidates.size(); }
    // Fids tracked since the last call.
    std::vector<int64_t> take_tracked() {
        const TouchedSet::Drained drained = drain(tracker_->touched);
        tracker_->touched.ack_all();
        std::vector<int64_t> fids(tracker_->candidates.begin(), tracker_->candidates.end());
        tracker_->candidates.clear();
        for (const uint32_t row : drained.rows) fids.push_back(store_.fid(row));
        fids.insert(fids.end(), drained.evicted.begin(), drained.evicted.end());
        return fids;
    }

    size_t bytes() const {
        size_t bytes = 0;
        for (const auto& [name, touched] : consumers_) bytes += touched.bytes();
        return bytes;
    }

  private:
    struct Tracker {
        TouchedSet touched;
        std::unordered_set<int64_t> candidates;  // counted, admitted or erased
    };

    template <typename F>
    void each(F&& visit) {
        for (auto& [name, touched] : consumers_) visit(touched);
        if (tracker_) visit(tracker_->touched);
    }
    TouchedSet::Drained drain(TouchedSet& touched) const {
        return touched.drain([&](int64_t fid) { return map_.row_of(fid); },
                             [&](uint32_t row) { return store_.fid(row); });
    }

    const IdMap& map_;
    const RowStore& store_;
    std::map<std::string, TouchedSet> consumers_;
    std::unique_ptr<Tracker> tracker_;
};

}  // namespace monolith
