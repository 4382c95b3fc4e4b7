// Forward pass in fp32: panels go through all layers; a few examples go row by row.
#include "tower/vector/engine.hpp"

namespace monolith {
namespace {

constexpr size_t kFewExamples = 12;    // fewer examples: a chunk is mostly padding, rows are faster
constexpr size_t kChunksPerPanel = 4;  // a layer's values are read once for all chunks of a panel

// Keep absent examples at zero in every layer: a NaN there could reach the sums over examples.
void clear_absent(float* chunk, size_t features, size_t examples) {
    for (size_t i = 0; i < features; ++i) std::fill(chunk + i * kLanes + examples, chunk + (i + 1) * kLanes, 0.0f);
}

// Forward pass of one panel that begins at chunk `first`: inputs in `x`, outputs of all layers in `own`.
void forward_panel(const VectorStack& stack, const Columns<const float>& inputs, size_t batch, size_t first,
                   const Chunks<float>& x, const Chunks<float>& own, float* outputs) {
    const uint32_t in_last = present(batch, (first + own.num - 1) * kLanes);
    for (size_t i = 0; i < x.num; ++i) vector_pack(stack, inputs, batch, (first + i) * kLanes, x[i]);
    Chunks<const float> from{x.data, x.stride, x.num};
    for (size_t l = 0; l < stack.layers.size(); ++l) {
        const TowerView& view = stack.layers[l].view;
        const Chunks<float> to{own.data + stack.at[l], own.stride, own.num};
        kernels().tower.forward(view, from, to);
        if (in_last < kLanes) clear_absent(to[own.num - 1], padded(view.out), in_last);
        from = {to.data, to.stride, to.num};
    }
    const uint32_t width = stack.layers.back().view.out;
    for (size_t i = 0; i < own.num; ++i) {
        const size_t begin = (first + i) * kLanes;
        kernels().tower.unpack(from[i], width, present(batch, begin), outputs + begin * width, width);
    }
}

void forward_rows(const VectorStack& stack, const Columns<const float>& inputs, size_t batch, float* outputs) {
    float *from = thread_scratch<float>(2 * batch * stack.widest), *to = from + batch * stack.widest;
    const size_t in = padded(stack.layers[0].view.in), out = padded(stack.layers.back().view.out);
    size_t column = 0;
    for (size_t p = 0; p < inputs.parts.size(); ++p) {
        const uint32_t width = inputs.widths[p];
        for (size_t n = 0; n < batch; ++n) std::copy_n(inputs.parts[p] + n * width, width, from + n * in + column);
        column += width;
    }
    for (size_t n = 0; stack.round && n < batch; ++n) kernels().tower.round(from + n * in, column);
    for (const VectorLayer& layer : stack.layers) {
        kernels().tower.forward_rows(layer.view, from, batch, to);
        std::swap(from, to);
    }
    const uint32_t width = stack.layers.back().view.out;
    for (size_t n = 0; n < batch; ++n) std::copy_n(from + n * out, width, outputs + n * width);
}

}  // namespace

void vector_pack(const VectorStack& stack, const Columns<const float>& inputs, size_t batch, size_t begin,
                 float* chunk) {
    for (size_t p = 0; p < inputs.parts.size(); ++p) {
        const uint32_t width = inputs.widths[p];
        kernels().tower.pack(inputs.parts[p] + begin * width, width, width, present(batch, begin), stack.round, chunk);
        chunk += size_t{width} * kLanes;
    }
}

void vector_forward(const VectorStack& stack, const Columns<const float>& inputs, size_t batch, float* outputs,
                    float* taped) {
    ThreadPool& pool = ThreadPool::instance();
    if (!taped && batch < kFewExamples) {
        pool.run(1, [&](size_t) { forward_rows(stack, inputs, batch, outputs); });
        return;
    }
    const size_t chunks = num_chunks(batch), stride = stack.stride, in = stack.in() * kLanes;
    const size_t panel = std::clamp<size_t>(chunks / static_cast<size_t>(pool.num_threads()), 1, kChunksPerPanel);
    pool.run((chunks + panel - 1) / panel, [&](size_t task) {
        const size_t first = task * panel, num = std::min(panel, chunks - first);
        float* const x = thread_scratch<float>(num * (in + stride));
        float* const own = taped ? taped + first * stride : x + num * in;
        forward_panel(stack, inputs, batch, first, {x, in, num}, {own, stride, num}, outputs);
    });
}

}  // namespace monolith
