// Kernels of dense layers with packed weights, and of candidates' interaction with the rows that they share; members of
// Kernels. Letters: n candidates, D the dim of a row.
#pragma once

#include <cstddef>
#include <cstdint>

namespace monolith {

constexpr uint32_t kPanel = 32;  // outputs of a panel; a layer's outputs are padded to whole panels

// One layer as the kernels see it.
struct DenseView {
    uint32_t in;      // inputs, padded to an even number
    uint32_t panels;  // of outputs
    bool relu;
    const float* weights;   // (panels, in, 32)
    const uint32_t* pairs;  // (panels, in / 2, 32): bf16 weights of inputs 2 k (low half) and 2 k + 1
    uint32_t width() const { return panels * kPanel; }
};

// Rows of candidates, and what they share.
struct CandidateRows {
    const float* rows;  // row r of candidate i at rows + i * stride + r * D
    size_t n, stride;
    uint32_t num_rows, dim;
    uint32_t num_shared;
    const float* shared;  // factorize_after: sum of the shared rows, (D,). cross_dots: the rows transposed, (D,
                          // padded(num_shared))
};

struct DenseKernels {
    // outputs (n, width) = ReLU(inputs * weights + start), of inputs (n, in) and start (width,).
    void (*forward)(const DenseView& layer, const float* inputs, size_t n, const float* start, float* outputs);
    // The same of bf16 inputs, (n, in / 2) pairs, with sums in float32. Only if `has_bf16()`.
    void (*forward_pairs)(const DenseView& layer, const uint32_t* inputs, size_t n, const float* start, float* outputs);
    // Round n floats, an even number, to pairs of bf16.
    void (*narrow)(const float* values, size_t n, uint32_t* pairs);
    // Terms (n, 2) of a factorization machine over shared and own rows: sum of component 0; sum over all pairs of rows
    // with an own one of the dot product of components 1 and up.
    void (*factorize_after)(const CandidateRows& rows, float* terms);
    // Dot products of own row 0 with all shared rows, then of own row 1 with all shared rows and own row 0, and so on;
    // those of candidate i at pairs + i * stride.
    void (*cross_dots)(const CandidateRows& rows, float* pairs, size_t stride);
};

// Whether the kernels in use and this machine have products of bf16.
bool has_bf16();

}  // namespace monolith
