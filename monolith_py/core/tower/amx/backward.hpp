// Backward pass in AMX, in rounds of one slab per thread: the gradients of a slab's activations are in the L2 cache
// when the gradients of the weights need them, and never reach memory.
#pragma once

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "memory/thread_pool.hpp"
#include "tower/amx/layer.hpp"

namespace monolith::amx {

// All activations of a batch: the inputs of every layer and, if ReLU follows the last layer, its outputs.
class AmxTape : public EngineTape {
  public:
    explicit AmxTape(std::shared_ptr<BufferPool> pool) : memory(std::move(pool)) {}

    PooledBuffer memory;
    std::vector<size_t> offsets, strides;  // in bf16: a layer's first unit; distance between its units
    Bf16* of(size_t layer, size_t unit) const { return memory.as<Bf16>() + offsets[layer] + unit * strides[layer]; }
};

class AmxBackward {
  public:
    AmxBackward(const std::vector<PackedLayer>& layers, const AmxTape& tape, const float* grad_outputs,
                const Columns<float>& grad_inputs)
        : layers_(layers),
          tape_(tape),
          grad_outputs_{{grad_outputs}, {layers.back().view().out}},
          grad_inputs_(grad_inputs),
          num_threads_(static_cast<size_t>(ThreadPool::instance().num_threads())) {}

    void run(const std::vector<LayerGradients>& gradients, BufferPool& pool) {
        const size_t units = round_up(tape_.batch, kUnit) / kUnit;
        if (units == 0) return clear(gradients);
        share_out(gradients);
        const size_t step = std::min(units, kSlab * num_threads_);
        Buffer buffer = lay_out(step, pool);
        ThreadPool& threads = ThreadPool::instance();
        for (size_t first = 0; first < units; first += step) {
            const size_t count = std::min(step, units - first);
            threads.run(count, [&](size_t i) { propagate_unit(first + i, i); });
            threads.run(tasks_.size(), [&](size_t i) { add_weights(tasks_[i].first, tasks_[i].second, first, count); });
        }
        threads.run(tasks_.size(), [&](size_t i) { finish_weight_gradient(at(tasks_[i].first), tasks_[i].second); });
        pool.give(std::move(buffer));
    }

  private:
    const Layer& at(size_t l) const { return layers_[l].view(); }
    const Bf16* mask_of(size_t l, size_t unit) const { return at(l).relu ? tape_.of(l + 1, unit) : nullptr; }

    void share_out(const std::vector<LayerGradients>& gradients) {
        for (size_t l = 0; l < layers_.size(); ++l) {
            const LayerGradients& to = gradients[l];
            const size_t blocks = at(l).blocks;
            const size_t step = num_threads_ == 1 ? blocks : round_up(blocks / (2 * num_threads_) + 1, 2);
            for (size_t b = 0; b < blocks; b += step)
                tasks_.push_back({l,
                                  {
                                      .begin = b,
                                      .end = std::min(blocks, b + step),
                                      .x = tape_.of(l, 0),
                                      .values = to.values,
                                      .biases = to.biases,
                                      .all = to.all,
                                      .sums = nullptr,
                                  }});
        }
    }

    // Memory for the sums of all tasks, then for dY of `units` units of every layer.
    Buffer lay_out(size_t units, BufferPool& pool) {
        size_t all_sums = 0, all_dy = 0;
        for (const auto& [l, task] : tasks_) all_sums += num_sums(at(l), task);
        for (const PackedLayer& layer : layers_) all_dy += units * layer.view().blocks * kTile;
        Buffer buffer = pool.take(all_sums * sizeof(float) + all_dy * sizeof(Bf16));
        float* sums = buffer.as<float>();
        for (auto& [l, task] : tasks_) {
            task.sums = sums;
            sums += num_sums(at(l), task);
        }
        Bf16* dy = reinterpret_cast<Bf16*>(sums);
        for (const PackedLayer& layer : layers_) {
            dy_.push_back(dy);
            dy += units * layer.view().blocks * kTile;
        }
        return buffer;
    }

    // dY of every layer for one unit, the i-th of its round.
    void propagate_unit(size_t unit, size_t i) const {
        const TileScope tiles;
        const size_t interleaved = most(layers_, [](const Layer& layer) { return layer.output_tiles() * 2 * kTile; });
        const size_t dx = most(layers_, [](const Layer& layer) { return layer.column_tiles() * kTile; });
        Bf16* own = thread_scratch<Bf16>(2 * interleaved + 2 * (kGradientScratch + dx));
        float* scratch = reinterpret_cast<float*>(own + 2 * interleaved);
        const auto gradient_of = [&](size_t l) {
            return OutputGradient{own + l % 2 * interleaved, dy_[l] + i * at(l).blocks * kTile, true};
        };
        size_t l = layers_.size() - 1;
        OutputGradient above = gradient_of(l);
        pack_output_gradient(at(l), rows_of(grad_outputs_, unit * kUnit, tape_.batch), mask_of(l, unit), &above);
        for (; l > 0; --l) {
            OutputGradient below = gradient_of(l - 1);
            input_gradient(at(l), above, at(l - 1), mask_of(l - 1, unit), &below, scratch);
            above = below;
        }
        const auto& parts = grad_inputs_.parts;
        if (std::any_of(parts.begin(), parts.end(), [](const float* part) { return part != nullptr; }))
            input_gradient(at(0), above, rows_of(grad_inputs_, unit * kUnit, tape_.batch), scratch);
    }

    void add_weights(size_t l, const WeightTask& task, size_t first, size_t count) const {
        const TileScope tiles;
        add_weight_gradient(at(l), task, first, count, dy_[l], thread_scratch<float>(kWeightScratch));
    }

    void clear(const std::vector<LayerGradients>& gradients) const {
        for (size_t l = 0; l < layers_.size(); ++l) {
            if (gradients[l].values != nullptr)
                std::fill_n(gradients[l].values, at(l).bounds[at(l).blocks] * kAtom, 0.0f);
            if (gradients[l].biases != nullptr) std::fill_n(gradients[l].biases, at(l).out, 0.0f);
        }
    }

    const std::vector<PackedLayer>& layers_;
    const AmxTape& tape_;
    const Columns<const float> grad_outputs_;
    const Columns<float>& grad_inputs_;
    const size_t num_threads_;
    std::vector<std::pair<size_t, WeightTask>> tasks_;  // layer, task
    std::vector<Bf16*> dy_;                             // of each layer: (units of a round, blocks, 1 tile)
};

}  // namespace monolith::amx
