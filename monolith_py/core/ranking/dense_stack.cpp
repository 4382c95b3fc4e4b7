#include "ranking/dense_stack.hpp"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "kernels/kernels.hpp"

namespace monolith::ranking {

namespace {

std::vector<uint32_t> all_columns(uint32_t num) {
    std::vector<uint32_t> columns(num);
    std::iota(columns.begin(), columns.end(), 0u);
    return columns;
}

}  // namespace

PackedLayer::PackedLayer(const LayerWeights& layer, std::span<const uint32_t> columns, bool has_biases)
    : view_{}, bf16_(layer.bf16) {
    view_.in = static_cast<uint32_t>(even(columns.size()));
    view_.panels = (layer.out + kPanel - 1) / kPanel;
    view_.relu = layer.relu;
    const size_t in = view_.in, num = in * view_.width();
    float* const weights = weights_.ensure<float>(num + kPanel);
    std::fill_n(weights, num, 0.0f);
    for (uint32_t o = 0; o < layer.out; ++o)
        for (size_t k = 0; k < columns.size(); ++k)
            weights[o / kPanel * in * kPanel + k * kPanel + o % kPanel] =
                layer.weights[size_t{o} * layer.in + columns[k]];
    float* const biases = biases_.ensure<float>(view_.width());
    std::fill_n(biases, view_.width(), 0.0f);
    if (has_biases) std::copy_n(layer.biases, layer.out, biases);
    view_.weights = weights;
    if (!bf16_) return;
    kernels().tower.round(weights, num);
    kernels().tower.round(biases, view_.width());
    uint32_t* const pairs = pairs_.ensure<uint32_t>(num / 2 + kPanel);
    for (size_t panel = 0; panel < view_.panels; ++panel)
        for (size_t k = 0; k < in / 2; ++k)
            for (size_t o = 0; o < kPanel; ++o) {
                const float* const two = weights + (panel * in + 2 * k) * kPanel + o;
                uint32_t low, high;
                std::memcpy(&low, two, sizeof low);
                std::memcpy(&high, two + kPanel, sizeof high);
                pairs[(panel * (in / 2) + k) * kPanel + o] = low >> 16 | (high & 0xffff0000);
            }
    view_.pairs = pairs;
}

void PackedLayer::forward(float* inputs, size_t n, const float* start, bool relu, float* outputs) const {
    DenseView view = view_;
    view.relu = relu;
    const DenseKernels& dense = kernels().dense;
    if (bf16_ && has_bf16()) {
        uint32_t* const pairs = thread_scratch<uint32_t>(n * view.in / 2);
        dense.narrow(inputs, n * view.in, pairs);
        dense.forward_pairs(view, pairs, n, start, outputs);
        return;
    }
    if (bf16_) kernels().tower.round(inputs, n * view.in);
    dense.forward(view, inputs, n, start, outputs);
}

DenseStack::DenseStack(std::span<const LayerWeights> layers, std::span<const uint32_t> shared,
                       std::span<const uint32_t> candidate)
    : shared_(layers[0], shared, true) {
    for (const LayerWeights& layer : layers) {
        if (layers_.empty()) {
            layers_.emplace_back(layer, candidate, false);
        } else {
            // A layer reads the padded outputs of the one before, which are zero.
            LayerWeights wide = layer;
            std::vector<float> weights(size_t{layer.out} * layers_.back().width(), 0.0f);
            wide.in = layers_.back().width();
            wide.weights = weights.data();
            for (uint32_t o = 0; o < layer.out; ++o)
                std::copy_n(layer.weights + size_t{o} * layer.in, layer.in, weights.data() + size_t{o} * wide.in);
            layers_.emplace_back(wide, all_columns(wide.in), true);
        }
        relu_.push_back(layer.relu);
        widest_ = std::max<size_t>(widest_, layers_.back().width());
    }
}

void DenseStack::begin(float* shared, float* start) const {
    shared_.forward(shared, 1, shared_.biases(), false, start);
}

float* DenseStack::run(float* inputs, size_t n, const float* start) const {
    float* const memory = thread_scratch<float>(2 * n * widest_);
    float* outputs = nullptr;
    for (size_t l = 0; l < layers_.size(); ++l) {
        const PackedLayer& layer = layers_[l];
        outputs = memory + l % 2 * n * widest_;
        layer.forward(inputs, n, l == 0 ? start : layer.biases(), relu_[l], outputs);
        // A layer in bf16 rounds its inputs itself.
        const bool is_rounded = l + 1 < layers_.size() && layers_[l + 1].bf16();
        if (layer.bf16() && !is_rounded) kernels().tower.round(outputs, n * layer.width());
        inputs = outputs;
    }
    return outputs;
}

}  // namespace monolith::ranking
