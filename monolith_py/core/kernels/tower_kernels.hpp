// Kernels of sparse linear stacks, as members of Kernels. Letters as in tower/engine.hpp.
//
// Sizes: a chunk is 16 examples, feature-major: (features, 16) floats; features are padded to a multiple of 16, absent
// examples are zero. A panel (tower/vector) is up to 4 chunks that go through a layer together.
#pragma once

#include <cstddef>
#include <cstdint>

namespace monolith {

constexpr uint32_t kLanes = 16;  // examples of a chunk, and outputs of a 16 x 1 atom

// Above this size data leaves L2 before it is read again: use non-temporal stores.
constexpr size_t kPastCache = size_t{4} << 20;

constexpr size_t padded(size_t n) { return (n + kLanes - 1) / kLanes * kLanes; }

// One layer as the kernels see it.
struct TowerView {
    uint32_t in, out, height, blocks;
    bool relu, round;         // round: inputs, hidden outputs and output gradients hold bfloat16 values
    bool last;                // last layer: its outputs are not rounded
    const uint32_t* bounds;   // (blocks + 1,)
    const uint16_t* columns;  // (atoms,)
    const float* values;      // (atoms, height)
    const float* biases;      // (padded(O),)
};

// Consecutive chunks of one layer: chunk i begins at data + i * stride.
template <typename T>
struct Chunks {
    T* data;
    size_t stride, num;
    T* operator[](size_t i) const { return data + i * stride; }
};

// Destination of the gradients of one layer's weights, which are ADDED; null: not wanted.
struct TowerGradients {
    float* values;   // (atoms, height)
    float* biases;   // (O,)
    float* all;      // (blocks, I, height)
    float* scratch;  // (I, 16), used with `all` when height is 1
};

struct AdamRates {
    double lr, beta1, beta2, eps;
    double grad_scale;  // gradients are divided by it
};
struct AdagradRates {
    float lr, eps, grad_scale;
};

struct TowerKernels {
    // Transpose rows [0, examples) of `rows`, `stride` floats apart, into features [0, width) of a chunk. At most 16
    // examples.
    void (*pack)(const float* rows, size_t stride, uint32_t width, uint32_t examples, bool round, float* chunk);
    // Inverse of `pack`.
    void (*unpack)(const float* chunk, uint32_t width, uint32_t examples, float* rows, size_t stride);
    // outputs = ReLU(inputs * weights + biases), padding included.
    void (*forward)(const TowerView& layer, Chunks<const float> inputs, Chunks<float> outputs);
    // `forward` on rows of examples: inputs (num, padded(I)), outputs (num, padded(O)).
    void (*forward_rows)(const TowerView& layer, const float* inputs, size_t num, float* outputs);
    // Gradients of the inputs from the gradients of the outputs; padding features get zero.
    void (*backward)(const TowerView& layer, Chunks<const float> grad_outputs, Chunks<float> grad_inputs);
    // Zero the gradients of outputs that ReLU clipped (`activations` not null), then round if `round`.
    void (*mask)(const float* activations, size_t n, bool round, float* gradients);
    void (*gradients)(const TowerView& layer, Chunks<const float> inputs, Chunks<const float> grad_outputs,
                      const TowerGradients& sums);
    // to[i] += from[i].
    void (*add)(const float* from, size_t n, float* to);
    // Round values to the nearest bfloat16, ties to even.
    void (*round)(float* values, size_t n);
    // Adam (Kingma and Ba, 2015, algorithm 1) with a step count for each of n atoms of `height` values.
    void (*adam)(float* values, const float* gradients, float* m, float* v, uint32_t* steps, size_t n, uint32_t height,
                 const AdamRates& rates);
    // Adagrad (Duchi et al., 2011) of n values.
    void (*adagrad)(float* values, const float* gradients, float* state, size_t n, const AdagradRates& rates);
    // sums[k] += |sum of values[k] * gradients[k]| / grad_scale, of n atoms of `height` values.
    void (*taylor)(const float* values, const float* gradients, float* sums, size_t n, uint32_t height,
                   float grad_scale);
};

}  // namespace monolith
