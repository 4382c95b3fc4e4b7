// Python binding of the encoder of impressions, and of the hash that chooses their partition.
#include <nanobind/stl/pair.h>
#include <nanobind/stl/tuple.h>

#include <deque>
#include <tuple>

#include "bindings/arrays.hpp"
#include "bindings/encoded.hpp"
#include "bindings/module.hpp"
#include "bytes/murmur2.hpp"
#include "codec/impression_encoder.hpp"

namespace {

using namespace monolith::codec;

// Formats of the struct module; numpy has two for 64 bits.
constexpr std::string_view kInt64 = "lq", kInt32 = "i", kFloat = "f";

// View of a contiguous numpy array, which is held meanwhile: a cast to nb::ndarray takes twice as long.
class View {
  public:
    View() = default;
    View(const View&) = delete;
    View& operator=(const View&) = delete;
    ~View() {
        if (buffer_.obj != nullptr) PyBuffer_Release(&buffer_);
    }
    // Take an array of items of one of the `formats` with `num_dims` dimensions.
    void take(PyObject* array, const char* name, std::string_view formats, int num_dims) {
        if (PyObject_GetBuffer(array, &buffer_, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT) != 0) nb::raise_python_error();
        if (buffer_.ndim != num_dims || formats.find(buffer_.format) == std::string_view::npos)
            refuse(std::string(name) + " must have " + std::to_string(num_dims) + " dimensions of type " +
                   formats.front() + ", got " + std::to_string(buffer_.ndim) + " of " + buffer_.format);
    }
    size_t size(int dim) const { return static_cast<size_t>(buffer_.shape[dim]); }
    template <typename T>
    const T* data() const {
        return static_cast<const T*>(buffer_.buf);
    }

  private:
    Py_buffer buffer_{};
};

std::string_view text_of(PyObject* text) {
    Py_ssize_t size = 0;
    const char* data = PyUnicode_AsUTF8AndSize(text, &size);
    if (data == nullptr) nb::raise_python_error();
    return {data, static_cast<size_t>(size)};
}

PyObject* item(PyObject* tuple, Py_ssize_t place, Py_ssize_t size) {
    if (!PyTuple_Check(tuple) || PyTuple_GET_SIZE(tuple) != size)
        refuse("a request must be a tuple of " + std::to_string(size));
    return PyTuple_GET_ITEM(tuple, place);
}

int64_t number_of(PyObject* number) {
    const int64_t value = PyLong_AsLongLong(number);
    if (value == -1 && PyErr_Occurred() != nullptr) nb::raise_python_error();
    return value;
}

// Arrays of packed rows; `rows` is a view of them.
struct HeldRows {
    View fids, starts, lengths, dense;
    PackedRows rows{};

    void take(PyObject* tuple, const RowFeatures& features) {
        fids.take(item(tuple, 0, 4), "fids", kInt64, 1);
        starts.take(item(tuple, 1, 4), "starts", kInt64, 2);
        lengths.take(item(tuple, 2, 4), "lengths", kInt32, 2);
        dense.take(item(tuple, 3, 4), "dense", kFloat, 2);
        const size_t num_rows = lengths.size(0);
        expect("lengths", features.sparse.size(), lengths.size(1));
        expect("starts", lengths.size(1), starts.size(1));
        expect("starts", num_rows, starts.size(0));
        expect("dense", num_rows, dense.size(0));
        expect("dense", features.width(), dense.size(1));
        rows = {fids.data<int64_t>(), starts.data<int64_t>(), lengths.data<int32_t>(), dense.data<float>(), num_rows};
        check_places();
    }

  private:
    void check_places() const {
        const auto num_fids = static_cast<int64_t>(fids.size(0));
        bool within = true;
        for (size_t i = 0; i < rows.num_rows * lengths.size(1); ++i)
            within &= rows.starts[i] >= 0 && rows.lengths[i] >= 0 && rows.starts[i] <= num_fids - rows.lengths[i];
        if (!within) refuse("bags must be within " + std::to_string(num_fids) + " fids");
    }
};

// The values of one request, held; `request` is a view of them.
struct HeldRequest {
    View item_ids, scores;
    HeldRows shared, candidates;
    ServedRequest request{};

    void take(PyObject* tuple, const ImpressionEncoder& encoder) {
        constexpr Py_ssize_t kSize = 8;
        request.request_id = text_of(item(tuple, 0, kSize));
        request.time_ms = number_of(item(tuple, 1, kSize));
        request.user_id = number_of(item(tuple, 2, kSize));
        item_ids.take(item(tuple, 3, kSize), "item_ids", kInt64, 1);
        shared.take(item(tuple, 4, kSize), encoder.shared());
        candidates.take(item(tuple, 5, kSize), encoder.candidates());
        scores.take(item(tuple, 6, kSize), "scores", kFloat, 2);
        request.model_version = text_of(item(tuple, 7, kSize));
        const size_t num_candidates = item_ids.size(0);
        expect("shared", 1, shared.rows.num_rows);
        expect("candidates", num_candidates, candidates.rows.num_rows);
        expect("scores", num_candidates, scores.size(0));
        expect("scores", encoder.num_tasks(), scores.size(1));
        request.item_ids = item_ids.data<int64_t>();
        request.shared = shared.rows;
        request.candidates = candidates.rows;
        request.scores = scores.data<float>();
    }
};

nb::list encode_all(const ImpressionEncoder& encoder, const nb::list& requests) {
    std::deque<HeldRequest> held;
    for (nb::handle request : requests) held.emplace_back().take(request.ptr(), encoder);
    return encoded(held.size(), encoder, [&](size_t i) -> const ServedRequest& { return held[i].request; });
}

using Dense = std::vector<std::pair<std::string, size_t>>;
using Features = std::tuple<std::vector<std::string>, Dense>;

RowFeatures features_of(Features features) {
    return {std::move(std::get<0>(features)), std::move(std::get<1>(features))};
}

}  // namespace

void bind_impressions(nb::module_& m) {
    using namespace nb::literals;
    nb::class_<ImpressionEncoder>(m, "ImpressionEncoder")
        .def(
            "__init__",
            [](ImpressionEncoder* self, Features shared, Features candidates, std::vector<std::string> tasks,
               std::string arm) {
                new (self) ImpressionEncoder(features_of(std::move(shared)), features_of(std::move(candidates)),
                                             std::move(tasks), std::move(arm));
            },
            "shared"_a, "candidates"_a, "tasks"_a, "arm"_a)
        .def("encode", &encode_all, "requests"_a);
    m.def("murmur2", [](const nb::bytes& data) { return monolith::murmur2({data.c_str(), data.size()}); }, "data"_a);
}
