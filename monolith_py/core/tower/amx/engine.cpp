// The AMX engine: division of the work among threads, and layout of the memory.
#include "tower/amx/engine.hpp"

#if defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include <algorithm>
#include <cassert>

#include "memory/thread_pool.hpp"
#include "tower/amx/backward.hpp"
#include "tower/amx/layer.hpp"

namespace monolith {

namespace amx {

namespace {

// Whether the machine has the instructions, and the kernel saves their registers and permits this process to use them.
bool is_granted() {
#if defined(__linux__)
    unsigned a, b, c, d;
    if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
        !__builtin_cpu_supports("avx512dq") || !__builtin_cpu_supports("avx512vl"))
        return false;
    if (!__get_cpuid_count(7, 1, &a, &b, &c, &d) || (a >> 5 & 1) == 0) return false;  // AVX512-BF16
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d >> 22 & 1) == 0 || (d >> 24 & 1) == 0) return false;
    uint32_t low, high;
    asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    constexpr uint32_t kTileState = 3u << 17;
    constexpr long kRequestPermission = 0x1023, kTileData = 18;
    return (low & kTileState) == kTileState && ::syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
    return false;
#endif
}

class AmxEngine : public TowerEngine {
  public:
    void load(const std::vector<TowerLayer>& layers, const float* const* values, const float* const* biases) override {
        layers_.resize(layers.size());
        std::vector<std::pair<size_t, size_t>> pairs;  // layer, first of two blocks
        for (size_t l = 0; l < layers.size(); ++l) {
            layers_[l].take(layers[l]);
            layers_[l].take_biases(biases[l]);
            for (size_t b = 0; b < at(l).blocks; b += 2) pairs.emplace_back(l, b);
        }
        ThreadPool::instance().run(pairs.size(), [&](size_t i) {
            const auto [l, b] = pairs[i];
            pack_block(at(l), b, values[l]);
            if (b + 1 < at(l).blocks) pack_block(at(l), b + 1, values[l]);
        });
    }

    std::unique_ptr<EngineTape> make_tape() const override { return std::make_unique<AmxTape>(pool_); }

    void forward(const Columns<const float>& inputs, size_t batch, float* outputs, EngineTape* tape) const override {
        if (tape == nullptr && batch <= kMaxRows) return forward_few(inputs, batch, outputs);
        auto* kept = static_cast<AmxTape*>(tape);
        const size_t units = round_up(batch, kUnit) / kUnit;
        if (kept != nullptr) lay_out(*kept, batch, units);
        const size_t threads = static_cast<size_t>(ThreadPool::instance().num_threads());
        const size_t step = units >= kMaxUnits * threads ? kMaxUnits : 1;
        ThreadPool::instance().run((units + step - 1) / step, [&](size_t i) {
            const size_t first = i * step, count = std::min(step, units - first);
            forward_units(inputs, first, count, batch, outputs, kept);
        });
    }

    void backward(EngineTape& tape, const float* grad_outputs, const Columns<float>& grad_inputs,
                  const std::vector<LayerGradients>& gradients) const override {
        AmxBackward(layers_, static_cast<const AmxTape&>(tape), grad_outputs, grad_inputs).run(gradients, *pool_);
    }

  private:
    const Layer& at(size_t l) const { return layers_[l].view(); }

    void lay_out(AmxTape& tape, size_t batch, size_t units) const {
        tape.batch = batch;
        tape.strides.clear();
        for (size_t l = 0; l < layers_.size(); ++l) tape.strides.push_back(at(l).input_rows() * kUnit);
        tape.strides.push_back(at(layers_.size() - 1).relu ? output_rows() * kUnit : 0);
        tape.offsets.assign(1, 0);
        for (const size_t stride : tape.strides) tape.offsets.push_back(tape.offsets.back() + units * stride);
        tape.memory.ensure<Bf16>(tape.offsets.back());
    }
    size_t output_rows() const { return round_up(at(layers_.size() - 1).out, 32); }

    void forward_units(const Columns<const float>& inputs, size_t first, size_t count, size_t batch, float* outputs,
                       const AmxTape* tape) const {
        const TileScope tiles;
        const size_t interleaved = most(layers_, [](const Layer& layer) { return layer.input_tiles() * 2 * kTile; });
        const size_t x_size = most(layers_, [](const Layer& layer) { return layer.input_rows() * kUnit; }) * kMaxUnits;
        Bf16* scratch = thread_scratch<Bf16>(2 * kForwardScratch + interleaved + 2 * x_size);
        Bf16* own = scratch + 2 * kForwardScratch + interleaved;
        Bf16* x = tape != nullptr ? tape->of(0, first) : own;
        const size_t rows = at(0).input_rows(), last = layers_.size() - 1;
        for (size_t i = 0; i < count; ++i)
            pack_unit(rows_of(inputs, (first + i) * kUnit, batch), rows, x + i * rows * kUnit);
        for (size_t l = 0; l <= last; ++l) {
            Bf16* next = nullptr;
            if (tape != nullptr && (l < last || at(l).relu)) next = tape->of(l + 1, first);
            if (tape == nullptr && l < last) next = own + (l + 1) % 2 * x_size;
            forward_layer(at(l), {
                                     .x = x,
                                     .units = count,
                                     .next = next,
                                     .next_rows = l < last ? at(l + 1).input_rows() : output_rows(),
                                     .outputs = l < last ? nullptr : outputs + first * kUnit * at(l).out,
                                     .count = batch - first * kUnit,
                                     .interleaved = scratch + 2 * kForwardScratch,
                                     .scratch = reinterpret_cast<float*>(scratch),
                                 });
            x = next;
        }
    }

    void forward_few(const Columns<const float>& inputs, size_t batch, float* outputs) const {
        if (batch == 0) return;
        const size_t width =
            std::max<size_t>(at(0).in, most(layers_, [](const Layer& layer) { return size_t{layer.out}; }));
        float *x = thread_scratch<float>(2 * kMaxRows * width), *y = x + kMaxRows * width;
        for (size_t r = 0, column = 0; r < batch; ++r, column = 0)
            for (size_t p = 0; p < inputs.parts.size(); column += inputs.widths[p++])
                round_row(inputs.parts[p] + r * inputs.widths[p], inputs.widths[p], x + r * at(0).in + column);
        for (size_t l = 0; l < layers_.size(); ++l) {
            const bool is_last = l + 1 == layers_.size();
            forward_rows(at(l), x, batch, is_last, is_last ? outputs : y);
            std::swap(x, y);
        }
    }

    std::vector<PackedLayer> layers_;
    const std::shared_ptr<BufferPool> pool_ = std::make_shared<BufferPool>();
};

}  // namespace

}  // namespace amx

std::unique_ptr<TowerEngine> make_amx_engine() {
    static const bool granted = amx::is_granted();
    return granted ? std::make_unique<amx::AmxEngine>() : nullptr;
}

}  // namespace monolith
