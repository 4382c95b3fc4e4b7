// Array types of the Python interface, and their checks. Included only by sources of the bindings.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <memory>
#include <string>
#include <vector>

namespace nb = nanobind;

namespace {

using Fids = nb::ndarray<const int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using ConstLengths = nb::ndarray<const int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Offsets = nb::ndarray<int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Rows = nb::ndarray<uint32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using ConstRows = nb::ndarray<const uint32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Matrix = nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using ConstMatrix = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using ConstBytes = nb::ndarray<const uint8_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using ConstFloats = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

[[noreturn]] inline void refuse(const std::string& why) { throw nb::value_error(why.c_str()); }

[[noreturn]] inline void refuse_unknown(const std::string& field, const std::string& got,
                                        const std::vector<std::string>& known) {
    std::string names;
    for (const std::string& name : known) names += (names.empty() ? "" : ", ") + name;
    refuse(field + " must be one of " + names + ", got '" + got + "'");
}

inline void expect(const char* name, size_t expected, size_t got) {
    if (expected != got)
        refuse(std::string(name) + " must have size " + std::to_string(expected) + ", got " + std::to_string(got));
}

// Check the shape (n, width).
template <typename Array>
void expect_matrix(const char* name, size_t n, size_t width, const Array& got) {
    if (got.shape(0) != n || got.shape(1) != width)
        refuse(std::string(name) + " must be (" + std::to_string(n) + ", " + std::to_string(width) + "), got (" +
               std::to_string(got.shape(0)) + ", " + std::to_string(got.shape(1)) + ")");
}

template <typename T>
nb::object vector_array(const std::vector<T>& values) {
    T* data = new T[values.size() + 1];
    std::copy(values.begin(), values.end(), data);
    nb::capsule owner(data, [](void* p) noexcept { delete[] static_cast<T*>(p); });
    return nb::cast(nb::ndarray<nb::numpy, T, nb::ndim<1>>(data, {values.size()}, owner));
}

template <typename T>
nb::object matrix_array(std::unique_ptr<T[]> values, size_t n, size_t width) {
    T* data = values.release();
    nb::capsule owner(data, [](void* p) noexcept { delete[] static_cast<T*>(p); });
    return nb::cast(nb::ndarray<nb::numpy, T, nb::ndim<2>>(data, {n, width}, owner));
}

}  // namespace
