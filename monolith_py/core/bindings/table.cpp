// Python bindings of tables and snapshots: check the arrays, release the GIL, take the table's lock.
#include "bindings/table.hpp"

#include <nanobind/stl/map.h>
#include <nanobind/stl/unique_ptr.h>

#include <cmath>
#include <memory>
#include <mutex>
#include <optional>

#include "bindings/arrays.hpp"
#include "bindings/consumers.hpp"
#include "bindings/edits.hpp"
#include "bindings/module.hpp"
#include "bindings/saving.hpp"
#include "bindings/settings.hpp"

namespace {

using namespace nb::literals;

void bind_slice(nb::module_& m) {
    nb::class_<Slice>(m, "Slice")
        .def(
            "__init__",
            [](Slice* self, const std::string& name, uint32_t dim, const std::string& optimizer,
               const std::map<std::string, double>& hyperparameters, const std::string& initializer, float init_scale,
               const std::string& encoding) {
                new (self) Slice(slice_of(name, dim, optimizer, hyperparameters, initializer, init_scale, encoding));
            },
            "name"_a, "dim"_a, "optimizer"_a, "hyperparameters"_a, "initializer"_a, "init_scale"_a, "encoding"_a)
        .def_ro("name", &Slice::name)
        .def_ro("dim", &Slice::dim)
        .def_prop_ro("encoding", [](const Slice& slice) { return name_of(slice.encoding); });
}

nb::class_<Table> bind_settings(nb::module_& m) {
    return nb::class_<Table>(m, "Table")
        .def(
            "__init__",
            [](Table* self, const std::vector<Slice>& slices, uint64_t seed, const std::string& admission,
               int64_t admit_after, uint64_t sketch_bytes, int64_t sketch_window_s, int64_t ttl_s,
               const std::string& eviction, uint64_t budget_bytes, int64_t half_life_s) {
                new (self) Table(settings_of(slices, seed, admission, admit_after, sketch_bytes, sketch_window_s, ttl_s,
                                             eviction, budget_bytes, half_life_s));
            },
            "slices"_a, nb::kw_only(), "seed"_a, "admission"_a, "admit_after"_a, "sketch_bytes"_a, "sketch_window_s"_a,
            "ttl_s"_a, "eviction"_a, "budget_bytes"_a, "half_life_s"_a)
        .def("__len__", [](const Table& t) { return t.table.num_rows(); })
        .def_prop_ro("dim", [](const Table& t) { return t.table.dim(); })
        .def_prop_ro("num_updates", [](const Table& t) { return t.table.num_updates(); })
        .def_prop_ro("snapshot_id", [](const Table& t) { return t.table.snapshot_id(); })
        .def_prop_ro("slices", [](const Table& t) { return t.table.settings().slices; })
        .def(
            "set_lr",
            [](Table& t, size_t slice, float lr) {
                if (slice >= t.table.settings().slices.size())
                    refuse("slice must be below " + std::to_string(t.table.settings().slices.size()) + ", got " +
                           std::to_string(slice));
                if (!(lr >= 0) || std::isinf(lr)) refuse("lr must be >= 0, got " + std::to_string(lr));
                std::unique_lock lock(t.mutex);
                t.table.set_lr(slice, lr);
            },
            "slice"_a, "lr"_a);
}

void bind_batches(nb::class_<Table>& table) {
    table
        .def(
            "find",
            [](Table& t, const Fids& fids, const Rows& rows) {
                expect("rows", fids.size(), rows.size());
                nb::gil_scoped_release nogil;
                std::shared_lock lock(t.mutex);
                t.table.find(fids.data(), fids.size(), rows.data());
            },
            nb::arg("fids").noconvert(), nb::arg("rows").noconvert())
        .def(
            "find_or_insert",
            [](Table& t, const Fids& fids, int64_t now_s, const Rows& rows) {
                expect_time(now_s);
                expect("rows", fids.size(), rows.size());
                nb::gil_scoped_release nogil;
                std::unique_lock lock(t.mutex);
                t.table.find_or_insert(fids.data(), fids.size(), now_s, rows.data());
            },
            nb::arg("fids").noconvert(), "now_s"_a, nb::arg("rows").noconvert())
        .def(
            "gather",
            [](Table& t, const ConstRows& rows, const Matrix& weights) {
                expect_matrix("weights", rows.size(), t.table.dim(), weights);
                nb::gil_scoped_release nogil;
                std::shared_lock lock(t.mutex);
                expect_rows(t.table, rows.data(), rows.size());
                t.table.gather(rows.data(), rows.size(), weights.data());
            },
            nb::arg("rows").noconvert(), nb::arg("weights").noconvert())
        .def(
            "lookup",
            [](Table& t, const Fids& fids, const Matrix& weights) {
                expect_matrix("weights", fids.size(), t.table.dim(), weights);
                nb::gil_scoped_release nogil;
                std::vector<uint32_t> rows(fids.size());
                std::shared_lock lock(t.mutex);
                t.table.find(fids.data(), fids.size(), rows.data());
                t.table.gather(rows.data(), rows.size(), weights.data());
            },
            nb::arg("fids").noconvert(), nb::arg("weights").noconvert())
        .def(
            "update",
            [](Table& t, const ConstRows& rows, const ConstMatrix& gradients, const std::optional<Fids>& fids) {
                const uint32_t dim = t.table.dim();
                expect_matrix("gradients", rows.size(), dim, gradients);
                if (fids) expect("fids", rows.size(), fids->size());
                nb::gil_scoped_release nogil;
                expect_bounded(gradients.data(), gradients.size());
                std::unique_lock lock(t.mutex);
                expect_rows(t.table, rows.data(), rows.size());
                std::vector<uint32_t> kept;
                for (size_t i = 0; fids && i < rows.size(); ++i)
                    kept.push_back(holds(t.table, rows.data()[i], fids->data()[i]) ? rows.data()[i] : kNoRow);
                return t.table.update(fids ? kept.data() : rows.data(), rows.size(),
                                      {gradients.data(), dim, nullptr, nullptr});
            },
            nb::arg("rows").noconvert(), nb::arg("gradients").noconvert(),
            nb::arg("fids").noconvert().none() = nb::none())
        .def(
            "evict",
            [](Table& t, int64_t now_s, size_t max_slots) {
                expect_time(now_s);
                std::vector<int64_t> evicted;
                {
                    nb::gil_scoped_release nogil;
                    std::unique_lock lock(t.mutex);
                    evicted = t.table.evict(now_s, max_slots);
                }
                return vector_array(evicted);
            },
            "now_s"_a, "max_slots"_a);
}

void bind_inspection(nb::class_<Table>& table) {
    table
        .def("export_rows",
             [](Table& t) {
                 std::vector<int64_t> fids;
                 std::vector<uint32_t> rows;
                 std::unique_ptr<float[]> weights;
                 {
                     nb::gil_scoped_release nogil;
                     std::shared_lock lock(t.mutex);
                     for (const auto& [fid, row] : t.table.sorted_rows()) {
                         fids.push_back(fid);
                         rows.push_back(row);
                     }
                     weights.reset(new float[rows.size() * t.table.dim() + 1]);
                     t.table.gather(rows.data(), rows.size(), weights.get());
                 }
                 return nb::make_tuple(vector_array(fids),
                                       matrix_array(std::move(weights), rows.size(), t.table.dim()));
             })
        .def("entries",
             [](Table& t) {
                 std::vector<int64_t> fids, seen_s;
                 std::vector<uint32_t> rows;
                 std::vector<uint16_t> counts;
                 {
                     nb::gil_scoped_release nogil;
                     std::shared_lock lock(t.mutex);
                     t.table.for_each([&](int64_t fid, uint32_t row, uint16_t count, int64_t seen) {
                         fids.push_back(fid);
                         rows.push_back(row);
                         counts.push_back(count);
                         seen_s.push_back(seen);
                     });
                 }
                 return nb::make_tuple(vector_array(fids), vector_array(rows), vector_array(counts),
                                       vector_array(seen_s));
             })
        .def(
            "state",
            [](Table& t, const ConstRows& rows) {
                const size_t width = t.table.rows().state_width;
                std::unique_ptr<float[]> state(new float[rows.size() * width + 1]());
                {
                    nb::gil_scoped_release nogil;
                    std::shared_lock lock(t.mutex);
                    expect_rows(t.table, rows.data(), rows.size());
                    for (size_t i = 0; i < rows.size(); ++i)
                        if (rows.data()[i] < kCandidate)
                            std::copy_n(t.table.state(rows.data()[i]), width, &state[i * width]);
                }
                return matrix_array(std::move(state), rows.size(), width);
            },
            nb::arg("rows").noconvert())
        .def("stats", [](Table& t) {
            nb::gil_scoped_release nogil;
            std::shared_lock lock(t.mutex);
            return t.table.stats();
        });
}

void bind_snapshots(nb::module_& m, nb::class_<Table>& table) {
    const nb::exception<SnapshotError> snapshot_error(m, "SnapshotError", PyExc_OSError);
    table
        .def(
            "start_saving",
            [](Table& t, const std::string& path, uint64_t id, uint64_t parent) {
                return new Saving(t, path, id, parent);
            },
            "path"_a, "id"_a, "parent"_a, nb::keep_alive<0, 1>(), nb::rv_policy::take_ownership)
        .def(
            "restore",
            [](Table& t, const std::string& path, size_t part, size_t parts) {
                nb::gil_scoped_release nogil;
                std::unique_lock lock(t.mutex);
                restore(t.table, path, {part, parts});
            },
            "path"_a, "part"_a, "parts"_a);
    nb::class_<Saving>(m, "Saving")
        .def("copy", &Saving::copy, "max_rows"_a, nb::call_guard<nb::gil_scoped_release>())
        .def("cancel", &Saving::cancel, nb::call_guard<nb::gil_scoped_release>())
        .def("finish", &Saving::finish, nb::call_guard<nb::gil_scoped_release>())
        .def("commit", &Saving::commit, "track"_a, nb::call_guard<nb::gil_scoped_release>());

    m.def(
        "restore_table",
        [](const std::string& path, size_t part, size_t parts) {
            nb::gil_scoped_release nogil;
            auto table = std::make_unique<Table>(read_meta(SnapshotFileReader(path)).settings);
            restore(table->table, path, {part, parts});
            return table;
        },
        "path"_a, "part"_a, "parts"_a);
}

}  // namespace

void bind_table(nb::module_& m) {
    bind_slice(m);
    m.def("pack_rows", &pack_rows, nb::arg("weights").noconvert(), "encoding"_a);
    m.def("digest_rows", &digest_rows, nb::arg("fids").noconvert(), nb::arg("rows").noconvert(), "encoding"_a);
    const nb::exception<TableFull> table_full(m, "TableFull", PyExc_ValueError);
    nb::class_<Table> table = bind_settings(m);
    bind_batches(table);
    bind_consumers(table);
    bind_edits(table);
    bind_inspection(table);
    bind_snapshots(m, table);
}
