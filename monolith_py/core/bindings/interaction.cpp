// Python bindings of feature interactions, of the gradient check and of the allocator's settings.
#include "tower/interaction.hpp"

#include <algorithm>

#include "bindings/arrays.hpp"
#include "bindings/module.hpp"

#if defined(__GLIBC__)
#include <malloc.h>
#endif

namespace {

using namespace monolith;
using AnyFloats = nb::ndarray<const float, nb::c_contig, nb::device::cpu>;
using ConstRowsOf = nb::ndarray<const float, nb::ndim<2>, nb::device::cpu>;  // rows may lie apart; each is contiguous

Interaction interaction_of(const ConstMatrix& pooled, uint32_t num_features) {
    if (num_features == 0 || pooled.shape(1) % num_features != 0)
        refuse("width of pooled must be a multiple of num_features, got " + std::to_string(pooled.shape(1)) + " and " +
               std::to_string(num_features));
    const size_t dim = pooled.shape(1) / num_features;
    if (dim % 4 != 0) refuse("dim of the pooled rows must be a multiple of 4, got " + std::to_string(dim));
    return {pooled.data(), pooled.shape(0), num_features, static_cast<uint32_t>(dim)};
}

GradientsOfRows gradients_of_rows(const ConstMatrix& pooled, const std::optional<ConstRowsOf>& beside,
                                  const Matrix& gradients) {
    expect_matrix("gradients", pooled.shape(0), pooled.shape(1), gradients);
    const size_t bytes = gradients.size() * sizeof(float);
    const bool past_cache = bytes >= kPastCache && reinterpret_cast<uintptr_t>(gradients.data()) % 64 == 0;
    if (!beside) return {nullptr, 0, gradients.data(), past_cache};
    expect_matrix("beside", pooled.shape(0), pooled.shape(1), *beside);
    if (beside->size() && (beside->stride(1) != 1 || beside->stride(0) < 0))
        refuse("rows of beside must be contiguous and in order, got strides (" + std::to_string(beside->stride(0)) +
               ", " + std::to_string(beside->stride(1)) + ")");
    return {beside->data(), static_cast<size_t>(beside->stride(0)), gradients.data(), past_cache};
}

// Keep freed memory for the next step. The kernel would take it back and clear it page by page on the next request: a
// quarter of a step with large batches.
void keep_freed_memory() {
#if defined(__GLIBC__)
    mallopt(M_MMAP_THRESHOLD, 1 << 28);
    mallopt(M_TRIM_THRESHOLD, 1 << 29);
#endif
}

}  // namespace

void bind_interaction(nb::module_& m) {
    using namespace nb::literals;
    m.def("keep_freed_memory", &keep_freed_memory);
    m.def(
        "all_bounded",
        [](const std::vector<AnyFloats>& arrays) {
            nb::gil_scoped_release nogil;
            return std::all_of(arrays.begin(), arrays.end(),
                               [](const AnyFloats& one) { return all_bounded(one.data(), one.size()); });
        },
        "arrays"_a);
    m.def(
        "factorize",
        [](const ConstMatrix& pooled, uint32_t num_features, const Matrix& terms) {
            const Interaction interaction = interaction_of(pooled, num_features);
            expect_matrix("terms", pooled.shape(0), 2, terms);
            nb::gil_scoped_release nogil;
            interaction.terms(terms.data());
        },
        nb::arg("pooled").noconvert(), "num_features"_a, nb::arg("terms").noconvert());
    m.def(
        "factorize_backward",
        [](const ConstMatrix& pooled, uint32_t num_features, const ConstMatrix& grad_terms,
           const std::optional<ConstRowsOf>& beside, const Matrix& gradients) {
            const Interaction interaction = interaction_of(pooled, num_features);
            expect_matrix("grad_terms", pooled.shape(0), 2, grad_terms);
            const GradientsOfRows out = gradients_of_rows(pooled, beside, gradients);
            nb::gil_scoped_release nogil;
            interaction.terms_back(grad_terms.data(), out);
        },
        nb::arg("pooled").noconvert(), "num_features"_a, nb::arg("grad_terms").noconvert(),
        nb::arg("beside").noconvert().none(), nb::arg("gradients").noconvert());
    m.def(
        "pairwise_dots",
        [](const ConstMatrix& pooled, uint32_t num_features, const Matrix& pairs) {
            const Interaction interaction = interaction_of(pooled, num_features);
            expect_matrix("pairs", pooled.shape(0), num_pairs(num_features), pairs);
            nb::gil_scoped_release nogil;
            interaction.dots(pairs.data());
        },
        nb::arg("pooled").noconvert(), "num_features"_a, nb::arg("pairs").noconvert());
    m.def(
        "pairwise_dots_backward",
        [](const ConstMatrix& pooled, uint32_t num_features, const ConstMatrix& grad_pairs,
           const std::optional<ConstRowsOf>& beside, const Matrix& gradients) {
            const Interaction interaction = interaction_of(pooled, num_features);
            expect_matrix("grad_pairs", pooled.shape(0), num_pairs(num_features), grad_pairs);
            const GradientsOfRows out = gradients_of_rows(pooled, beside, gradients);
            nb::gil_scoped_release nogil;
            interaction.dots_back(grad_pairs.data(), out);
        },
        nb::arg("pooled").noconvert(), "num_features"_a, nb::arg("grad_pairs").noconvert(),
        nb::arg("beside").noconvert().none(), nb::arg("gradients").noconvert());
}
