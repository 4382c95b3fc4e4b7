// Experts of a model with fixed weights, from Python.
#include <numeric>

#include "bindings/fixed_layers.hpp"

namespace monolith::ranking {

namespace {

GateShape gate_of(const Gate& gate, uint32_t tasks) {
    const auto& [kind, experts, slots, kept, temperature, width] = gate;
    if (kind != "flat" && kind != "tree") refuse_unknown("gate", kind, {"flat", "tree"});
    if (experts < 1 || experts > 64) refuse("experts must be in [1, 64], got " + std::to_string(experts));
    if (kind == "tree" && (experts & (experts - 1)) != 0) refuse("experts of a tree must be a power of 2");
    if (slots < 1 || kept < 1) refuse("slots and kept experts must be >= 1");
    return {kind == "tree" ? GateKind::kTree : GateKind::kFlat, tasks, experts, slots, kept, temperature, width};
}

}  // namespace

void set_experts(Model& model, const Gate& gate, const Layers& scores, const ExpertLayers& experts,
                 const ConstFloats& biases, const Places& shared, const Places& candidate) {
    const uint32_t tasks = model.shape().tasks;
    const GateShape shape = gate_of(gate, tasks);
    const std::vector<LayerWeights> gates = weights_of(scores);
    expect_columns(gates, shared, candidate);
    expect("scores", size_t{tasks} * shape.num_scores(), gates.back().out);
    expect("experts", shape.experts, experts.size());
    expect("biases", tasks, biases.size());
    expect("shared inputs", model.shared_inputs(), shared.size());
    expect("inputs of candidates", model.candidate_inputs(), candidate.size());
    std::vector<Top> tops;
    for (const auto& [layers, stacks] : experts) {
        const std::vector<LayerWeights> weights = weights_of(layers);
        expect("outputs", tasks, weights.back().out);
        if (stacks.empty() != experts.front().second.empty()) refuse("stacks must be of all experts or of none");
        if (stacks.empty()) {
            expect_columns(weights, shared, candidate);
            tops.emplace_back(weights, shared, candidate, stacks);
            continue;
        }
        expect("inputs of an expert", shared.size() + candidate.size(), stacks.front()->in());
        expect("outputs of an expert", weights.front().in, stacks.back()->out());
        Places all(weights.front().in);
        std::iota(all.begin(), all.end(), 0u);
        tops.emplace_back(weights, Places{}, all, stacks);
    }
    DenseStack layer(gates, shared, candidate);
    model.set_experts({shape, std::move(layer), std::move(tops), {biases.data(), biases.data() + tasks}, shared.size()});
}

}  // namespace monolith::ranking
