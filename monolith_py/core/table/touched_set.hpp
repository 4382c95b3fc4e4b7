// Rows touched and fids evicted since a consumer's last acknowledged drain.
//
// Concurrency: `flag` may run on several threads for different rows; every other call needs the set exclusively.
// On failure (std::bad_alloc) a call loses no change: it may be recorded already, and is returned again.
#pragma once

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <stdexcept>
#include <string>
#include <unordered_set>
#include <vector>

#include "index/bucket.hpp"
#include "index/secret.hpp"

namespace monolith {

class TouchedSet {
  public:
    // Make room for rows below `end`, of which `more` may be touched: then `touch`, `flag` and `append` do not fail.
    void reserve(size_t end, size_t more) {
        if (end > flags_.size()) flags_.resize(std::max(end, flags_.size() + flags_.size() / 2));
        if (rows_.size() > 2 * flags_.size() + kFewRows) compact();
        if (rows_.size() + more > rows_.capacity()) rows_.reserve(std::max(rows_.size() + more, 2 * rows_.capacity()));
    }
    void touch(uint32_t row) {
        if (flags_[row]) return;
        flags_[row] = 1;
        rows_.push_back(row);
    }
    // Flag rows; write the newly flagged ones to `fresh` (room for n) and return their number. Pass them to `append`
    // afterwards.
    size_t flag(const uint32_t* rows, size_t n, uint32_t* fresh) {
        size_t num = 0;
        for (size_t i = 0; i < n; ++i) {
            if (i + kAhead < n) __builtin_prefetch(&flags_[rows[i + kAhead]], 1);
            fresh[num] = rows[i];
            num += !flags_[rows[i]];
            flags_[rows[i]] = 1;
        }
        return num;
    }
    void append(const uint32_t* fresh, size_t n) { rows_.insert(rows_.end(), fresh, fresh + n); }
    void record_eviction(int64_t fid) { evicted_.insert(fid); }
    void cancel_eviction(int64_t fid) {
        if (!evicted_.empty()) evicted_.erase(fid);
    }
    void untouch(uint32_t row) {
        if (row < flags_.size()) flags_[row] = 0;  // a drain skips its entry in rows_
    }

    struct Drained {
        uint64_t ticket;
        std::vector<uint32_t> rows;
        std::vector<int64_t> evicted;
    };

    // Return everything pending, including earlier drains without acknowledgement. `row_of` finds a fid's row.
    template <typename RowOf, typename FidOf>
    Drained drain(RowOf&& row_of, FidOf&& fid_of) {
        reserve(flags_.size(), in_flight_.size());
        for (int64_t fid : in_flight_)
            if (const uint32_t row = row_of(fid); row < kCandidate) touch(row);
        for (int64_t fid : evicted_in_flight_)
            if (row_of(fid) >= kCandidate) evicted_.insert(fid);
        Drained drained{ticket_ + 1, {}, {evicted_.begin(), evicted_.end()}};
        std::copy_if(rows_.begin(), rows_.end(), std::back_inserter(drained.rows),
                     [&](uint32_t row) { return flags_[row] != 0; });
        std::sort(drained.rows.begin(), drained.rows.end());
        // A row touched, evicted and touched again is listed twice.
        drained.rows.erase(std::unique(drained.rows.begin(), drained.rows.end()), drained.rows.end());
        std::sort(drained.evicted.begin(), drained.evicted.end());
        std::vector<int64_t> fids(drained.rows.size()), evicted = drained.evicted;
        std::transform(drained.rows.begin(), drained.rows.end(), fids.begin(), fid_of);
        // From here on nothing fails.
        for (uint32_t row : drained.rows) flags_[row] = 0;
        rows_.clear();
        evicted_.clear();
        in_flight_.swap(fids);
        evicted_in_flight_.swap(evicted);
        ++ticket_;
        return drained;
    }

    void ack_all() {
        in_flight_.clear();
        evicted_in_flight_.clear();
    }
    void ack(uint64_t ticket) {
        if (ticket != ticket_ || ticket == acked_)
            throw std::invalid_argument("ticket must be that of the last drain, " + std::to_string(ticket_) +
                                        ", and not acknowledged yet, got " + std::to_string(ticket));
        acked_ = ticket;
        ack_all();
    }

    // Fids that a restored table must return again: pending and unacknowledged.
    template <typename FidOf>
    std::vector<int64_t> pending(FidOf&& fid_of) const {
        std::vector<int64_t> fids = in_flight_;
        for (uint32_t row : rows_)
            if (flags_[row]) fids.push_back(fid_of(row));
        return fids;
    }
    std::vector<int64_t> pending_evicted() const {
        std::vector<int64_t> fids(evicted_.begin(), evicted_.end());
        fids.insert(fids.end(), evicted_in_flight_.begin(), evicted_in_flight_.end());
        return fids;
    }
    void restore(const std::vector<int64_t>& pending, const std::vector<int64_t>& evicted) {
        in_flight_ = pending;
        evicted_in_flight_ = evicted;
    }
    size_t num_pending() const { return rows_.size() + evicted_.size(); }
    // Rows and evicted fids of the next drain, at most.
    size_t num_waiting() const { return num_pending() + in_flight_.size() + evicted_in_flight_.size(); }
    size_t bytes() const {
        constexpr size_t kNodeBytes = 32;  // of an unordered set, with its share of the buckets
        return flags_.capacity() + rows_.capacity() * sizeof(uint32_t) + evicted_.size() * kNodeBytes +
               (in_flight_.capacity() + evicted_in_flight_.capacity()) * sizeof(int64_t);
    }

  private:
    static constexpr size_t kAhead = 32, kFewRows = 1024;
    // Drop entries of rows that were evicted, or are listed twice: the list follows rows, not changes.
    void compact() {
        std::erase_if(rows_, [&](uint32_t row) { return !flags_[row]; });
        std::sort(rows_.begin(), rows_.end());
        rows_.erase(std::unique(rows_.begin(), rows_.end()), rows_.end());
    }
    std::vector<uint8_t> flags_;  // by row
    std::vector<uint32_t> rows_;
    std::unordered_set<int64_t, FidHash> evicted_;
    std::vector<int64_t> in_flight_, evicted_in_flight_;
    uint64_t ticket_ = 0, acked_ = 0;
};

}  // namespace monolith
