// Tests of sparse linear stacks under the sanitizers: every kind of tail, in exactly sized memory, and threads.
#include <cmath>
#include <cstddef>
#include <memory>
#include <thread>
#include <vector>

#include "check.hpp"
#include "memory/thread_pool.hpp"
#include "tower/optimizers.hpp"
#include "tower/stack.hpp"

namespace {

using namespace monolith;

float value_at(size_t i) { return static_cast<float>(i * 37 % 19) / 19.0f - 0.45f; }

std::vector<float> values_of(size_t n) {
    std::vector<float> values(n);
    for (size_t i = 0; i < n; ++i) values[i] = value_at(i);
    return values;
}

// A stack with live atoms (block b, column c) where (b + c) % 3 == 0, and memory for all results.
struct Fixture {
    std::vector<TowerShape> shapes;
    size_t batch;
    TowerStack stack;
    std::vector<std::vector<float>> values, biases, inputs, grad_inputs, grad_values, grad_biases, grad_all;
    std::vector<uint32_t> widths;
    std::vector<float> outputs, grad_outputs;

    Fixture(std::vector<TowerShape> layers, uint32_t height, size_t examples, std::vector<uint32_t> parts)
        : shapes(std::move(layers)), batch(examples), stack(shapes, height, false), widths(std::move(parts)) {
        std::vector<TowerStack::Weights> weights;
        for (size_t l = 0; l < shapes.size(); ++l) {
            const uint32_t blocks = (shapes[l].out + height - 1) / height;
            std::vector<uint32_t> bounds{0};
            std::vector<int64_t> columns;
            for (uint32_t b = 0; b < blocks; ++b) {
                for (uint32_t c = 0; c < shapes[l].in; ++c)
                    if ((b + c) % 3 == 0) columns.push_back(c);
                bounds.push_back(static_cast<uint32_t>(columns.size()));
            }
            stack.set_topology(l, bounds, columns);
            values.push_back(values_of(columns.size() * height));
            biases.push_back(values_of(shapes[l].out));
            grad_values.emplace_back(values[l].size());
            grad_biases.emplace_back(biases[l].size());
            grad_all.emplace_back(size_t{blocks} * shapes[l].in * height);
        }
        for (size_t l = 0; l < shapes.size(); ++l)
            weights.push_back({values[l].data(), values[l].size() / height, biases[l].data()});
        stack.load(weights);
        for (const uint32_t width : widths) {
            inputs.push_back(values_of(batch * width));
            grad_inputs.emplace_back(batch * width);
        }
        outputs.resize(batch * shapes.back().out);
        grad_outputs = values_of(outputs.size());
    }

    Columns<const float> columns() const {
        Columns<const float> columns{{}, widths};
        for (const auto& part : inputs) columns.parts.push_back(part.data());
        return columns;
    }

    void step() {
        const TowerStack::Tape tape = stack.forward_tape(columns(), batch, outputs.data());
        Columns<float> to{{}, widths};
        for (auto& part : grad_inputs) to.parts.push_back(part.data());
        std::vector<LayerGradients> gradients;
        for (size_t l = 0; l < shapes.size(); ++l)
            gradients.push_back({grad_values[l].data(), grad_biases[l].data(), grad_all[l].data()});
        stack.backward(tape, grad_outputs.data(), to, gradients);
    }
};

TEST(tails_of_batches_layers_and_parts_stay_within_their_memory) {
    const std::string before = simd_level();
    for (const std::string& level : simd_levels()) {
        set_simd_level(level);
        for (const uint32_t height : {16u, 1u})
            for (const size_t batch : {0u, 1u, 3u, 11u, 12u, 16u, 33u, 80u}) {
                Fixture stack({{35, 17, true}, {17, 1, false}}, height, batch, {1, 0, 34});
                stack.step();
                for (float& output : stack.outputs) output = std::nanf("");
                stack.stack.forward(stack.columns(), batch, stack.outputs.data());
                for (const float output : stack.outputs) CHECK(std::isfinite(output));
            }
    }
    set_simd_level(before);
}

TEST(an_output_is_its_bias_and_its_live_atoms) {
    Fixture stack({{5, 18, false}}, 16, 20, {5});
    stack.step();
    for (size_t n = 0; n < 20; ++n)
        for (size_t o = 0; o < 18; ++o) {
            double sum = value_at(o);
            size_t k = o < 16 ? 0 : 2;  // block 0 has atoms in columns 0 and 3, block 1 in column 2
            for (size_t c = 0; c < 5; ++c)
                if ((o / 16 + c) % 3 == 0) sum += double{value_at(k++ * 16 + o % 16)} * value_at(n * 5 + c);
            CHECK(std::abs(sum - stack.outputs[n * 18 + o]) < 1e-5);
        }
    for (size_t k = 2; k < 3; ++k)
        for (size_t r = 2; r < 16; ++r) CHECK(stack.grad_values[0][k * 16 + r] == 0);
}

TEST(results_do_not_depend_on_the_number_of_threads) {
    for (const uint32_t height : {16u, 1u}) {
        std::vector<std::unique_ptr<Fixture>> runs;
        for (const int threads : {1, 2, 3}) {
            ThreadPool::instance().set_num_threads(threads);
            runs.push_back(std::make_unique<Fixture>(std::vector<TowerShape>{{40, 33, true}, {33, 20, true}}, height,
                                                     size_t{600}, std::vector<uint32_t>{7, 33}));
            runs.back()->step();
        }
        ThreadPool::instance().set_num_threads(1);
        for (size_t i = 1; i < runs.size(); ++i) {
            CHECK(runs[0]->outputs == runs[i]->outputs);
            CHECK(runs[0]->grad_inputs == runs[i]->grad_inputs);
            CHECK(runs[0]->grad_values == runs[i]->grad_values);
            CHECK(runs[0]->grad_biases == runs[i]->grad_biases);
            CHECK(runs[0]->grad_all == runs[i]->grad_all);
        }
    }
}

TEST(forwards_run_together_and_a_load_waits_for_them) {
    ThreadPool::instance().set_num_threads(2);
    Fixture shared({{35, 33, true}, {33, 17, false}}, 16, 70, {35});
    shared.step();
    std::vector<std::thread> callers;
    std::atomic<int> num_wrong = 0;
    for (int caller = 0; caller < 3; ++caller)
        callers.emplace_back([&] {
            std::vector<float> outputs(shared.outputs.size());
            for (int turn = 0; turn < 30; ++turn) {
                shared.stack.forward(shared.columns(), turn % 2 ? 70 : 5, outputs.data());
                const TowerStack::Tape tape = shared.stack.forward_tape(shared.columns(), 70, outputs.data());
                num_wrong += outputs != shared.outputs;
            }
        });
    for (int turn = 0; turn < 10; ++turn) {
        std::vector<TowerStack::Weights> weights;
        for (size_t l = 0; l < 2; ++l)
            weights.push_back({shared.values[l].data(), shared.values[l].size() / 16, shared.biases[l].data()});
        shared.stack.load(weights);
    }
    for (std::thread& caller : callers) caller.join();
    ThreadPool::instance().set_num_threads(1);
    CHECK(num_wrong == 0);
}

TEST(a_tape_outlives_its_stack_and_is_refused_after_a_load) {
    auto stack =
        std::make_unique<Fixture>(std::vector<TowerShape>{{5, 3, true}}, 16u, size_t{20}, std::vector<uint32_t>{5});
    TowerStack::Tape tape = stack->stack.forward_tape(stack->columns(), 20, stack->outputs.data());
    stack->stack.load({{stack->values[0].data(), 2, stack->biases[0].data()}});
    CHECK_THROWS(stack->stack.backward(tape, stack->grad_outputs.data(), {{nullptr}, {5}}, {{}}),
                 std::invalid_argument);
    stack.reset();
    tape.engine_tape.reset();
}

TEST(a_topology_that_does_not_fit_changes_nothing) {
    Fixture stack({{5, 18, false}}, 16, 4, {5});
    CHECK_THROWS(stack.stack.set_topology(0, {0, 1, 3}, {0, 4, 4}), std::invalid_argument);
    CHECK_THROWS(stack.stack.set_topology(0, {0, 1, 2}, {0, 5}), std::invalid_argument);
    stack.step();
    stack.stack.set_topology(0, {0, 0, 1}, {4});
    CHECK_THROWS(stack.step(), std::invalid_argument);
}

TEST(optimizers_change_only_their_atoms) {
    for (const auto& [n, height] : {std::pair{1u, 16u}, {7u, 16u}, {5000u, 16u}, {5000u, 1u}, {1u, 70'003u}}) {
        const size_t size = size_t{n} * height;
        std::vector<float> values = values_of(size), gradients = values_of(size), m(size), v(size), sums(n);
        std::vector<uint32_t> steps(n);
        ThreadPool::instance().set_num_threads(2);
        step_adam(values.data(), gradients.data(), m.data(), v.data(), steps.data(), n, height,
                  {0.1, 0.9, 0.999, 1e-8, 4});
        step_adagrad(values.data(), gradients.data(), v.data(), size, {0.1f, 1e-8f, 4});
        kernels().tower.taylor(values.data(), gradients.data(), sums.data(), n, height, 4);
        ThreadPool::instance().set_num_threads(1);
        for (const uint32_t count : steps) CHECK(count == 1);
        for (const float value : values) CHECK(std::isfinite(value));
        for (const float sum : sums) CHECK(sum >= 0);
    }
}

}  // namespace
