// Gradients of sparse linear layers. Included by kernels_impl.hpp alone.
#pragma once

#include "kernels_tower.hpp"

namespace monolith {
namespace {

// For each atom k of [begin, end): target(k)[0 .. 16) += sum over r of scales(k)[r] * rows[r][0 .. 16). Both gradients
// of atoms 16 x 1 are this: rows of one block and chunk stay in registers, atoms pass by.
template <typename Scales, typename Target>
[[gnu::always_inline]] inline void add_products(const float* rows, uint32_t begin, uint32_t end, const Scales& scales,
                                                const Target& target, const Ahead& ahead) {
    for (uint32_t first = 0; first < kLanes; first += kHeld) {
        Lanes held[kHeld];
#pragma GCC unroll 16
        for (uint32_t r = 0; r < kHeld; ++r) held[r] = Lanes::load(rows + (first + r) * kLanes);
        for (uint32_t k = begin; k < end; ++k) {
            if (first == 0) ahead.touch(k);
            float* to = target(k);
            const float* scale = scales(k) + first;
            Lanes even = Lanes::load(to), odd = Lanes::all(0);
#pragma GCC unroll 8
            for (uint32_t r = 0; r < kHeld; r += 2) {
                even.add(scale[r], held[r]);
                odd.add(scale[r + 1], held[r + 1]);
            }
            even.add(odd);
            even.store(to);
        }
    }
}

template <uint32_t kNum>
[[gnu::always_inline]] inline void backward_single(const TowerView& layer, uint32_t output,
                                                   Chunks<const float> grad_outputs, Chunks<float> grad_inputs) {
    Lanes held[kNum];
#pragma GCC unroll 4
    for (uint32_t i = 0; i < kNum; ++i) held[i] = Lanes::load(grad_outputs[i] + size_t{output} * kLanes);
    const uint32_t end = layer.bounds[output + 1];
    const uint16_t* const columns = layer.columns;
    const float* const values = layer.values;
    for (uint32_t k = layer.bounds[output]; k < end; ++k) {
        const float value = values[k];
        float* to = grad_inputs.data + size_t{columns[k]} * kLanes;
#pragma GCC unroll 4
        for (uint32_t i = 0; i < kNum; ++i) {
            Lanes sum = Lanes::load(to + i * grad_inputs.stride);
            sum.add(value, held[i]);
            sum.store(to + i * grad_inputs.stride);
        }
    }
}

void tower_backward(const TowerView& layer, Chunks<const float> grad_outputs, Chunks<float> grad_inputs) {
    for (size_t i = 0; i < grad_inputs.num; ++i)
        std::memset(grad_inputs[i], 0, padded(layer.in) * kLanes * sizeof(float));
    if (layer.height == kLanes) {
        for (uint32_t block = 0; block < layer.blocks; ++block)
            for (size_t i = 0; i < grad_inputs.num; ++i)
                add_products(
                    grad_outputs[i] + size_t{block} * kLanes * kLanes, layer.bounds[block], layer.bounds[block + 1],
                    [values = layer.values](uint32_t k) { return values + size_t{k} * kLanes; },
                    [columns = layer.columns, to = grad_inputs[i]](uint32_t k) {
                        return to + size_t{columns[k]} * kLanes;
                    },
                    ahead_of(layer, block, grad_inputs, i));
        return;
    }
    constexpr uint32_t kNum = kHeld >= 4 ? 4 : 2;
    size_t i = 0;
    for (; i + kNum <= grad_inputs.num; i += kNum)
        for (uint32_t output = 0; output < layer.out; ++output)
            backward_single<kNum>(layer, output, {grad_outputs[i], grad_outputs.stride, kNum},
                                  {grad_inputs[i], grad_inputs.stride, kNum});
    for (; i < grad_inputs.num; ++i)
        for (uint32_t output = 0; output < layer.out; ++output)
            backward_single<1>(layer, output, {grad_outputs[i], grad_outputs.stride, 1},
                               {grad_inputs[i], grad_inputs.stride, 1});
}

// Gradients of 16 outputs from `row` on, by one chunk, from their gradients with examples for rows.
[[gnu::always_inline]] inline void add_biases(const TowerView& layer, size_t row, const float* turned, float* biases) {
    Lanes sum = Lanes::load(turned);
    for (uint32_t n = 1; n < kLanes; ++n) sum.add(Lanes::load(turned + n * kLanes));
    alignas(64) float sums[kLanes];
    sum.store(sums);
    for (uint32_t r = 0; r < kLanes && row + r < layer.out; ++r) biases[row + r] += sums[r];
}

// The gradients of one single atom are a dot product over examples.
void add_singles(const TowerView& layer, Chunks<const float> inputs, Chunks<const float> grad_outputs, size_t output,
                 float* values) {
    const float* gradient = grad_outputs.data + output * kLanes;
    for (uint32_t k = layer.bounds[output]; k < layer.bounds[output + 1]; ++k) {
        const float* input = inputs.data + size_t{layer.columns[k]} * kLanes;
        Lanes sum = Lanes::all(0);
        for (size_t i = 0; i < inputs.num; ++i)
            sum.add(Lanes::load(input + i * inputs.stride), Lanes::load(gradient + i * grad_outputs.stride));
        values[k] += sum.sum();
    }
}

// All atoms of 16 outputs from `row` on, by one chunk.
void add_all(const TowerView& layer, size_t row, const float* input, const float* turned, const TowerGradients& sums) {
    const bool is_block = layer.height == kLanes;
    float* to = is_block ? sums.all + row * layer.in : sums.room;
    if (!is_block) std::memset(to, 0, size_t{layer.in} * kLanes * sizeof(float));
    add_products(
        turned, 0, layer.in, [input](uint32_t c) { return input + size_t{c} * kLanes; },
        [to](uint32_t c) { return to + size_t{c} * kLanes; }, {nullptr, nullptr});
    if (is_block) return;
    for (uint32_t r = 0; r < kLanes && row + r < layer.out; ++r)
        for (uint32_t c = 0; c < layer.in; ++c) sums.all[(row + r) * layer.in + c] += to[size_t{c} * kLanes + r];
}

void tower_gradients(const TowerView& layer, Chunks<const float> inputs, Chunks<const float> grad_outputs,
                     const TowerGradients& sums) {
    const uint32_t step = kLanes / layer.height;  // blocks of 16 outputs
    for (uint32_t block = 0; block < layer.blocks; block += step) {
        const size_t row = size_t{block} * layer.height;
        for (size_t i = 0; i < inputs.num; ++i) {
            alignas(64) float turned[kLanes * kLanes];
            transpose(grad_outputs[i] + row * kLanes, kLanes, turned, kLanes);
            if (sums.biases) add_biases(layer, row, turned, sums.biases);
            if (sums.values && layer.height == kLanes)
                add_products(
                    turned, layer.bounds[block], layer.bounds[block + 1],
                    [columns = layer.columns, from = inputs[i]](uint32_t k) {
                        return from + size_t{columns[k]} * kLanes;
                    },
                    [values = sums.values](uint32_t k) { return values + size_t{k} * kLanes; },
                    ahead_of(layer, block, inputs, i));
            if (sums.all) add_all(layer, row, inputs[i], turned, sums);
        }
        if (sums.values && layer.height != kLanes)
            for (uint32_t r = 0; r < kLanes && row + r < layer.out; ++r)
                add_singles(layer, inputs, grad_outputs, row + r, sums.values);
    }
}

}  // namespace
}  // namespace monolith
