// Engine interface of TowerStack: computes a stack of sparse linear layers.
//
// Letters: B examples of a batch, I and O inputs and outputs of a layer, h height of an atom in outputs (16 or 1),
// blocks = ceil(O / h). An atom is h outputs x 1 input: the atom of block b and column c has the weights of outputs [b
// * h, b * h + h) from input c. A layer's live atoms are ordered by block, then by column.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "kernels/tower_kernels.hpp"

namespace monolith {

// The live atoms of one layer.
struct TowerLayer {
    uint32_t in, out;
    bool relu;                      // whether max(0, .) follows
    std::vector<uint32_t> bounds;   // (blocks + 1,): atoms of block b are [bounds[b], bounds[b + 1])
    std::vector<uint16_t> columns;  // (atoms,), ascending within a block
};

// A batch in parts side by side: part p has widths[p] columns, row-major and contiguous.
template <typename T>
struct Columns {
    std::vector<T*> parts;
    std::vector<uint32_t> widths;  // their sum is I of the first layer
};

// Whether a matrix exceeds kPastCache.
template <typename T>
bool is_past_cache(const Columns<T>& columns, size_t batch) {
    size_t width = 0;
    for (uint32_t part : columns.widths) width += part;
    return batch * width * sizeof(float) >= kPastCache;
}

// Forward state that backward needs: inputs of the layers, and outputs clipped by ReLU. Each engine has its own. It may
// refer to the batch, which must stay unchanged until then.
class EngineTape {
  public:
    virtual ~EngineTape() = default;
    size_t batch = 0;
};

// Destination of one layer's gradients, overwritten unless stated; null: not wanted.
struct LayerGradients {
    float* values;  // (atoms, h), in the order of live atoms; padding outputs get 0
    float* biases;  // (O,)
    float* all;     // (blocks, I, h): every atom, dead or live; ADDED, to sum over batches
};

class TowerEngine {
  public:
    virtual ~TowerEngine() = default;

    // Copy the weights: values[l] (atoms, h), biases[l] (O,), float32. The caller owns `layers`, which outlives the
    // engine; topologies may have changed since the last call. Must not run beside other calls.
    virtual void load(const std::vector<TowerLayer>& layers, const float* const* values,
                      const float* const* biases) = 0;

    // outputs (B, O of the last layer), row-major. `tape`: from `make_tape`, or null if no backward follows. Any number
    // of threads may call at once, each with its own tape; each call divides its work by ThreadPool.
    virtual void forward(const Columns<const float>& inputs, size_t batch, float* outputs, EngineTape* tape) const = 0;

    virtual std::unique_ptr<EngineTape> make_tape() const = 0;

    // `grad_outputs` (B, O of the last layer); parts of `grad_inputs` may be null; `gradients`: one per layer. Results
    // do not depend on the number of threads. May run beside `forward` and itself, each with its own tape.
    virtual void backward(EngineTape& tape, const float* grad_outputs, const Columns<float>& grad_inputs,
                          const std::vector<LayerGradients>& gradients) const = 0;
};

// Engine in fp32 for every instruction set. `round_to_bf16`: rounds inputs of every layer, weights and output gradients
// to bfloat16 (nearest, ties to even); sums stay float32, as in bf16 hardware.
std::unique_ptr<TowerEngine> make_vector_engine(uint32_t atom_height, bool round_to_bf16);

// Engine in AMX: atoms of 16 outputs, bf16 inputs, float32 sums. Null if the machine has no AMX or does not permit this
// process to use it.
std::unique_ptr<TowerEngine> make_amx_engine();

}  // namespace monolith
