// Outputs of sparse linear layers.
#pragma once

#include "kernels/per_target/tower-inl.hpp"

namespace monolith {
namespace {

// ReLU, rounding and store of a sum.
[[gnu::always_inline]] inline void finish(const TowerView& layer, Lanes& sum, float* to) {
    if (layer.relu) sum.rectify();
    if (layer.round && !layer.last) sum.round();
    sum.store(to);
}

// Outputs [first, first + kHeld) of a block of 16 x 1 atoms, one chunk.
[[gnu::always_inline]] inline void forward_block(const TowerView& layer, uint32_t block, uint32_t first,
                                                 const float* inputs, float* outputs) {
    const size_t row = size_t{block} * kLanes + first;
    Lanes sums[kHeld];
#pragma GCC unroll 16
    for (uint32_t r = 0; r < kHeld; ++r) sums[r] = Lanes::all(layer.biases[row + r]);
    const uint32_t end = layer.bounds[block + 1];
    for (uint32_t k = layer.bounds[block]; k < end; ++k) {
        const float* values = layer.values + size_t{k} * kLanes + first;
        const Lanes input = Lanes::load(inputs + size_t{layer.columns[k]} * kLanes);
#pragma GCC unroll 16
        for (uint32_t r = 0; r < kHeld; ++r) sums[r].add(values[r], input);
    }
#pragma GCC unroll 16
    for (uint32_t r = 0; r < kHeld; ++r) finish(layer, sums[r], outputs + (row + r) * kLanes);
}

// One output of 1 x 1 atoms, kNum chunks.
template <uint32_t kNum>
[[gnu::always_inline]] inline void forward_single(const TowerView& layer, uint32_t output, Chunks<const float> inputs,
                                                  Chunks<float> outputs) {
    Lanes sums[kNum];
#pragma GCC unroll 4
    for (uint32_t i = 0; i < kNum; ++i) sums[i] = Lanes::all(layer.biases[output]);
    const uint32_t end = layer.bounds[output + 1];
    for (uint32_t k = layer.bounds[output]; k < end; ++k) {
        const float value = layer.values[k];
        const float* input = inputs.data + size_t{layer.columns[k]} * kLanes;
#pragma GCC unroll 4
        for (uint32_t i = 0; i < kNum; ++i) sums[i].add(value, Lanes::load(input + i * inputs.stride));
    }
#pragma GCC unroll 4
    for (uint32_t i = 0; i < kNum; ++i) finish(layer, sums[i], outputs[i] + size_t{output} * kLanes);
}

void tower_forward(const TowerView& layer, Chunks<const float> inputs, Chunks<float> outputs) {
    if (layer.height == kLanes) {
        for (uint32_t block = 0; block < layer.blocks; ++block)
            for (size_t i = 0; i < inputs.num; ++i)
                for (uint32_t first = 0; first < kLanes; first += kHeld)
                    forward_block(layer, block, first, inputs[i], outputs[i]);
        return;
    }
    constexpr uint32_t kNum = kHeld >= 4 ? 4 : 2;
    size_t i = 0;
    for (; i + kNum <= inputs.num; i += kNum)
        for (uint32_t output = 0; output < layer.out; ++output)
            forward_single<kNum>(layer, output, {inputs[i], inputs.stride, kNum}, {outputs[i], outputs.stride, kNum});
    for (; i < inputs.num; ++i)
        for (uint32_t output = 0; output < layer.out; ++output)
            forward_single<1>(layer, output, {inputs[i], inputs.stride, 1}, {outputs[i], outputs.stride, 1});
}

// A block of 16 x 1 atoms for one example: four independent sums hide the latency of an addition.
[[gnu::always_inline]] inline void one_row_of_block(const TowerView& layer, uint32_t block, const float* input,
                                                    float* output) {
    Lanes sums[4] = {Lanes::load(layer.biases + size_t{block} * kLanes), Lanes::all(0), Lanes::all(0), Lanes::all(0)};
    uint32_t k = layer.bounds[block];
    const uint32_t end = layer.bounds[block + 1];
    for (; k + 4 <= end; k += 4)
#pragma GCC unroll 4
        for (uint32_t i = 0; i < 4; ++i)
            sums[i].add(input[layer.columns[k + i]], Lanes::load(layer.values + size_t{k + i} * kLanes));
    for (; k < end; ++k) sums[0].add(input[layer.columns[k]], Lanes::load(layer.values + size_t{k} * kLanes));
    sums[0].add(sums[1]);
    sums[2].add(sums[3]);
    sums[0].add(sums[2]);
    finish(layer, sums[0], output + size_t{block} * kLanes);
}

template <uint32_t kNum>
[[gnu::always_inline]] inline void rows_of_block(const TowerView& layer, uint32_t block, const float* inputs,
                                                 float* outputs) {
    const size_t in = padded(layer.in), out = padded(layer.out);
    Lanes sums[kNum];
#pragma GCC unroll 4
    for (uint32_t n = 0; n < kNum; ++n) sums[n] = Lanes::load(layer.biases + size_t{block} * kLanes);
    const uint32_t end = layer.bounds[block + 1];
    for (uint32_t k = layer.bounds[block]; k < end; ++k) {
        const Lanes values = Lanes::load(layer.values + size_t{k} * kLanes);
        const float* input = inputs + layer.columns[k];
#pragma GCC unroll 4
        for (uint32_t n = 0; n < kNum; ++n) sums[n].add(input[n * in], values);
    }
#pragma GCC unroll 4
    for (uint32_t n = 0; n < kNum; ++n) finish(layer, sums[n], outputs + n * out + size_t{block} * kLanes);
}

// 1 x 1 atoms for one example.
void one_row_of_singles(const TowerView& layer, const float* input, float* output) {
    for (uint32_t o = 0; o < layer.out; ++o) {
        float sums[4] = {layer.biases[o], 0, 0, 0};
        uint32_t k = layer.bounds[o];
        const uint32_t end = layer.bounds[o + 1];
        for (; k + 4 <= end; k += 4)
            for (uint32_t i = 0; i < 4; ++i) sums[i] += layer.values[k + i] * input[layer.columns[k + i]];
        for (; k < end; ++k) sums[0] += layer.values[k] * input[layer.columns[k]];
        output[o] = (sums[0] + sums[1]) + (sums[2] + sums[3]);
    }
    for (uint32_t o = 0; o < layer.out; o += kLanes) {
        Lanes sum = Lanes::load(output + o);
        finish(layer, sum, output + o);
    }
}

void tower_forward_rows(const TowerView& layer, const float* inputs, size_t num, float* outputs) {
    const size_t in = padded(layer.in), out = padded(layer.out);
    if (layer.height != kLanes) {
        for (size_t n = 0; n < num; ++n) one_row_of_singles(layer, inputs + n * in, outputs + n * out);
        return;
    }
    for (uint32_t block = 0; block < layer.blocks; ++block) {
        size_t n = 0;
        for (; n + 4 <= num; n += 4) rows_of_block<4>(layer, block, inputs + n * in, outputs + n * out);
        if (num - n == 3) rows_of_block<3>(layer, block, inputs + n * in, outputs + n * out);
        if (num - n == 2) rows_of_block<2>(layer, block, inputs + n * in, outputs + n * out);
        if (num - n == 1) one_row_of_block(layer, block, inputs + n * in, outputs + n * out);
    }
}

}  // namespace
}  // namespace monolith
