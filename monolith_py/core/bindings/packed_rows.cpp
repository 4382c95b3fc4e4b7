// Python bindings of packed rows: made from a snapshot, read chunk by chunk without a copy.
#include "snapshot/packed_rows.hpp"

#include "bindings/arrays.hpp"
#include "bindings/module.hpp"
#include "bindings/settings.hpp"

namespace {

using namespace monolith;
using namespace nb::literals;

// Fids (n,) and rows (n, R) of one chunk, in the mapped file, which they keep open.
nb::tuple chunk_arrays(nb::handle self, size_t index) {
    const auto& file = nb::cast<const PackedRowsFile&>(self);
    if (index >= file.num_chunks())
        refuse("index must be below " + std::to_string(file.num_chunks()) + ", got " + std::to_string(index));
    PackedRowsFile::Rows rows{};
    {
        nb::gil_scoped_release nogil;
        rows = file.chunk(index);
    }
    using FidArray = nb::ndarray<nb::numpy, const int64_t, nb::ndim<1>>;
    using RowArray = nb::ndarray<nb::numpy, const uint8_t, nb::ndim<2>>;
    return nb::make_tuple(nb::cast(FidArray(rows.fids, {rows.size}, self)),
                          nb::cast(RowArray(rows.rows, {rows.size, file.header().row_bytes}, self)));
}

}  // namespace

void bind_packed_rows(nb::module_& m) {
    m.def(
        "pack_snapshot",
        [](const std::string& snapshot, const std::string& path) {
            nb::gil_scoped_release nogil;
            return RowPacking(snapshot, path).run().num_rows;
        },
        "snapshot"_a, "path"_a);
    nb::class_<PackedRowsFile>(m, "PackedRows")
        .def(nb::init<const std::string&>(), "path"_a)
        .def("__len__", [](const PackedRowsFile& file) { return file.end().num_rows; })
        .def_prop_ro("dim", [](const PackedRowsFile& file) { return file.header().dim; })
        .def_prop_ro("encoding", [](const PackedRowsFile& file) { return name_of(file.header().encoding); })
        .def_prop_ro("digest", [](const PackedRowsFile& file) { return file.end().digest; })
        .def_prop_ro("num_chunks", &PackedRowsFile::num_chunks)
        .def(
            "chunk", [](nb::handle_t<PackedRowsFile> self, size_t index) { return chunk_arrays(self, index); },
            "index"_a);
}
