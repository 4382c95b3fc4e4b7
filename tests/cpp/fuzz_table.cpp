// Fuzz target: the input's bytes are operations on an embedding table, mirrored in std::unordered_map; both must agree.
#include <algorithm>
#include <array>
#include <limits>
#include <map>
#include <optional>
#include <set>
#include <unordered_map>
#include <vector>

#include "check.hpp"
#include "table_settings.hpp"
#include "temporary_file.hpp"

namespace {

using namespace monolith;

constexpr uint32_t kDim = 4;
constexpr int64_t kTtl = 10;
constexpr float kLr = 0.5f;
using Weights = std::array<float, kDim>;

class Bytes {
  public:
    Bytes(const uint8_t* data, size_t size) : data_(data), end_(data + size) {}
    bool empty() const { return data_ == end_; }
    uint8_t next() { return empty() ? 0 : *data_++; }

  private:
    const uint8_t *data_, *end_;
};

// One fid per byte value: the limits of int64, then fids of the same few buckets, which displace each other.
const std::vector<int64_t>& fids() {
    static const std::vector<int64_t> fids = [] {
        std::vector<int64_t> found = {0, -1, 1, std::numeric_limits<int64_t>::min(),
                                      std::numeric_limits<int64_t>::max()};
        for (int64_t fid = 2; found.size() < 256; ++fid)
            if ((hash_fid(fid) * bucket_factors().first >> 58) < 3) found.push_back(fid);
        return found;
    }();
    return fids;
}

TableSettings settings(uint32_t admit_after) {
    return check::settings_of(kDim, Optimizer::kSgd, kLr, 0.25f, admit_after, kTtl);
}

const Weights& start_weights(int64_t fid) {
    static std::unordered_map<int64_t, Weights> known;
    const auto [found, is_new] = known.try_emplace(fid);
    if (is_new) {
        EmbeddingTable single(settings(1));
        uint32_t row;
        single.find_or_insert(&fid, 1, 0, &row);
        single.gather(&row, 1, found->second.data());
    }
    return found->second;
}

struct Entry {
    int64_t seen_s = 0;
    uint32_t count = 0;
    std::optional<Weights> weights;
};

struct Consumer {
    std::set<int64_t> fresh, in_flight;
    uint64_t ticket = 0;
    bool may_ack = false;
};

class Mirrored {
  public:
    explicit Mirrored(uint32_t admit_after)
        : admit_after_(admit_after), table_(std::make_unique<EmbeddingTable>(settings(admit_after))) {}

    void step(Bytes& bytes) {
        switch (bytes.next() % 8) {
            case 0:
            case 1:
                return find_or_insert(batch(bytes), now_s_ - bytes.next() % 16);
            case 2:
                return update(batch(bytes), bytes);
            case 3:
                // Farther from the last batch a time would not be believed: tests/unit/table/test_wrong_times.py.
                now_s_ = std::min(now_s_ + (int64_t{bytes.next()} << (bytes.next() % 16)), batch_s_ + 4'000);
                return;
            case 4:
                return evict();
            case 5:
                return drain(bytes.next() % 2);
            case 6:
                return ack(bytes.next() % 2);
            default:
                return save_and_restore();
        }
    }

    void compare() const {
        size_t num_rows = 0;
        for (const auto& [fid, entry] : entries_) {
            num_rows += entry.weights.has_value();
            uint32_t row;
            table_->find(&fid, 1, &row);
            CHECK((row != kNoRow) == entry.weights.has_value());
            if (!entry.weights) continue;
            Weights weights;
            table_->gather(&row, 1, weights.data());
            CHECK(weights == *entry.weights);
            CHECK(table_->fid(row) == fid);
        }
        CHECK(table_->num_rows() == num_rows);
        CHECK(table_->stats().at("candidates") == entries_.size() - num_rows);
    }

  private:
    std::vector<int64_t> batch(Bytes& bytes) {
        std::vector<int64_t> batch(bytes.next() % 32);
        for (int64_t& fid : batch) fid = fids()[bytes.next()];
        return batch;
    }

    bool live(int64_t fid) const {
        const auto found = entries_.find(fid);
        return found != entries_.end() && found->second.weights;
    }

    void changed(int64_t fid) {
        for (auto& [name, consumer] : consumers_) consumer.fresh.insert(fid);
    }

    void find_or_insert(const std::vector<int64_t>& batch, int64_t now_s) {
        batch_s_ = now_s;
        std::vector<uint32_t> rows(batch.size());
        table_->find_or_insert(batch.data(), batch.size(), now_s, rows.data());
        for (int64_t fid : batch) {
            Entry& entry = entries_.try_emplace(fid, Entry{now_s, 0, {}}).first->second;
            entry.seen_s = std::max(entry.seen_s, now_s);
            if (++entry.count >= admit_after_ && !entry.weights) {
                entry.weights = start_weights(fid);
                changed(fid);
            }
        }
        for (size_t i = 0; i < batch.size(); ++i) CHECK((rows[i] != kNoRow) == live(batch[i]));
    }

    void update(const std::vector<int64_t>& batch, Bytes& bytes) {
        std::vector<uint32_t> rows(batch.size());
        table_->find(batch.data(), batch.size(), rows.data());
        std::vector<float> gradients(batch.size());
        std::map<int64_t, float> sums;
        for (size_t i = 0; i < batch.size(); ++i) {
            gradients[i] = static_cast<float>(bytes.next() % 7) - 3;
            if (live(batch[i])) sums[batch[i]] += gradients[i];
        }
        const size_t num_updated = check::update(*table_, rows, [&](uint32_t i, float* sum) {
            for (uint32_t d = 0; d < kDim; ++d) sum[d] += gradients[i] * static_cast<float>(d + 1);
        });
        CHECK(num_updated == sums.size());
        for (const auto& [fid, sum] : sums) {
            for (uint32_t d = 0; d < kDim; ++d) (*entries_[fid].weights)[d] -= kLr * (sum * static_cast<float>(d + 1));
            changed(fid);
        }
    }

    void evict() {
        std::vector<int64_t> expired;
        for (auto entry = entries_.begin(); entry != entries_.end();) {
            if (entry->second.seen_s >= now_s_ - kTtl) {
                ++entry;
                continue;
            }
            if (entry->second.weights) expired.push_back(entry->first);
            entry = entries_.erase(entry);
        }
        std::sort(expired.begin(), expired.end());
        CHECK(table_->evict(now_s_, 0) == expired);
        for (int64_t fid : expired) changed(fid);
    }

    void drain(int name) {
        if (!consumers_.contains(name))
            for (const auto& [fid, entry] : entries_)
                if (entry.weights) consumers_[name].fresh.insert(fid);
        Consumer& consumer = consumers_[name];
        consumer.in_flight.merge(consumer.fresh);
        consumer.fresh.clear();
        const TouchedSet::Drained drained = table_->drain(std::to_string(name));
        std::vector<int64_t> got_live, live_fids, evicted;
        for (uint32_t row : drained.rows) got_live.push_back(table_->fid(row));
        std::sort(got_live.begin(), got_live.end());
        for (int64_t fid : consumer.in_flight) (live(fid) ? live_fids : evicted).push_back(fid);
        CHECK(got_live == live_fids);
        CHECK(drained.evicted == evicted);
        consumer.ticket = drained.ticket;
        consumer.may_ack = true;
    }

    void ack(int name) {
        const auto found = consumers_.find(name);
        if (found == consumers_.end() || !found->second.may_ack) {
            const uint64_t ticket = found == consumers_.end() ? 0 : found->second.ticket;
            CHECK_THROWS(table_->ack(std::to_string(name), ticket), std::invalid_argument);
            return;
        }
        table_->ack(std::to_string(name), found->second.ticket);
        found->second.in_flight.clear();
        found->second.may_ack = false;
    }

    // Save a base, or an increment on the last one; restore all into a new table.
    void save_and_restore() {
        static const check::TemporaryFile base, increment;
        const bool is_base = table_->snapshot_id() == 0 || !table_->is_tracking();
        const std::string& path = is_base ? base.path() : increment.path();
        check::save(*table_, path, table_->snapshot_id() + 1, is_base ? 0 : table_->snapshot_id());
        auto restored = std::make_unique<EmbeddingTable>(settings(admit_after_));
        restore(*restored, base.path(), {});
        if (!is_base) restore(*restored, path, {});
        CHECK(check::content_of(*restored) == check::content_of(*table_));
        if (is_base) return;  // keep the table that tracks its changes, for an increment
        table_ = std::move(restored);
        for (auto& [name, consumer] : consumers_) {
            consumer.in_flight.merge(consumer.fresh);
            consumer.fresh.clear();
            consumer.may_ack = false;
        }
    }

    uint32_t admit_after_;
    std::unique_ptr<EmbeddingTable> table_;
    std::unordered_map<int64_t, Entry> entries_;
    std::map<int, Consumer> consumers_;
    int64_t now_s_ = 1000, batch_s_ = 1000;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    Bytes bytes(data, size);
    Mirrored both(1 + bytes.next() % 3);
    while (!bytes.empty()) {
        both.step(bytes);
        both.compare();
    }
    return 0;
}
