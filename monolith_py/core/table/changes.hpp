// Changes of a table since each consumer's last drain, and since the last snapshot.
//
// Concurrency: `flag_updated` may run on several threads for different rows; every other call needs the table
// exclusively.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <unordered_set>
#include <utility>
#include <vector>

#include "bytes/archive.hpp"
#include "table/lookup.hpp"
#include "table/row_digest.hpp"
#include "table/row_store.hpp"
#include "table/touched_set.hpp"

namespace monolith {

class Changes {
  public:
    Changes(const IdMap& map, const RowStore& store) : map_(map), store_(store) {}

    // Record changes. Call `reserve` first: it alone may fail.

    void reserve(size_t num_rows) {
        each([&](TouchedSet& touched) { touched.reserve(store_.end(), num_rows); });
    }
    void record_inserted(const std::vector<uint32_t>& rows) {
        each([&](TouchedSet& touched) {
            for (const uint32_t row : rows) {
                touched.cancel_eviction(store_.fid(row));
                touched.touch(row);
            }
        });
    }
    // Needs no `reserve`. On failure (std::bad_alloc) nothing changes.
    void record_evicted(uint32_t row, int64_t fid) {
        try {
            each([&](TouchedSet& touched) { touched.record_eviction(fid); });
        } catch (...) {
            each([&](TouchedSet& touched) { touched.cancel_eviction(fid); });
            throw;
        }
        each([&](TouchedSet& touched) { touched.untouch(row); });
        for (auto& [name, digest] : digests_) digest.remove(row);
    }
    // Newly flagged rows of one consumer.
    struct Fresh {
        std::vector<uint32_t> rows;
        size_t num = 0;
    };
    // Make room in `fresh` for up to n updated rows.
    void reserve_fresh(size_t n, std::vector<Fresh>& fresh) const {
        if (fresh.size() < num_sets()) fresh.resize(num_sets());
        for (size_t i = 0; i < num_sets(); ++i)
            if (fresh[i].rows.size() < n) fresh[i].rows.resize(n);
    }
    // Flag updated rows. The newly flagged ones go to `fresh`, one list per consumer; pass them to `append_updated`
    // afterwards.
    void flag_updated(const uint32_t* rows, size_t n, std::vector<Fresh>& fresh) {
        size_t i = 0;
        each([&](TouchedSet& touched) {
            Fresh& own = fresh[i++];
            own.num = touched.flag(rows, n, own.rows.data());
        });
    }
    void append_updated(const std::vector<Fresh>& fresh) {
        size_t i = 0;
        each([&](TouchedSet& touched) {
            touched.append(fresh[i].rows.data(), fresh[i].num);
            ++i;
        });
    }

    // Consumers.

    // Return the changes since the last drain; a consumer's first drain returns every live row.
    TouchedSet::Drained drain(const std::string& consumer) {
        if (const auto known = consumers_.find(consumer); known != consumers_.end()) {
            known->second.reserve(store_.end(), 0);
            return without_freed(drain(known->second));
        }
        TouchedSet fresh = all_rows();
        TouchedSet::Drained drained = drain(fresh);
        consumers_.emplace(consumer, std::move(fresh));
        return drained;
    }
    // Note n fids as changed for a consumer: its next drain returns their rows as they are, or evictions for those
    // without one.
    void touch(const std::string& consumer, const int64_t* fids, size_t n) {
        if (!consumers_.contains(consumer)) consumers_.emplace(consumer, all_rows());
        TouchedSet& touched = consumers_.at(consumer);
        touched.reserve(store_.end(), n);
        for (size_t i = 0; i < n; ++i)
            if (const uint32_t row = map_.row_of(fids[i]); row < kCandidate)
                touched.touch(row);
            else
                touched.record_eviction(fids[i]);
    }
    // Forget a consumer: its next drain is a first one. Returns whether there was one.
    bool forget(const std::string& consumer) {
        digests_.erase(consumer);
        return consumers_.erase(consumer) > 0;
    }
    // Digest of the rows that a consumer has; null before `add_digest`.
    RowDigest* digest(const std::string& consumer) {
        const auto found = digests_.find(consumer);
        return found == digests_.end() ? nullptr : &found->second;
    }
    void forget_digest(const std::string& consumer) { digests_.erase(consumer); }
    RowDigest& add_digest(const std::string& consumer, RowDigest&& digest) {
        return digests_.emplace(consumer, std::move(digest)).first->second;
    }
    // Rows and evicted fids that wait for each consumer.
    std::map<std::string, size_t> waiting() const {
        std::map<std::string, size_t> waiting;
        for (const auto& [name, touched] : consumers_) waiting[name] = touched.num_waiting();
        return waiting;
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
    using Consumers = std::map<std::string, TouchedSet>;
    // Return the consumers of a snapshot, with the evicted fids for which `is_ours(fid)` holds.
    template <typename IsOurs>
    static Consumers read(Reader& in, IsOurs&& is_ours) {
        Consumers consumers;
        for (auto left = in.value<uint64_t>(); left > 0; --left) {
            std::string name;
            std::vector<int64_t> pending, evicted;
            in.fields(name, pending, evicted);
            std::erase_if(evicted, [&](int64_t fid) { return !is_ours(fid); });
            consumers[name].restore(pending, evicted);
        }
        return consumers;
    }
    void set_consumers(Consumers&& consumers) noexcept {
        consumers_.swap(consumers);
        digests_.clear();
    }

    // Snapshots. Tracks, from `start_tracking` on, every row, candidate and erased fid that changed.

    bool is_tracking() const { return tracker_ != nullptr; }
    void start_tracking() {
        auto tracker = std::make_unique<Tracker>();
        tracker->touched.reserve(store_.end(), 0);
        tracker_ = std::move(tracker);
    }
    void stop_tracking() { tracker_.reset(); }
    // A look-up with insertion has changed the counts and times of its fids.
    void record_occurrences(const Lookup& lookup, bool counts_candidates) {
        if (!tracker_) return;
        try {
            tracker_->touched.reserve(store_.end(), lookup.n);
            for (size_t i = 0; i < lookup.n; ++i)
                if (lookup.rows[i] < kCandidate)
                    tracker_->touched.touch(lookup.rows[i]);
                else if (counts_candidates)
                    tracker_->candidates.insert(lookup.fids[i]);
        } catch (const std::bad_alloc&) {
            tracker_->is_whole = false;
        }
    }
    void record_erased_candidate(int64_t fid) {
        if (tracker_) tracker_->candidates.insert(fid);
    }
    // A change could not be tracked: a snapshot in progress fails, and the next one must be a base.
    void lose_track() {
        if (tracker_) tracker_->is_whole = false;
    }
    size_t num_tracked() const { return whole_tracker().touched.num_pending() + whole_tracker().candidates.size(); }
    // Fids tracked since the last call.
    std::vector<int64_t> take_tracked() {
        Tracker& tracker = whole_tracker();
        std::vector<int64_t> fids(tracker.candidates.begin(), tracker.candidates.end());
        fids.reserve(fids.size() + tracker.touched.num_pending());
        const TouchedSet::Drained drained = drain(tracker.touched);
        tracker.touched.ack_all();
        tracker.candidates.clear();
        for (const uint32_t row : drained.rows) fids.push_back(store_.fid(row));
        fids.insert(fids.end(), drained.evicted.begin(), drained.evicted.end());
        return fids;
    }

    size_t bytes() const {
        size_t bytes = 0;
        for (const auto& [name, touched] : consumers_) bytes += touched.bytes();
        for (const auto& [name, digest] : digests_) bytes += digest.bytes();
        return bytes;
    }

  private:
    struct Tracker {
        TouchedSet touched;
        std::unordered_set<int64_t, FidHash> candidates;  // counted, admitted or erased
        bool is_whole = true;
    };

    Tracker& whole_tracker() const {
        if (!tracker_->is_whole) throw SnapshotError("changes since the snapshot could not be tracked: out of memory");
        return *tracker_;
    }
    size_t num_sets() const { return consumers_.size() + (tracker_ ? 1 : 0); }

    template <typename F>
    void each(F&& visit) {
        for (auto& [name, touched] : consumers_) visit(touched);
        if (tracker_) visit(tracker_->touched);
    }
    TouchedSet all_rows() const {
        TouchedSet rows;
        rows.reserve(store_.end(), map_.size());
        map_.for_each([&](Slot slot) {
            if (slot.row() < kCandidate) rows.touch(slot.row());
        });
        return rows;
    }
    // Drop rows that were updated after they had been freed.
    TouchedSet::Drained without_freed(TouchedSet::Drained drained) const {
        std::vector<int64_t> fids(drained.rows.size());
        std::vector<uint32_t> found(fids.size());
        for (size_t i = 0; i < fids.size(); ++i) fids[i] = store_.fid(drained.rows[i]);
        find_rows(map_, {fids.data(), fids.size(), found.data()});
        size_t num = 0;
        for (size_t i = 0; i < found.size(); ++i)
            if (found[i] == drained.rows[i]) drained.rows[num++] = found[i];
        drained.rows.resize(num);
        return drained;
    }
    TouchedSet::Drained drain(TouchedSet& touched) const {
        return touched.drain([&](int64_t fid) { return map_.row_of(fid); },
                             [&](uint32_t row) { return store_.fid(row); });
    }

    const IdMap& map_;
    const RowStore& store_;
    Consumers consumers_;
    std::map<std::string, RowDigest> digests_;  // by consumer, of those that take encoded rows
    std::unique_ptr<Tracker> tracker_;
};

}  // namespace monolith
