// Dense layers with fixed weights. Inputs that the candidates of a request share go through the first layer once.
// Letters: n candidates, I inputs, O outputs.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "kernels/dense_kernels.hpp"
#include "memory/pool.hpp"

namespace monolith::ranking {

// Weights (O, I) and biases (O,) of a layer. bf16: inputs, weights, biases and outputs are rounded to bfloat16.
struct LayerWeights {
    const float* weights;
    const float* biases;
    uint32_t in, out;
    bool relu, bf16;
};

// A layer, or the part of it for some of its inputs, in the order of the kernels.
class PackedLayer {
  public:
    // `columns`: inputs of `layer`, in order; `has_biases`: whether to add the biases.
    PackedLayer(const LayerWeights& layer, std::span<const uint32_t> columns, bool has_biases);

    uint32_t in() const { return view_.in; }  // even: the last input may be a padding
    uint32_t width() const { return view_.width(); }
    bool bf16() const { return bf16_; }
    const float* biases() const { return biases_.as<float>(); }
    // outputs (n, width) of inputs (n, in). Inputs may be rounded in place.
    void forward(float* inputs, size_t n, const float* start, bool relu, float* outputs) const;

  private:
    DenseView view_;
    bool bf16_;
    Buffer weights_, pairs_, biases_;
};

// A padded number of inputs.
constexpr size_t even(size_t n) { return n + n % 2; }

// Number of floats of the longest hidden output for a block of candidates: see `DenseStack::run`.
class DenseStack {
  public:
    // At least one layer. The inputs of the first layer are split: those shared, and those of each candidate.
    DenseStack(std::span<const LayerWeights> layers, std::span<const uint32_t> shared,
               std::span<const uint32_t> candidate);

    size_t shared_in() const { return shared_.in(); }
    size_t in() const { return layers_.front().in(); }
    size_t width() const { return layers_.back().width(); }  // outputs, padded
    // Part of the first layer's outputs from the shared inputs (shared_in,). `start` holds `start_width()`.
    void begin(float* shared, float* start) const;
    size_t start_width() const { return shared_.width(); }
    // Outputs (n, width) of inputs (n, in), valid until the thread's next call. Inputs may be rounded in place.
    float* run(float* inputs, size_t n, const float* start) const;

  private:
    PackedLayer shared_;
    std::vector<PackedLayer> layers_;
    std::vector<bool> relu_;
    size_t widest_ = 0;
};

}  // namespace monolith::ranking
