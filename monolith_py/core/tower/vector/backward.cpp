// Backward pass in fp32: a panel goes through all layers, from last to first, and adds to the gradients of their
// weights while it is in the cache. The batch is divided into parts with their own sums; their number depends on the
// batch only, and so do results.
#include <cstring>

#include "tower/vector/engine.hpp"

namespace monolith {
namespace {

constexpr size_t kChunksPerPanel = 4;  // a panel, its gradients, weights and their sums fit the L2 cache
constexpr size_t kChunksPerPart = 8;   // minimum: a part costs as much as adding its sums to the others'
constexpr size_t kMostParts = 8, kMostPartsOfAll = 2;  // sums of all atoms are large
constexpr size_t kFloatsPerTask = 16384;

size_t num_parts(size_t chunks, bool all) {
    return std::clamp<size_t>(chunks / kChunksPerPart, 1, all ? kMostPartsOfAll : kMostParts);
}

// One array of sums. The first part adds in the caller's memory, the others in their own.
struct Sums {
    float* first;
    size_t n, at;  // `at`: offset in a part's memory
    bool keeps;    // the first part adds to the existing values
};

class VectorBackward {
  public:
    VectorBackward(const VectorStack& stack, const Columns<const float>& inputs, const float* taped, size_t batch,
                   const Columns<float>& grad_inputs, const std::vector<LayerGradients>& gradients)
        : stack_(stack),
          inputs_(inputs),
          taped_(taped),
          batch_(batch),
          grad_inputs_(grad_inputs),
          gradients_(gradients) {
        for (size_t l = 0; l < gradients.size(); ++l) {
            const TowerView& view = stack.layers[l].view;
            const size_t height = view.height;
            add(gradients[l].values, view.bounds[view.blocks] * height, false);
            add(gradients[l].biases, view.out, false);
            add(gradients[l].all, size_t{view.blocks} * view.in * height, true);
            has_all_ = has_all_ || gradients[l].all;
        }
        for (float* part : grad_inputs.parts) wants_inputs_ = wants_inputs_ || part;
    }

    void run(const float* grad_outputs, BufferPool& pool) {
        const size_t chunks = num_chunks(batch_), parts = num_parts(chunks, has_all_);
        Buffer memory = pool.take((parts - 1) * size_ * sizeof(float));
        float* const others = memory.as<float>();
        ThreadPool::instance().run(parts, [&](size_t part) {
            const size_t begin = chunks * part / parts, end = chunks * (part + 1) / parts;
            float* const own = part == 0 ? nullptr : others + (part - 1) * size_;
            clear(own);
            for (size_t first = begin; first < end; first += kChunksPerPanel)
                add_panel(grad_outputs, first, std::min(kChunksPerPanel, end - first), own);
        });
        if (parts > 1) add_up(others, parts - 1);
        clear_padding();
        pool.give(std::move(memory));
    }

  private:
    void add(float* first, size_t n, bool keeps) {
        sums_.push_back({first, first ? n : 0, size_, keeps});
        size_ += padded(first ? n : 0);
    }

    // Destination of a part's sums; null: not wanted.
    static float* of(const Sums& sums, float* own) { return sums.first && own ? own + sums.at : sums.first; }

    void clear(float* own) const {
        for (const Sums& sums : sums_)
            if (own || !sums.keeps) std::fill_n(of(sums, own), sums.n, 0.0f);
    }

    void add_panel(const float* grad_outputs, size_t first, size_t num, float* own) const {
        const size_t stride = stack_.stride, in = stack_.in() * kLanes;
        float* const data = thread_scratch<float>(kChunksPerPanel * (stride + in) + stack_.widest * kLanes);
        const Chunks<float> panel{data, stride, num}, x{data + kChunksPerPanel * stride, in, num};
        float* const scratch = x.data + kChunksPerPanel * in;
        pack(grad_outputs, first, panel);
        for (size_t i = 0; i < num; ++i) vector_pack(stack_, inputs_, batch_, (first + i) * kLanes, x[i]);
        for (size_t l = stack_.layers.size(); l-- > 0;) {
            const TowerView& view = stack_.layers[l].view;
            const Chunks<const float> gradients{data + stack_.at[l], stride, num};
            const Chunks<const float> inputs = l > 0 ? taped(l - 1, first, num) : Chunks<const float>{x.data, in, num};
            mask(l, first, panel);
            kernels().tower.gradients(view, inputs, gradients, sums_of(l, own, scratch));
            if (l > 0) kernels().tower.backward(view, gradients, {data + stack_.at[l - 1], stride, num});
        }
        for (size_t i = 0; wants_inputs_ && i < num; ++i) backward_inputs((first + i) * kLanes, panel[i], scratch);
    }

    // Taped outputs of layer `l`.
    Chunks<const float> taped(size_t l, size_t first, size_t num) const {
        return {taped_ + first * stack_.stride + stack_.at[l], stack_.stride, num};
    }

    // Gradients of the last layer's outputs; padding outputs get zero.
    void pack(const float* grad_outputs, size_t first, const Chunks<float>& panel) const {
        const size_t last = stack_.layers.size() - 1;
        const uint32_t out = stack_.layers[last].view.out;
        for (size_t i = 0; i < panel.num; ++i) {
            const size_t begin = (first + i) * kLanes;
            float* const to = panel[i] + stack_.at[last];
            kernels().tower.pack(grad_outputs + begin * out, out, out, present(batch_, begin), false, to);
            std::fill(to + size_t{out} * kLanes, to + padded(out) * kLanes, 0.0f);
        }
    }

    // Clear the gradients of outputs that ReLU of layer `l` clipped, and round.
    void mask(size_t l, size_t first, const Chunks<float>& panel) const {
        const TowerView& view = stack_.layers[l].view;
        if (!view.relu && !view.round) return;
        const Chunks<const float> outputs = taped(l, first, panel.num);
        for (size_t i = 0; i < panel.num; ++i)
            kernels().tower.mask(view.relu ? outputs[i] : nullptr, padded(view.out) * kLanes, view.round,
                                 panel[i] + stack_.at[l]);
    }

    // Gradients of the first layer's inputs, one chunk at a time: they are large and leave the cache at once.
    void backward_inputs(size_t begin, const float* gradients, float* scratch) const {
        const TowerView& view = stack_.layers[0].view;
        kernels().tower.backward(view, {gradients + stack_.at[0], 0, 1}, {scratch, 0, 1});
        for (size_t p = 0; p < grad_inputs_.parts.size(); ++p) {
            const uint32_t width = grad_inputs_.widths[p];
            if (float* const part = grad_inputs_.parts[p])
                kernels().tower.unpack(scratch, width, present(batch_, begin), part + begin * width, width);
            scratch += size_t{width} * kLanes;
        }
    }

    TowerGradients sums_of(size_t l, float* own, float* scratch) const {
        const Sums* const sums = &sums_[3 * l];
        return {of(sums[0], own), of(sums[1], own), of(sums[2], own), scratch};
    }

    // Add the sums of all parts, in order.
    void add_up(const float* others, size_t num) const {
        std::vector<std::pair<const Sums*, size_t>> tasks;  // sums, and the offset of the task
        for (const Sums& sums : sums_)
            for (size_t begin = 0; begin < sums.n; begin += kFloatsPerTask) tasks.push_back({&sums, begin});
        ThreadPool::instance().run(tasks.size(), [&](size_t i) {
            const auto& [sums, begin] = tasks[i];
            const size_t n = std::min(kFloatsPerTask, sums->n - begin);
            for (size_t part = 0; part < num; ++part)
                kernels().tower.add(others + part * size_ + sums->at + begin, n, sums->first + begin);
        });
    }

    void clear_padding() const {
        for (size_t l = 0; l < gradients_.size(); ++l) {
            const TowerView& view = stack_.layers[l].view;
            const uint32_t begin = view.bounds[view.blocks - 1], end = view.bounds[view.blocks];
            if (gradients_[l].values)
                stack_.clear_padding(view.out, gradients_[l].values + size_t{begin} * view.height, end - begin);
            if (gradients_[l].all)
                stack_.clear_padding(view.out, gradients_[l].all + size_t{view.blocks - 1} * view.in * view.height,
                                     view.in);
        }
    }

    const VectorStack& stack_;
    const Columns<const float>& inputs_;
    const float* const taped_;
    const size_t batch_;
    const Columns<float>& grad_inputs_;
    const std::vector<LayerGradients>& gradients_;
    std::vector<Sums> sums_;  // three per layer: values, biases, all
    size_t size_ = 0;         // floats of one part
    bool has_all_ = false, wants_inputs_ = false;
};

}  // namespace

void vector_backward(const VectorStack& stack, const Columns<const float>& inputs, const float* taped, size_t batch,
                     const float* grad_outputs, const Columns<float>& grad_inputs,
                     const std::vector<LayerGradients>& gradients, BufferPool& pool) {
    VectorBackward(stack, inputs, taped, batch, grad_inputs, gradients).run(grad_outputs, pool);
}

}  // namespace monolith
