// The gradients of a layer's weights and biases: products over all examples of a batch, in slabs that stay in the
// second-level cache. Every sum runs over the examples in their order, however the blocks are shared out.
#include "tower_amx_tile.hpp"

namespace monolith::amx {

namespace {

constexpr size_t kSlab = 8;  // units

// A piece of the scratch memory for each purpose.
struct Scratch {
    Bf16* stage;    // 2 x 4 tiles
    float* spill;   // 1 tile
    float* biases;  // (blocks, 16)
    float* all;     // (blocks, in, 16)

    Scratch(const WeightTask& task)
        : stage(reinterpret_cast<Bf16*>(task.scratch)),
          spill(task.scratch + 2048),
          biases(spill + 256),
          all(biases + (task.end - task.begin) * kAtom) {}
};

// Sums of `num` rows, fewer than 16 at the end of a block, whose memory behind is another block's.
template <int tile>
void load_sums(const float* from, size_t num, bool is_first, float* spill) {
    if (is_first || num == 0) {
        zero_tile<tile>();
    } else if (num >= kAtom) {
        load_tile<tile>(from);
    } else {
        for (size_t i = 0; i < kAtom; ++i)
            _mm512_store_ps(spill + i * 16, i < num ? _mm512_loadu_ps(from + i * 16) : _mm512_setzero_ps());
        load_tile<tile>(spill);
    }
}

template <int tile>
void store_sums(float* to, size_t num, float* spill) {
    if (num == 0) return;
    if (num >= kAtom) return store_tile<tile>(to);
    store_tile<tile>(spill);
    for (size_t i = 0; i < num; ++i) _mm512_storeu_ps(to + i * 16, _mm512_load_ps(spill + i * 16));
}

size_t rows_left(size_t n, size_t begin) { return n > begin ? n - begin : 0; }

// Four sums of 16 columns x 16 outputs: columns [16 * tile, 16 * tile + 32) of the blocks b and, if `two`, b + 1.
void dense_step(const Layer& layer, const WeightTask& task, size_t first, size_t count, size_t b, size_t tile, bool two,
                float* sums, float* spill) {
    const size_t stride = layer.input_rows() * kUnit, begin = tile * 16;
    const Bf16* x = task.x + first * stride + begin * kUnit;
    const Bf16* dy = task.dy + (first * layer.blocks + b) * kTile;
    const size_t num0 = rows_left(layer.in, begin), num1 = rows_left(layer.in, begin + 16);
    float *low = sums + begin * 16, *high = low + size_t{layer.in} * 16;
    load_sums<0>(low, num0, first == 0, spill);
    load_sums<2>(low + 256, num1, first == 0, spill);
    if (two) {
        load_sums<1>(high, num0, first == 0, spill);
        load_sums<3>(high + 256, num1, first == 0, spill);
    }
    for (size_t unit = 0; unit < count; ++unit, x += stride, dy += layer.blocks * kTile) {
        stream_tile<4>(x);
        load_tile<6>(dy);
        multiply_tiles<0, 4, 6>();
        stream_tile<5>(x + kTile);
        multiply_tiles<2, 5, 6>();
        if (!two) continue;
        load_tile<7>(dy + kTile);
        multiply_tiles<1, 4, 7>();
        multiply_tiles<3, 5, 7>();
    }
    store_sums<0>(low, num0, spill);
    store_sums<2>(low + 256, num1, spill);
    if (!two) return;
    store_sums<1>(high, num0, spill);
    store_sums<3>(high + 256, num1, spill);
}

void dense_slab(const Layer& layer, const WeightTask& task, size_t first, size_t count, float* sums, float* spill) {
    for (size_t b = task.begin; b < task.end; b += 2)
        for (size_t tile = 0; tile < layer.column_tiles(); tile += 2)
            dense_step(layer, task, first, count, b, tile, b + 1 < task.end, sums + (b - task.begin) * layer.in * kAtom,
                       spill);
}

// Up to 64 atoms of one block.
struct Quad {
    size_t block, begin, num;  // the first atom, and how many

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

template <int sum>
inline void sparse_step(const Bf16* from, const Quad& next, const uint32_t* rows, const Bf16* x, Bf16* to) {
    load_tile<4 + sum % 2>(from + sum * kTile);
    multiply_tiles<sum, 4 + sum % 2, 6>();
    if (next.num > sum * 16) gather(rows + sum * 16, x, to + sum * kTile);
}

// Rows are gathered a unit ahead of their product: a tile must not be loaded soon after it was stored.
void sparse_slab(const Layer& layer, const WeightTask& task, size_t first, size_t count, const Scratch& scratch) {
    const size_t stride = layer.input_rows() * kUnit;
    Quad quad = Quad::of(layer, task.begin, layer.bounds[task.begin], task.end);
    for (size_t i = 0; i * 16 < quad.num; ++i)
        gather(quad.rows(layer) + i * 16, task.x + first * stride, scratch.stage + i * kTile);
    size_t turn = 0;
    while (quad.num > 0) {
        const Quad behind = Quad::of(layer, quad.block, quad.begin + 64, task.end);
        float* sums = task.values + quad.begin * kAtom;
        const size_t num = quad.num;
        load_sums<0>(sums, num, first == 0, scratch.spill);
        load_sums<1>(sums + 256, rows_left(num, 16), first == 0, scratch.spill);
        load_sums<2>(sums + 512, rows_left(num, 32), first == 0, scratch.spill);
        load_sums<3>(sums + 768, rows_left(num, 48), first == 0, scratch.spill);
        for (size_t unit = 0; unit < count; ++unit, ++turn) {
            const bool is_last = unit + 1 == count;
            const Quad& next = is_last ? behind : quad;
            const uint32_t* rows = next.num > 0 ? next.rows(layer) : nullptr;
            const Bf16* x = task.x + (first + (is_last ? 0 : unit + 1)) * stride;
            const Bf16* from = scratch.stage + turn % 2 * 4 * kTile;
            Bf16* to = scratch.stage + (turn + 1) % 2 * 4 * kTile;
            load_tile<6>(task.dy + ((first + unit) * layer.blocks + quad.block) * kTile);
            sparse_step<0>(from, next, rows, x, to);
            if (num > 16 || next.num > 16) sparse_step<1>(from, next, rows, x, to);
            if (num > 32 || next.num > 32) sparse_step<2>(from, next, rows, x, to);
            if (num > 48 || next.num > 48) sparse_step<3>(from, next, rows, x, to);
        }
        store_sums<0>(sums, num, scratch.spill);
        store_sums<1>(sums + 256, rows_left(num, 16), scratch.spill);
        store_sums<2>(sums + 512, rows_left(num, 32), scratch.spill);
        store_sums<3>(sums + 768, rows_left(num, 48), scratch.spill);
        quad = behind;
    }
}

void sum_biases(const Layer& layer, const WeightTask& task, size_t first, size_t count, float* biases) {
    const __m512bh ones = (__m512bh)_mm512_set1_epi16(0x3f80);
    for (size_t b = task.begin; b < task.end; ++b) {
        float* to = biases + (b - task.begin) * kAtom;
        __m512 sums[4];
        for (int i = 0; i < 4; ++i) sums[i] = i == 0 && first > 0 ? _mm512_load_ps(to) : _mm512_setzero_ps();
        for (size_t unit = first; unit < first + count; ++unit) {
            const Bf16* dy = task.dy + (unit * layer.blocks + b) * kTile;
            for (int i = 0; i < 16; ++i)
                sums[i % 4] = _mm512_dpbf16_ps(sums[i % 4], (__m512bh)_mm512_load_si512(dy + i * 32), ones);
        }
        const __m512 sum = _mm512_add_ps(_mm512_add_ps(sums[0], sums[1]), _mm512_add_ps(sums[2], sums[3]));
        _mm512_store_ps(to, sum);
        if (first + count == task.units)
            _mm512_mask_storeu_ps(task.biases + b * kAtom, first_lanes(layer.out - b * kAtom), sum);
    }
}

// From the gradients of all atoms of the task's blocks, those of the live ones.
void pick(const Layer& layer, const WeightTask& task, const float* all) {
    for (size_t b = task.begin; b < task.end; ++b)
        for (size_t k = layer.bounds[b]; k < layer.bounds[b + 1]; ++k)
            _mm512_storeu_ps(task.values + k * kAtom,
                             _mm512_loadu_ps(all + ((b - task.begin) * layer.in + layer.columns[k]) * kAtom));
}

// A NaN of an input times the zeros of outputs that there are not is NaN, too.
void clear_padding(const Layer& layer, float* gradients, size_t num) {
    for (size_t i = 0; i < num; ++i)
        _mm512_storeu_ps(gradients + i * 16,
                         _mm512_maskz_loadu_ps(first_lanes((layer.out - 1) % kAtom + 1), gradients + i * 16));
}

bool is_in_place(const Layer& layer, const WeightTask& task) { return layer.is_full() && task.values != nullptr; }

bool is_dense(const Layer& layer, const WeightTask& task) {
    return task.all != nullptr || (task.values != nullptr && layer.density >= kWeightGradientDense);
}

}  // namespace

size_t weight_scratch(const Layer& layer, const WeightTask& task) {
    const size_t blocks = task.end - task.begin;
    const size_t all = is_dense(layer, task) && !is_in_place(layer, task) ? blocks * layer.in * kAtom : 0;
    return 2048 + 256 + blocks * kAtom + all;
}

void weight_gradient(const Layer& layer, const WeightTask& task) {
    const Scratch scratch(task);
    const bool dense = is_dense(layer, task);
    float* all = is_in_place(layer, task) ? task.values + layer.bounds[task.begin] * kAtom : scratch.all;
    for (size_t first = 0; first < task.units; first += kSlab) {
        const size_t count = task.units - first < kSlab ? task.units - first : kSlab;
        if (task.biases != nullptr) sum_biases(layer, task, first, count, scratch.biases);
        if (dense)
            dense_slab(layer, task, first, count, all, scratch.spill);
        else if (task.values != nullptr)
            sparse_slab(layer, task, first, count, scratch);
    }
    const bool is_padded = task.end == layer.blocks && layer.out % kAtom != 0;
    const size_t last = layer.bounds[layer.blocks - 1];
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
