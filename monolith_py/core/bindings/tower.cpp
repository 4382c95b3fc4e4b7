// Python bindings of sparse linear stacks and their optimizers: check the shapes once, then release the GIL.
#include <nanobind/stl/tuple.h>

#include <tuple>

#include "bindings/arrays.hpp"
#include "bindings/module.hpp"
#include "tower/optimizers.hpp"
#include "tower/stack.hpp"

namespace {

using namespace monolith;
using Cube = nb::ndarray<float, nb::ndim<3>, nb::c_contig, nb::device::cpu>;
using Vector = nb::ndarray<float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using ConstColumns = nb::ndarray<const int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Layers = std::vector<std::tuple<uint32_t, uint32_t, bool>>;

std::string item(const char* name, size_t index) { return std::string(name) + "[" + std::to_string(index) + "]"; }

template <typename Array>
void expect_matrix_at(const char* name, size_t index, size_t n, size_t width, const Array& got) {
    if (got.shape(0) != n || got.shape(1) != width) expect_matrix(item(name, index).c_str(), n, width, got);
}

void expect_cube(size_t index, size_t blocks, size_t in, size_t height, const Cube& got) {
    const auto shape = [](size_t a, size_t b, size_t c) {
        return "(" + std::to_string(a) + ", " + std::to_string(b) + ", " + std::to_string(c) + ")";
    };
    if (got.shape(0) != blocks || got.shape(1) != in || got.shape(2) != height)
        refuse(item("grad_all", index) + " must be " + shape(blocks, in, height) + ", got " +
               shape(got.shape(0), got.shape(1), got.shape(2)));
}

TowerStack* make_stack(const Layers& layers, uint32_t atom_height, bool bf16) {
    std::vector<TowerShape> shapes;
    for (const auto& [in, out, relu] : layers) shapes.push_back({in, out, relu});
    return new TowerStack(shapes, atom_height, bf16);
}

Columns<const float> inputs_of(const TowerStack& stack, const std::vector<ConstMatrix>& inputs, const Matrix& outputs) {
    Columns<const float> columns;
    const size_t batch = outputs.shape(0);
    size_t width = 0;
    for (size_t p = 0; p < inputs.size(); ++p) {
        expect_matrix_at("inputs", p, batch, inputs[p].shape(1), inputs[p]);
        columns.parts.push_back(inputs[p].data());
        columns.widths.push_back(static_cast<uint32_t>(inputs[p].shape(1)));
        width += inputs[p].shape(1);
    }
    if (width != stack.in())
        refuse("inputs must have " + std::to_string(stack.in()) + " columns together, got " + std::to_string(width));
    expect_matrix("outputs", batch, stack.out(), outputs);
    return columns;
}

// Destination of the gradients of each part of the inputs; None: not wanted.
Columns<float> grad_inputs_of(const TowerStack::Tape& tape, const std::vector<std::optional<Matrix>>& parts) {
    expect("grad_inputs", tape.widths.size(), parts.size());
    Columns<float> columns{std::vector<float*>(parts.size()), tape.widths};
    for (size_t p = 0; p < parts.size(); ++p) {
        if (!parts[p]) continue;
        expect_matrix_at("grad_inputs", p, tape.engine_tape->batch, tape.widths[p], *parts[p]);
        columns.parts[p] = parts[p]->data();
    }
    return columns;
}

std::vector<LayerGradients> gradients_of(const TowerStack& stack, const std::vector<Matrix>& values,
                                         const std::vector<Vector>& biases,
                                         const std::optional<std::vector<Cube>>& all) {
    const std::vector<TowerLayer>& layers = stack.layers();
    expect("grad_values", layers.size(), values.size());
    expect("grad_biases", layers.size(), biases.size());
    if (all) expect("grad_all", layers.size(), all->size());
    std::vector<LayerGradients> gradients;
    for (size_t l = 0; l < layers.size(); ++l) {
        expect_matrix_at("grad_values", l, TowerStack::atoms(layers[l]), stack.height(), values[l]);
        expect(item("grad_biases", l).c_str(), layers[l].out, biases[l].size());
        if (all) expect_cube(l, TowerStack::blocks(layers[l]), layers[l].in, stack.height(), (*all)[l]);
        gradients.push_back({values[l].data(), biases[l].data(), all ? (*all)[l].data() : nullptr});
    }
    return gradients;
}

void load(TowerStack& stack, const std::vector<ConstMatrix>& values, const std::vector<ConstFloats>& biases) {
    const std::vector<TowerLayer>& layers = stack.layers();
    expect("values", layers.size(), values.size());
    expect("biases", layers.size(), biases.size());
    std::vector<TowerStack::Weights> weights;
    for (size_t l = 0; l < layers.size(); ++l) {
        expect_matrix_at("values", l, TowerStack::atoms(layers[l]), stack.height(), values[l]);
        expect(item("biases", l).c_str(), layers[l].out, biases[l].size());
        weights.push_back({values[l].data(), values[l].shape(0), biases[l].data()});
    }
    nb::gil_scoped_release nogil;
    stack.load(weights);
}

// `bounds` are uint32 or int32: a negative int32 becomes larger than any valid bound. The GIL stays held, so that no
// topology changes between another call's checks and its work.
template <typename Bounds>
void set_topology(TowerStack& stack, size_t layer, const Bounds& bounds, const ConstColumns& columns) {
    stack.set_topology(layer, {bounds.data(), bounds.data() + bounds.size()},
                       {columns.data(), columns.data() + columns.size()});
}

void forward(const TowerStack& stack, const std::vector<ConstMatrix>& inputs, const Matrix& outputs) {
    const Columns<const float> columns = inputs_of(stack, inputs, outputs);
    nb::gil_scoped_release nogil;
    stack.forward(columns, outputs.shape(0), outputs.data());
}

TowerStack::Tape forward_tape(const TowerStack& stack, const std::vector<ConstMatrix>& inputs, const Matrix& outputs) {
    const Columns<const float> columns = inputs_of(stack, inputs, outputs);
    nb::gil_scoped_release nogil;
    return stack.forward_tape(columns, outputs.shape(0), outputs.data());
}

void backward(const TowerStack& stack, const TowerStack::Tape& tape, const ConstMatrix& grad_outputs,
              const std::vector<std::optional<Matrix>>& grad_inputs, const std::vector<Matrix>& grad_values,
              const std::vector<Vector>& grad_biases, const std::optional<std::vector<Cube>>& grad_all) {
    expect_matrix("grad_outputs", tape.engine_tape->batch, stack.out(), grad_outputs);
    const Columns<float> columns = grad_inputs_of(tape, grad_inputs);
    const std::vector<LayerGradients> gradients = gradients_of(stack, grad_values, grad_biases, grad_all);
    nb::gil_scoped_release nogil;
    stack.backward(tape, grad_outputs.data(), columns, gradients);
}

// All arrays of one optimizer step. Arrays of one index belong together.
using Matrices = std::vector<Matrix>;
using ConstMatrices = std::vector<ConstMatrix>;

void expect_state(const char* name, const Matrices& values, const Matrices& state) {
    expect(name, values.size(), state.size());
    for (size_t i = 0; i < values.size(); ++i)
        expect_matrix_at(name, i, values[i].shape(0), values[i].shape(1), state[i]);
}
void expect_gradients(const Matrices& values, const ConstMatrices& gradients) {
    expect("gradients", values.size(), gradients.size());
    for (size_t i = 0; i < values.size(); ++i)
        expect_matrix_at("gradients", i, values[i].shape(0), values[i].shape(1), gradients[i]);
}

void tower_adam(const Matrices& values, const ConstMatrices& gradients, const Matrices& m, const Matrices& v,
                const std::vector<Rows>& steps, const AdamRates& rates) {
    expect_gradients(values, gradients);
    expect_state("m", values, m);
    expect_state("v", values, v);
    expect("steps", values.size(), steps.size());
    for (size_t i = 0; i < values.size(); ++i) expect(item("steps", i).c_str(), values[i].shape(0), steps[i].size());
    nb::gil_scoped_release nogil;
    for (size_t i = 0; i < values.size(); ++i)
        step_adam(values[i].data(), gradients[i].data(), m[i].data(), v[i].data(), steps[i].data(), values[i].shape(0),
                  static_cast<uint32_t>(values[i].shape(1)), rates);
}

void tower_adagrad(const Matrices& values, const ConstMatrices& gradients, const Matrices& state,
                   const AdagradRates& rates) {
    expect_gradients(values, gradients);
    expect_state("state", values, state);
    nb::gil_scoped_release nogil;
    for (size_t i = 0; i < values.size(); ++i)
        step_adagrad(values[i].data(), gradients[i].data(), state[i].data(), values[i].size(), rates);
}

void tower_taylor(const ConstMatrices& values, const ConstMatrices& gradients, const std::vector<Vector>& sums,
                  float grad_scale) {
    expect("gradients", values.size(), gradients.size());
    expect("sums", values.size(), sums.size());
    for (size_t i = 0; i < values.size(); ++i) {
        expect_matrix_at("gradients", i, values[i].shape(0), values[i].shape(1), gradients[i]);
        expect(item("sums", i).c_str(), values[i].shape(0), sums[i].size());
    }
    nb::gil_scoped_release nogil;
    for (size_t i = 0; i < values.size(); ++i)
        kernels().tower.taylor(values[i].data(), gradients[i].data(), sums[i].data(), values[i].shape(0),
                               static_cast<uint32_t>(values[i].shape(1)), grad_scale);
}

}  // namespace

void bind_tower(nb::module_& m) {
    using namespace nb::literals;
    const auto array = [](const char* name) { return nb::arg(name).noconvert(); };
    m.def("has_amx", &has_amx);
    nb::class_<TowerStack::Tape>(m, "TowerTape").def_prop_ro("batch", [](const TowerStack::Tape& tape) {
        return tape.engine_tape->batch;
    });
    nb::class_<TowerStack>(m, "TowerStack")
        .def(nb::new_(&make_stack), "layers"_a, "atom_height"_a, "bf16"_a)
        .def_prop_ro("engine", &TowerStack::engine)
        .def("set_topology", &set_topology<ConstColumns>, "layer"_a, array("bounds"), array("columns"))
        .def("set_topology", &set_topology<ConstRows>, "layer"_a, array("bounds"), array("columns"))
        .def("load", &load, array("values"), array("biases"))
        .def("forward", &forward, array("inputs"), array("outputs"))
        .def("forward_tape", &forward_tape, array("inputs"), array("outputs"), nb::keep_alive<0, 1>(),
             nb::keep_alive<0, 2>())
        .def("backward", &backward, "tape"_a, array("grad_outputs"), array("grad_inputs"), array("grad_values"),
             array("grad_biases"), array("grad_all").none());
    m.def(
        "tower_adam",
        [](const Matrices& values, const ConstMatrices& gradients, const Matrices& first, const Matrices& second,
           const std::vector<Rows>& steps, double lr, double beta1, double beta2, double eps, double grad_scale) {
            tower_adam(values, gradients, first, second, steps, {lr, beta1, beta2, eps, grad_scale});
        },
        array("values"), array("gradients"), array("m"), array("v"), array("steps"), "lr"_a, "beta1"_a, "beta2"_a,
        "eps"_a, "grad_scale"_a);
    m.def(
        "tower_adagrad",
        [](const Matrices& values, const ConstMatrices& gradients, const Matrices& state, float lr, float eps,
           float grad_scale) { tower_adagrad(values, gradients, state, {lr, eps, grad_scale}); },
        array("values"), array("gradients"), array("state"), "lr"_a, "eps"_a, "grad_scale"_a);
    m.def("tower_taylor", &tower_taylor, array("values"), array("gradients"), array("sums"), "grad_scale"_a);
}
