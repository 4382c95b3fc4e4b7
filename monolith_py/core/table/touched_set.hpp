// Rows touched and fids evicted since a consumer's last acknowledged drain.
//
// Concurrency: `flag` may run on several threads for different rows; every other call needs the set exclusively.
#pragma once

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <unordered_set>
#include <vector>

#include "index/bucket.hpp"

namespace monolith {

class TouchedSet {
  public:
    // Make room for rows below `end`. Required before rows are touched.
    void reserve(size_t end) {
        if (end > flags_.size()) flags_.resize(std::max(end, flags_.size() + flags_.size() / 2));
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
    void cancel_eviction(int64_t fid) {
        if (!evicted_.empty()) evicted_.erase(fid);
    }
    void evict(uint32_t row, int64_t fid) {
        if (row < flags_.size()) flags_[row] = 0;  // a drain skips its entry in rows_
        evicted_.insert(fid);
    }

    struct Drained {
        uint64_t ticket;
        std::vector<uint32_t> rows;
        std::vector<int64_t> evicted;
    };

    // Return everything pending, including earlier drains without acknowledgement. `row_of` finds a fid's row.
    template <typename RowOf, typename FidOf>
    Drained drain(RowOf&& row_of, FidOf&& fid_of) {
        for (int64_t fid : in_flight_)
            if (const uint32_t row = row_of(fid); row < kCandidate) touch(row);
        for (int64_t fid : evicted_in_flight_)
            if (row_of(fid) >= kCandidate) evicted_.insert(fid);
        Drained drained{++ticket_, {}, {evicted_.begin(), evicted_.end()}};
        for (uint32_t row : rows_)
            if (flags_[row]) {
                drained.rows.push_back(row);
                flags_[row] = 0;
            }
        std::sort(drained.rows.begin(), drained.rows.end());
        std::sort(drained.evicted.begin(), drained.evicted.end());
        rows_.clear();
        evicted_.clear();
        in_flight_.clear();
        for (uint32_t row : drained.rows) in_flight_.push_back(fid_of(row));
        evicted_in_flight_ = drained.evicted;
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
    size_t bytes() const { return flags_.capacity() + rows_.capacity() * sizeof(uint32_t); }

  private:
    static constexpr size_t kAhead = 32;
    std::vector<uint8_t> flags_;  // by row
    std::vector<uint32_t> rows_;
    std::unordered_set<int64_t> evicted_;
    std::vector<int64_t> in_flight_, evicted_in_flight_;
    uint64_t ticket_ = 0, acked_ = 0;
};

}  // namespace monolith
