// The fp32 engine of sparse linear stacks: chunks of 16 examples, feature-major, through all layers while they are in
// the cache; the loops are those of the machine's instruction set.
#include <algorithm>
#include <cstring>

#include "kernels.hpp"
#include "thread_pool.hpp"
#include "tower_engine.hpp"
#include "tower_memory.hpp"

namespace monolith {
namespace {

constexpr size_t kFewExamples = 12;  // below that a chunk is mostly padding: rows are faster
constexpr size_t kForwardTile = 4;   // chunks that go through a layer together, so that its values are read once
constexpr size_t kGradientTile = 8;  // the same for gradients of values; both sets of chunks fit the L2 cache

class VectorTape final : public TowerTape {
  public:
    explicit VectorTape(std::shared_ptr<FreeMemory> free) : free_(std::move(free)), memory_(free_->take()) {}
    ~VectorTape() override { free_->give(std::move(memory_)); }
    float* ensure(size_t n) { return memory_.ensure(n); }
    float* data() const { return memory_.data(); }

  private:
    std::shared_ptr<FreeMemory> free_;
    AlignedFloats memory_;
};

// A layer's weights in the engine's own memory.
struct Weights {
    AlignedFloats values, biases;
    TowerView view;
};

// What a thread needs for the time of one task.
float* scratch(size_t n) {
    thread_local AlignedFloats memory;
    return memory.ensure(n);
}

// Examples that are not there stay zero in every layer: NaN of their own could reach the sums over examples.
void clear_absent(float* chunk, size_t features, size_t examples) {
    for (size_t i = 0; i < features; ++i) std::fill(chunk + i * kLanes + examples, chunk + (i + 1) * kLanes, 0.0f);
}

class VectorEngine final : public TowerEngine {
  public:
    VectorEngine(uint32_t atom_height, bool round) : height_(atom_height), round_(round) {}

    void load(const std::vector<TowerLayer>& layers, const float* const* values, const float* const* biases) override {
        if (layers_.size() != layers.size()) layers_ = std::vector<Weights>(layers.size());
        inputs_at_.assign(1, 0);
        gradients_at_.clear();
        stride_ = padded(layers[0].in) * kLanes;
        widest_ = padded(layers[0].in);
        for (size_t l = 0; l < layers.size(); ++l) {
            load(layers[l], l + 1 == layers.size(), values[l], biases[l], layers_[l]);
            const size_t rows = padded(layers[l].out);
            widest_ = std::max(widest_, rows);
            inputs_at_.push_back(stride_);
            stride_ += rows * kLanes;
        }
        forward_stride_ = stride_;
        for (const TowerLayer& layer : layers) {
            gradients_at_.push_back(stride_);
            stride_ += padded(layer.out) * kLanes;
        }
    }

    void forward(const Columns<const float>& inputs, size_t batch, float* outputs, TowerTape* tape) const override {
        if (tape) tape->batch = batch;
        if (batch == 0) return;
        if (!tape && batch < kFewExamples) {
            ThreadPool::instance().run(1, [&](size_t) { forward_rows(inputs, batch, outputs); });
            return;
        }
        const size_t chunks = (batch + kLanes - 1) / kLanes, tile = tile_of(chunks);
        const size_t stride = tape ? stride_ : forward_stride_;
        float* const taped = tape ? static_cast<VectorTape*>(tape)->ensure(chunks * stride) : nullptr;
        ThreadPool::instance().run((chunks + tile - 1) / tile, [&](size_t task) {
            const size_t first = task * tile, num = std::min(tile, chunks - first);
            const Chunks<float> own{taped ? taped + first * stride : scratch(num * stride), stride, num};
            forward_chunks(inputs, batch, first, own, outputs);
        });
    }

    std::unique_ptr<TowerTape> make_tape() const override { return std::make_unique<VectorTape>(free_); }

    void backward(TowerTape& tape, const float* grad_outputs, const Columns<float>& grad_inputs,
                  const std::vector<LayerGradients>& gradients) const override {
        const size_t chunks = (tape.batch + kLanes - 1) / kLanes, tile = tile_of(chunks);
        float* const taped = static_cast<VectorTape&>(tape).data();
        ThreadPool::instance().run((chunks + tile - 1) / tile, [&](size_t task) {
            const size_t first = task * tile;
            backward_chunks(grad_outputs, tape.batch, first,
                            {taped + first * stride_, stride_, std::min(tile, chunks - first)}, grad_inputs);
        });
        const std::vector<Range> ranges = ranges_of(static_cast<size_t>(ThreadPool::instance().num_threads()));
        ThreadPool::instance().run(ranges.size(), [&](size_t i) {
            sum_gradients({taped, stride_, chunks}, ranges[i], gradients[ranges[i].layer]);
        });
    }

  private:
    // Blocks [begin, end) of a layer.
    struct Range {
        size_t layer;
        uint32_t begin, end;
    };

    void load(const TowerLayer& layer, bool last, const float* values, const float* biases, Weights& weights) const {
        const uint32_t blocks = static_cast<uint32_t>(layer.bounds.size() - 1), atoms = layer.bounds[blocks];
        const size_t n = size_t{atoms} * height_;
        float* const own = weights.values.ensure(n);
        std::copy_n(values, n, own);
        if (round_) kernels().tower.round(own, n);
        clear_padding(layer.out, own + size_t{layer.bounds[blocks - 1]} * height_, atoms - layer.bounds[blocks - 1]);
        float* const own_biases = weights.biases.ensure(padded(layer.out));
        std::fill_n(std::copy_n(biases, layer.out, own_biases), padded(layer.out) - layer.out, 0.0f);
        weights.view = {
            layer.in, layer.out, height_, blocks, layer.relu, round_, last, layer.bounds.data(), layer.columns.data(),
            own,      own_biases};
    }

    // Zero the outputs that do not exist, in atoms of the last block.
    void clear_padding(uint32_t out, float* atoms, size_t n) const {
        const size_t real = out % height_;
        for (size_t k = 0; real != 0 && k < n; ++k)
            std::fill(atoms + k * height_ + real, atoms + (k + 1) * height_, 0.0f);
    }

    // As many chunks as go well together, and fewer where threads would have nothing to do.
    static size_t tile_of(size_t chunks) {
        const size_t threads = static_cast<size_t>(ThreadPool::instance().num_threads());
        return std::clamp<size_t>(chunks / threads, 1, kForwardTile);
    }

    void pack(const Columns<const float>& inputs, size_t batch, size_t first, const Chunks<float>& chunks) const {
        for (size_t i = 0; i < chunks.num; ++i) {
            const size_t begin = (first + i) * kLanes;
            float* to = chunks[i];
            for (size_t p = 0; p < inputs.parts.size(); ++p) {
                const uint32_t width = inputs.widths[p];
                kernels().tower.pack(inputs.parts[p] + begin * width, width, width, present(batch, begin), round_, to);
                to += size_t{width} * kLanes;
            }
        }
    }

    static uint32_t present(size_t batch, size_t begin) {
        return static_cast<uint32_t>(std::min<size_t>(kLanes, batch - begin));
    }

    void forward_chunks(const Columns<const float>& inputs, size_t batch, size_t first, const Chunks<float>& own,
                        float* outputs) const {
        const uint32_t in_last = present(batch, (first + own.num - 1) * kLanes);
        pack(inputs, batch, first, own);
        for (size_t l = 0; l < layers_.size(); ++l) {
            const Chunks<float> to{own.data + inputs_at_[l + 1], own.stride, own.num};
            kernels().tower.forward(layers_[l].view, {own.data + inputs_at_[l], own.stride, own.num}, to);
            if (in_last < kLanes) clear_absent(to[own.num - 1], padded(layers_[l].view.out), in_last);
        }
        const uint32_t width = layers_.back().view.out;
        for (size_t i = 0; i < own.num; ++i) {
            const size_t begin = (first + i) * kLanes;
            kernels().tower.unpack(own[i] + inputs_at_.back(), width, present(batch, begin), outputs + begin * width,
                                   width);
        }
    }

    void forward_rows(const Columns<const float>& inputs, size_t batch, float* outputs) const {
        float *from = scratch(2 * batch * widest_), *to = from + batch * widest_;
        const size_t in = padded(layers_[0].view.in), out = padded(layers_.back().view.out);
        size_t column = 0;
        for (size_t p = 0; p < inputs.parts.size(); ++p) {
            const uint32_t width = inputs.widths[p];
            for (size_t n = 0; n < batch; ++n) std::copy_n(inputs.parts[p] + n * width, width, from + n * in + column);
            column += width;
        }
        if (round_)
            for (size_t n = 0; n < batch; ++n) kernels().tower.round(from + n * in, column);
        for (const Weights& weights : layers_) {
            kernels().tower.forward_rows(weights.view, from, batch, to);
            std::swap(from, to);
        }
        const uint32_t width = layers_.back().view.out;
        for (size_t n = 0; n < batch; ++n) std::copy_n(from + n * out, width, outputs + n * width);
    }

    // The gradients of every layer's sums, on the tape, and those of the inputs.
    void backward_chunks(const float* grad_outputs, size_t batch, size_t first, const Chunks<float>& own,
                         const Columns<float>& grad_inputs) const {
        const size_t last = layers_.size() - 1;
        const TowerView& top = layers_[last].view;
        for (size_t i = 0; i < own.num; ++i) {
            const size_t begin = (first + i) * kLanes;
            float* const to = own[i] + gradients_at_[last];
            kernels().tower.pack(grad_outputs + begin * top.out, top.out, top.out, present(batch, begin), false, to);
            std::fill(to + size_t{top.out} * kLanes, to + padded(top.out) * kLanes, 0.0f);
        }
        mask(last, own);
        for (size_t l = last; l > 0; --l) {
            kernels().tower.backward(layers_[l].view, {own.data + gradients_at_[l], own.stride, own.num},
                                     {own.data + gradients_at_[l - 1], own.stride, own.num});
            mask(l - 1, own);
        }
        if (std::any_of(grad_inputs.parts.begin(), grad_inputs.parts.end(), [](float* part) { return part; }))
            backward_inputs(batch, first, own, grad_inputs);
    }

    // What ReLU of layer `l` lets through, rounded.
    void mask(size_t l, const Chunks<float>& own) const {
        const TowerView& view = layers_[l].view;
        if (view.relu || round_)
            for (size_t i = 0; i < own.num; ++i)
                kernels().tower.mask(view.relu ? own[i] + inputs_at_[l + 1] : nullptr, padded(view.out) * kLanes,
                                     round_, own[i] + gradients_at_[l]);
    }

    void backward_inputs(size_t batch, size_t first, const Chunks<float>& own,
                         const Columns<float>& grad_inputs) const {
        const TowerView& view = layers_[0].view;
        const size_t stride = padded(view.in) * kLanes;
        const Chunks<float> chunks{scratch(own.num * stride), stride, own.num};
        kernels().tower.backward(view, {own.data + gradients_at_[0], own.stride, own.num}, chunks);
        for (size_t i = 0; i < own.num; ++i) {
            const size_t begin = (first + i) * kLanes;
            const float* from = chunks[i];
            for (size_t p = 0; p < grad_inputs.parts.size(); ++p) {
                const uint32_t width = grad_inputs.widths[p];
                if (grad_inputs.parts[p])
                    kernels().tower.unpack(from, width, present(batch, begin), grad_inputs.parts[p] + begin * width,
                                           width);
                from += size_t{width} * kLanes;
            }
        }
    }

    // Every layer in as many ranges as there are threads, of about as many atoms; a range begins at a multiple of 16
    // outputs. A block is summed by one task in one order, however many there are.
    std::vector<Range> ranges_of(size_t threads) const {
        std::vector<Range> ranges;
        for (size_t l = 0; l < layers_.size(); ++l) {
            const TowerView& view = layers_[l].view;
            const uint32_t step = kLanes / height_;
            const size_t atoms = view.bounds[view.blocks];
            uint32_t begin = 0;
            for (size_t t = 1; t <= threads && begin < view.blocks; ++t) {
                uint32_t end = t == threads ? view.blocks : begin;
                while (end < view.blocks && view.bounds[end] * threads < atoms * t) end += step;
                end = std::min(end, view.blocks);
                if (end > begin) ranges.push_back({l, begin, end});
                begin = end;
            }
        }
        return ranges;
    }

    void sum_gradients(const Chunks<float>& taped, const Range& range, const LayerGradients& gradients) const {
        const TowerView& view = layers_[range.layer].view;
        const uint32_t begin = view.bounds[range.begin], end = view.bounds[range.end];
        const uint32_t outputs_end = std::min(range.end * height_, view.out), last = view.bounds[view.blocks - 1];
        if (gradients.values)
            std::fill_n(gradients.values + size_t{begin} * height_, size_t{end - begin} * height_, 0.0f);
        if (gradients.biases) std::fill(gradients.biases + range.begin * height_, gradients.biases + outputs_end, 0.0f);
        float* const room = gradients.all && height_ != kLanes ? scratch(size_t{view.in} * kLanes) : nullptr;
        for (size_t i = 0; i < taped.num; i += kGradientTile) {
            const size_t num = std::min(kGradientTile, taped.num - i);
            kernels().tower.gradients(
                view, {taped[i] + inputs_at_[range.layer], taped.stride, num},
                {taped[i] + gradients_at_[range.layer], taped.stride, num},
                {range.begin, range.end, gradients.values, gradients.biases, gradients.all, room});
        }
        if (range.end != view.blocks) return;
        if (gradients.values) clear_padding(view.out, gradients.values + size_t{last} * height_, end - last);
        if (gradients.all)
            clear_padding(view.out, gradients.all + size_t{view.blocks - 1} * view.in * height_, view.in);
    }

    const uint32_t height_;
    const bool round_;
    std::vector<Weights> layers_;
    // Of a chunk with all that is computed from it: where the inputs of each layer are, the last outputs after them,
    // and where the gradients of its outputs are.
    std::vector<size_t> inputs_at_, gradients_at_;
    size_t stride_ = 0, forward_stride_ = 0, widest_ = 0;
    const std::shared_ptr<FreeMemory> free_ = std::make_shared<FreeMemory>();
};

}  // namespace

std::unique_ptr<TowerEngine> make_vector_engine(uint32_t atom_height, bool round_to_bf16) {
    return std::make_unique<VectorEngine>(atom_height, round_to_bf16);
}

}  // namespace monolith
