// Python bindings of models with fixed weights.
#include <nanobind/stl/pair.h>
#include <nanobind/stl/tuple.h>

#include <algorithm>
#include <numeric>
#include <string>
#include <tuple>
#include <utility>

#include "bindings/arrays.hpp"
#include "bindings/module.hpp"
#include "memory/thread_pool.hpp"
#include "ranking/model.hpp"

namespace {

using namespace monolith;
using namespace monolith::ranking;

using Layers = std::vector<std::tuple<ConstMatrix, ConstFloats, bool, bool>>;
using Places = std::vector<uint32_t>;
// Kind, experts, slots, kept experts, temperature, width of splits.
using Gate = std::tuple<std::string, uint32_t, uint32_t, uint32_t, float, float>;
using ExpertLayers = std::vector<std::pair<Layers, std::vector<const TowerStack*>>>;

std::vector<LayerWeights> weights_of(const Layers& layers) {
    if (layers.empty()) refuse("layers must be at least one, got none");
    std::vector<LayerWeights> weights;
    for (const auto& [matrix, biases, relu, bf16] : layers) {
        expect("biases", matrix.shape(0), biases.size());
        if (!weights.empty()) expect("inputs of a layer", weights.back().out, matrix.shape(1));
        weights.push_back({matrix.data(), biases.data(), static_cast<uint32_t>(matrix.shape(1)),
                           static_cast<uint32_t>(matrix.shape(0)), relu, bf16});
    }
    return weights;
}

void expect_columns(const std::vector<LayerWeights>& weights, const Places& shared, const Places& candidate) {
    expect("columns", weights[0].in, shared.size() + candidate.size());
    for (const Places* places : {&shared, &candidate})
        for (uint32_t place : *places)
            if (place >= weights[0].in) refuse("a column must be below " + std::to_string(weights[0].in));
}

Model* make_model(const std::string& kind, uint32_t dim, std::pair<uint32_t, uint32_t> features,
                  std::pair<uint32_t, uint32_t> dense, uint32_t tasks) {
    if (kind != "deepfm" && kind != "dlrm" && kind != "dcn") refuse_unknown("kind", kind, {"deepfm", "dlrm", "dcn"});
    const Kind of = kind == "deepfm" ? Kind::kDeepFm : kind == "dlrm" ? Kind::kDlrm : Kind::kDcn;
    return new Model({of, dim, features.first, features.second, dense.first, dense.second, tasks});
}

void set_top(Model& model, const Layers& layers, const Places& shared, const Places& candidate,
             std::vector<const TowerStack*> stacks) {
    const std::vector<LayerWeights> weights = weights_of(layers);
    expect_columns(weights, shared, candidate);
    expect("outputs", model.shape().tasks, weights.back().out);
    nb::gil_scoped_release nogil;
    model.set_top(weights, shared, candidate, std::move(stacks));
}

GateShape gate_of(const Gate& gate, uint32_t tasks) {
    const auto& [kind, experts, slots, kept, temperature, width] = gate;
    if (kind != "flat" && kind != "tree") refuse_unknown("gate", kind, {"flat", "tree"});
    if (experts < 1 || experts > 64) refuse("experts must be in [1, 64], got " + std::to_string(experts));
    if (kind == "tree" && (experts & (experts - 1)) != 0) refuse("experts of a tree must be a power of 2");
    if (slots < 1 || kept < 1) refuse("slots and kept experts must be >= 1");
    return {kind == "tree" ? GateKind::kTree : GateKind::kFlat, tasks, experts, slots, kept, temperature, width};
}

void set_experts(Model& model, const Gate& gate, const Layers& scores, const ExpertLayers& experts,
                 const ConstFloats& biases, const Places& shared, const Places& candidate) {
    const uint32_t tasks = model.shape().tasks;
    const GateShape shape = gate_of(gate, tasks);
    const std::vector<LayerWeights> gates = weights_of(scores);
    expect_columns(gates, shared, candidate);
    expect("scores", size_t{tasks} * shape.num_scores(), gates.back().out);
    expect("experts", shape.experts, experts.size());
    expect("biases", tasks, biases.size());
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
    model.set_experts({shape, std::move(layer), std::move(tops), {biases.data(), biases.data() + tasks}, shared.size()},
                      candidate.size());
}

// Start and length of a sequence, whether its target is shared, row of the target.
using Place = std::tuple<uint32_t, uint32_t, bool, uint32_t>;

// All attentions are added before any layer is set: they decide where rows lie.
void add_attention(Model& model, const Layers& layers, const std::vector<Place>& places, size_t number) {
    const std::vector<LayerWeights> weights = weights_of(layers);
    expect("inputs of an attention", size_t{3} * model.shape().dim, weights.front().in);
    expect("outputs of an attention", 1, weights.back().out);
    const size_t num_shared = [&] {
        size_t num = model.shape().shared_features;
        for (const Place& one : places) num += std::get<1>(one);
        return num;
    }();
    const auto [start, length, is_shared, target] = places.at(number);
    if (size_t{start} + length > num_shared) refuse("a sequence must lie in the shared rows");
    if (target >= (is_shared ? num_shared : model.shape().candidate_features - places.size()))
        refuse("a target must be a pooled row");
    model.add_attention(Attention(weights, model.shape().dim, {start, length, is_shared, target}));
}

void set_bottom(Model& model, const Layers& layers, const Places& shared, const Places& candidate) {
    const std::vector<LayerWeights> weights = weights_of(layers);
    expect_columns(weights, shared, candidate);
    expect("outputs", model.shape().dim, weights.back().out);
    nb::gil_scoped_release nogil;
    model.set_bottom(weights, shared, candidate);
}

void set_cross(Model& model, const std::vector<Layers>& layers, const Layers& beside) {
    if (model.shape().kind != Kind::kDcn) refuse("cross layers must be of a model of the kind dcn");
    if (layers.empty()) refuse("cross layers must be at least one, got none");
    const size_t width = model.shared_inputs() + model.candidate_inputs();
    std::vector<std::vector<LayerWeights>> products;
    for (const Layers& one : layers) {
        products.push_back(weights_of(one));
        expect("inputs of a cross layer", width, products.back().front().in);
        expect("outputs of a cross layer", width, products.back().back().out);
    }
    std::vector<LayerWeights> head;
    if (!beside.empty()) {
        head = weights_of(beside);
        expect("inputs of the head", width, head.front().in);
        expect("outputs of the head", model.shape().tasks, head.back().out);
    }
    nb::gil_scoped_release nogil;
    model.set_cross(products, head);
}

void set_scales(Model& model, const ConstMatrix& scales) {
    expect_matrix("scales", 2, model.shape().tasks, scales);
    model.set_scales({scales.data(), scales.data() + scales.size()});
}

void set_links(Model& model, const std::vector<std::pair<std::string, uint32_t>>& links) {
    static const std::vector<std::string> kinds{"sigmoid", "softmax", "value", "log1p"};
    std::vector<Link> found;
    size_t tasks = 0;
    for (const auto& [name, size] : links) {
        const auto kind = std::find(kinds.begin(), kinds.end(), name);
        if (kind == kinds.end()) refuse_unknown("link", name, kinds);
        found.push_back({static_cast<LinkKind>(kind - kinds.begin()), size});
        tasks += size;
    }
    if (!links.empty()) expect("tasks of the links", model.shape().tasks, tasks);
    model.set_links(std::move(found));
}

// Candidates scored at once.
constexpr size_t kRowsAtOnce = 256;

// Logits (B, T) of a model without shared inputs, from pooled rows (B, F * D) and dense features (B, W).
void logits(const Model& model, const ConstMatrix& pooled, const ConstMatrix& dense, const Matrix& out) {
    const ModelShape& shape = model.shape();
    if (shape.shared_features + shape.shared_dense > 0) refuse("a model must have no shared inputs to score a batch");
    const size_t n = out.shape(0), width = size_t{shape.candidate_features} * shape.dim, stride = model.stride();
    expect_matrix("pooled", n, width, pooled);
    expect_matrix("dense", n, shape.candidate_dense, dense);
    expect_matrix("logits", n, shape.tasks, out);
    nb::gil_scoped_release nogil;
    SharedPart part;
    model.begin(nullptr, part);
    const auto score = [&](size_t block) {
        static thread_local std::vector<float> inputs;
        const size_t first = block * kRowsAtOnce, num = std::min(kRowsAtOnce, n - first);
        inputs.assign(num * stride, 0.0f);
        for (size_t i = 0; i < num; ++i)
            std::copy_n(pooled.data() + (first + i) * width, width, inputs.data() + i * stride);
        const float* const own = dense.data() + first * shape.candidate_dense;
        model.score(part, inputs.data(), own, num, out.data() + first * shape.tasks);
    };
    const size_t num_blocks = (n + kRowsAtOnce - 1) / kRowsAtOnce;
    if (model.has_stacks()) {  // they share the threads of each block
        for (size_t block = 0; block < num_blocks; ++block) score(block);
    } else {
        ThreadPool::instance().run(num_blocks, score);
    }
}

}  // namespace

void bind_fixed_model(nb::module_& m) {
    using namespace nb::literals;
    const auto array = [](const char* name) { return nb::arg(name).noconvert(); };
    nb::class_<Model>(m, "FixedModel")
        .def(nb::new_(&make_model), "kind"_a, "dim"_a, "features"_a, "dense"_a, "tasks"_a)
        .def("set_top", &set_top, array("layers"), "shared"_a, "candidate"_a, "stacks"_a, nb::keep_alive<1, 5>())
        .def("set_experts", &set_experts, "gate"_a, array("scores"), array("experts"), array("biases"), "shared"_a,
             "candidate"_a, nb::keep_alive<1, 4>())
        .def("add_attention", &add_attention, array("layers"), "places"_a, "number"_a)
        .def("set_bottom", &set_bottom, array("layers"), "shared"_a, "candidate"_a)
        .def("set_cross", &set_cross, array("layers"), array("beside"))
        .def("set_links", &set_links, "links"_a)
        .def("set_scales", &set_scales, array("scales"))
        .def("logits", &logits, array("pooled"), array("dense"), array("out"));
}
