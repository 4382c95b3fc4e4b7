// Data of the fp32 engine of sparse linear stacks: weights in its own memory, and the layout of a chunk.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/kernels.hpp"
#include "memory/pool.hpp"
#include "memory/thread_pool.hpp"
#include "tower/engine.hpp"

namespace monolith {

struct VectorLayer {
    Buffer values, biases;
    TowerView view;
};

// The outputs of all layers of a chunk are contiguous, and so are their gradients. The first layer's inputs, which may
// be many more, are not stored: packing them again in backward costs less than writing and reading them.
struct VectorStack {
    uint32_t height;
    bool round;
    std::vector<VectorLayer> layers;
    std::vector<size_t> at;  // offset of each layer's outputs in a chunk
    size_t stride;           // distance between chunks
    size_t widest;           // maximum of all inputs and outputs, padded

    size_t in() const { return padded(layers.front().view.in); }

    // Zero the padding outputs in n atoms of the last block.
    void clear_padding(uint32_t out, float* atoms, size_t n) const {
        const size_t real = out % height;
        for (size_t k = 0; real != 0 && k < n; ++k)
            std::fill(atoms + k * height + real, atoms + (k + 1) * height, 0.0f);
    }
};

inline size_t num_chunks(size_t batch) { return (batch + kLanes - 1) / kLanes; }

// Number of examples in the chunk that begins at example `begin`.
inline uint32_t present(size_t batch, size_t begin) {
    return static_cast<uint32_t>(std::min<size_t>(kLanes, batch - begin));
}

// Pack examples [begin, begin + 16) of a batch into a chunk.
void vector_pack(const VectorStack& stack, const Columns<const float>& inputs, size_t batch, size_t begin,
                 float* chunk);

// `taped`: memory for the outputs of all chunks, for backward; null: not wanted.
void vector_forward(const VectorStack& stack, const Columns<const float>& inputs, size_t batch, float* outputs,
                    float* taped);

// `pool`: memory for the sums of the parts.
void vector_backward(const VectorStack& stack, const Columns<const float>& inputs, const float* taped, size_t batch,
                     const float* grad_outputs, const Columns<float>& grad_inputs,
                     const std::vector<LayerGradients>& gradients, BufferPool& pool);

}  // namespace monolith
