// Gradients of sparse linear layers.
#pragma once

#include "kernels/per_target/tower-inl.hpp"

namespace monolith {
namespace {

// Atoms whose sums are held in registers: enough independent chains to hide the latency of an addition.
constexpr uint32_t kAtomsHeld = kHeld == 16 ? 8 : kHeld;

// Both gradients of 16 x 1 atoms have this form, for each atom k:
// target(k)[0 .. 16) += sum over i and r of scales(k)[i * stride + r] * rows[i * 256 + r * 16 + (0 .. 16)].
struct Products {
    const float* rows;
    size_t num, stride;  // of i
};

template <uint32_t kNum, typename Scales, typename Target>
[[gnu::always_inline]] inline void add_group(const Products& products, size_t k, const Scales& scales,
                                             const Target& target) {
    Lanes sums[kNum];
    const float* from[kNum];
#pragma GCC unroll 8
    for (uint32_t j = 0; j < kNum; ++j) {
        sums[j] = Lanes::load(target(k + j));
        from[j] = scales(k + j);
    }
    const float* rows = products.rows;
    for (size_t i = 0; i < products.num; ++i) {
#pragma GCC unroll 16
        for (uint32_t r = 0; r < kLanes; ++r) {
            const Lanes row = Lanes::load(rows + r * kLanes);
#pragma GCC unroll 8
            for (uint32_t j = 0; j < kNum; ++j) sums[j].add(from[j][r], row);
        }
        rows += kLanes * kLanes;
#pragma GCC unroll 8
        for (uint32_t j = 0; j < kNum; ++j) from[j] += products.stride;
    }
#pragma GCC unroll 8
    for (uint32_t j = 0; j < kNum; ++j) sums[j].store(target(k + j));
}

// Atoms [begin, end).
template <typename Scales, typename Target>
[[gnu::always_inline]] inline void add_products(const Products& products, size_t begin, size_t end,
                                                const Scales& scales, const Target& target, const Ahead& ahead) {
    size_t k = begin;
    for (; k + kAtomsHeld <= end; k += kAtomsHeld) {
        ahead.touch(k, kAtomsHeld);
        add_group<kAtomsHeld>(products, k, scales, target);
    }
    if constexpr (kAtomsHeld > 4)
        if (k + 4 <= end) {
            add_group<4>(products, k, scales, target);
            k += 4;
        }
    for (; k < end; ++k) add_group<1>(products, k, scales, target);
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
        const uint16_t* const columns = layer.columns;
        const float* const values = layer.values;
        for (uint32_t block = 0; block < layer.blocks; ++block)
            for (size_t i = 0; i < grad_inputs.num; ++i) {
                float* const to = grad_inputs[i];
                add_products(
                    {grad_outputs[i] + size_t{block} * kLanes * kLanes, 1, 0}, layer.bounds[block],
                    layer.bounds[block + 1], [values](size_t k) { return values + k * kLanes; },
                    [columns, to](size_t k) { return to + size_t{columns[k]} * kLanes; },
                    {columns, layer.bounds[layer.blocks], to, 1, 0});
            }
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

// Bias gradients of 16 outputs from `row` on. `transposed`: output gradients, one row per example.
[[gnu::always_inline]] inline void add_biases(const TowerView& layer, size_t row, const Products& transposed,
                                              float* biases) {
    Lanes sum = Lanes::all(0);
    for (size_t n = 0; n < transposed.num * kLanes; ++n) sum.add(Lanes::load(transposed.rows + n * kLanes));
    alignas(64) float sums[kLanes];
    sum.store(sums);
    for (uint32_t r = 0; r < kLanes && row + r < layer.out; ++r) biases[row + r] += sums[r];
}

// Gradient of a 1 x 1 atom: a dot product over the examples.
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

// Gradients of all atoms, dead or live, of 16 outputs from `row` on.
void add_all(const TowerView& layer, size_t row, const float* inputs, const Products& transposed,
             const TowerGradients& sums) {
    const bool is_block = layer.height == kLanes;
    float* const to = is_block ? sums.all + row * layer.in : sums.scratch;
    if (!is_block) std::memset(to, 0, size_t{layer.in} * kLanes * sizeof(float));
    add_products(
        transposed, 0, layer.in, [inputs](size_t c) { return inputs + c * kLanes; },
        [to](size_t c) { return to + c * kLanes; }, {});
    if (is_block) return;
    for (uint32_t r = 0; r < kLanes && row + r < layer.out; ++r)
        for (uint32_t c = 0; c < layer.in; ++c) sums.all[(row + r) * layer.in + c] += to[size_t{c} * kLanes + r];
}

// Gradients of 16 outputs from `row` on, of at most kTransposedChunks chunks.
constexpr size_t kTransposedChunks = 4;

void add_outputs(const TowerView& layer, size_t row, Chunks<const float> inputs, Chunks<const float> grad_outputs,
                 const TowerGradients& sums) {
    alignas(64) float transposed[kTransposedChunks * kLanes * kLanes];
    for (size_t i = 0; i < inputs.num; ++i)
        transpose(grad_outputs[i] + row * kLanes, kLanes, transposed + i * kLanes * kLanes, kLanes);
    const Products products{transposed, inputs.num, inputs.stride};
    if (sums.biases) add_biases(layer, row, products, sums.biases);
    if (sums.values && layer.height == kLanes) {
        const size_t block = row / kLanes;
        add_products(
            products, layer.bounds[block], layer.bounds[block + 1],
            [columns = layer.columns, from = inputs.data](size_t k) { return from + size_t{columns[k]} * kLanes; },
            [values = sums.values](size_t k) { return values + k * kLanes; },
            {layer.columns, layer.bounds[layer.blocks], inputs.data, inputs.num, inputs.stride});
    } else if (sums.values) {
        for (uint32_t r = 0; r < kLanes && row + r < layer.out; ++r)
            add_singles(layer, inputs, grad_outputs, row + r, sums.values);
    }
    if (sums.all) add_all(layer, row, inputs.data, products, sums);
}

void tower_gradients(const TowerView& layer, Chunks<const float> inputs, Chunks<const float> grad_outputs,
                     const TowerGradients& sums) {
    for (size_t i = 0; i < inputs.num; i += kTransposedChunks) {
        const size_t num = inputs.num - i < kTransposedChunks ? inputs.num - i : kTransposedChunks;
        for (size_t row = 0; row < layer.out; row += kLanes)
            add_outputs(layer, row, {inputs[i], inputs.stride, num}, {grad_outputs[i], grad_outputs.stride, num}, sums);
    }
}

}  // namespace
}  // namespace monolith
