// What computes a stack of sparse linear layers: the contract of the engines behind TowerStack.
//
// Letters: B examples of a batch, I and O inputs and outputs of a layer, h height of an atom in outputs (16 or 1),
// blocks = ceil(O / h). An atom is h outputs x 1 input: block b of column c is the weights of outputs [b * h, b * h +
// h) from input c. A layer's live atoms are ordered by block, then by column.
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

// A batch in parts that lie side by side: part p has widths[p] columns, row-major and dense in memory.
template <typename T>
struct Columns {
    std::vector<T*> parts;
    std::vector<uint32_t> widths;  // their sum is I of the first layer
};

// Whether a matrix is larger than caches near a core are.
template <typename T>
bool is_past_cache(const Columns<T>& columns, size_t batch) {
    size_t width = 0;
    for (uint32_t part : columns.widths) width += part;
    return batch * width * sizeof(float) >= kPastCache;
}

// What backward needs of a forward: the layers' inputs, and which outputs ReLU let through. Each engine has its own; it
// may hold on to the batch itself, which must stay as it is until then.
class EngineTape {
  public:
    virtual ~EngineTape() = default;
    size_t batch = 0;
};

// Gradients of one layer, all overwritten; what is null is not asked for.
struct LayerGradients {
    float* values;  // (atoms, h), in the order of the live atoms; padding outputs get 0
    float* biases;  // (O,)
    float* all;     // (blocks, I, h): of every atom, dead or live; ADDED to what is there, to sum over batches
};

class TowerEngine {
  public:
    virtual ~TowerEngine() = default;

    // Take the weights to compute with from here on: values[l] (atoms, h), biases[l] (O,), float32, copied. `layers` is
    // the caller's and outlives the engine; its topologies may have changed since the last call. Not beside other
    // calls.
    virtual void load(const std::vector<TowerLayer>& layers, const float* const* values,
                      const float* const* biases) = 0;

    // outputs (B, O of the last layer), row-major. `tape` of `make_tape`, or null where no backward follows. Any number
    // of threads may call this at once, each with its own tape; inside, the work is shared by ThreadPool.
    virtual void forward(const Columns<const float>& inputs, size_t batch, float* outputs, EngineTape* tape) const = 0;

    virtual std::unique_ptr<EngineTape> make_tape() const = 0;

    // `grad_outputs` (B, O of the last layer); parts of `grad_inputs` may be null; `gradients` has one for each layer.
    // Results do not depend on the number of threads.
    virtual void backward(EngineTape& tape, const float* grad_outputs, const Columns<float>& grad_inputs,
                          const std::vector<LayerGradients>& gradients) const = 0;
};

// fp32 for every instruction set; `round_to_bf16`: inputs of every layer, weights and output gradients are rounded to
// bfloat16 (nearest, ties to even) and sums are float32, as in machines that compute in bf16.
std::unique_ptr<TowerEngine> make_vector_engine(uint32_t atom_height, bool round_to_bf16);

// The same in the matrix unit of Intel (AMX), atoms of 16 outputs, bf16 in and float32 sums; null where this machine
// has none or does not let this process have it.
std::unique_ptr<TowerEngine> make_amx_engine();

}  // namespace monolith
