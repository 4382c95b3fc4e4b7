// Python binding of a replica's rows. Every call that reads or changes rows releases the GIL.
#include <nanobind/stl/tuple.h>

#include <memory>
#include <tuple>
#include <utility>

#include "bindings/arrays.hpp"
#include "bindings/module.hpp"
#include "bindings/settings.hpp"
#include "replica/replica_rows.hpp"

namespace {

using namespace monolith;

// Name, dim, encoding, whether bags are divided by their length, and how many bags of the feature a row has.
using Feature = std::tuple<std::string, uint32_t, std::string, bool, uint32_t>;

class BoundRows {
  public:
    static constexpr uint32_t kMostBags = 1024;

    BoundRows(const std::vector<Feature>& features, size_t max_rows)
        : rows_(new ReplicaRows(features_of(features), max_rows)) {
        for (size_t k = 0; k < features.size(); ++k) {
            const uint32_t num_bags = std::get<4>(features[k]);
            if (num_bags < 1 || num_bags > kMostBags)
                refuse("bags must be in [1, " + std::to_string(kMostBags) + "], got " + std::to_string(num_bags));
            for (uint32_t bag = 0; bag < num_bags; ++bag) {
                bags_.push_back(static_cast<uint32_t>(k));
                columns_.push_back(width_);
                width_ += rows_->features()[k].dim;
            }
        }
    }

    BoundRows(const BoundRows&) = delete;
    BoundRows& operator=(const BoundRows&) = delete;
    // Memory of millions of rows takes milliseconds to give back to the system: other threads rank meanwhile.
    ~BoundRows() {
        nb::gil_scoped_release nogil;
        rows_.reset();
    }

    ReplicaRows& rows() { return *rows_; }
    const ReplicaRows& rows() const { return *rows_; }

    const ReplicaFeature& feature(size_t index) const {
        const size_t num = rows_->features().size();
        if (index >= num) refuse("feature must be < " + std::to_string(num) + ", got " + std::to_string(index));
        return rows_->features()[index];
    }
    void expect_rows(size_t index, const Fids& fids, const ConstBytes& rows) const {
        expect_matrix("rows", fids.size(), feature(index).row_bytes(), rows);
    }

    // Pool all bags into (num_rows, width); lengths (bags of a row, num_rows) and fids bag by bag of a row.
    void pool_by_feature(const ConstLengths& lengths, const Fids& fids, const Matrix& pooled) const {
        const size_t num_rows = pooled.shape(0);
        expect_matrix("pooled", num_rows, width_, pooled);
        expect("lengths", bags_.size() * num_rows, lengths.size());
        int64_t num_fids = 0;
        bool is_positive = true;
        for (size_t i = 0; i < lengths.size(); ++i) {
            num_fids += lengths.data()[i];
            is_positive &= lengths.data()[i] >= 0;
        }
        if (!is_positive) refuse("lengths must be >= 0, got a negative one");
        expect("fids", static_cast<size_t>(num_fids), fids.size());
        nb::gil_scoped_release nogil;
        rows_->pool_by_feature(bags_, num_rows, lengths.data(), fids.data(), pooled.data(), width_, columns_.data());
    }

  private:
    static std::vector<ReplicaFeature> features_of(const std::vector<Feature>& features) {
        std::vector<ReplicaFeature> list;
        for (const auto& [name, dim, encoding, is_mean, num_bags] : features) {
            if (dim == 0 || dim > kMostDim)
                refuse("dim must be in [1, " + std::to_string(kMostDim) + "], got " + std::to_string(dim));
            list.push_back({name, dim, named<Encoding>("encoding", encoding, kEncodings), is_mean});
        }
        return list;
    }

    std::unique_ptr<ReplicaRows> rows_;
    std::vector<uint32_t> bags_;  // feature of each bag of a row
    std::vector<size_t> columns_;
    size_t width_ = 0;
};

// Packed rows (n, row_bytes) of fids, zeros for those without one.
nb::object read_rows(const BoundRows& bound, size_t feature, const Fids& fids) {
    const size_t n = fids.size(), size = bound.feature(feature).row_bytes();
    std::unique_ptr<uint8_t[]> rows(new uint8_t[n * size + 1]);
    {
        nb::gil_scoped_release nogil;
        bound.rows().read(feature, fids.data(), n, rows.get(), nullptr);
    }
    return matrix_array(std::move(rows), n, size);
}

}  // namespace

void bind_replica(nb::module_& m) {
    using namespace nb::literals;
    const nb::class_<ReplicaRows> handle(m, "ReplicaRowsHandle");
    nb::class_<BoundRows>(m, "ReplicaRows")
        .def(nb::init<const std::vector<Feature>&, size_t>(), "features"_a, "max_rows"_a = ReplicaRows::kMostRows)
        .def_prop_ro(
            "handle", [](BoundRows& bound) -> ReplicaRows& { return bound.rows(); }, nb::rv_policy::reference_internal)
        .def_prop_ro("num_rows", [](const BoundRows& bound) { return bound.rows().num_rows(); })
        .def_prop_ro("num_bytes",
                     [](const BoundRows& bound) {
                         nb::gil_scoped_release nogil;  // it waits for a change
                         return bound.rows().num_bytes();
                     })
        .def_prop_ro("digest", [](const BoundRows& bound) { return bound.rows().digest(); })
        .def("pool_by_feature", &BoundRows::pool_by_feature, nb::arg("lengths").noconvert(),
             nb::arg("fids").noconvert(), nb::arg("pooled").noconvert())
        .def(
            "assign",
            [](BoundRows& bound, size_t feature, const Fids& fids, const ConstBytes& rows) {
                bound.expect_rows(feature, fids, rows);
                nb::gil_scoped_release nogil;
                return bound.rows().assign(feature, fids.data(), rows.data(), fids.size()) == AssignStatus::kDone;
            },
            "feature"_a, nb::arg("fids").noconvert(), nb::arg("rows").noconvert())
        .def(
            "insert_all",
            [](BoundRows& bound, size_t feature, const Fids& fids, const ConstBytes& rows, size_t num_threads,
               bool in_background) {
                bound.expect_rows(feature, fids, rows);
                nb::gil_scoped_release nogil;
                return bound.rows().insert_all(feature, fids.data(), rows.data(), fids.size(), num_threads,
                                               in_background) == AssignStatus::kDone;
            },
            "feature"_a, nb::arg("fids").noconvert(), nb::arg("rows").noconvert(), "num_threads"_a,
            "in_background"_a = false)
        .def(
            "evict",
            [](BoundRows& bound, size_t feature, const Fids& fids) {
                bound.feature(feature);
                nb::gil_scoped_release nogil;
                bound.rows().evict(feature, fids.data(), fids.size());
            },
            "feature"_a, nb::arg("fids").noconvert())
        .def("read", &read_rows, "feature"_a, nb::arg("fids").noconvert());
}
