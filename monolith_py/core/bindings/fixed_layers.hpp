// Layers of a model with fixed weights, from Python.
#pragma once

#include <nanobind/stl/pair.h>
#include <nanobind/stl/tuple.h>

#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "bindings/arrays.hpp"
#include "ranking/model.hpp"

namespace monolith::ranking {

// Weights (O, I), biases (O,), ReLU, bf16 of each layer.
using Layers = std::vector<std::tuple<ConstMatrix, ConstFloats, bool, bool>>;
using Places = std::vector<uint32_t>;
// Kind, experts, slots, kept experts, temperature, width of splits.
using Gate = std::tuple<std::string, uint32_t, uint32_t, uint32_t, float, float>;
using ExpertLayers = std::vector<std::pair<Layers, std::vector<const TowerStack*>>>;

inline std::vector<LayerWeights> weights_of(const Layers& layers) {
    if (layers.empty()) refuse("layers must be at least one, got none");
    std::vector<LayerWeights> weights;
    for (const auto& [matrix, biases, relu, bf16] : layers) {
        expect("biases", matrix.shape(0), biases.size());
        if (!weights.empty()) expect("inputs of a layer", weights.back().out, matrix.shape(1));
        weights.push_back({matrix.data(), biases.data(), static_cast<uint32_t>(matrix.shape(1)),
                           static_cast<uint32_t>(matrix.shape(0)), relu, bf16});
    }
    return weights;
}

inline void expect_columns(const std::vector<LayerWeights>& weights, const Places& shared, const Places& candidate) {
    expect("columns", weights[0].in, shared.size() + candidate.size());
    for (const Places* places : {&shared, &candidate})
        for (uint32_t place : *places)
            if (place >= weights[0].in) refuse("a column must be below " + std::to_string(weights[0].in));
}

void set_experts(Model& model, const Gate& gate, const Layers& scores, const ExpertLayers& experts,
                 const ConstFloats& biases, const Places& shared, const Places& candidate);

}  // namespace monolith::ranking
