// Python binding of the id map of a replica.
#include "index/id_map.hpp"

#include <algorithm>
#include <mutex>
#include <shared_mutex>
#include <utility>

#include "bindings/arrays.hpp"
#include "bindings/module.hpp"
#include "kernels/kernels.hpp"

namespace {

using namespace monolith;

// fid -> row id behind a lock. Any number of `find`, `size` and `items` run together; `assign` and `erase` exclude all
// others.
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

}  // namespace

void bind_id_map(nb::module_& m) {
    using namespace nb::literals;
    m.attr("NO_ROW") = kNoRow;
    nb::class_<SharedIdMap>(m, "IdMap")
        .def(nb::init<size_t>(), "capacity"_a = 0)
        .def("__len__", &SharedIdMap::size)
        .def(
            "find",
            [](const SharedIdMap& map, const Fids& fids, const Rows& rows) {
                expect("rows", fids.size(), rows.size());
                nb::gil_scoped_release nogil;
                map.find(fids.data(), fids.size(), rows.data());
            },
            nb::arg("fids").noconvert(), nb::arg("rows").noconvert())
        .def(
            "assign",
            [](SharedIdMap& map, const Fids& fids, const ConstRows& rows, const Rows& old_rows) {
                expect("rows", fids.size(), rows.size());
                expect("old_rows", fids.size(), old_rows.size());
                nb::gil_scoped_release nogil;
                map.assign(fids.data(), rows.data(), fids.size(), old_rows.data());
            },
            nb::arg("fids").noconvert(), nb::arg("rows").noconvert(), nb::arg("old_rows").noconvert())
        .def(
            "erase",
            [](SharedIdMap& map, const Fids& fids, const Rows& old_rows) {
                expect("old_rows", fids.size(), old_rows.size());
                nb::gil_scoped_release nogil;
                map.erase(fids.data(), fids.size(), old_rows.data());
            },
            nb::arg("fids").noconvert(), nb::arg("old_rows").noconvert())
        .def("items", [](const SharedIdMap& map) {
            std::vector<int64_t> fids;
            std::vector<uint32_t> rows;
            for (const auto& [fid, row] : map.items()) {
                fids.push_back(fid);
                rows.push_back(row);
            }
            return nb::make_tuple(vector_array(fids), vector_array(rows));
        });
}
