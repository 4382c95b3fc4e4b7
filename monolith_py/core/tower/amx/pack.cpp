// Packing for AMX: activations and gradients of a unit, and weights.
#include "tower/amx/tile.hpp"

namespace monolith::amx {

namespace {

alignas(64) const float kZeros[16] = {};

// Element f of 32 float32 rows becomes row f of bf16, for the lanes of `mask`.
inline void pack_rows(const float* const (&rows)[32], __mmask16 mask, size_t count, Bf16* out, size_t stride) {
    const __m512i pairs = _mm512_setr_epi32(0x00100000, 0x00110001, 0x00120002, 0x00130003, 0x00140004, 0x00150005,
                                            0x00160006, 0x00170007, 0x00180008, 0x00190009, 0x001a000a, 0x001b000b,
                                            0x001c000c, 0x001d000d, 0x001e000e, 0x001f000f);
    __m512i r[16];
    for (int i = 0; i < 16; ++i) {
        const __m512 even = _mm512_maskz_loadu_ps(mask, rows[2 * i]);
        const __m512 odd = _mm512_maskz_loadu_ps(mask, rows[2 * i + 1]);
        r[i] = _mm512_permutexvar_epi16(pairs, (__m512i)_mm512_cvtne2ps_pbh(odd, even));
    }
    transpose(r);
    if (count == 16)
        for (int i = 0; i < 16; ++i) _mm512_store_si512(out + i * stride, r[i]);
    else
        for (size_t i = 0; i < count; ++i) _mm512_store_si512(out + i * stride, r[i]);
}

// Clear the gradient of clipped outputs: there x is zero, of either sign.
inline __m512i mask_of_relu(__m512i gradient, const Bf16* x) {
    return _mm512_maskz_mov_epi16(_mm512_test_epi16_mask(_mm512_load_si512(x), _mm512_set1_epi16(0x7fff)), gradient);
}

// Store a pair of a block's 16 rows of dY in the interleaved form.
void finish_pair(const Layer& layer, size_t block, size_t pair, __m512i even, __m512i odd, OutputGradient* result) {
    interleave(even, odd, block * kAtom / 2 + pair, result->interleaved);
    result->is_finite &= (infinite_of(even) | infinite_of(odd)) == 0;
    if (block + 1 == layer.blocks && block % 2 == 0)  // the last tiles are half full
        interleave(_mm512_setzero_si512(), _mm512_setzero_si512(), block * kAtom / 2 + pair + 8, result->interleaved);
}

// Store a block's rows of dY in the transposed form.
void finish_block(size_t block, const Bf16* rows, OutputGradient* result) {
    __m512i r[16];
    for (int i = 0; i < 16; ++i) r[i] = _mm512_load_si512(rows + i * kUnit);
    transpose(r);
    for (int i = 0; i < 16; ++i) _mm512_store_si512(result->transposed + block * kTile + i * 32, r[i]);
}

// Stores the gradient of 16 input columns as dY of the layer below.
struct PackGradientBelow {
    const Layer& below;
    const Bf16* x;
    OutputGradient* result;
    Bf16* rows;  // (16, 32)

    void operator()(size_t block, const float* sums, size_t piece) const {
        __m512i pair[2];
        for (size_t i = 0; i < 2; ++i) {
            const size_t row = 2 * piece + i, feature = block * kAtom + row;
            pair[i] = _mm512_setzero_si512();
            if (feature < below.out) {
                pair[i] = round_sums(_mm512_load_ps(sums + row * 32), _mm512_load_ps(sums + row * 32 + 16));
                if (x != nullptr) pair[i] = mask_of_relu(pair[i], x + feature * kUnit);
            }
            _mm512_store_si512(rows + row * kUnit, pair[i]);
        }
        finish_pair(below, block, piece, pair[0], pair[1], result);
        if (piece + 1 == kPieces) finish_block(block, rows, result);
    }
};

// Stores the gradient of the inputs, row-major, into the parts of the inputs.
struct WriteInputGradient {
    const Parts<float>& out;

    void operator()(size_t tile, const float* sums, size_t piece) const {
        if (piece % 4 != 3) return;
        const size_t half = piece / 4, begin = tile * 16;
        __m512i r[16];
        for (int i = 0; i < 16; ++i) r[i] = _mm512_load_si512(sums + i * 32 + half * 16);
        transpose(r);
        size_t column = 0;
        for (size_t p = 0; p < out.num_parts; column += out.widths[p++]) {
            const size_t width = out.widths[p], end = column + width;
            if (out.data[p] == nullptr || end <= begin || column >= begin + 16) continue;
            float* first = out.data[p] + (out.first + half * 4) * width;
            if (column <= begin && end >= begin + 16 && out.count == kUnit)
                store_all(r, first + begin - column, width);
            else
                store_some(r, begin, column, width, half, first);
        }
    }

    // Whole, aligned rows of a large matrix bypass the cache: an ordinary store would read each line first.
    void store_all(const __m512i (&r)[16], float* to, size_t width) const {
        if (out.past_cache && (reinterpret_cast<uintptr_t>(to) | (width * sizeof(float))) % 64 == 0)
            for (size_t i = 0; i < 16; ++i)
                _mm512_stream_si512(reinterpret_cast<__m512i*>(to + example_of_lane(i) * width), r[i]);
        else
            for (size_t i = 0; i < 16; ++i) _mm512_storeu_si512(to + example_of_lane(i) * width, r[i]);
    }

    void store_some(const __m512i (&r)[16], size_t begin, size_t column, size_t width, size_t half,
                    float* first) const {
        const size_t from = column > begin ? column - begin : 0, end = column + width;
        const size_t to = end < begin + 16 ? end - begin : 16;
        const auto lanes = static_cast<__mmask16>(first_lanes(to - from) << from);
        for (size_t i = 0; i < 16; ++i) {
            if (example_of_lane(i) + half * 4 >= out.count) continue;
            const __m512i row = _mm512_maskz_compress_epi32(lanes, r[i]);
            _mm512_mask_storeu_epi32(first + example_of_lane(i) * width + (begin + from - column),
                                     first_lanes(to - from), row);
        }
    }
};

// Atoms of 16 columns x 32 examples: sums = values^T * dY of a block, added to the columns' rows of `dx`. Sums are
// added one group after their store, during the next products.
void scatter(const Layer& layer, const OutputGradient& dy, float* dx, float* sums) {
    const uint16_t* columns = nullptr;
    size_t waiting = 0;
    bool odd = false;
    const auto add = [&](const float* from, size_t begin, size_t end) {
        for (size_t i = begin; i < end && i < waiting; ++i) {
            float* to = dx + columns[i] * kUnit;
            _mm512_store_ps(to, _mm512_add_ps(_mm512_load_ps(to), _mm512_load_ps(from + i * 32)));
            _mm512_store_ps(to + 16, _mm512_add_ps(_mm512_load_ps(to + 16), _mm512_load_ps(from + i * 32 + 16)));
        }
    };
    for (size_t b = 0; b < layer.blocks; ++b) {
        const Bf16* right = dy.interleaved + b / 2 * 2 * kTile + b % 2 * kTile / 2;
        load_tile<6>(right);
        load_tile<7>(right + kTile);
        for (size_t k = layer.bounds[b]; k < layer.bounds[b + 1]; k += 16, odd = !odd) {
            float *to = sums + (odd ? 512 : 0), *before = sums + (odd ? 0 : 512);
            if (odd) {
                load_tile<5>(layer.values + k * kAtom, kLine / 2);
                zero_tile<2>(), zero_tile<3>();
                multiply_tiles<2, 5, 6>(), multiply_tiles<3, 5, 7>();
            } else {
                load_tile<4>(layer.values + k * kAtom, kLine / 2);
                zero_tile<0>(), zero_tile<1>();
                multiply_tiles<0, 4, 6>(), multiply_tiles<1, 4, 7>();
            }
            add(before, 0, 16);
            if (odd)
                store_tile<2>(to, 2 * kLine), store_tile<3>(to + 16, 2 * kLine);
            else
                store_tile<0>(to, 2 * kLine), store_tile<1>(to + 16, 2 * kLine);
            columns = layer.columns + k;
            waiting = layer.bounds[b + 1] - k;
        }
    }
    add(sums + (odd ? 0 : 512), 0, 16);
}

template <typename Finish>
void propagate(const Layer& layer, const OutputGradient& dy, float* scratch, const Finish& finish) {
    float* dx = scratch + kGradientScratch;
    if (layer.transposed != nullptr && (layer.is_full() || dy.is_finite)) {  // zero weights times NaN would be NaN
        DenseProduct(layer.transposed, layer.column_tiles(), layer.output_tiles(), dy.interleaved, scratch, finish)
            .run();
        return;
    }
    const size_t rows = layer.column_tiles() * 16;
    for (size_t i = 0; i < rows * 2; ++i) _mm512_store_ps(dx + i * 16, _mm512_setzero_ps());
    configure_tiles(8);
    scatter(layer, dy, dx, scratch);
    configure_tiles(16);
    for (size_t tile = 0; tile < layer.column_tiles(); ++tile)
        for (size_t piece = 0; piece < kPieces; ++piece) finish(tile, dx + tile * 512, piece);
}

}  // namespace

TileScope::TileScope() { configure_tiles(16); }
TileScope::~TileScope() { asm volatile("tilerelease" ::: "memory"); }

void pack_unit(const Parts<const float>& in, size_t rows, Bf16* out) {
    size_t row = 0;
    for (size_t p = 0; p < in.num_parts; ++p) {
        const size_t width = in.widths[p];
        const float* first = in.data[p] + in.first * width;
        for (size_t f = 0; f < width; f += 16) {
            const float* from[32];
            for (size_t i = 0; i < 32; ++i) from[i] = i < in.count ? first + i * width + f : kZeros;
            const size_t count = width - f < 16 ? width - f : 16;
            pack_rows(from, first_lanes(count), count, out + (row + f) * kUnit, kUnit);
        }
        row += width;
    }
    for (; row < rows; ++row) _mm512_store_si512(out + row * kUnit, _mm512_setzero_si512());
}

void pack_output_gradient(const Layer& layer, const Parts<const float>& gradients, const Bf16* y,
                          OutputGradient* result) {
    const float* first = gradients.data[0] + gradients.first * layer.out;
    result->is_finite = true;
    for (size_t b = 0; b < layer.blocks; ++b) {
        alignas(64) Bf16 rows[kAtom * kUnit];
        const float* from[32];
        for (size_t i = 0; i < 32; ++i) from[i] = i < gradients.count ? first + i * layer.out + b * kAtom : kZeros;
        pack_rows(from, first_lanes(layer.out - b * kAtom), 16, rows, kUnit);
        if (y != nullptr)
            for (size_t i = 0; i < kAtom; ++i) {
                const __m512i row = _mm512_load_si512(rows + i * kUnit);
                _mm512_store_si512(rows + i * kUnit, mask_of_relu(row, y + (b * kAtom + i) * kUnit));
            }
        for (size_t i = 0; i < kAtom; i += 2)
            finish_pair(layer, b, i / 2, _mm512_load_si512(rows + i * kUnit), _mm512_load_si512(rows + (i + 1) * kUnit),
                        result);
        finish_block(b, rows, result);
    }
}

void input_gradient(const Layer& layer, const OutputGradient& dy, const Layer& below, const Bf16* x,
                    OutputGradient* result, float* scratch) {
    alignas(64) Bf16 rows[kAtom * kUnit];
    result->is_finite = true;
    propagate(layer, dy, scratch, PackGradientBelow{below, x, result, rows});
}

void input_gradient(const Layer& layer, const OutputGradient& dy, const Parts<float>& out, float* scratch) {
    propagate(layer, dy, scratch, WriteInputGradient{out});
    _mm_sfence();  // another thread may read them next
}

void pack_block(const Layer& layer, size_t block, const float* values) {
    const size_t begin = layer.bounds[block], end = layer.bounds[block + 1];
    for (size_t k = begin; k < end; ++k) {
        const __m256i atom = (__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(values + k * kAtom));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(layer.values + k * kAtom), atom);
        if (layer.transposed == nullptr) continue;
        const size_t c = layer.columns[k];
        Bf16* tile = layer.transposed + (c / 16 * layer.output_tiles() + block / 2) * kTile;
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(tile + c % 16 * 32 + block % 2 * kAtom), atom);
    }
    const float* from[32];
    if (!layer.is_full())
        for (size_t g = layer.groups[block], k = begin; g < layer.groups[block + 1]; ++g, k += 32) {
            for (size_t i = 0; i < 32; ++i) from[i] = k + i < end ? values + (k + i) * kAtom : kZeros;
            pack_rows(from, 0xffff, 16, layer.sparse + g * kTile, 32);
        }
    if (layer.dense == nullptr) return;
    size_t k = begin;
    for (size_t tile = 0; tile < layer.input_tiles(); ++tile) {
        for (size_t i = 0; i < 32; ++i) {
            const bool live = k < end && layer.columns[k] == tile * 32 + i;
            from[i] = live ? values + k++ * kAtom : kZeros;
        }
        pack_rows(from, 0xffff, 16, layer.dense + (block * layer.input_tiles() + tile) * kTile, 32);
    }
}

}  // namespace monolith::amx
