// Reference implementation of sparse stacks in double precision, rounded to bfloat16 where the engines round.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "check.hpp"
#include "tower/engine.hpp"

namespace monolith::check {

inline float to_bf16(double x) {
    if (std::isnan(x)) return NAN;
    auto bits = std::bit_cast<uint32_t>(static_cast<float>(x));
    bits += 0x7fff + (bits >> 16 & 1);
    return std::bit_cast<float>(bits & 0xffff0000);
}

// Density of a layer's live atoms.
struct Shape {
    uint32_t in, out;
    double density;
    bool relu = true;
};

// A random stack with small integers as weights: float32 sums are exact in any order, so engines must agree bit for
// bit.
struct Stack {
    static constexpr uint32_t kHeight = 16;
    std::vector<TowerLayer> layers;
    std::vector<std::vector<float>> values, biases;
    std::mt19937 generator;

    Stack(const std::vector<Shape>& shapes, unsigned seed) : generator(seed) {
        for (const Shape& shape : shapes) {
            TowerLayer layer{shape.in, shape.out, shape.relu, {0}, {}};
            for (uint32_t o = 0; o < shape.out; o += kHeight) {
                for (uint32_t c = 0; c < shape.in; ++c)
                    if (chance(shape.density)) layer.columns.push_back(static_cast<uint16_t>(c));
                layer.bounds.push_back(static_cast<uint32_t>(layer.columns.size()));
            }
            std::vector<float> weights(layer.columns.size() * kHeight);
            const double live = std::min(1.0, 25.0 / (shape.density * shape.in + 1));
            for (size_t b = 0; b + 1 < layer.bounds.size(); ++b)
                for (size_t i = layer.bounds[b] * kHeight; i < layer.bounds[b + 1] * kHeight; ++i)
                    if (b * kHeight + i % kHeight < shape.out && chance(live)) weights[i] = chance(0.5) ? 1 : -1;
            values.push_back(weights);
            biases.push_back(whole(shape.out, 3));
            layers.push_back(layer);
        }
    }

    bool chance(double p) { return std::uniform_real_distribution<>()(generator) < p; }
    std::vector<float> whole(size_t n, int most) {
        std::vector<float> result(n);
        for (float& x : result) x = static_cast<float>(std::uniform_int_distribution<>(-most, most)(generator));
        return result;
    }
    template <typename T>
    static std::vector<T*> pointers(std::vector<std::vector<float>>& from) {
        std::vector<T*> result;
        for (auto& one : from) result.push_back(one.data());
        return result;
    }
    void load(TowerEngine& engine) {
        engine.load(layers, pointers<const float>(values).data(), pointers<const float>(biases).data());
    }
    // f(output, input, weight) for every weight of a layer.
    template <typename F>
    void each_weight(size_t l, const F& f) const {
        for (size_t b = 0; b + 1 < layers[l].bounds.size(); ++b)
            for (size_t k = layers[l].bounds[b]; k < layers[l].bounds[b + 1]; ++k)
                for (size_t i = 0; i < kHeight && b * kHeight + i < layers[l].out; ++i)
                    f(b * kHeight + i, layers[l].columns[k], k * kHeight + i);
    }
};

struct Passes {
    std::vector<std::vector<float>> x;  // inputs of each layer (B, in), then the outputs (B, out)
    std::vector<float> grad_inputs;     // (B, in)
    std::vector<std::vector<float>> values, biases, all;
};

// `inputs` (B, in of the first layer) and `grad_outputs` (B, out of the last layer).
inline Passes reference(const Stack& stack, const std::vector<float>& inputs, size_t batch,
                        const std::vector<float>& grad_outputs) {
    Passes passes;
    const size_t num = stack.layers.size();
    passes.x.emplace_back();
    for (const float x : inputs) passes.x[0].push_back(to_bf16(x));
    for (size_t l = 0; l < num; ++l) {
        const auto [in, out] = std::pair{stack.layers[l].in, stack.layers[l].out};
        std::vector<double> y(batch * out);
        for (size_t n = 0; n < batch; ++n) {
            for (size_t o = 0; o < out; ++o) y[n * out + o] = stack.biases[l][o];
            stack.each_weight(l, [&](size_t o, size_t c, size_t i) {
                y[n * out + o] += double{to_bf16(stack.values[l][i])} * passes.x[l][n * in + c];
            });
        }
        passes.x.emplace_back();
        for (double v : y) {
            if (stack.layers[l].relu && v <= 0) v = 0;
            passes.x[l + 1].push_back(l + 1 < num ? to_bf16(v) : static_cast<float>(v));
        }
    }
    passes.values.resize(num), passes.biases.resize(num), passes.all.resize(num);
    std::vector<double> above(grad_outputs.begin(), grad_outputs.end());
    for (size_t l = num; l-- > 0;) {
        const auto [in, out] = std::pair{stack.layers[l].in, stack.layers[l].out};
        const size_t blocks = stack.layers[l].bounds.size() - 1;
        std::vector<double> dy(batch * out), dx(batch * in), biases(out), all(blocks * in * 16);
        for (size_t i = 0; i < dy.size(); ++i)
            dy[i] = stack.layers[l].relu && passes.x[l + 1][i] <= 0 ? 0 : to_bf16(above[i]);
        for (size_t n = 0; n < batch; ++n) {
            for (size_t o = 0; o < out; ++o) {
                biases[o] += dy[n * out + o];
                for (size_t c = 0; c < in; ++c)
                    all[(o / 16 * in + c) * 16 + o % 16] += dy[n * out + o] * passes.x[l][n * in + c];
            }
            stack.each_weight(l, [&](size_t o, size_t c, size_t i) {
                dx[n * in + c] += double{to_bf16(stack.values[l][i])} * dy[n * out + o];
            });
        }
        passes.values[l].assign(stack.values[l].size(), 0.0f);
        stack.each_weight(l, [&](size_t o, size_t c, size_t i) {
            passes.values[l][i] = static_cast<float>(all[(o / 16 * in + c) * 16 + o % 16]);
        });
        passes.biases[l].assign(biases.begin(), biases.end());
        passes.all[l].assign(all.begin(), all.end());
        above = dx;
    }
    passes.grad_inputs.assign(above.begin(), above.end());
    return passes;
}

}  // namespace monolith::check
