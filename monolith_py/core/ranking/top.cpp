#include "ranking/top.hpp"

#include <algorithm>

namespace monolith::ranking {

namespace {

// Scratch memory of the thread, apart from that of the layers.
struct Stacked {
    float values;
};
struct Wide {
    float values;
};

}  // namespace

Top::Top(std::span<const LayerWeights> layers, std::span<const uint32_t> shared, std::span<const uint32_t> candidate,
         std::vector<const TowerStack*> stacks)
    : layers_(layers, shared, candidate), stacks_(std::move(stacks)) {}

void Top::begin(std::vector<float>& shared, float* start) const {
    if (has_stacks()) {
        layers_.begin(nullptr, start);
        return;
    }
    shared.resize(std::max(shared.size(), layers_.shared_in()), 0.0f);
    layers_.begin(shared.data(), start);
}

float* Top::run_stacks(Columns<const float> inputs, size_t n, const float* start) const {
    size_t widest = 0;
    for (const TowerStack* stack : stacks_) widest = std::max<size_t>(widest, even(stack->out()));
    float* const memory = &thread_scratch<Stacked>(2 * n * widest)->values;
    float* outputs = nullptr;
    for (size_t s = 0; s < stacks_.size(); ++s) {
        const TowerStack& stack = *stacks_[s];
        if (s > 0) inputs = {{outputs}, {stack.in()}};
        outputs = memory + s % 2 * n * widest;
        stack.forward(inputs, n, outputs);
    }
    const size_t out = stacks_.back()->out();
    if (layers_.in() == out) return layers_.run(outputs, n, start);
    float* const wide = &thread_scratch<Wide>(n * layers_.in())->values;
    std::fill_n(wide, n * layers_.in(), 0.0f);
    for (size_t i = 0; i < n; ++i) std::copy_n(outputs + i * out, out, wide + i * layers_.in());
    return layers_.run(wide, n, start);
}

}  // namespace monolith::ranking
