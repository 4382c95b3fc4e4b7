// A layer's weights in the forms that AMX multiplies, with their memory.
#pragma once

#include <algorithm>
#include <cstring>
#include <vector>

#include "memory/pool.hpp"
#include "tower/amx/engine.hpp"
#include "tower/engine.hpp"

namespace monolith::amx {

class PackedLayer {
  public:
    const Layer& view() const { return view_; }

    // Take the topology of `from`; an unchanged one keeps its packed weights.
    void take(const TowerLayer& from) {
        const auto blocks = static_cast<uint32_t>((from.out + kAtom - 1) / kAtom);
        view_.relu = from.relu;
        if (view_.in == from.in && view_.out == from.out && bounds_ == from.bounds && columns_ == from.columns) return;
        view_.in = from.in, view_.out = from.out, view_.blocks = blocks;
        bounds_ = from.bounds;
        columns_ = from.columns;
        const size_t most = size_t{blocks} * from.in;
        view_.density = columns_.size() == most
                            ? 1.0f
                            : std::min(0.999f, static_cast<float>(columns_.size()) / static_cast<float>(most));
        group();
        view_.bounds = bounds_.data();
        view_.columns = columns_.data();
        view_.groups = groups_.data();
        view_.rows = rows_.data();
        const bool dense = view_.density >= kForwardDense, transposed = view_.density >= kInputGradientDense;
        view_.values = zeros(values_, (columns_.size() + 15) * kAtom);
        view_.sparse = zeros(sparse_, view_.is_full() ? 0 : rows_.size() * kAtom);
        view_.dense = zeros(dense_, dense ? view_.blocks * view_.input_tiles() * kTile : 0);
        view_.transposed = zeros(transposed_, transposed ? view_.column_tiles() * view_.output_tiles() * kTile : 0);
        biases_.assign(blocks * kAtom, 0.0f);
        view_.biases = biases_.data();
    }
    void take_biases(const float* biases) { std::copy_n(biases, view_.out, biases_.begin()); }

  private:
    // Divide blocks into groups of 32 atoms; pad a block's last group with the input's row of zeros.
    void group() {
        groups_.assign(1, 0);
        rows_.clear();
        for (size_t b = 0; b < view_.blocks; ++b) {
            rows_.insert(rows_.end(), columns_.begin() + bounds_[b], columns_.begin() + bounds_[b + 1]);
            rows_.resize(round_up(rows_.size(), 32), view_.in);
            groups_.push_back(static_cast<uint32_t>(rows_.size() / 32));
        }
    }
    static Bf16* zeros(Buffer& buffer, size_t count) {
        if (count == 0) return nullptr;
        Bf16* data = buffer.ensure<Bf16>(count);
        std::memset(data, 0, count * sizeof(Bf16));
        return data;
    }

    Layer view_{};
    std::vector<uint32_t> bounds_, groups_, rows_;
    std::vector<uint16_t> columns_;
    std::vector<float> biases_;
    Buffer values_, sparse_, dense_, transposed_;
};

// Maximum of `count(layer)` over all layers.
template <typename Count>
size_t most(const std::vector<PackedLayer>& layers, const Count& count) {
    size_t most = 0;
    for (const PackedLayer& layer : layers) most = std::max(most, count(layer.view()));
    return most;
}

// The rows of one unit.
template <typename T>
Parts<T> rows_of(const Columns<T>& columns, size_t first, size_t batch) {
    return {
        .data = columns.parts.data(),
        .widths = columns.widths.data(),
        .num_parts = columns.parts.size(),
        .first = first,
        .count = std::min(kUnit, batch - first),
        .past_cache = is_past_cache(columns, batch),
    };
}

}  // namespace monolith::amx
