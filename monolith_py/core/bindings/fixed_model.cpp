// Python bindings of models with fixed weights.
#include <nanobind/stl/pair.h>
#include <nanobind/stl/tuple.h>

#include <algorithm>
#include <tuple>

#include "bindings/arrays.hpp"
#include "bindings/module.hpp"
#include "memory/thread_pool.hpp"
#include "ranking/model.hpp"

namespace {

using namespace monolith;
using namespace monolith::ranking;

using Layers = std::vector<std::tuple<ConstMatrix, ConstFloats, bool, bool>>;
using Places = std::vector<uint32_t>;

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
        .def("set_bottom", &set_bottom, array("layers"), "shared"_a, "candidate"_a)
        .def("set_cross", &set_cross, array("layers"), array("beside"))
        .def("set_links", &set_links, "links"_a)
        .def("set_scales", &set_scales, array("scales"))
        .def("logits", &logits, array("pooled"), array("dense"), array("out"));
}
