// Sparse linear stacks in AMX (Intel's matrix instructions): layouts and kernels shared by the sources of this folder.
//
// Sizes, one word each:
// - unit: 32 examples. Activations are feature-major bf16, (units, rows, 32): a row is a cache line. After a layer's
// features follow rows of zeros, at least one, up to a multiple of 32.
// - slab: 8 units; a thread's share of a round of the backward pass.
// - tile: 16 rows of 64 bytes, 1 KiB: one AMX register.
// - block: 16 outputs of a layer; group: 32 atoms of a block; piece: 1/8 of a block's sums.
//
// "Interleaved" rows are pairs of rows in the order that AMX multiplies: rows 2p and 2p + 1 give words (row 2p, row 2p
// + 1); those of 16 examples are line p of one tile, those of the other 16 line p of the next. The first tile has
// examples 0-3, 8-11, 16-19, 24-27 (unpacklo), the second the others.
#pragma once

#include <cstddef>
#include <cstdint>

namespace monolith::amx {

using Bf16 = uint16_t;

constexpr size_t kUnit = 32;           // examples
constexpr size_t kAtom = 16;           // outputs of an atom
constexpr size_t kTile = 512;          // bf16 of a tile
constexpr size_t kMaxUnits = 2;        // units per task: they share the loads of weights
constexpr size_t kMaxRows = 4;         // examples computed together with AVX-512
constexpr float kForwardDense = 0.5f;  // densities above which multiplying dead atoms too is faster
constexpr float kInputGradientDense = 0.08f;
constexpr float kWeightGradientDense = 0.6f;

constexpr size_t round_up(size_t n, size_t to) { return (n + to - 1) / to * to; }

// One layer with packed weights.
struct Layer {
    uint32_t in, out, blocks;
    bool relu;
    float density;
    const uint32_t* bounds;   // (blocks + 1,): atoms of a block
    const uint16_t* columns;  // (atoms,)
    const uint32_t* groups;   // (blocks + 1,): groups of 32 atoms of a block
    const uint32_t* rows;     // (groups, 32): input row of each atom; the row of zeros after the last one
    const float* biases;      // (blocks * 16,)
    Bf16* values;             // (atoms, 16), and 15 more readable ones
    Bf16* sparse;             // (groups, 16 outputs, 32 atoms)
    Bf16* dense;              // (blocks, input_tiles(), 16 outputs, 32 inputs); null below kForwardDense
    Bf16* transposed;         // (column_tiles(), output_tiles(), 16 inputs, 32 outputs); null below kInputGradientDense

    size_t input_tiles() const { return (in + 31) / 32; }
    size_t column_tiles() const { return (in + 15) / 16; }
    size_t output_tiles() const { return (blocks + 1) / 2; }
    size_t input_rows() const { return round_up(in + size_t{1}, 32); }
    bool is_full() const { return density == 1; }
};

// Row-major float32 matrix in parts side by side. `first`: first row of the unit; `count`: rows from there on.
template <typename T>
struct Parts {
    T* const* data;
    const uint32_t* widths;
    size_t num_parts;
    size_t first, count;
    bool past_cache;  // use non-temporal stores: the matrix exceeds kPastCache
};

// Configures the tile registers of this thread, and releases them: the kernel need not save them outside.
class TileScope {
  public:
    TileScope();
    ~TileScope();
    TileScope(const TileScope&) = delete;
    TileScope& operator=(const TileScope&) = delete;
};

// Alignment: scratch memory and bf16 data lie on cache lines; the caller's arrays need not.

// Packing. Rows beyond `count` are zero.

// Pack one unit into `out` (rows, 32). Rows from the sum of widths up to `rows` become zero.
void pack_unit(const Parts<const float>& in, size_t rows, Bf16* out);

// Pack one block's `values` (atoms, 16) and `columns` into every form that `layer` has.
void pack_block(const Layer& layer, size_t block, const float* values);

// Forward.

struct ForwardTask {
    const Bf16* x;  // (units, layer.input_rows(), 32)
    size_t units;
    Bf16* next;  // (units, next_rows, 32): input of the next layer; may be null
    size_t next_rows;
    float* outputs;     // (batch, out) from the first unit's first example on, or null
    size_t count;       // examples of `outputs`
    Bf16* interleaved;  // scratch, input_tiles() * 2 tiles
    float* scratch;     // kForwardScratch floats
};
constexpr size_t kForwardScratch = 4096;

void forward_layer(const Layer& layer, const ForwardTask& task);

// A few examples with AVX-512: x (num_rows, in) holds bf16 values, y (num_rows, out).
void forward_rows(const Layer& layer, const float* x, size_t num_rows, bool is_last, float* y);
void round_row(const float* x, size_t n, float* y);

// Backward. The gradient dY of a layer's outputs has two forms: interleaved, for the gradient of the inputs, and
// transposed (units, blocks, 16 pairs of examples, 16 outputs, 2), for the gradient of the weights.

struct OutputGradient {
    Bf16* interleaved;  // (output_tiles(), 2 tiles)
    Bf16* transposed;   // (blocks, 1 tile)
    bool is_finite;
};

// dY of one unit of the last layer. `y`: its outputs as activations if ReLU follows it, else null.
void pack_output_gradient(const Layer& layer, const Parts<const float>& gradients, const Bf16* y,
                          OutputGradient* result);

// Gradient of the inputs of one unit, as dY of the layer below. `x`: outputs of that layer if ReLU follows it, else
// null. `scratch`: kGradientScratch floats and (round_up(in, 16), 32).
void input_gradient(const Layer& layer, const OutputGradient& dy, const Layer& below, const Bf16* x,
                    OutputGradient* result, float* scratch);
// Gradient of the first layer's inputs, row-major.
constexpr size_t kGradientScratch = 2048;
void input_gradient(const Layer& layer, const OutputGradient& dy, const Parts<float>& out, float* scratch);

// Gradients of the weights of blocks [begin, end) of a layer; accumulated over the units.
struct WeightTask {
    size_t begin, end;
    const Bf16* x;  // (units, input_rows(), 32) of the whole batch
    float* values;  // (atoms, 16), or null
    float* biases;  // (out,), or null
    float* all;     // (blocks, in, 16), or null
    float* sums;    // num_sums() floats, owned by the task until it is finished
};
size_t num_sums(const Layer& layer, const WeightTask& task);

// Add units [first, first + count), in order; `first` is a multiple of kSlab; dy (count, blocks, 1 tile) is of these
// units. Results do not depend on the split of a batch. `scratch`: kWeightScratch floats.
constexpr size_t kSlab = 8, kWeightScratch = 2304;
void add_weight_gradient(const Layer& layer, const WeightTask& task, size_t first, size_t count, const Bf16* dy,
                         float* scratch);
void finish_weight_gradient(const Layer& layer, const WeightTask& task);

}  // namespace monolith::amx
