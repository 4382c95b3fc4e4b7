// Gradients of a layer's weights and biases: products over all examples of a batch, in slabs that stay in the L2 cache.
// Every sum runs over the examples in order, for any division of blocks among threads.
#include "tower/amx/tile.hpp"

namespace monolith::amx {

namespace {

// Load the sums of `num` rows. Fewer than 16 at the end of a block: the memory after them belongs to another block.
template <int kRegister>
void load_sums(const float* from, size_t num, bool is_first, float* spill) {
    if (is_first || num == 0) {
        zero_tile<kRegister>();
    } else if (num >= kAtom) {
        load_tile<kRegister>(from);
    } else {
        for (size_t i = 0; i < kAtom; ++i)
            _mm512_store_ps(spill + i * 16, i < num ? _mm512_loadu_ps(from + i * 16) : _mm512_setzero_ps());
        load_tile<kRegister>(spill);
    }
}

template <int kRegister>
void store_sums(float* to, size_t num, float* spill) {
    if (num == 0) return;
    if (num >= kAtom) return store_tile<kRegister>(to);
    store_tile<kRegister>(spill);
    for (size_t i = 0; i < num; ++i) _mm512_storeu_ps(to + i * 16, _mm512_load_ps(spill + i * 16));
}

size_t rows_left(size_t n, size_t begin) { return n > begin ? n - begin : 0; }

// At most 8 units, of one task.
struct Slab {
    const Layer& layer;
    const WeightTask& task;
    size_t first, count;
    const Bf16* dy;
    Bf16* stage;   // 2 x 4 tiles
    float* spill;  // 1 tile

    size_t stride() const { return layer.input_rows() * kUnit; }
    const Bf16* x() const { return task.x + first * stride(); }
    bool is_first() const { return first == 0; }
};

// Four sums of 16 columns x 16 outputs: columns [16 * tile, 16 * tile + 32) of block b and, with kTwo, b + 1. dY of the
// blocks stays in the L1 cache while the inputs stream.
template <bool kTwo>
void dense_step(const Slab& slab, size_t b, size_t tile, float* sums) {
    const size_t begin = tile * 16, stride = slab.stride(), in = slab.layer.in, blocks = slab.layer.blocks;
    const Bf16 *x = slab.x() + begin * kUnit, *dy = slab.dy + b * kTile;
    const size_t num0 = rows_left(in, begin), num1 = rows_left(in, begin + 16);
    float *low = sums + begin * 16, *high = low + in * 16;
    load_sums<0>(low, num0, slab.is_first(), slab.spill);
    load_sums<2>(low + 256, num1, slab.is_first(), slab.spill);
    if (kTwo) {
        load_sums<1>(high, num0, slab.is_first(), slab.spill);
        load_sums<3>(high + 256, num1, slab.is_first(), slab.spill);
    }
    for (size_t unit = 0; unit < slab.count; ++unit, x += stride, dy += blocks * kTile) {
        stream_tile<4>(x);
        load_tile<6>(dy);
        multiply_tiles<0, 4, 6>();
        stream_tile<5>(x + kTile);
        multiply_tiles<2, 5, 6>();
        if (!kTwo) continue;
        load_tile<7>(dy + kTile);
        multiply_tiles<1, 4, 7>();
        multiply_tiles<3, 5, 7>();
    }
    store_sums<0>(low, num0, slab.spill);
    store_sums<2>(low + 256, num1, slab.spill);
    if (!kTwo) return;
    store_sums<1>(high, num0, slab.spill);
    store_sums<3>(high + 256, num1, slab.spill);
}

void dense_slab(const Slab& slab, float* sums) {
    for (size_t b = slab.task.begin; b < slab.task.end; b += 2, sums += 2 * slab.layer.in * kAtom)
        for (size_t tile = 0; tile < slab.layer.column_tiles(); tile += 2) {
            if (b + 1 < slab.task.end)
                dense_step<true>(slab, b, tile, sums);
            else
                dense_step<false>(slab, b, tile, sums);
        }
}

// Up to 64 atoms of one block.
struct Quad {
    size_t block, begin, num;  // first atom; number of atoms

    static Quad of(const Layer& layer, size_t block, size_t begin, size_t end) {
        while (block < end && begin >= layer.bounds[block + 1])
            if (++block < end) begin = layer.bounds[block];
        if (block >= end) return {block, begin, 0};
        const size_t left = layer.bounds[block + 1] - begin;
        return {block, begin, left < 64 ? left : 64};
    }
    const uint32_t* rows(const Layer& layer) const {
        return layer.rows + layer.groups[block] * 32 + (begin - layer.bounds[block]);
    }
};

inline void gather(const uint32_t* rows, const Bf16* x, Bf16* tile) {
    for (size_t i = 0; i < kAtom; ++i) _mm512_store_si512(tile + i * 32, _mm512_load_si512(x + rows[i] * kUnit));
}

template <int kSum>
inline void sparse_step(const Bf16* from, const Quad& next, const uint32_t* rows, const Bf16* x, Bf16* to) {
    load_tile<4 + kSum % 2>(from + kSum * kTile);
    multiply_tiles<kSum, 4 + kSum % 2, 6>();
    if (next.num > kSum * 16) gather(rows + kSum * 16, x, to + kSum * kTile);
}

// Up to 64 atoms over all units. Gathers rows one unit before their product, at the end those of the quad `behind`:
// loading a tile soon after its store stalls.
void sparse_quad(const Slab& slab, const Quad& quad, const Quad& behind, size_t turn) {
    const Layer& layer = slab.layer;
    float* sums = slab.task.values + quad.begin * kAtom;
    const size_t num = quad.num;
    load_sums<0>(sums, num, slab.is_first(), slab.spill);
    load_sums<1>(sums + 256, rows_left(num, 16), slab.is_first(), slab.spill);
    load_sums<2>(sums + 512, rows_left(num, 32), slab.is_first(), slab.spill);
    load_sums<3>(sums + 768, rows_left(num, 48), slab.is_first(), slab.spill);
    for (size_t unit = 0; unit < slab.count; ++unit, ++turn) {
        const bool is_last = unit + 1 == slab.count;
        const Quad& next = is_last ? behind : quad;
        const uint32_t* rows = next.num > 0 ? next.rows(layer) : nullptr;
        const Bf16* x = slab.x() + (is_last ? 0 : unit + 1) * slab.stride();
        const Bf16* from = slab.stage + turn % 2 * 4 * kTile;
        Bf16* to = slab.stage + (turn + 1) % 2 * 4 * kTile;
        load_tile<6>(slab.dy + (unit * layer.blocks + quad.block) * kTile);
        sparse_step<0>(from, next, rows, x, to);
        if (num > 16 || next.num > 16) sparse_step<1>(from, next, rows, x, to);
        if (num > 32 || next.num > 32) sparse_step<2>(from, next, rows, x, to);
        if (num > 48 || next.num > 48) sparse_step<3>(from, next, rows, x, to);
    }
    store_sums<0>(sums, num, slab.spill);
    store_sums<1>(sums + 256, rows_left(num, 16), slab.spill);
    store_sums<2>(sums + 512, rows_left(num, 32), slab.spill);
    store_sums<3>(sums + 768, rows_left(num, 48), slab.spill);
}

void sparse_slab(const Slab& slab) {
    const WeightTask& task = slab.task;
    Quad quad = Quad::of(slab.layer, task.begin, slab.layer.bounds[task.begin], task.end);
    for (size_t i = 0; i * 16 < quad.num; ++i) gather(quad.rows(slab.layer) + i * 16, slab.x(), slab.stage + i * kTile);
    for (size_t turn = 0; quad.num > 0; turn += slab.count) {
        const Quad behind = Quad::of(slab.layer, quad.block, quad.begin + 64, task.end);
        sparse_quad(slab, quad, behind, turn);
        quad = behind;
    }
}

void sum_biases(const Slab& slab, float* biases) {
    const __m512bh ones = (__m512bh)_mm512_set1_epi16(0x3f80);
    for (size_t b = slab.task.begin; b < slab.task.end; ++b, biases += kAtom) {
        __m512 sums[4] = {};
        if (!slab.is_first()) sums[0] = _mm512_load_ps(biases);
        for (size_t unit = 0; unit < slab.count; ++unit) {
            const Bf16* dy = slab.dy + (unit * slab.layer.blocks + b) * kTile;
            for (int i = 0; i < 16; ++i)
                sums[i % 4] = _mm512_dpbf16_ps(sums[i % 4], (__m512bh)_mm512_load_si512(dy + i * 32), ones);
        }
        _mm512_store_ps(biases, _mm512_add_ps(_mm512_add_ps(sums[0], sums[1]), _mm512_add_ps(sums[2], sums[3])));
    }
}

// Select the gradients of live atoms from those of all atoms of the task's blocks.
void pick(const Layer& layer, const WeightTask& task, const float* all) {
    for (size_t b = task.begin; b < task.end; ++b)
        for (size_t k = layer.bounds[b]; k < layer.bounds[b + 1]; ++k)
            _mm512_storeu_ps(task.values + k * kAtom,
                             _mm512_loadu_ps(all + ((b - task.begin) * layer.in + layer.columns[k]) * kAtom));
}

// Zero the padding outputs: the product of their zeros with a NaN input is NaN.
void clear_padding(const Layer& layer, float* gradients, size_t num) {
    for (size_t i = 0; i < num; ++i)
        _mm512_storeu_ps(gradients + i * 16,
                         _mm512_maskz_loadu_ps(first_lanes((layer.out - 1) % kAtom + 1), gradients + i * 16));
}

bool is_in_place(const Layer& layer, const WeightTask& task) { return layer.is_full() && task.values != nullptr; }

bool is_dense(const Layer& layer, const WeightTask& task) {
    return task.all != nullptr || (task.values != nullptr && layer.density >= kWeightGradientDense);
}

// Sums of all atoms of the task's blocks; after the bias sums if not in place.
float* all_of(const Layer& layer, const WeightTask& task) {
    if (is_in_place(layer, task)) return task.values + layer.bounds[task.begin] * kAtom;
    return task.sums + (task.end - task.begin) * kAtom;
}

}  // namespace

size_t num_sums(const Layer& layer, const WeightTask& task) {
    const size_t blocks = task.end - task.begin;
    return blocks * kAtom + (is_dense(layer, task) && !is_in_place(layer, task) ? blocks * layer.in * kAtom : 0);
}

void add_weight_gradient(const Layer& layer, const WeightTask& task, size_t first, size_t count, const Bf16* dy,
                         float* scratch) {
    for (const size_t end = first + count; first < end; first += kSlab, dy += kSlab * layer.blocks * kTile) {
        const Slab slab{
            .layer = layer,
            .task = task,
            .first = first,
            .count = end - first < kSlab ? end - first : kSlab,
            .dy = dy,
            .stage = reinterpret_cast<Bf16*>(scratch),
            .spill = scratch + 2048,
        };
        if (task.biases != nullptr) sum_biases(slab, task.sums);
        if (is_dense(layer, task))
            dense_slab(slab, all_of(layer, task));
        else if (task.values != nullptr)
            sparse_slab(slab);
    }
}

void finish_weight_gradient(const Layer& layer, const WeightTask& task) {
    for (size_t b = task.begin; b < task.end && task.biases != nullptr; ++b)
        _mm512_mask_storeu_ps(task.biases + b * kAtom, first_lanes(layer.out - b * kAtom),
                              _mm512_load_ps(task.sums + (b - task.begin) * kAtom));
    const bool is_padded = task.end == layer.blocks && layer.out % kAtom != 0, dense = is_dense(layer, task);
    const size_t last = layer.bounds[layer.blocks - 1];
    float* all = all_of(layer, task);
    if (is_padded && dense)
        clear_padding(layer, all + (task.end - 1 - task.begin) * layer.in * kAtom, layer.in);
    else if (is_padded && task.values != nullptr)
        clear_padding(layer, task.values + last * kAtom, layer.bounds[layer.blocks] - last);
    if (!dense) return;
    if (task.values != nullptr && !is_in_place(layer, task)) pick(layer, task, all);
    if (task.all == nullptr) return;
    float* to = task.all + task.begin * layer.in * kAtom;
    const size_t num = (task.end - task.begin) * layer.in;
    for (size_t i = 0; i < num; ++i)
        _mm512_storeu_ps(to + i * 16, _mm512_add_ps(_mm512_loadu_ps(to + i * 16), _mm512_loadu_ps(all + i * 16)));
}

}  // namespace monolith::amx
