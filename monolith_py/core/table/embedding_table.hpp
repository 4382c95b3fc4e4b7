// One embedding table: look-up, insertion, update and eviction of its rows.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "table/assignment.hpp"
#include "table/eviction.hpp"
#include "table/insertion.hpp"
#include "table/lookup.hpp"
#include "table/table_content.hpp"
#include "table/update_step.hpp"

namespace monolith {

// Concurrency: const calls may run together; every other call needs the table exclusively. Parts of one call run on
// several threads: part p of P owns 1/P of the id map's shards, or of the rows by hash, so results do not depend on P.
class EmbeddingTable {
  public:
    explicit EmbeddingTable(const TableSettings& settings)
        : content_(settings),
          insertion_(content_),
          assignment_(content_),
          update_step_(content_),
          ttl_evictor_(content_) {}

    const TableSettings& settings() const { return content_.settings; }
    uint32_t dim() const { return rows().dim; }
    size_t num_rows() const { return content_.counts.rows; }
    RowsView rows() const { return content_.store.view(); }
    // Every allocated row is below. Rows passed to this table must be below, or NO_ROW.
    size_t end_row() const { return content_.store.end(); }
    uint64_t num_released() const { return content_.store.num_released(); }  // rows freed so far
    uint64_t num_updates() const { return content_.counts.updates; }         // calls of update
    void set_lr(size_t slice, float lr) { content_.settings.slices[slice].hyperparameters.lr = lr; }

    // Look-up.

    void find(const int64_t* fids, size_t n, uint32_t* rows) const { find_rows(content_.map, {fids, n, rows}); }
    void find_part(const Lookup& lookup, size_t part, size_t parts) const {
        find_rows_part(content_.map, lookup, part, parts);
    }
    void gather(const uint32_t* rows, size_t n, float* weights) const {
        const RowsView table = content_.store.view();
        split(n, kPerThread, [&](size_t begin, size_t end) {
            kernels().gather(table, rows + begin, end - begin, weights + begin * table.dim);
        });
    }
    // Serialise rows, each slice in its encoding.
    void encode(const uint32_t* rows, size_t n, uint8_t* encoded, size_t row_bytes) const {
        const std::vector<Slice>& slices = content_.settings.slices;
        split(n, kPerThread, [&](size_t begin, size_t end) {
            kernels().encode(content_.store.view(), slices.data(), slices.size(), rows + begin, end - begin,
                             encoded + begin * row_bytes, row_bytes);
        });
    }

    // Insertion and update, as one call or in phases.

    // Number of parts for a look-up or insertion of n fids.
    size_t parts(size_t n) const { return std::min(parts_of(n, kPerThread), content_.map.num_shards()); }
    Insertion& insertion() { return insertion_; }
    void find_or_insert(const int64_t* fids, size_t n, int64_t now_s, uint32_t* rows) {
        const Lookup lookup{fids, n, rows};
        const size_t num_parts = parts(n);
        ThreadPool& pool = ThreadPool::instance();
        const AbandonInsertions guard{{&insertion_}};
        insertion_.begin(now_s, num_parts, Shrink::kYes);
        pool.run(num_parts, [&](size_t part) { insertion_.record_occurrences(lookup, part); });
        if (insertion_.plan() == Plan::kInsert) {
            pool.run(num_parts, [&](size_t part) { insertion_.insert(lookup, part); });
            insertion_.allocate_rows();
            pool.run(num_parts, [&](size_t part) { insertion_.start_rows(lookup, part); });
        }
        insertion_.finish(lookup);
    }

    UpdateStep& update_step() { return update_step_; }
    // Take one optimizer step for each row of `rows` with the sum of its gradients; returns the number of rows.
    size_t update(const uint32_t* rows, size_t n, const Gradients& gradients) {
        const size_t num_parts = UpdateStep::parts(n);
        update_step_.begin(num_parts, n);
        ThreadPool::instance().run(num_parts, [&](size_t part) { update_step_.run(rows, n, gradients, part); });
        return update_step_.finish();
    }

    // Rows put in and taken out by fid: table/assignment.hpp.

    void assign(const AssignedRows& given, int64_t now_s) { assignment_.run(given, now_s); }
    std::vector<int64_t> remove(const int64_t* fids, size_t n) { return remove_entries(content_, fids, n); }
    void clear() { clear_entries(content_); }

    // Eviction.

    // Evict entries not seen for more than ttl_s; returns the fids that had rows, sorted. `max_slots`: slots to look
    // at, continuing from the last call; 0: all.
    std::vector<int64_t> evict(int64_t now_s, size_t max_slots) {
        if (content_.settings.ttl_s == 0) return {};
        if (!content_.ticks.has_base()) return {};
        return ttl_evictor_.evict_expired(content_.ticks.expiry(now_s), max_slots);
    }

    // Evict rows of least priority until all take at most `bytes`.
    void shrink(double bytes) { insertion_.shrink(bytes); }
    double used_bytes() const { return content_.used_bytes(); }
    size_t num_free_rows() const { return content_.store.num_free(); }

    // Consumers of changes.

    // Return the changes since the consumer's last drain; its first drain returns every live row.
    TouchedSet::Drained drain(const std::string& consumer) { return content_.changes.drain(consumer); }
    // Move rows of zeros from the changed to the evicted: an absent row reads the same. Their state stays here.
    void evict_zeros(TouchedSet::Drained& drained) const {
        if (!update_step_.may_zero_rows()) return;
        const auto is_zero = [&](uint32_t row) {
            return std::all_of(weights(row), weights(row) + dim(), [](float weight) { return weight == 0; });
        };
        const auto zeros = std::stable_partition(drained.rows.begin(), drained.rows.end(), std::not_fn(is_zero));
        std::for_each(zeros, drained.rows.end(), [&](uint32_t row) { drained.evicted.push_back(fid(row)); });
        drained.rows.erase(zeros, drained.rows.end());
        std::sort(drained.evicted.begin(), drained.evicted.end());
    }
    void touch(const std::string& consumer, const int64_t* fids, size_t n) {
        content_.changes.touch(consumer, fids, n);
    }
    // Return the digest of all rows after a drain: `drained`, without its zeros, encoded with `row_bytes` each.
    uint64_t digest(const std::string& consumer, const TouchedSet::Drained& drained, const uint8_t* encoded,
                    size_t row_bytes) {
        RowDigest* known = content_.changes.digest(consumer);
        if (!known) return content_.changes.add_digest(consumer, whole_digest(row_bytes)).sum();
        known->reserve(end_row());
        for (const int64_t fid : drained.evicted)  // rows of zeros are still there
            if (const uint32_t row = content_.map.row_of(fid); row < kCandidate) known->remove(row);
        set_hashes(*known, drained.rows.data(), drained.rows.size(), encoded, row_bytes);
        return known->sum();
    }
    // Rows were drained without their encoding: the next `digest` looks at all rows again.
    void forget_digest(const std::string& consumer) { content_.changes.forget_digest(consumer); }
    void ack(const std::string& consumer, uint64_t ticket) { content_.changes.ack(consumer, ticket); }
    bool forget(const std::string& consumer) { return content_.changes.forget(consumer); }
    std::map<std::string, size_t> waiting() const { return content_.changes.waiting(); }

    // Inspection.

    std::vector<std::pair<int64_t, uint32_t>> sorted_rows() const {
        std::vector<std::pair<int64_t, uint32_t>> rows;
        content_.map.for_each([&](Slot slot) {
            if (slot.row() < kCandidate) rows.push_back({slot.key(), slot.row()});
        });
        std::sort(rows.begin(), rows.end());
        return rows;
    }
    int64_t fid(uint32_t row) const { return content_.store.fid(row); }
    const float* weights(uint32_t row) const { return content_.store.weights(row); }
    const float* state(uint32_t row) const { return content_.store.state(row); }
    // Call visit(fid, row or NO_ROW, count, seen_s) for every entry.
    template <typename F>
    void for_each(F&& visit) const {
        content_.map.for_each([&](Slot slot) {
            visit(slot.key(), slot.row() < kCandidate ? slot.row() : kNoRow, slot.count(), content_.seen_s(slot));
        });
    }
    // Call visit(row, count, seen_s) if the fid has a row.
    template <typename F>
    void visit(int64_t fid, F&& visit) const {
        if (const Slot slot = content_.map.find(fid); slot && slot.row() < kCandidate)
            visit(slot.row(), slot.count(), content_.seen_s(slot));
    }
    size_t num_shards() const { return content_.map.num_shards(); }
    std::map<std::string, uint64_t> stats() const { return content_.stats(); }

    // Snapshots.

    TableContent& content() { return content_; }
    uint64_t snapshot_id() const { return content_.snapshot_id; }
    bool is_tracking() const { return content_.changes.is_tracking(); }
    void stop_tracking() { content_.changes.stop_tracking(); }

  private:
    void set_hashes(RowDigest& digest, const uint32_t* rows, size_t n, const uint8_t* encoded, size_t row_bytes) const {
        const Encoding encoding = content_.settings.slices.front().encoding;
        for (size_t i = 0; i < n; ++i)
            digest.set(rows[i], row_hash(fid(rows[i]), encoded + i * row_bytes, row_bytes, encoding));
    }
    RowDigest whole_digest(size_t row_bytes) const {
        RowDigest digest;
        digest.reserve(end_row());
        std::vector<uint32_t> rows;
        std::vector<uint8_t> encoded(kPerThread * row_bytes);
        const auto take = [&] {
            encode(rows.data(), rows.size(), encoded.data(), row_bytes);
            set_hashes(digest, rows.data(), rows.size(), encoded.data(), row_bytes);
            rows.clear();
        };
        content_.map.for_each([&](Slot slot) {
            if (slot.row() >= kCandidate) return;
            rows.push_back(slot.row());
            if (rows.size() == kPerThread) take();
        });
        take();
        return digest;
    }

    TableContent content_;
    Insertion insertion_;
    Assignment assignment_;
    UpdateStep update_step_;
    TtlEvictor ttl_evictor_;
};

}  // namespace monolith
