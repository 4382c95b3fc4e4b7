// A stack of sparse linear layers: topologies, and the engine that computes with them.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "kernels/kernels.hpp"
#include "tower/engine.hpp"

namespace monolith {

inline bool has_amx() {
#ifdef MONOLITH_HAS_AMX
    static const bool has = make_amx_engine() != nullptr;
    return has;
#else
    return false;
#endif
}

struct TowerShape {
    uint32_t in, out;
    bool relu;
};

// Concurrency: the stack has its own lock. `forward`, `forward_tape` and `backward` run together on any threads;
// `set_topology` and `load` exclude all others. Invalid arguments throw std::invalid_argument and change nothing.
class TowerStack {
  public:
    // A forward pass for one later backward pass.
    struct Tape {
        std::unique_ptr<EngineTape> engine_tape;
        uint64_t version;
        std::vector<uint32_t> widths;  // widths of the parts of its inputs
    };

    struct Weights {
        const float* values;  // (atoms, height)
        size_t atoms;
        const float* biases;  // (O,)
    };

    TowerStack(const std::vector<TowerShape>& shapes, uint32_t atom_height, bool bf16) : height_(atom_height) {
        if (atom_height != 1 && atom_height != kLanes)
            throw std::invalid_argument("atom_height must be 1 or 16, got " + std::to_string(atom_height));
        if (shapes.empty()) throw std::invalid_argument("layers must be at least one, got none");
        for (size_t l = 0; l < shapes.size(); ++l) add(shapes, l);
#ifdef MONOLITH_HAS_AMX
        if (bf16 && atom_height == kLanes) engine_ = make_amx_engine();
        is_amx_ = engine_ != nullptr;
#endif
        if (!engine_) engine_ = make_vector_engine(atom_height, bf16);
    }

    std::string engine() const { return is_amx_ ? "amx" : simd_level(); }
    const std::vector<TowerLayer>& layers() const { return layers_; }
    uint32_t height() const { return height_; }
    uint32_t in() const { return layers_.front().in; }
    uint32_t out() const { return layers_.back().out; }
    static size_t blocks(const TowerLayer& layer) { return layer.bounds.size() - 1; }
    static size_t atoms(const TowerLayer& layer) { return layer.columns.size(); }

    // Replace the live atoms of `layer`. Weights must be loaded before the next forward.
    void set_topology(size_t layer, const std::vector<uint32_t>& bounds, const std::vector<int64_t>& columns) {
        if (layer >= layers_.size())
            throw std::invalid_argument("layer must be below " + std::to_string(layers_.size()) + ", got " +
                                        std::to_string(layer));
        check_bounds(layers_[layer], bounds, columns.size());
        check_columns(layers_[layer], bounds, columns);
        std::unique_lock lock(mutex_);
        layers_[layer].bounds = bounds;
        layers_[layer].columns.assign(columns.begin(), columns.end());
        is_loaded_ = false;
    }

    // Copy the weights of every layer.
    void load(const std::vector<Weights>& weights) {
        std::unique_lock lock(mutex_);
        std::vector<const float*> values, biases;
        for (size_t l = 0; l < layers_.size(); ++l) {
            if (weights[l].atoms != atoms(layers_[l]))
                throw std::invalid_argument("values[" + std::to_string(l) + "] must have " +
                                            std::to_string(atoms(layers_[l])) + " atoms, got " +
                                            std::to_string(weights[l].atoms));
            values.push_back(weights[l].values);
            biases.push_back(weights[l].biases);
        }
        engine_->load(layers_, values.data(), biases.data());
        is_loaded_ = true;
        ++version_;
    }

    void forward(const Columns<const float>& inputs, size_t batch, float* outputs) const {
        std::shared_lock lock(mutex_);
        expect_loaded();
        engine_->forward(inputs, batch, outputs, nullptr);
    }

    Tape forward_tape(const Columns<const float>& inputs, size_t batch, float* outputs) const {
        std::shared_lock lock(mutex_);
        expect_loaded();
        Tape tape{engine_->make_tape(), version_, inputs.widths};
        engine_->forward(inputs, batch, outputs, tape.engine_tape.get());
        return tape;
    }

    void backward(const Tape& tape, const float* grad_outputs, const Columns<float>& grad_inputs,
                  const std::vector<LayerGradients>& gradients) const {
        std::shared_lock lock(mutex_);
        if (!is_loaded_ || tape.version != version_)
            throw std::invalid_argument("tape must be of a forward since the last load, got one of load " +
                                        std::to_string(tape.version) + " after load " + std::to_string(version_));
        engine_->backward(*tape.engine_tape, grad_outputs, grad_inputs, gradients);
    }

  private:
    static constexpr uint32_t kMostIn = 65536;  // columns are 16 bits

    void add(const std::vector<TowerShape>& shapes, size_t l) {
        const TowerShape& shape = shapes[l];
        const std::string name = "layers[" + std::to_string(l) + "]";
        if (shape.in < 1 || shape.in > kMostIn)
            throw std::invalid_argument(name + " in must be in 1..65536, got " + std::to_string(shape.in));
        if (shape.out < 1) throw std::invalid_argument(name + " out must be >= 1, got 0");
        if (l > 0 && shape.in != shapes[l - 1].out)
            throw std::invalid_argument(name + " in must be " + std::to_string(shapes[l - 1].out) +
                                        ", the outputs of the layer below, got " + std::to_string(shape.in));
        const size_t blocks = (shape.out + size_t{height_} - 1) / height_;
        layers_.push_back({shape.in, shape.out, shape.relu, std::vector<uint32_t>(blocks + 1), {}});
    }

    static void check_bounds(const TowerLayer& layer, const std::vector<uint32_t>& bounds, size_t atoms) {
        if (bounds.size() != layer.bounds.size())
            throw std::invalid_argument("bounds must have size " + std::to_string(layer.bounds.size()) + ", got " +
                                        std::to_string(bounds.size()));
        if (bounds.front() != 0)
            throw std::invalid_argument("bounds must begin at 0, got " + std::to_string(bounds[0]));
        for (size_t b = 0; b + 1 < bounds.size(); ++b)
            if (bounds[b] > bounds[b + 1])
                throw std::invalid_argument("bounds must not decrease, got " + std::to_string(bounds[b + 1]) +
                                            " after " + std::to_string(bounds[b]));
        if (bounds.back() != atoms)
            throw std::invalid_argument("bounds must end at the number of columns, " + std::to_string(atoms) +
                                        ", got " + std::to_string(bounds.back()));
    }

    static void check_columns(const TowerLayer& layer, const std::vector<uint32_t>& bounds,
                              const std::vector<int64_t>& columns) {
        for (size_t b = 0; b + 1 < bounds.size(); ++b) {
            int64_t before = -1;
            for (uint32_t k = bounds[b]; k < bounds[b + 1]; before = columns[k++]) {
                if (columns[k] < 0 || columns[k] >= layer.in)
                    throw std::invalid_argument("columns must be in 0.." + std::to_string(layer.in - 1) + ", got " +
                                                std::to_string(columns[k]));
                if (columns[k] <= before)
                    throw std::invalid_argument("columns of a block must ascend, got " + std::to_string(columns[k]) +
                                                " after " + std::to_string(before));
            }
        }
    }

    void expect_loaded() const {
        if (!is_loaded_) throw std::invalid_argument("weights must be loaded after a change of topology, got none");
    }

    const uint32_t height_;
    mutable std::shared_mutex mutex_;
    std::vector<TowerLayer> layers_;
    std::unique_ptr<TowerEngine> engine_;
    bool is_amx_ = false, is_loaded_ = false;
    uint64_t version_ = 0;  // number of loads
};

}  // namespace monolith
