// The one file that knows Python.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/map.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/unique_ptr.h>
#include <nanobind/stl/vector.h>

#include <mutex>
#include <shared_mutex>

#include "embedding_table.hpp"
#include "pooled.hpp"
#include "snapshot.hpp"

namespace nb = nanobind;

namespace {

using namespace monolith;
using Fids = nb::ndarray<const int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Rows = nb::ndarray<uint32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using ConstRows = nb::ndarray<const uint32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Matrix = nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using ConstMatrix = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

void expect(const char* name, size_t expected, size_t got) {
    if (expected != got)
        throw nb::value_error(
            (std::string(name) + " must have size " + std::to_string(expected) + ", got " + std::to_string(got))
                .c_str());
}

// A matrix of one row for each of n.
template <typename Array>
void expect_matrix(const char* name, size_t n, size_t width, const Array& got) {
    if (got.shape(0) != n || got.shape(1) != width)
        throw nb::value_error((std::string(name) + " must be (" + std::to_string(n) + ", " + std::to_string(width) +
                               "), got (" + std::to_string(got.shape(0)) + ", " + std::to_string(got.shape(1)) + ")")
                                  .c_str());
}

// Rows that the table has given out, or NO_ROW; the table's lock is held.
void expect_rows(const EmbeddingTable& table, const uint32_t* rows, size_t n) {
    uint32_t end = 0;
    for (size_t i = 0; i < n; ++i) end = std::max(end, rows[i] + 1);  // NO_ROW + 1 is 0
    if (end > table.end_row())
        throw std::invalid_argument("rows must be NO_ROW or below " + std::to_string(table.end_row()) + ", got " +
                                    std::to_string(end - 1));
}

template <typename T>
nb::object vector_array(const std::vector<T>& values) {
    T* data = new T[values.size() + 1];
    std::copy(values.begin(), values.end(), data);
    nb::capsule owner(data, [](void* p) noexcept { delete[] static_cast<T*>(p); });
    return nb::cast(nb::ndarray<nb::numpy, T, nb::ndim<1>>(data, {values.size()}, owner));
}

nb::object matrix_array(const std::vector<float>& values, size_t width) {
    float* data = new float[values.size() + 1];
    std::copy(values.begin(), values.end(), data);
    nb::capsule owner(data, [](void* p) noexcept { delete[] static_cast<float*>(p); });
    return nb::cast(
        nb::ndarray<nb::numpy, float, nb::ndim<2>>(data, {width ? values.size() / width : 0, width}, owner));
}

// fid -> row id for a replica; a lock for readers and the writer.
class IdMap {
  public:
    explicit IdMap(size_t capacity) : map_(capacity) {}
    size_t size() const {
        std::shared_lock lock(mutex_);
        return map_.size();
    }
    void find(const int64_t* fids, size_t n, uint32_t* rows) const {
        std::shared_lock lock(mutex_);
        for (size_t i = 0; i < n; ++i) {
            if (i + 12 < n) map_.prefetch(fids[i + 12]);
            const Slot slot = map_.find(fids[i]);
            rows[i] = slot ? slot.row() : kNoRow;
        }
    }
    void assign(const int64_t* fids, const uint32_t* rows, size_t n, uint32_t* old_rows) {
        std::unique_lock lock(mutex_);
        for (size_t i = 0; i < n; ++i) {
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
            const Slot slot = map_.find(fids[i]);
            old_rows[i] = slot ? slot.row() : kNoRow;
            if (slot) map_.erase(slot);
        }
    }
    std::vector<std::pair<int64_t, uint32_t>> items() {
        std::unique_lock lock(mutex_);
        std::vector<std::pair<int64_t, uint32_t>> items;
        map_.for_each([&](Slot slot) { items.push_back({slot.key(), slot.row()}); });
        std::sort(items.begin(), items.end());
        return items;
    }

  private:
    mutable std::shared_mutex mutex_;
    CuckooMap map_;
};

struct Table {
    EmbeddingTable table;
    std::shared_mutex mutex;
    explicit Table(const TableSettings& settings) : table(settings) {}
};

TableSettings settings_of(uint32_t dim, const std::string& optimizer, const std::map<std::string, double>& hyper,
                          float init_scale, uint64_t seed, uint32_t admit_after, int64_t ttl_s) {
    static const std::map<std::string, Optimizer> optimizers = {{"sgd", Optimizer::kSgd},
                                                                {"adagrad", Optimizer::kAdagrad},
                                                                {"rowwise_adagrad", Optimizer::kRowwiseAdagrad},
                                                                {"adam", Optimizer::kAdam},
                                                                {"ftrl", Optimizer::kFtrl}};
    if (dim == 0 || dim % 4 != 0)
        throw nb::value_error(("dim must be a positive multiple of 4, got " + std::to_string(dim)).c_str());
    if (!optimizers.contains(optimizer))
        throw nb::value_error(("optimizer is unknown, got '" + optimizer + "'").c_str());
    if (admit_after < 1 || admit_after > 65535)
        throw nb::value_error(("admit_after must be in 1..65535, got " + std::to_string(admit_after)).c_str());
    if (ttl_s < 0) throw nb::value_error(("ttl_s must be >= 0, got " + std::to_string(ttl_s)).c_str());
    TableSettings settings{dim, optimizers.at(optimizer), {}, init_scale, seed, admit_after, ttl_s};
    std::map<std::string, float*> fields = {
        {"lr", &settings.hyper.lr},       {"eps", &settings.hyper.eps},
        {"beta1", &settings.hyper.beta1}, {"beta2", &settings.hyper.beta2},
        {"l1", &settings.hyper.l1},       {"l2", &settings.hyper.l2},
        {"beta", &settings.hyper.beta},   {"initial_accumulator", &settings.hyper.initial_accumulator}};
    for (const auto& [name, value] : hyper) {
        if (!fields.contains(name)) throw nb::value_error(("hyper has no field '" + name + "'").c_str());
        *fields[name] = static_cast<float>(value);
    }
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

size_t check_bags(const std::vector<Table*>& tables, const std::vector<bool>& mean, const Fids& offsets,
                  size_t num_fids, size_t num_rows, size_t width) {
    expect("mean", tables.size(), mean.size());
    expect("offsets", tables.size() * num_rows + 1, offsets.size());
    size_t sum = 0;
    for (const Table* table : tables) sum += table->table.dim();
    expect("row width", sum, width);
    for (size_t i = 0; i + 1 < offsets.size(); ++i)
        if (offsets.data()[i] > offsets.data()[i + 1] || offsets.data()[i] < 0)
            throw nb::value_error("offsets must not decrease");
    if (offsets.data()[0] != 0 || static_cast<size_t>(offsets.data()[offsets.size() - 1]) != num_fids)
        throw nb::value_error("offsets must begin at 0 and end at the number of fids");
    return num_rows;
}

}  // namespace

NB_MODULE(_core, m) {
    nb::set_leak_warnings(false);  // what lives until the interpreter ends is no leak
    using namespace nb::literals;
    m.attr("NO_ROW") = kNoRow;
    nb::exception<SnapshotError>(m, "SnapshotError", PyExc_OSError);
    m.def("simd_level", [] { return "portable"; });
    m.def("set_simd_level", [](const std::string&) {});
    m.def("set_num_threads", [](int) {});
    m.def("num_threads", [] { return 1; });
    m.def(
        "hash_fids",
        [](Fids fids) {
            std::vector<uint64_t> hashes(fids.size());
            for (size_t i = 0; i < fids.size(); ++i) hashes[i] = hash_fid(fids.data()[i]);
            return vector_array(hashes);
        },
        nb::arg("fids").noconvert());

    nb::class_<IdMap>(m, "IdMap")
        .def(nb::init<size_t>(), "capacity"_a = 0)
        .def("__len__", &IdMap::size)
        .def(
            "find",
            [](const IdMap& map, Fids fids, Rows rows) {
                expect("rows", fids.size(), rows.size());
                nb::gil_scoped_release nogil;
                map.find(fids.data(), fids.size(), rows.data());
            },
            nb::arg("fids").noconvert(), nb::arg("rows").noconvert())
        .def(
            "assign",
            [](IdMap& map, Fids fids, ConstRows rows, Rows old_rows) {
                expect("rows", fids.size(), rows.size());
                expect("old_rows", fids.size(), old_rows.size());
                nb::gil_scoped_release nogil;
                map.assign(fids.data(), rows.data(), fids.size(), old_rows.data());
            },
            nb::arg("fids").noconvert(), nb::arg("rows").noconvert(), nb::arg("old_rows").noconvert())
        .def(
            "erase",
            [](IdMap& map, Fids fids, Rows old_rows) {
                expect("old_rows", fids.size(), old_rows.size());
                nb::gil_scoped_release nogil;
                map.erase(fids.data(), fids.size(), old_rows.data());
            },
            nb::arg("fids").noconvert(), nb::arg("old_rows").noconvert())
        .def("items", [](IdMap& map) {
            std::vector<int64_t> fids;
            std::vector<uint32_t> rows;
            for (const auto& [fid, row] : map.items()) {
                fids.push_back(fid);
                rows.push_back(row);
            }
            return nb::make_tuple(vector_array(fids), vector_array(rows));
        });

    nb::class_<Table>(m, "Table")
        .def(
            "__init__",
            [](Table* self, uint32_t dim, const std::string& optimizer, const std::map<std::string, double>& hyper,
               float init_scale, uint64_t seed, uint32_t admit_after, int64_t ttl_s) {
                new (self) Table(settings_of(dim, optimizer, hyper, init_scale, seed, admit_after, ttl_s));
            },
            "dim"_a, "optimizer"_a, "hyper"_a, "init_scale"_a, "seed"_a, "admit_after"_a, "ttl_s"_a)
        .def("__len__", [](const Table& t) { return t.table.num_rows(); })
        .def_prop_ro("dim", [](const Table& t) { return t.table.dim(); })
        .def(
            "set_lr", [](Table& t, float lr) { t.table.set_lr(lr); }, "lr"_a)
        .def(
            "find",
            [](Table& t, Fids fids, Rows rows) {
                expect("rows", fids.size(), rows.size());
                nb::gil_scoped_release nogil;
                std::shared_lock lock(t.mutex);
                t.table.find(fids.data(), fids.size(), rows.data());
            },
            nb::arg("fids").noconvert(), nb::arg("rows").noconvert())
        .def(
            "find_or_insert",
            [](Table& t, Fids fids, int64_t now_s, Rows rows) {
                expect("rows", fids.size(), rows.size());
                nb::gil_scoped_release nogil;
                std::unique_lock lock(t.mutex);
                t.table.find_or_insert(fids.data(), fids.size(), now_s, rows.data());
            },
            nb::arg("fids").noconvert(), "now_s"_a, nb::arg("rows").noconvert())
        .def(
            "gather",
            [](Table& t, ConstRows rows, Matrix weights) {
                expect_matrix("weights", rows.size(), t.table.dim(), weights);
                nb::gil_scoped_release nogil;
                std::shared_lock lock(t.mutex);
                expect_rows(t.table, rows.data(), rows.size());
                t.table.gather(rows.data(), rows.size(), weights.data());
            },
            nb::arg("rows").noconvert(), nb::arg("weights").noconvert())
        .def(
            "update",
            [](Table& t, ConstRows rows, ConstMatrix gradients, int64_t) {
                expect_matrix("gradients", rows.size(), t.table.dim(), gradients);
                nb::gil_scoped_release nogil;
                std::unique_lock lock(t.mutex);
                expect_rows(t.table, rows.data(), rows.size());
                const uint32_t dim = t.table.dim();
                t.table.update(rows.data(), rows.size(), [&](uint32_t i, float* sum) {
                    const float* g = gradients.data() + size_t{i} * dim;
                    for (uint32_t d = 0; d < dim; ++d) sum[d] += g[d];
                });
            },
            nb::arg("rows").noconvert(), nb::arg("gradients").noconvert(), "now_s"_a)
        .def(
            "evict",
            [](Table& t, int64_t now_s) {
                std::vector<int64_t> evicted;
                {
                    nb::gil_scoped_release nogil;
                    std::unique_lock lock(t.mutex);
                    evicted = t.table.evict(now_s);
                }
                return vector_array(evicted);
            },
            "now_s"_a)
        .def(
            "register_consumer",
            [](Table& t, const std::string& name) {
                std::unique_lock lock(t.mutex);
                t.table.register_consumer(name);
            },
            "consumer"_a)
        .def(
            "drain",
            [](Table& t, const std::string& consumer) {
                std::unique_lock lock(t.mutex);
                const TouchedSet::Drained drained = t.table.drain(consumer);
                std::vector<int64_t> fids;
                std::vector<float> weights;
                for (uint32_t row : drained.rows) {
                    fids.push_back(t.table.fid(row));
                    weights.insert(weights.end(), t.table.weights(row), t.table.weights(row) + t.table.dim());
                }
                return nb::make_tuple(drained.ticket, vector_array(fids), matrix_array(weights, t.table.dim()),
                                      vector_array(drained.evicted));
            },
            "consumer"_a)
        .def(
            "ack",
            [](Table& t, const std::string& consumer, uint64_t ticket) {
                std::unique_lock lock(t.mutex);
                t.table.ack(consumer, ticket);
            },
            "consumer"_a, "ticket"_a)
        .def("export_rows",
             [](Table& t) {
                 std::shared_lock lock(t.mutex);
                 std::vector<int64_t> fids;
                 std::vector<float> weights;
                 for (const auto& [fid, row] : t.table.sorted_rows()) {
                     fids.push_back(fid);
                     weights.insert(weights.end(), t.table.weights(row), t.table.weights(row) + t.table.dim());
                 }
                 return nb::make_tuple(vector_array(fids), matrix_array(weights, t.table.dim()));
             })
        .def(
            "save",
            [](Table& t, const std::string& path) {
                nb::gil_scoped_release nogil;
                std::shared_lock lock(t.mutex);
                save(t.table, path);
            },
            "path"_a)
        .def(
            "restore",
            [](Table& t, const std::string& path) {
                nb::gil_scoped_release nogil;
                std::unique_lock lock(t.mutex);
                restore(t.table, path);
            },
            "path"_a)
        .def("stats", [](Table& t) {
            std::shared_lock lock(t.mutex);
            return t.table.stats();
        });

    m.def(
        "restore_table",
        [](const std::string& path) {
            const SnapshotFile snapshot = read_snapshot(path);
            auto table = std::make_unique<Table>(monolith::settings_of(snapshot.header));
            Reader reader = snapshot.body();
            table->table.serialize(reader);
            return table;
        },
        "path"_a);
    m.def(
        "pooled_forward",
        [](std::vector<Table*> tables, Fids fids, Fids offsets, const std::vector<bool>& mean, int64_t now_s,
           bool insert, Matrix pooled, Rows rows) {
            const size_t num_bags = check_bags(tables, mean, offsets, fids.size(), pooled.shape(0), pooled.shape(1));
            expect("rows", fids.size(), rows.size());
            nb::gil_scoped_release nogil;
            auto locks = lock_all<std::unique_lock<std::shared_mutex>>(tables);
            std::vector<Feature> features;
            for (size_t f = 0; f < tables.size(); ++f) features.push_back({&tables[f]->table, mean[f]});
            pooled_forward(features, fids.data(), offsets.data(), num_bags, now_s, insert, pooled.shape(1),
                           pooled.data(), rows.data());
        },
        "tables"_a, nb::arg("fids").noconvert(), nb::arg("offsets").noconvert(), "mean"_a, "now_s"_a, "insert"_a,
        nb::arg("pooled").noconvert(), nb::arg("rows").noconvert());
    m.def(
        "pooled_backward",
        [](std::vector<Table*> tables, ConstRows rows, Fids offsets, const std::vector<bool>& mean,
           ConstMatrix gradients, int64_t) {
            const size_t num_bags =
                check_bags(tables, mean, offsets, rows.size(), gradients.shape(0), gradients.shape(1));
            nb::gil_scoped_release nogil;
            auto locks = lock_all<std::unique_lock<std::shared_mutex>>(tables);
            std::vector<Feature> features;
            for (size_t f = 0; f < tables.size(); ++f) {
                const int64_t first = offsets.data()[f * num_bags], end = offsets.data()[(f + 1) * num_bags];
                expect_rows(tables[f]->table, rows.data() + first, static_cast<size_t>(end - first));
                features.push_back({&tables[f]->table, mean[f]});
            }
            return pooled_backward(features, rows.data(), offsets.data(), num_bags, gradients.shape(1),
                                   gradients.data());
        },
        "tables"_a, nb::arg("rows").noconvert(), nb::arg("offsets").noconvert(), "mean"_a,
        nb::arg("gradients").noconvert(), "now_s"_a);
}
