// One embedding table: id map, row store, admission, expiry, memory budget, touched sets.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "admission.hpp"
#include "id_map.hpp"
#include "kernels.hpp"
#include "row_store.hpp"
#include "thread_pool.hpp"
#include "touched_set.hpp"

namespace monolith {

class SnapshotFileReader;
class Writer;
struct Share;

// Fids of one feature of a batch and where their rows go.
struct Lookup {
    const int64_t* fids;
    size_t n;
    uint32_t* rows;
};

// Calls that change the table must not run with any other. Parts of one call run together: part p of P owns the p-th
// P-th of the id map's shards, or of the rows by their hash, so what a call gives does not depend on P.
class EmbeddingTable {
  public:
    explicit EmbeddingTable(const TableSettings& settings)
        : settings_(laid_out(settings)),
          dim_(settings_.dim()),
          state_width_(total_state(settings_)),
          map_(2 * kSlotBytes / row_bytes()),
          store_(dim_, state_width_, row_bytes()),
          tick_s_(settings.ttl_s > 0 ? std::max<int64_t>(1, (settings.ttl_s + kTicksPerTtl - 1) / kTicksPerTtl)
                                     : kFreeTick) {
        if (settings.admission == Admission::kSketch)
            sketch_ = std::make_unique<SlidingSketch>(settings.sketch_bytes, settings.sketch_window_s);
        for (const Slice& slice : settings_.slices) frees_ = frees_ || frees_rows(slice.optimizer);
    }

    const TableSettings& settings() const { return settings_; }
    uint32_t dim() const { return dim_; }
    size_t num_rows() const { return num_rows_; }
    RowsView rows() const { return store_.view(); }
    // Rows from here on were never given out. What takes rows wants them below, or NO_ROW.
    size_t end_row() const { return store_.end(); }
    uint64_t num_updates() const { return num_updates_; }  // calls of update
    void set_lr(size_t slice, float lr) { settings_.slices[slice].hyper.lr = lr; }

    // ---- look-up

    void find(const int64_t* fids, size_t n, uint32_t* rows) const {
        split(n,
              [&](size_t begin, size_t end) { kernels().find(map_.view(), fids + begin, end - begin, rows + begin); });
    }

    void find_part(const Lookup& lookup, size_t part, size_t parts) const {
        const size_t begin = lookup.n * part / parts, end = lookup.n * (part + 1) / parts;
        kernels().find(map_.view(), lookup.fids + begin, end - begin, lookup.rows + begin);
    }
    void gather(const uint32_t* rows, size_t n, float* weights) const {
        split(n, [&](size_t begin, size_t end) {
            kernels().gather(store_.view(), rows + begin, end - begin, weights + begin * dim_);
        });
    }
    // Rows as bytes, each slice in its encoding.
    void encode(const uint32_t* rows, size_t n, uint8_t* encoded, size_t row_bytes) const {
        const std::vector<Slice>& slices = settings_.slices;
        split(n, [&](size_t begin, size_t end) {
            kernels().encode(store_.view(), slices.data(), slices.size(), rows + begin, end - begin,
                             encoded + begin * row_bytes, row_bytes);
        });
    }

    // How many parts a batch of n is worth.
    size_t parts(size_t n) const {
        const size_t most = std::min<size_t>(
            {static_cast<size_t>(ThreadPool::instance().num_threads()), map_.num_shards(), n / 4096 + 1});
        return std::max<size_t>(most, 1);
    }

    // find_or_insert in its phases: `begin`, then `sight` for all parts, then `plan`; where that returns true, `insert`
    // for all parts and `finish`. A fid gets its row in the batch in which it is admitted: all its occurrences there
    // have the row.
    void begin(int64_t now_s, size_t parts) {
        now_ = tick(now_s);
        now_s_ = now_s;
        if (settings_.eviction != Eviction::kNone) shrink();
        parts_.resize(std::max(parts_.size(), parts));
        num_parts_ = parts;
    }
    void sight(const Lookup& lookup, size_t part) {
        Part& own = parts_[part];
        own.missed.resize(lookup.n);
        const size_t shards = map_.num_shards();
        own.num_missed = kernels().sight(map_.view(), lookup.fids, lookup.n, shards * part / num_parts_,
                                         shards * (part + 1) / num_parts_, now_, lookup.rows, own.missed.data());
    }
    bool plan() {
        size_t num_missed = 0;
        for (size_t p = 0; p < num_parts_; ++p) {
            parts_[p].ids_at = num_missed;
            num_missed += parts_[p].num_missed;
        }
        if (num_missed == 0) return false;
        map_.expect(num_missed);  // where it splits, there was one shard, so one part has all
        ids_.clear();
        store_.allocate(num_missed, ids_);
        ++num_plans_;
        return true;
    }
    void insert(const Lookup& lookup, size_t part) {
        Part& own = parts_[part];
        const size_t shards = map_.num_shards();
        const size_t begin = shards * part / num_parts_, end = shards * (part + 1) / num_parts_;
        sort_by_shard(lookup, own, begin, end);
        own.born.clear();
        own.unused.clear();
        own.num_filtered = 0;
        own.candidates = 0;
        for (size_t shard = begin; shard < end; ++shard)
            insert_into_shard(lookup, own, own.starts[shard - begin], own.starts[shard - begin + 1]);
    }
    void finish() {
        for (size_t p = 0; p < num_parts_; ++p) {
            const Part& own = parts_[p];
            each_touched([&](TouchedSet& touched) {
                touched.reserve(store_.end());
                for (uint32_t row : own.born) {
                    touched.born(store_.fid(row));
                    touched.touch(row);
                }
            });
            num_rows_ += own.born.size();
            num_admitted_ += own.born.size();
            num_filtered_ += own.num_filtered;
            num_candidates_ += static_cast<uint64_t>(own.candidates);
        }
        for (size_t p = num_parts_; p-- > 0;)
            for (size_t i = parts_[p].unused.size(); i-- > 0;) store_.release(parts_[p].unused[i]);
    }

    void find_or_insert(const int64_t* fids, size_t n, int64_t now_s, uint32_t* rows) {
        const Lookup lookup{fids, n, rows};
        ThreadPool& pool = ThreadPool::instance();
        begin(now_s, parts(n));
        pool.run(num_parts_, [&](size_t part) { sight(lookup, part); });
        if (plan()) {
            pool.run(num_parts_, [&](size_t part) { insert(lookup, part); });
            finish();
        }
        note_sighted(lookup);
    }

    // ---- update

    // One step for each row of `rows`, with the sum of its gradients.
    size_t update(const uint32_t* rows, size_t n, const Gradients& gradients) {
        const size_t parts = update_parts(n);
        begin_update(parts);
        ThreadPool::instance().run(parts, [&](size_t part) { update_part(rows, n, gradients, part); });
        return finish_update();
    }
    size_t update_parts(size_t n) const {
        return std::min<size_t>(static_cast<size_t>(ThreadPool::instance().num_threads()), n / 8192 + 1);
    }
    void begin_update(size_t parts) {
        parts_.resize(std::max(parts_.size(), parts));
        num_parts_ = parts;
        each_touched([&](TouchedSet& touched) { touched.reserve(store_.end()); });
    }
    void update_part(const uint32_t* rows, size_t n, const Gradients& gradients, size_t part) {
        Part& own = parts_[part];
        own.order.resize(2 * n);
        own.updated.resize(n);
        own.sum.resize(dim_);
        if (frees_) own.zeroed.resize(n);
        size_t num = 0;
        uint64_t* order = kernels().sort_rows(rows, n, part, num_parts_, own.order.data(), own.order.data() + n, &num);
        UpdateJob job{store_.view(),
                      settings_.slices.data(),
                      settings_.slices.size(),
                      gradients,
                      order,
                      num,
                      own.sum.data(),
                      own.updated.data(),
                      frees_ ? own.zeroed.data() : nullptr,
                      0};
        own.num_updated = kernels().update(job);
        own.num_zeroed = job.num_zeroed;
        own.fresh.resize(consumers_.size() + 1);
        size_t consumer = 0;
        each_touched([&](TouchedSet& touched) {
            std::vector<uint32_t>& fresh = own.fresh[consumer++];
            fresh.resize(own.num_updated);
            fresh.resize(touched.flag(own.updated.data(), own.num_updated, fresh.data()));
        });
    }
    size_t finish_update() {
        size_t num_updated = 0;
        for (size_t p = 0; p < num_parts_; ++p) {
            const Part& own = parts_[p];
            size_t consumer = 0;
            each_touched([&](TouchedSet& touched) {
                touched.append(own.fresh[consumer].data(), own.fresh[consumer].size());
                ++consumer;
            });
            num_updated += own.num_updated;
        }
        if (frees_) free_zeroed();
        ++num_updates_;
        return num_updated;
    }

    // ---- eviction

    // Let go of what was not seen for more than ttl_s. `max_slots` 0 looks at all entries, else at so many from where
    // the last call ended.
    std::vector<int64_t> evict(int64_t now_s, size_t max_slots) {
        std::vector<int64_t> evicted;
        if (settings_.ttl_s == 0) return evicted;
        const int64_t oldest = static_cast<int64_t>(tick(now_s)) - (settings_.ttl_s + tick_s_ - 1) / tick_s_;
        const size_t all = map_.capacity();
        sweep(ttl_cursor_, max_slots == 0 ? all : std::min(max_slots, all), [&](Slot slot) {
            if (static_cast<int64_t>(slot.seen()) < oldest) let_go(slot, &evicted);
            return true;
        });
        std::sort(evicted.begin(), evicted.end());
        return evicted;
    }

    // ---- consumers of changes

    // A consumer's first drain hands out every live row.
    TouchedSet::Drained drain(const std::string& consumer) {
        if (!consumers_.contains(consumer)) {
            TouchedSet& touched = consumers_[consumer];
            touched.reserve(store_.end());
            map_.for_each([&](Slot slot) {
                if (slot.row() < kCandidate) touched.touch(slot.row());
            });
        }
        TouchedSet& touched = consumers_[consumer];
        touched.reserve(store_.end());
        TouchedSet::Drained drained =
            touched.drain([&](int64_t fid) { return row_of(fid); }, [&](uint32_t row) { return store_.fid(row); });
        // An update may have named a row whose fid is gone.
        std::vector<int64_t> fids;
        for (uint32_t row : drained.rows) fids.push_back(store_.fid(row));
        std::vector<uint32_t> found(fids.size());
        find(fids.data(), fids.size(), found.data());
        size_t num = 0;
        for (size_t i = 0; i < found.size(); ++i)
            if (found[i] == drained.rows[i]) drained.rows[num++] = found[i];
        drained.rows.resize(num);
        return drained;
    }
    void ack(const std::string& consumer, uint64_t ticket) {
        const auto found = consumers_.find(consumer);
        if (found == consumers_.end()) throw std::invalid_argument("consumer " + consumer + " has not drained");
        found->second.ack(ticket);
    }

    // ---- inspection

    std::vector<std::pair<int64_t, uint32_t>> sorted_rows() const {
        std::vector<std::pair<int64_t, uint32_t>> rows;
        map_.for_each([&](Slot slot) {
            if (slot.row() < kCandidate) rows.push_back({slot.key(), slot.row()});
        });
        std::sort(rows.begin(), rows.end());
        return rows;
    }
    int64_t fid(uint32_t row) const { return store_.fid(row); }
    const float* weights(uint32_t row) const { return store_.weights(row); }
    const float* state(uint32_t row) const { return store_.state(row); }

    // Visit(fid, row or NO_ROW, count, seen_s) for every entry.
    template <typename F>
    void for_each(F&& visit) const {
        map_.for_each([&](Slot slot) {
            visit(slot.key(), slot.row() < kCandidate ? slot.row() : kNoRow, slot.count(), seen_s_of(slot));
        });
    }

    size_t bytes() const {
        size_t bytes = map_.bytes() + store_.bytes() + (sketch_ ? sketch_->bytes() : 0);
        for (const auto& [name, touched] : consumers_) bytes += touched.bytes();
        return bytes;
    }
    std::map<std::string, uint64_t> stats() const {
        return {{"rows", num_rows_},         {"candidates", num_candidates_},     {"admitted", num_admitted_},
                {"filtered", num_filtered_}, {"evicted", num_evicted_},           {"freed", num_freed_},
                {"bytes", bytes()},          {"id_map_capacity", map_.capacity()}};
    }

    // ---- snapshots (snapshot.hpp): what it takes to copy the table while it changes, and to fill it again

    size_t num_shards() const { return map_.num_shards(); }
    size_t shard_size(size_t shard) const { return map_.shard(shard).size; }
    uint64_t snapshot_id() const {
        return snapshot_id_;
    }  // of the newest snapshot that this table was saved to or restored from; 0: none
    void set_snapshot_id(uint64_t id) { snapshot_id_ = id; }
    bool is_tracking() const { return tracker_ != nullptr; }
    // From now on, note what changes: all that a row, a candidate or their absence is made of.
    void start_tracking() {
        stop_tracking();
        tracker_ = std::make_unique<Tracker>();
        tracker_->touched.reserve(store_.end());
    }
    void stop_tracking() { tracker_.reset(); }
    size_t num_changed() const { return tracker_->touched.num_pending() + tracker_->candidates.size(); }
    // Call entry(fid, seen, count, kind, weights, state) for each entry of a shard, or for all that has changed since
    // it was copied.
    template <typename F>
    void copy_shard(size_t shard, F&& entry) const;
    template <typename F>
    void copy_changes(F&& entry);
    void write_state(Writer& out) const;
    void load(const SnapshotFileReader& file, Share share);
    // A lookup that was sighted has changed what is known of its fids' past.
    void note_sighted(const Lookup& lookup) {
        if (!tracker_) return;
        tracker_->touched.reserve(store_.end());
        for (size_t i = 0; i < lookup.n; ++i)
            if (lookup.rows[i] < kCandidate)
                tracker_->touched.touch(lookup.rows[i]);
            else if (settings_.admission == Admission::kCount)
                tracker_->candidates.insert(lookup.fids[i]);
    }

  private:
    static constexpr int64_t kTicksPerTtl = 1000;
    static constexpr int64_t kFreeTick = 10;         // seconds, where no TTL asks for another
    static constexpr int64_t kBaseAge = 4096;        // how many ticks before the first event an event may lie
    static constexpr double kSlotBytes = 16 / 0.65;  // what an entry of the id map takes at its mean load
    static constexpr size_t kAhead = 16;

    // What one thread of a call works on.
    struct Part {
        std::vector<uint32_t> missed;  // positions without a row, in order of the batch
        size_t num_missed = 0, ids_at = 0;
        std::vector<uint32_t> by_shard, starts;  // positions in order of shard, and where each shard's begin
        std::vector<int64_t> fids;               // of by_shard
        std::vector<uint32_t> born, unused;
        uint64_t num_filtered = 0;
        int64_t candidates = 0;
        std::vector<uint64_t> order;
        std::vector<float> sum;
        std::vector<uint32_t> updated, zeroed;
        size_t num_updated = 0, num_zeroed = 0;
        std::vector<std::vector<uint32_t>> fresh;  // by consumer
    };

    static TableSettings laid_out(TableSettings settings) {
        uint32_t weights_at = 0, state_at = 0;
        for (Slice& slice : settings.slices) {
            slice.weights_at = weights_at;
            slice.state_at = state_at;
            weights_at += slice.dim;
            state_at += state_width(slice);
        }
        return settings;
    }
    static uint32_t total_state(const TableSettings& settings) {
        uint32_t sum = 0;
        for (const Slice& slice : settings.slices) sum += state_width(slice);
        return sum;
    }

    // Share n positions out among the threads.
    template <typename F>
    static void split(size_t n, F&& run) {
        ThreadPool& pool = ThreadPool::instance();
        const size_t parts = std::min<size_t>(static_cast<size_t>(pool.num_threads()), n / 4096 + 1);
        pool.run(parts, [&](size_t part) { run(n * part / parts, n * (part + 1) / parts); });
    }

    // The consumers' sets and the one of snapshots.
    template <typename F>
    void each_touched(F&& visit) {
        for (auto& [name, touched] : consumers_) visit(touched);
        if (tracker_) visit(tracker_->touched);
    }

    uint32_t row_of(int64_t fid) const {
        const Slot slot = map_.find(fid);
        return slot ? slot.row() : kNoRow;
    }
    int64_t seen_s_of(Slot slot) const { return (base_tick_ + slot.seen()) * tick_s_; }

    void sort_by_shard(const Lookup& lookup, Part& own, size_t begin, size_t end) {
        own.starts.assign(end - begin + 1, 0);
        own.by_shard.resize(own.num_missed);
        own.fids.resize(own.num_missed);
        const auto shard_at = [&](size_t i) { return map_.shard_of(hash_fid(lookup.fids[own.missed[i]])) - begin; };
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
        const uint32_t* ids = ids_.data() + own.ids_at;
        const uint32_t* const end_ids = ids + to;
        ids += from;
        size_t without = 0;
        const size_t born_before = own.born.size();
        std::unordered_map<int64_t, uint32_t> sighted;  // of rules of chance, in this batch
        for (size_t k = from; k < to; ++k) {
            if (k + kAhead < own.num_missed) {
                const int64_t coming = own.fids[k + kAhead];
                map_.prefetch(coming);
                if (sketch_) sketch_->prefetch(hash_fid(coming));
            }
            const uint32_t at = own.by_shard[k];
            const int64_t fid = own.fids[k];
            Slot slot = map_.find(fid);
            if (!slot) {
                uint32_t count = 1;
                if (settings_.admission == Admission::kCount && settings_.admit_after > 1) {
                    map_.insert(fid, kCandidate, now_, 1);
                    ++own.candidates;
                    ++without;
                    continue;
                }
                if (!admits(fid, sighted, &count)) {
                    ++without;
                    continue;
                }
                slot = map_.insert(fid, kCandidate, now_, static_cast<uint16_t>(std::min<uint32_t>(count, 0xFFFF)));
                lookup.rows[at] = admit(slot, fid, *ids++, own);
                continue;
            }
            slot.seen() = std::max(slot.seen(), now_);
            if (slot.count() < 0xFFFF) ++slot.count();
            if (slot.row() != kCandidate) {
                lookup.rows[at] = slot.row();
            } else if (slot.count() >= settings_.admit_after) {
                --own.candidates;
                lookup.rows[at] = admit(slot, fid, *ids++, own);
            } else {
                ++without;
            }
        }
        own.unused.insert(own.unused.end(), ids, end_ids);
        if (without > 0 && own.born.size() > born_before)
            for (size_t k = from; k < to; ++k) {
                uint32_t& row = lookup.rows[own.by_shard[k]];
                if (row != kNoRow) continue;
                const uint32_t found = row_of(own.fids[k]);
                if (found >= kCandidate) continue;
                row = found;
                --without;
            }
        own.num_filtered += without;
    }

    uint32_t admit(Slot slot, int64_t fid, uint32_t row, Part& own) {
        slot.row() = row;
        store_.fid(row) = fid;
        kernels().start_row(settings_.slices.data(), settings_.slices.size(), seeded_hash(settings_.seed, fid),
                            store_.weights(row), store_.state(row));
        own.born.push_back(row);
        return row;
    }

    // Whether a fid that has no entry is admitted by this sighting.
    bool admits(int64_t fid, std::unordered_map<int64_t, uint32_t>& sighted, uint32_t* count) {
        switch (settings_.admission) {
            case Admission::kCount:
                return true;
            case Admission::kSketch:
                *count = sketch_->add(hash_fid(fid), now_s_);
                return *count >= settings_.admit_after;
            case Admission::kProbability:
            case Admission::kGeometric: {
                // One draw for a fid and a batch, held against the chance of all its sightings there so far.
                *count = ++sighted[fid];
                // Mixed twice: start values come of the first stream, and a row admitted by a low draw would start low.
                const double draw = unit_interval(mix(mix(seeded_hash(settings_.seed, fid)) + kGolden * num_plans_));
                return draw < chance(settings_.admission, settings_.admit_after, *count);
            }
        }
        return false;
    }

    void let_go(Slot slot, std::vector<int64_t>* evicted) {
        const uint32_t row = slot.row();
        const int64_t fid = slot.key();
        map_.erase(slot);
        if (row == kCandidate) {
            --num_candidates_;
            if (tracker_) tracker_->candidates.insert(fid);
            return;
        }
        each_touched([&](TouchedSet& touched) { touched.evict(row, fid); });
        store_.release(row);
        --num_rows_;
        ++num_evicted_;
        if (evicted) evicted->push_back(fid);
    }

    // Rows that their rule has brought to zero read as no row does, so they go; in the order of rows, whatever part had
    // them.
    void free_zeroed() {
        std::vector<uint32_t> zeroed;
        for (size_t p = 0; p < num_parts_; ++p)
            zeroed.insert(zeroed.end(), parts_[p].zeroed.data(), parts_[p].zeroed.data() + parts_[p].num_zeroed);
        std::sort(zeroed.begin(), zeroed.end());
        for (const uint32_t row : zeroed) {
            const Slot slot = map_.find(store_.fid(row));
            if (!slot || slot.row() != row) continue;
            let_go(slot, nullptr);
            --num_evicted_;
            ++num_freed_;
        }
    }

    struct Cursor {
        size_t shard = 0, bucket = 0;
    };

    // Visit the entries of up to `num_slots` slots from the cursor on; a visit that returns false ends the sweep.
    template <typename F>
    void sweep(Cursor& cursor, size_t num_slots, F&& visit) {
        for (size_t slots = 0; slots < num_slots; slots += kSlotsPerBucket) {
            if (cursor.shard >= map_.num_shards()) cursor = {};
            const Shard& shard = map_.shard(cursor.shard);
            if (cursor.bucket >= shard.num_buckets) {
                cursor = {cursor.shard + 1, 0};
                slots -= kSlotsPerBucket;
                continue;
            }
            Bucket* bucket = &shard.buckets[cursor.bucket++];
            for (int i = 0; i < kSlotsPerBucket; ++i)
                if (bucket->rows[i] != kNoRow && !visit(Slot{bucket, i})) return;
        }
    }

    // What a row takes: weights, state, fid and its entry of the id map.
    double row_bytes() const { return sizeof(float) * (dim_ + state_width_) + sizeof(int64_t) + kSlotBytes; }
    double used_bytes() const {
        return static_cast<double>(num_rows_) * row_bytes() + static_cast<double>(num_candidates_) * kSlotBytes;
    }

    // What goes first has the least.
    double priority(Slot slot) const {
        switch (settings_.eviction) {
            case Eviction::kNone:
            case Eviction::kLru:
                return slot.seen() + slot.count() / 65536.0;
            case Eviction::kLfu:
                return slot.count() + slot.seen() / 65536.0;
            case Eviction::kScore:  // log2 of count * 2^(-age / half-life)
                return std::log2(slot.count() + 1.0) -
                       static_cast<double>((now_ - slot.seen()) * tick_s_) / static_cast<double>(settings_.half_life_s);
        }
        return 0;
    }

    // Evict by priority until the table is within its budget. What was seen in this tick stays: it may be in use. A
    // sample of entries gives the priority below which the wanted share lies; then a sweep goes on from where the last
    // one ended.
    void shrink() {
        const double budget = static_cast<double>(settings_.budget_bytes);
        if (used_bytes() <= budget) return;
        const double target = budget * (1 - 1.0 / 256);
        for (int round = 0; round < 8 && used_bytes() > target; ++round) {
            std::vector<double> sample;  // of what may go
            size_t num_seen = 0;
            Cursor at;
            for (size_t tries = 0; sample.size() < kSample && tries < 4 * kSample; ++tries) {
                const uint64_t bits = mix(++num_samples_);
                at.shard = bits % map_.num_shards();
                at.bucket = (bits >> 16) % map_.shard(at.shard).num_buckets;
                sweep(at, kSlotsPerBucket, [&](Slot slot) {
                    ++num_seen;
                    if (slot.seen() < now_) sample.push_back(priority(slot));
                    return true;
                });
            }
            if (sample.empty()) return;
            std::sort(sample.begin(), sample.end());
            const double may_go = used_bytes() * static_cast<double>(sample.size()) / static_cast<double>(num_seen);
            const double share = std::clamp(2 * (used_bytes() - target) / may_go, 1.0 / 32, 1.0);
            const double threshold =
                sample[std::min(sample.size() - 1, static_cast<size_t>(share * static_cast<double>(sample.size())))];
            sweep(budget_cursor_, map_.capacity(), [&](Slot slot) {
                if (slot.seen() < now_ && priority(slot) <= threshold) let_go(slot, nullptr);
                return used_bytes() > target;
            });
        }
    }
    static constexpr size_t kSample = 1024;

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

    struct Tracker {
        TouchedSet touched;
        std::unordered_set<int64_t> candidates;  // counted, admitted or let go
    };

    TableSettings settings_;
    uint32_t dim_, state_width_;
    IdMap map_;
    RowStore store_;
    std::unique_ptr<SlidingSketch> sketch_;
    bool frees_ = false;  // a rule may bring rows to zero
    int64_t tick_s_;
    int64_t base_tick_ = 0;
    bool has_base_ = false;
    uint16_t now_ = 0;
    int64_t now_s_ = 0;
    std::map<std::string, TouchedSet> consumers_;
    uint64_t num_rows_ = 0, num_candidates_ = 0, num_admitted_ = 0, num_filtered_ = 0, num_evicted_ = 0, num_freed_ = 0;
    uint64_t num_updates_ = 0, num_plans_ = 0, num_samples_ = 0, snapshot_id_ = 0;
    std::unique_ptr<Tracker> tracker_;
    Cursor ttl_cursor_, budget_cursor_;
    std::vector<Part> parts_;
    size_t num_parts_ = 1;
    std::vector<uint32_t> ids_;
};

}  // namespace monolith
