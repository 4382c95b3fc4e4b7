// The fp32 engine of sparse linear stacks: panels go through all layers while they are in the cache, by the kernels of
// the machine's instruction set.
#include "tower/vector/engine.hpp"

namespace monolith {
namespace {

class VectorTape final : public EngineTape {
  public:
    explicit VectorTape(std::shared_ptr<BufferPool> pool) : memory(std::move(pool)) {}

    PooledBuffer memory;
    Columns<const float> inputs;
};

class VectorEngine final : public TowerEngine {
  public:
    VectorEngine(uint32_t atom_height, bool round) : stack_{atom_height, round, {}, {}, 0, 0} {}

    void load(const std::vector<TowerLayer>& layers, const float* const* values, const float* const* biases) override {
        if (stack_.layers.size() != layers.size()) stack_.layers = std::vector<VectorLayer>(layers.size());
        for (size_t l = 0; l < layers.size(); ++l) load(layers, l, values[l], biases[l]);
        const size_t in = padded(layers[0].in);
        stack_.at.clear();
        stack_.stride = 0;
        stack_.widest = in;
        for (const TowerLayer& layer : layers) {
            const size_t rows = padded(layer.out);
            stack_.at.push_back(stack_.stride);
            stack_.stride += rows * kLanes;
            stack_.widest = std::max(stack_.widest, rows);
        }
    }

    void forward(const Columns<const float>& inputs, size_t batch, float* outputs, EngineTape* tape) const override {
        float* taped = nullptr;
        if (tape) {
            auto* const own = static_cast<VectorTape*>(tape);
            own->batch = batch;
            own->inputs = inputs;
            taped = own->memory.ensure<float>(num_chunks(batch) * stack_.stride);
        }
        if (batch > 0) vector_forward(stack_, inputs, batch, outputs, taped);
    }

    std::unique_ptr<EngineTape> make_tape() const override { return std::make_unique<VectorTape>(pool_); }

    void backward(EngineTape& tape, const float* grad_outputs, const Columns<float>& grad_inputs,
                  const std::vector<LayerGradients>& gradients) const override {
        const auto& own = static_cast<VectorTape&>(tape);
        vector_backward(stack_, own.inputs, own.memory.as<float>(), tape.batch, grad_outputs, grad_inputs, gradients,
                        *pool_);
    }

  private:
    void load(const std::vector<TowerLayer>& layers, size_t l, const float* values, const float* biases) {
        const TowerLayer& layer = layers[l];
        VectorLayer& own = stack_.layers[l];
        const uint32_t height = stack_.height, blocks = static_cast<uint32_t>(layer.bounds.size() - 1);
        const size_t atoms = layer.bounds[blocks], last = layer.bounds[blocks - 1];
        float* const to = own.values.ensure<float>(atoms * height);
        std::copy_n(values, atoms * height, to);
        if (stack_.round) kernels().tower.round(to, atoms * height);
        stack_.clear_padding(layer.out, to + last * height, atoms - last);
        float* const own_biases = own.biases.ensure<float>(padded(layer.out));
        std::fill_n(std::copy_n(biases, layer.out, own_biases), padded(layer.out) - layer.out, 0.0f);
        own.view = {
            .in = layer.in,
            .out = layer.out,
            .height = height,
            .blocks = blocks,
            .relu = layer.relu,
            .round = stack_.round,
            .last = l + 1 == layers.size(),
            .bounds = layer.bounds.data(),
            .columns = layer.columns.data(),
            .values = to,
            .biases = own_biases,
        };
    }

    VectorStack stack_;
    const std::shared_ptr<BufferPool> pool_ = std::make_shared<BufferPool>();
};

}  // namespace

std::unique_ptr<TowerEngine> make_vector_engine(uint32_t atom_height, bool round_to_bf16) {
    return std::make_unique<VectorEngine>(atom_height, round_to_bf16);
}

}  // namespace monolith
