// Forward passes of one layer: many examples in the matrix unit, a few in the vector unit.
#include "tower_amx_tile.hpp"

namespace monolith::amx {

namespace {

// What becomes of a block's sums: the input of the layer above, or rows of the output.
struct Activate {
    const Layer& layer;
    const ForwardTask& task;
    size_t unit;

    void operator()(size_t block, const float* sums, size_t piece) const {
        if (task.next != nullptr) pass_on(block, sums, piece);
        if (task.outputs != nullptr && piece % 4 == 3) emit(block, sums, piece / 4);
    }

    __m512 activate(const float* sums, float bias) const {
        const __m512 y = _mm512_add_ps(_mm512_load_ps(sums), _mm512_set1_ps(bias));
        return layer.relu ? relu_of(y) : y;
    }

    void pass_on(size_t block, const float* sums, size_t piece) const {
        constexpr size_t step = kAtom / kPieces;
        const size_t begin = block * kAtom + piece * step;
        Bf16* to = task.next + (unit * task.next_rows + begin) * kUnit;
        for (size_t i = 0; i < step; ++i) {
            if (begin + i >= layer.out) break;
            const float *from = sums + (piece * step + i) * 32, bias = layer.biases[begin + i];
            _mm512_store_si512(to + i * kUnit, round_sums(activate(from, bias), activate(from + 16, bias)));
        }
        if (block + 1 == layer.blocks && piece + 1 == kPieces)
            for (size_t row = layer.out; row < task.next_rows; ++row)
                _mm512_store_si512(task.next + (unit * task.next_rows + row) * kUnit, _mm512_setzero_si512());
    }

    void emit(size_t block, const float* sums, size_t half) const {
        __m512i r[16];
        for (int i = 0; i < 16; ++i)
            r[i] = _mm512_castps_si512(activate(sums + i * 32 + half * 16, layer.biases[block * kAtom + i]));
        transpose(r);
        const __mmask16 mask = first_lanes(layer.out - block * kAtom);
        for (size_t i = 0; i < 16; ++i) {
            const size_t example = unit * kUnit + example_of_lane(i) + half * 4;
            if (example < task.count)
                _mm512_mask_storeu_ps(task.outputs + example * layer.out + block * kAtom, mask,
                                      _mm512_castsi512_ps(r[i]));
        }
    }
};

// Half of a group's 32 rows, by `rows`, from the unit `x` into its two interleaved tiles.
inline void gather(const uint32_t* rows, const Bf16* x, size_t half, Bf16* tiles) {
    for (size_t p = half * 8; p < half * 8 + 8; ++p) {
        const __m512i a = _mm512_load_si512(x + rows[2 * p] * kUnit);
        const __m512i b = _mm512_load_si512(x + rows[2 * p + 1] * kUnit);
        _mm512_store_si512(tiles + p * 32, _mm512_unpacklo_epi16(a, b));
        _mm512_store_si512(tiles + kTile + p * 32, _mm512_unpackhi_epi16(a, b));
    }
}

// Every group gathers the rows of the next one while its own products run: a tile must not be loaded soon after it was
// stored.
template <size_t units>
void sparse_forward(const Layer& layer, const ForwardTask& task, size_t unit) {
    float* sums = task.scratch;  // 2 x units x 2 KiB, to be read a block after they were stored
    Bf16* stage = reinterpret_cast<Bf16*>(sums + 2 * units * 512);
    const size_t stride = layer.input_rows() * kUnit, num_groups = layer.groups[layer.blocks];
    const Bf16 *x = task.x + unit * stride, *last = x + stride * (units - 1);
    const auto all_of = [&](size_t g) {
        Bf16* to = stage + g % 2 * units * 2 * kTile;
        for (size_t half = 0; half < 2; ++half) {
            gather(layer.rows + g * 32, x, half, to);
            if (units == 2) gather(layer.rows + g * 32, last, half, to + 2 * kTile);
        }
    };
    if (num_groups > 0) all_of(0);
    for (size_t b = 0; b <= layer.blocks; ++b) {
        float* to = sums + b % 2 * units * 512;
        if (b < layer.blocks) {
            zero_tile<0>(), zero_tile<1>(), zero_tile<2>(), zero_tile<3>();
            for (size_t g = layer.groups[b]; g < layer.groups[b + 1]; ++g) {
                const Bf16* from = stage + g % 2 * units * 2 * kTile;
                Bf16* next = stage + (g + 1) % 2 * units * 2 * kTile;
                const uint32_t* rows = layer.rows + (g + 1 < num_groups ? g + 1 : g) * 32;
                load_tile<4>(layer.sparse + g * kTile);
                load_tile<6>(from);
                multiply_tiles<0, 4, 6>();
                gather(rows, x, 0, next);
                load_tile<7>(from + kTile);
                multiply_tiles<1, 4, 7>();
                gather(rows, x, 1, next);
                if (units == 1) continue;
                load_tile<6>(from + 2 * kTile);
                multiply_tiles<2, 4, 6>();
                gather(rows, last, 0, next + 2 * kTile);
                load_tile<7>(from + 3 * kTile);
                multiply_tiles<3, 4, 7>();
                gather(rows, last, 1, next + 2 * kTile);
            }
            store_tile<0>(to, 2 * kLine), store_tile<1>(to + 16, 2 * kLine);
            if (units == 2) store_tile<2>(to + 512, 2 * kLine), store_tile<3>(to + 528, 2 * kLine);
        }
        if (b == 0) continue;
        const float* from = sums + (b - 1) % 2 * units * 512;
        for (size_t u = 0; u < units; ++u)
            for (size_t piece = 0; piece < kPieces; ++piece)
                Activate{layer, task, unit + u}(b - 1, from + u * 512, piece);
    }
}

// y (num_rows, 16) of a block = bias + values * x, in two chains where there is one row alone.
template <size_t num_rows>
void block_of_rows(const Layer& layer, size_t block, const float* x, __m512 (&y)[num_rows]) {
    constexpr size_t chains = num_rows <= 2 ? 4 / num_rows : 1;
    __m512 sums[num_rows][chains];
    for (size_t r = 0; r < num_rows; ++r)
        for (size_t chain = 0; chain < chains; ++chain)
            sums[r][chain] = chain == 0 ? _mm512_loadu_ps(layer.biases + block * kAtom) : _mm512_setzero_ps();
    const auto add = [&](size_t k, size_t chain) {
        const __m256i atom = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(layer.values + k * kAtom));
        const __m512 values = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(atom), 16));
        for (size_t r = 0; r < num_rows; ++r)
            sums[r][chain] =
                _mm512_fmadd_ps(values, _mm512_set1_ps(x[r * layer.in + layer.columns[k]]), sums[r][chain]);
    };
    size_t k = layer.bounds[block];
    const size_t end = layer.bounds[block + 1];
    for (; k + chains <= end; k += chains)
        for (size_t chain = 0; chain < chains; ++chain) add(k + chain, chain);
    for (; k < end; ++k) add(k, 0);
    for (size_t r = 0; r < num_rows; ++r) {
        y[r] = sums[r][0];
        for (size_t chain = 1; chain < chains; ++chain) y[r] = _mm512_add_ps(y[r], sums[r][chain]);
    }
}

template <size_t num_rows>
void rows_forward(const Layer& layer, const float* x, bool is_last, float* to) {
    for (size_t b = 0; b < layer.blocks; ++b) {
        __m512 y[num_rows];
        block_of_rows<num_rows>(layer, b, x, y);
        for (size_t r = 0; r < num_rows; ++r) {
            if (layer.relu) y[r] = relu_of(y[r]);
            if (!is_last) {
                const __m512i words = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(y[r]));
                y[r] = _mm512_castsi512_ps(_mm512_slli_epi32(words, 16));
            }
            _mm512_mask_storeu_ps(to + r * layer.out + b * kAtom, first_lanes(layer.out - b * kAtom), y[r]);
        }
    }
}

// Whether it could: where atoms are dead, zero weights times what is not finite would be NaN.
bool dense_forward(const Layer& layer, const ForwardTask& task, size_t unit) {
    const bool is_finite =
        interleave(task.x + unit * layer.input_rows() * kUnit, layer.input_tiles() * 32, task.interleaved);
    if (!is_finite && !layer.is_full()) return false;
    const Activate finish{layer, task, unit};
    DenseProduct(layer.dense, layer.blocks, layer.input_tiles(), task.interleaved, task.scratch, finish).run();
    return true;
}

}  // namespace

void forward_layer(const Layer& layer, const ForwardTask& task) {
    if (layer.dense != nullptr) {
        for (size_t unit = 0; unit < task.units; ++unit)
            if (!dense_forward(layer, task, unit)) sparse_forward<1>(layer, task, unit);
        return;
    }
    if (task.units == 2)
        sparse_forward<2>(layer, task, 0);
    else
        sparse_forward<1>(layer, task, 0);
}

void forward_rows(const Layer& layer, const float* x, size_t num_rows, bool is_last, float* y) {
    switch (num_rows) {
        case 1:
            return rows_forward<1>(layer, x, is_last, y);
        case 2:
            return rows_forward<2>(layer, x, is_last, y);
        case 3:
            return rows_forward<3>(layer, x, is_last, y);
        default:
            return rows_forward<4>(layer, x, is_last, y);
    }
}

void round_row(const float* x, size_t n, float* y) {
    for (size_t i = 0; i < n; i += 16) {
        const __mmask16 mask = first_lanes(n - i);
        const __m512i words = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(mask, x + i)));
        _mm512_mask_storeu_ps(y + i, mask, _mm512_castsi512_ps(_mm512_slli_epi32(words, 16)));
    }
}

}  // namespace monolith::amx
