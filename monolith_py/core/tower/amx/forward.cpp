// Forward pass of one layer in AMX.
#include "tower/amx/tile.hpp"

namespace monolith::amx {

namespace {

// Stores a block's sums as inputs of the next layer, or as rows of the output.
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
        constexpr size_t kStep = kAtom / kPieces;
        const size_t begin = block * kAtom + piece * kStep;
        Bf16* to = task.next + (unit * task.next_rows + begin) * kUnit;
        for (size_t i = 0; i < kStep; ++i) {
            if (begin + i >= layer.out) break;
            const float *from = sums + (piece * kStep + i) * 32, bias = layer.biases[begin + i];
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

// Gather half of a group's 32 rows, given by `rows`, from unit `x` into its two interleaved tiles.
inline void gather(const uint32_t* rows, const Bf16* x, size_t half, Bf16* tiles) {
    for (size_t p = half * 8; p < half * 8 + 8; ++p) {
        const __m512i a = _mm512_load_si512(x + rows[2 * p] * kUnit);
        const __m512i b = _mm512_load_si512(x + rows[2 * p + 1] * kUnit);
        _mm512_store_si512(tiles + p * 32, _mm512_unpacklo_epi16(a, b));
        _mm512_store_si512(tiles + kTile + p * 32, _mm512_unpackhi_epi16(a, b));
    }
}

// Each group gathers the rows of the next one during its own products, since loading a tile soon after its store
// stalls. For the same reason a block's sums become activations after the next block's are stored.
template <size_t kNumUnits>
class SparseForward {
  public:
    SparseForward(const Layer& layer, const ForwardTask& task, size_t unit)
        : layer_(layer),
          task_(task),
          unit_(unit),
          stride_(layer.input_rows() * kUnit),
          x_(task.x + unit * stride_),
          num_groups_(layer.groups[layer.blocks]),
          stage_(reinterpret_cast<Bf16*>(task.scratch + 2 * kNumUnits * 512)) {}

    void run() {
        for (size_t quarter = 0; quarter < 2 * kNumUnits && num_groups_ > 0; ++quarter) gather_ahead(0, quarter);
        for (size_t b = 0; b < layer_.blocks; ++b) {
            zero_tile<0>(), zero_tile<1>(), zero_tile<2>(), zero_tile<3>();
            for (size_t g = layer_.groups[b]; g < layer_.groups[b + 1]; ++g) multiply(g);
            float* to = task_.scratch + b % 2 * kNumUnits * 512;
            store_tile<0>(to, 2 * kLine), store_tile<1>(to + 16, 2 * kLine);
            if (kNumUnits == 2) store_tile<2>(to + 512, 2 * kLine), store_tile<3>(to + 528, 2 * kLine);
            if (b > 0) finish(b - 1);
        }
        finish(layer_.blocks - 1);
    }

  private:
    // Gather a quarter of the rows of group `g`; a half with one unit.
    void gather_ahead(size_t g, size_t quarter) {
        if (g >= num_groups_) return;
        Bf16* to = stage_ + (g % 2 * kNumUnits + quarter / 2) * 2 * kTile;
        gather(layer_.rows + g * 32, x_ + quarter / 2 * stride_, quarter % 2, to);
    }

    void multiply(size_t g) {
        const Bf16* from = stage_ + g % 2 * kNumUnits * 2 * kTile;
        load_tile<4>(layer_.sparse + g * kTile);
        load_tile<6>(from);
        multiply_tiles<0, 4, 6>();
        gather_ahead(g + 1, 0);
        load_tile<7>(from + kTile);
        multiply_tiles<1, 4, 7>();
        gather_ahead(g + 1, 1);
        if constexpr (kNumUnits == 2) {
            load_tile<6>(from + 2 * kTile);
            multiply_tiles<2, 4, 6>();
            gather_ahead(g + 1, 2);
            load_tile<7>(from + 3 * kTile);
            multiply_tiles<3, 4, 7>();
            gather_ahead(g + 1, 3);
        }
    }

    void finish(size_t b) {
        const float* from = task_.scratch + b % 2 * kNumUnits * 512;
        for (size_t u = 0; u < kNumUnits; ++u)
            for (size_t piece = 0; piece < kPieces; ++piece)
                Activate{layer_, task_, unit_ + u}(b, from + u * 512, piece);
    }

    const Layer& layer_;
    const ForwardTask& task_;
    const size_t unit_, stride_;
    const Bf16* const x_;
    const size_t num_groups_;
    Bf16* const stage_;
};

enum class DenseForward { kDone, kNotFinite };

// Multiply dead atoms too. Impossible with NaN or infinity among the inputs: their product with a dead atom's zero is
// NaN.
DenseForward dense_forward(const Layer& layer, const ForwardTask& task, size_t unit) {
    const bool is_finite =
        interleave(task.x + unit * layer.input_rows() * kUnit, layer.input_tiles() * 32, task.interleaved);
    if (!is_finite && !layer.is_full()) return DenseForward::kNotFinite;
    const Activate finish{layer, task, unit};
    DenseProduct(layer.dense, layer.blocks, layer.input_tiles(), task.interleaved, task.scratch, finish).run();
    return DenseForward::kDone;
}

}  // namespace

void forward_layer(const Layer& layer, const ForwardTask& task) {
    if (layer.dense != nullptr) {
        for (size_t unit = 0; unit < task.units; ++unit)
            if (dense_forward(layer, task, unit) == DenseForward::kNotFinite) SparseForward<1>(layer, task, unit).run();
        return;
    }
    if (task.units == 2)
        SparseForward<2>(layer, task, 0).run();
    else
        SparseForward<1>(layer, task, 0).run();
}

}  // namespace monolith::amx
