// Tests of the AMX engine against the definition. Results must be bit-equal: sums of small integers need no rounding.
#ifdef MONOLITH_HAS_AMX

#include <algorithm>
#include <cstdio>
#include <iterator>
#include <limits>
#include <thread>

#include "check.hpp"
#include "memory/thread_pool.hpp"
#include "tower_reference.hpp"

namespace {

using namespace monolith;
using check::Passes;
using check::Shape;
using check::Stack;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

bool absent() {
    static const bool absent = [] {
        if (make_amx_engine() != nullptr) return false;
        std::printf("SKIPPED: this machine has no AMX, or this process may not use it; its engine is not tested\n");
        return true;
    }();
    return absent;
}

// A matrix in parts, with its own storage.
struct Split {
    std::vector<std::vector<float>> parts;
    std::vector<uint32_t> widths;

    Split(const std::vector<float>& matrix, size_t batch, uint32_t width, uint32_t num) {
        for (uint32_t begin = 0, p = 0; p < num; ++p) {
            const uint32_t end = p + 1 == num ? width : std::min(width, (width / num + 3 * p) | 1);
            widths.push_back(end > begin ? end - begin : 0);
            parts.emplace_back();
            for (size_t n = 0; n < batch; ++n)
                std::copy_n(matrix.data() + n * width + begin, widths[p], std::back_inserter(parts[p]));
            begin += widths[p];
        }
    }
    template <typename T>
    Columns<T> columns() {
        return {Stack::pointers<T>(parts), widths};
    }
};

Passes run(const TowerEngine& engine, Stack& stack, const std::vector<float>& inputs, size_t batch,
           const std::vector<float>& grad_outputs, uint32_t num_parts) {
    Passes passes;
    const uint32_t in = stack.layers[0].in, out = stack.layers.back().out;
    Split split(inputs, batch, in, num_parts), grads(std::vector<float>(batch * in, kNan), batch, in, num_parts);
    passes.x.emplace_back(batch * out, kNan);
    const auto tape = engine.make_tape();
    engine.forward(split.columns<const float>(), batch, passes.x[0].data(), tape.get());
    std::vector<LayerGradients> gradients;
    for (size_t l = 0; l < stack.layers.size(); ++l) {
        passes.values.emplace_back(stack.values[l].size(), kNan);
        passes.biases.emplace_back(stack.biases[l].size(), kNan);
        passes.all.emplace_back((stack.layers[l].bounds.size() - 1) * stack.layers[l].in * 16, 1.0f);
    }
    for (size_t l = 0; l < stack.layers.size(); ++l)
        gradients.push_back({passes.values[l].data(), passes.biases[l].data(), nullptr});
    engine.backward(*tape, grad_outputs.data(), grads.columns<float>(), gradients);
    for (size_t n = 0; n < batch; ++n)
        for (size_t p = 0; p < grads.parts.size(); ++p)
            std::copy_n(grads.parts[p].data() + n * grads.widths[p], grads.widths[p],
                        std::back_inserter(passes.grad_inputs));
    return passes;
}

// Also checks the gradients of all atoms, and equal bits on a second pass.
void require_all(const TowerEngine& engine, Stack& stack, const std::vector<float>& inputs, size_t batch,
                 const std::vector<float>& grad_outputs, const Passes& expected) {
    Split split(inputs, batch, stack.layers[0].in, 1);
    std::vector<float> outputs(batch * stack.layers.back().out);
    const auto tape = engine.make_tape();
    engine.forward(split.columns<const float>(), batch, outputs.data(), tape.get());
    std::vector<std::vector<float>> values, all;
    std::vector<LayerGradients> gradients;
    for (size_t l = 0; l < stack.layers.size(); ++l) {
        values.emplace_back(stack.values[l].size(), kNan);
        all.push_back(expected.all[l]);
    }
    for (size_t l = 0; l < stack.layers.size(); ++l) gradients.push_back({values[l].data(), nullptr, all[l].data()});
    engine.backward(*tape, grad_outputs.data(), {{nullptr}, {stack.layers[0].in}}, gradients);
    for (size_t l = 0; l < stack.layers.size(); ++l) {
        CHECK(values[l] == expected.values[l]);
        for (size_t i = 0; i < all[l].size(); ++i)
            CHECK(all[l][i] == 2 * expected.all[l][i]);  // added to the existing values
    }
}

void require_equal(const Passes& got, const Passes& expected) {
    CHECK(got.x.back() == expected.x.back());
    CHECK(got.grad_inputs == expected.grad_inputs);
    CHECK(got.values == expected.values);
    CHECK(got.biases == expected.biases);
}

void compare(const std::vector<Shape>& shapes, size_t batch, unsigned seed) {
    Stack stack(shapes, seed);
    const auto engine = make_amx_engine();
    stack.load(*engine);
    const auto inputs = stack.whole(batch * shapes[0].in, 3), grads = stack.whole(batch * shapes.back().out, 2);
    const Passes expected = check::reference(stack, inputs, batch, grads);
    const Passes got = run(*engine, stack, inputs, batch, grads, 1 + seed % 3);
    require_equal(got, expected);
    Split split(inputs, batch, shapes[0].in, 1);
    std::vector<float> outputs(batch * shapes.back().out, kNan);
    engine->forward(split.columns<const float>(), batch, outputs.data(), nullptr);
    CHECK(outputs == expected.x.back());
    require_all(*engine, stack, inputs, batch, grads, expected);
    ThreadPool::instance().set_num_threads(2);
    const Passes shared = run(*engine, stack, inputs, batch, grads, 1 + seed % 3);
    ThreadPool::instance().set_num_threads(1);
    require_equal(shared, expected);
}

TEST(amx_computes_one_layer_of_any_shape) {
    if (absent()) return;
    unsigned seed = 0;
    for (const uint32_t in : {1, 15, 16, 17, 33, 100})
        for (const uint32_t out : {1, 15, 16, 17, 33, 100})
            for (const double density : {0.0, 0.05, 0.3, 0.7, 1.0}) {
                ++seed;
                compare({{in, out, density, seed % 2 == 0}}, std::vector<size_t>{1, 3, 17, 33, 64}[seed % 5], seed);
            }
}

TEST(amx_computes_any_batch) {
    if (absent()) return;
    for (const size_t batch : {0, 1, 2, 3, 4, 5, 15, 16, 17, 31, 32, 33, 63, 64, 65, 300})
        for (const double density : {0.1, 0.4, 1.0})
            compare({{33, 48, density}, {48, 17, density, false}}, batch, static_cast<unsigned>(batch));
}

TEST(amx_computes_stacks_of_sparse_and_dense_layers) {
    if (absent()) return;
    compare({{100, 512, 0.1}, {512, 33, 1.0}, {33, 1, 1.0, false}}, 65, 1);
    compare({{512, 100, 0.2}, {100, 100, 0.65}, {100, 16, 0.12}}, 130, 2);
    compare({{17, 64, 1.0, false}, {64, 512, 0.05}, {512, 64, 0.9, false}}, 40, 3);
    compare({{40, 32, 0.0}, {32, 20, 0.3}}, 70, 4);
    compare({{429, 128, 0.5}, {128, 64, 0.13}}, 1100, 5);
}

TEST(amx_rounds_inputs_weights_and_gradients_to_the_nearest) {
    if (absent()) return;
    for (const double density : {0.1, 0.6, 1.0}) {
        Stack stack({{100, 64, density, false}}, 7);
        std::normal_distribution<float> normal;
        for (float& w : stack.values[0]) w = normal(stack.generator);
        std::vector<float> inputs(70 * 100), grads(70 * 64);
        for (float& x : inputs) x = normal(stack.generator);
        for (float& g : grads) g = normal(stack.generator);
        const auto engine = make_amx_engine();
        stack.load(*engine);
        const Passes expected = check::reference(stack, inputs, 70, grads);
        const Passes got = run(*engine, stack, inputs, 70, grads, 2);
        const auto close = [](const std::vector<float>& a, const std::vector<float>& b, float most) {
            CHECK(a.size() == b.size());
            for (size_t i = 0; i < a.size(); ++i) CHECK(std::abs(a[i] - b[i]) <= most);  // float32 sums near 10
        };
        close(got.x.back(), expected.x.back(), 4e-5f);
        close(got.grad_inputs, expected.grad_inputs, 4e-5f);
        close(got.values[0], expected.values[0], 1e-4f);
        close(got.biases[0], expected.biases[0], 4e-5f);
        std::vector<float> few(3 * 64);
        Split split(inputs, 3, 100, 1);
        engine->forward(split.columns<const float>(), 3, few.data(), nullptr);
        close(few, {expected.x.back().begin(), expected.x.back().begin() + 3 * 64}, 4e-5f);
    }
}

TEST(nan_and_infinity_reach_only_results_that_depend_on_them) {
    if (absent()) return;
    for (const double density : {0.1, 0.3, 0.7, 1.0})
        for (const size_t batch : {2, 70}) {
            Stack stack({{60, 80, density}, {80, 40, density, false}}, 11);
            auto inputs = stack.whole(batch * 60, 2);
            auto grads = stack.whole(batch * 40, 2);
            inputs[1 * 60 + 0] = kNan;
            inputs[1 * 60 + 33] = std::numeric_limits<float>::infinity();
            grads[0 * 40 + 7] = kNan;
            grads[1 * 40 + 39] = -std::numeric_limits<float>::infinity();
            const auto engine = make_amx_engine();
            stack.load(*engine);
            const Passes expected = check::reference(stack, inputs, batch, grads);
            const Passes got = run(*engine, stack, inputs, batch, grads, 1);
            const auto same = [](const std::vector<float>& a, const std::vector<float>& b) {
                for (size_t i = 0; i < a.size(); ++i) CHECK(a[i] == b[i] || (std::isnan(a[i]) && std::isnan(b[i])));
            };
            same(got.x.back(), expected.x.back());
            same(got.grad_inputs, expected.grad_inputs);
            for (size_t l = 0; l < 2; ++l)
                same(got.values[l], expected.values[l]), same(got.biases[l], expected.biases[l]);
            std::vector<float> outputs(batch * 40);
            Split split(inputs, batch, 60, 1);
            engine->forward(split.columns<const float>(), batch, outputs.data(), nullptr);
            same(outputs, expected.x.back());
        }
}

TEST(amx_serves_callers_that_come_at_the_same_time) {
    if (absent()) return;
    ThreadPool::instance().set_num_threads(2);
    Stack stack({{100, 128, 0.2}, {128, 16, 1.0, false}}, 5);
    const auto engine = make_amx_engine();
    stack.load(*engine);
    std::vector<std::thread> callers;
    for (const size_t batch : {3, 40, 200}) {
        const auto inputs = stack.whole(batch * 100, 2), grads = stack.whole(batch * 16, 2);
        callers.emplace_back([&engine, mine = stack, inputs, grads, batch]() mutable {
            const Passes expected = check::reference(mine, inputs, batch, grads);
            for (int turn = 0; turn < 20; ++turn) require_equal(run(*engine, mine, inputs, batch, grads, 1), expected);
        });
    }
    for (std::thread& caller : callers) caller.join();
    ThreadPool::instance().set_num_threads(1);
}

TEST(a_load_replaces_the_topology) {
    if (absent()) return;
    const auto engine = make_amx_engine();
    for (const double density : {1.0, 0.3, 0.3, 0.05, 0.8}) {
        Stack stack({{50, 70, density}, {70, 20, density}}, static_cast<unsigned>(density * 100));
        const auto inputs = stack.whole(40 * 50, 2), grads = stack.whole(40 * 20, 2);
        for (int turn = 0; turn < 2; ++turn) {
            stack.load(*engine);
            require_equal(run(*engine, stack, inputs, 40, grads, 1), check::reference(stack, inputs, 40, grads));
            for (auto& weights : stack.values) std::reverse(weights.begin(), weights.end() - 16 * 16);
        }
    }
}

}  // namespace

#endif
