// Impressions as Python's bytes, written where Python keeps them.
#pragma once

#include <nanobind/nanobind.h>

#include <vector>

#include "codec/impression_encoder.hpp"

namespace nb = nanobind;

// Return the bytes of n impressions; request_of(i) is the i-th request. Called with the GIL, encodes without it.
template <typename RequestOf>
nb::list encoded(size_t n, const monolith::codec::ImpressionEncoder& encoder, const RequestOf& request_of) {
    std::vector<size_t> sizes(n);
    {
        nb::gil_scoped_release nogil;
        for (size_t i = 0; i < n; ++i) sizes[i] = encoder.num_bytes(request_of(i));
    }
    nb::list values;
    std::vector<char*> memory;
    for (size_t size : sizes) {
        // Nobody else has seen the new bytes, so they may be written.
        PyObject* const bytes = PyBytes_FromStringAndSize(nullptr, static_cast<Py_ssize_t>(size));
        if (bytes == nullptr) nb::raise_python_error();
        values.append(nb::steal(bytes));
        memory.push_back(PyBytes_AS_STRING(bytes));
    }
    nb::gil_scoped_release nogil;
    for (size_t i = 0; i < n; ++i) encoder.encode(request_of(i), memory[i]);
    return values;
}
