// What the bindings of tables are made of: checks, and the locks around tables and maps. Included by bindings.cpp
// alone.
#pragma once

#include <nanobind/stl/map.h>
#include <nanobind/stl/unique_ptr.h>

#include <memory>
#include <mutex>
#include <shared_mutex>
#include <type_traits>

#include "bindings_arrays.hpp"
#include "embedding_table.hpp"
#include "pooled.hpp"
#include "snapshot.hpp"

namespace {

using namespace monolith;

struct NotFinite : std::runtime_error {
    using std::runtime_error::runtime_error;
};

// Event time in seconds: some 30,000 years to either side, far from where sums of times run over.
void expect_time(int64_t now_s) {
    constexpr int64_t kMost = int64_t{1} << 40;
    if (now_s < -kMost || now_s > kMost)
        throw std::invalid_argument("now_s must be within 2^40 seconds of the epoch, got " + std::to_string(now_s));
}

// Rows that the table has given out, or NO_ROW; the table's lock is held.
void expect_rows(const EmbeddingTable& table, const uint32_t* rows, size_t n) {
    uint32_t end = 0;
    for (size_t i = 0; i < n; ++i) end = std::max(end, rows[i] + 1);  // NO_ROW + 1 is 0
    if (end > table.end_row())
        throw std::invalid_argument("rows must be NO_ROW or below " + std::to_string(table.end_row()) + ", got " +
                                    std::to_string(end - 1));
}

// fid -> row id for a replica; a lock for readers and the writer.
class SharedIdMap {
  public:
    explicit SharedIdMap(size_t capacity) { map_.expect(capacity); }
    size_t size() const {
        std::shared_lock lock(mutex_);
        return map_.size();
    }
    void find(const int64_t* fids, size_t n, uint32_t* rows) const {
        std::shared_lock lock(mutex_);
        kernels().find(map_.view(), fids, n, rows);
    }
    void assign(const int64_t* fids, const uint32_t* rows, size_t n, uint32_t* old_rows) {
        std::unique_lock lock(mutex_);
        map_.expect(n);
        for (size_t i = 0; i < n; ++i) {
            if (i + kAhead < n) map_.prefetch(fids[i + kAhead]);
            const Slot slot = map_.find(fids[i]);
            old_rows[i] = slot ? slot.row() : kNoRow;
            if (slot)
                slot.row() = rows[i];
            else
                map_.insert(fids[i], rows[i], 0, 0);
        }
    }
    void erase(const int64_t* fids, size_t n, uint32_t* old_rows) {
        std::unique_lock lock(mutex_);
        for (size_t i = 0; i < n; ++i) {
            if (i + kAhead < n) map_.prefetch(fids[i + kAhead]);
            const Slot slot = map_.find(fids[i]);
            old_rows[i] = slot ? slot.row() : kNoRow;
            if (slot) map_.erase(slot);
        }
    }
    std::vector<std::pair<int64_t, uint32_t>> items() const {
        std::shared_lock lock(mutex_);
        std::vector<std::pair<int64_t, uint32_t>> items;
        map_.for_each([&](Slot slot) { items.push_back({slot.key(), slot.row()}); });
        std::sort(items.begin(), items.end());
        return items;
    }

  private:
    static constexpr size_t kAhead = 12;
    mutable std::shared_mutex mutex_;
    IdMap map_;
};

struct Table {
    EmbeddingTable table;
    std::shared_mutex mutex;
    bool is_saving = false;  // a snapshot is under way
    explicit Table(const TableSettings& settings) : table(settings) {}
};

// A snapshot under way, one at a time. The table must outlive it, which the binding sees to. One that fails or is given
// up ends the tracking of changes, since what it has copied is in no file: no increment can follow.
class Saving {
  public:
    Saving(Table& table, const std::string& path, uint64_t id, uint64_t parent) : table_(table) {
        std::unique_lock lock(table.mutex);
        if (table.is_saving) throw std::invalid_argument("a snapshot of this table is under way already");
        writer_.emplace(table.table, path, id, parent);
        table.is_saving = true;
    }
    Saving(const Saving&) = delete;
    Saving& operator=(const Saving&) = delete;
    ~Saving() { cancel(); }
    void cancel() {
        if (writer_) end(false);
    }
    bool copy(size_t max_rows) {
        return or_end([&] {
            if (is_finished_) throw std::invalid_argument("this snapshot is finished already");
            bool more;
            {
                std::unique_lock lock(table_.mutex);
                more = writer().copy(max_rows);
            }
            writer().flush();
            return more;
        });
    }
    void finish() {
        or_end([&] {
            std::unique_lock lock(table_.mutex);
            if (is_finished_) throw std::invalid_argument("this snapshot is finished already");
            writer().finish();
            is_finished_ = true;
        });
    }
    void commit(bool track) {
        or_end([&] {
            if (!is_finished_) throw std::invalid_argument("this snapshot must be finished before it is committed");
            if (!track) {
                std::unique_lock lock(table_.mutex);
                table_.table.stop_tracking();
            }
            writer().commit();
        });
        end(track);
    }

  private:
    template <typename Step>
    std::invoke_result_t<Step> or_end(Step&& step) {
        writer();
        try {
            return step();
        } catch (const SnapshotError&) {
            end(false);
            throw;
        }
    }
    void end(bool track) {
        writer_.reset();
        std::unique_lock lock(table_.mutex);
        if (!track) table_.table.stop_tracking();
        table_.is_saving = false;
    }
    SnapshotWriter& writer() {
        if (!writer_) throw std::invalid_argument("this snapshot is written already");
        return *writer_;
    }
    Table& table_;
    std::optional<SnapshotWriter> writer_;
    bool is_finished_ = false;
};

template <typename T>
T named(const char* field, const std::string& name, const std::vector<std::pair<const char*, T>>& names) {
    for (const auto& [known, value] : names)
        if (name == known) return value;
    refuse(std::string(field) + " is unknown, got '" + name + "'");
}

Hyper hyper_of(const std::map<std::string, double>& values) {
    Hyper hyper;
    const std::map<std::string, float*> fields = {{"lr", &hyper.lr},
                                                  {"eps", &hyper.eps},
                                                  {"initial_accumulator", &hyper.initial_accumulator},
                                                  {"beta1", &hyper.beta1},
                                                  {"beta2", &hyper.beta2},
                                                  {"l1", &hyper.l1},
                                                  {"l2", &hyper.l2},
                                                  {"beta", &hyper.beta},
                                                  {"momentum", &hyper.momentum},
                                                  {"nesterov", &hyper.nesterov},
                                                  {"rho", &hyper.rho},
                                                  {"weight_decay", &hyper.weight_decay},
                                                  {"clip_norm", &hyper.clip_norm}};
    for (const auto& [name, value] : values) {
        const auto field = fields.find(name);
        if (field == fields.end()) refuse("hyper has no field '" + name + "'");
        *field->second = static_cast<float>(value);
    }
    return hyper;
}

Slice slice_of(const std::string& name, uint32_t dim, const std::string& optimizer,
               const std::map<std::string, double>& hyper, const std::string& initializer, float init_scale,
               const std::string& encoding) {
    Slice slice;
    slice.name = name;
    slice.dim = dim;
    slice.optimizer = named<Optimizer>("optimizer", optimizer,
                                       {{"sgd", Optimizer::kSgd},
                                        {"momentum", Optimizer::kMomentum},
                                        {"adagrad", Optimizer::kAdagrad},
                                        {"rowwise_adagrad", Optimizer::kRowwiseAdagrad},
                                        {"adadelta", Optimizer::kAdadelta},
                                        {"rmsprop", Optimizer::kRmsprop},
                                        {"adam", Optimizer::kAdam},
                                        {"amsgrad", Optimizer::kAmsgrad},
                                        {"adamw", Optimizer::kAdamW},
                                        {"ftrl", Optimizer::kFtrl},
                                        {"group_adagrad", Optimizer::kGroupAdagrad},
                                        {"group_ftrl", Optimizer::kGroupFtrl}});
    slice.hyper = hyper_of(hyper);
    slice.initializer = named<Initializer>("initializer", initializer,
                                           {{"zeros", Initializer::kZeros},
                                            {"constant", Initializer::kConstant},
                                            {"uniform", Initializer::kUniform},
                                            {"normal", Initializer::kNormal},
                                            {"xavier", Initializer::kXavier}});
    slice.init_scale = init_scale;
    slice.encoding = named<Encoding>(
        "encoding", encoding,
        {{"fp32", Encoding::kFp32}, {"fp16", Encoding::kFp16}, {"int8", Encoding::kInt8}, {"int4", Encoding::kInt4}});
    return slice;
}

TableSettings settings_of(const std::vector<Slice>& slices, uint64_t seed, const std::string& admission,
                          int64_t admit_after, uint64_t sketch_bytes, int64_t sketch_window_s, int64_t ttl_s,
                          const std::string& eviction, uint64_t budget_bytes, int64_t half_life_s) {
    if (slices.empty()) refuse("slices must be at least one, got none");
    TableSettings settings;
    settings.slices = slices;
    if (settings.dim() == 0 || settings.dim() % 4 != 0)
        refuse("dim must be a positive multiple of 4, got " + std::to_string(settings.dim()));
    if (admit_after < 1 || admit_after > 65535)
        refuse("admit_after must be in 1..65535, got " + std::to_string(admit_after));
    if (ttl_s < 0) refuse("ttl_s must be >= 0, got " + std::to_string(ttl_s));
    settings.seed = seed;
    settings.admission = named<Admission>("admission", admission,
                                          {{"count", Admission::kCount},
                                           {"sketch", Admission::kSketch},
                                           {"probability", Admission::kProbability},
                                           {"geometric", Admission::kGeometric}});
    settings.admit_after = static_cast<uint32_t>(admit_after);
    settings.sketch_bytes = sketch_bytes;
    settings.sketch_window_s = sketch_window_s;
    settings.ttl_s = ttl_s;
    settings.eviction = named<Eviction>(
        "eviction", eviction,
        {{"none", Eviction::kNone}, {"lru", Eviction::kLru}, {"lfu", Eviction::kLfu}, {"score", Eviction::kScore}});
    settings.budget_bytes = budget_bytes;
    settings.half_life_s = half_life_s;
    return settings;
}

// Locks of all distinct tables of a call, taken in address order so that two calls cannot wait for each other.
template <typename Lock>
std::vector<Lock> lock_all(std::vector<Table*> tables) {
    std::sort(tables.begin(), tables.end());
    tables.erase(std::unique(tables.begin(), tables.end()), tables.end());
    std::vector<Lock> locks;
    for (Table* table : tables) locks.emplace_back(table->mutex);
    return locks;
}

// The features of a pooled call: 0 sums, 1 takes the mean, -n keeps the first n.
std::vector<Feature> features_of(const std::vector<Table*>& tables, const std::vector<int>& pooling) {
    expect("pooling", tables.size(), pooling.size());
    std::vector<Feature> features;
    for (size_t f = 0; f < tables.size(); ++f)
        features.push_back({&tables[f]->table,
                            pooling[f] < 0    ? Pooling::kFirst
                            : pooling[f] == 1 ? Pooling::kMean
                                              : Pooling::kSum,
                            pooling[f] < 0 ? static_cast<uint32_t>(-pooling[f]) : 0});
    return features;
}

void check_bags(const std::vector<Feature>& features, const Fids& offsets, const std::optional<ConstFloats>& scales,
                size_t num_fids, size_t num_bags, size_t width) {
    expect("offsets", features.size() * num_bags + 1, offsets.size());
    if (scales) expect("weights", num_fids, scales->size());
    size_t sum = 0;
    for (const Feature& feature : features) sum += feature.width();
    expect("row width", sum, width);
    const int64_t* const at = offsets.data();
    const size_t last = offsets.size() - 1;
    if (at[0] != 0) refuse("offsets must begin at 0 and not decrease");
    if (static_cast<size_t>(at[last]) != num_fids) refuse("offsets must end at the number of fids");
    // All at once, in vectors: a negative one, or a step down between two that are not, leaves the top bit set.
    uint64_t wrong = 0;
    for (size_t i = 0; i < last; ++i)
        wrong |= static_cast<uint64_t>(at[i + 1]) | (static_cast<uint64_t>(at[i + 1]) - static_cast<uint64_t>(at[i]));
    if (wrong >> 63) refuse("offsets must begin at 0 and not decrease");
}

}  // namespace
