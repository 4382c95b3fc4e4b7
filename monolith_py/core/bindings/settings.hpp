// Table settings from Python's names and numbers. Included only by bindings/table.cpp.
#pragma once

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "bindings/arrays.hpp"
#include "kernels/settings.hpp"

namespace {

using namespace monolith;

template <typename T>
T named(const char* field, const std::string& name, const std::vector<std::pair<const char*, T>>& names) {
    for (const auto& [one, value] : names)
        if (name == one) return value;
    std::vector<std::string> known;
    for (const auto& one : names) known.push_back(one.first);
    refuse_unknown(field, name, known);
}

Hyperparameters hyperparameters_of(const std::map<std::string, double>& values) {
    Hyperparameters hyperparameters;
    const std::map<std::string, float*> fields = {{"lr", &hyperparameters.lr},
                                                  {"eps", &hyperparameters.eps},
                                                  {"initial_accumulator", &hyperparameters.initial_accumulator},
                                                  {"beta1", &hyperparameters.beta1},
                                                  {"beta2", &hyperparameters.beta2},
                                                  {"l1", &hyperparameters.l1},
                                                  {"l2", &hyperparameters.l2},
                                                  {"beta", &hyperparameters.beta},
                                                  {"momentum", &hyperparameters.momentum},
                                                  {"nesterov", &hyperparameters.nesterov},
                                                  {"rho", &hyperparameters.rho},
                                                  {"weight_decay", &hyperparameters.weight_decay},
                                                  {"clip_norm", &hyperparameters.clip_norm}};
    for (const auto& [name, value] : values) {
        const auto field = fields.find(name);
        if (field == fields.end()) refuse("hyperparameters has no field '" + name + "'");
        *field->second = static_cast<float>(value);
    }
    return hyperparameters;
}

const std::vector<std::pair<const char*, Encoding>> kEncodings = {
    {"fp32", Encoding::kFp32}, {"fp16", Encoding::kFp16}, {"int8", Encoding::kInt8}, {"int4", Encoding::kInt4}};

[[maybe_unused]] std::string name_of(Encoding encoding) {
    for (const auto& [name, value] : kEncodings)
        if (value == encoding) return name;
    return "";
}

[[maybe_unused]] Slice slice_of(const std::string& name, uint32_t dim, const std::string& optimizer,
                                const std::map<std::string, double>& hyperparameters, const std::string& initializer,
                                float init_scale, const std::string& encoding) {
    Slice slice;
    slice.name = name;
    slice.dim = dim;
    slice.optimizer = named<Optimizer>("optimizer", optimizer,
                                       {{"sgd", Optimizer::kSgd},
                                        {"momentum", Optimizer::kMomentum},
                                        {"adagrad", Optimizer::kAdagrad},
                                        {"rowwise_adagrad", Optimizer::kRowwiseAdagrad},
                                        {"adadelta", Optimizer::kAdadelta},
                                        {"rmsprop", Optimizer::kRmsprop},
                                        {"adam", Optimizer::kAdam},
                                        {"amsgrad", Optimizer::kAmsgrad},
                                        {"adamw", Optimizer::kAdamW},
                                        {"ftrl", Optimizer::kFtrl},
                                        {"group_adagrad", Optimizer::kGroupAdagrad},
                                        {"group_ftrl", Optimizer::kGroupFtrl}});
    slice.hyperparameters = hyperparameters_of(hyperparameters);
    slice.initializer = named<Initializer>("initializer", initializer,
                                           {{"zeros", Initializer::kZeros},
                                            {"constant", Initializer::kConstant},
                                            {"uniform", Initializer::kUniform},
                                            {"normal", Initializer::kNormal},
                                            {"xavier", Initializer::kXavier}});
    slice.init_scale = init_scale;
    slice.encoding = named<Encoding>("encoding", encoding, kEncodings);
    return slice;
}

void expect_seconds(const char* field, int64_t value) {
    if (value < 0 || value > kMostSeconds)
        refuse(std::string(field) + " must be in 0..2^40, got " + std::to_string(value));
}

[[maybe_unused]] TableSettings settings_of(const std::vector<Slice>& slices, uint64_t seed,
                                           const std::string& admission, int64_t admit_after, uint64_t sketch_bytes,
                                           int64_t sketch_window_s, int64_t ttl_s, const std::string& eviction,
                                           uint64_t budget_bytes, int64_t half_life_s) {
    if (slices.empty()) refuse("slices must be at least one, got none");
    TableSettings settings;
    settings.slices = slices;
    if (settings.dim() == 0) refuse("dim must be >= 1, got 0");
    if (admit_after < 1 || admit_after > 65535)
        refuse("admit_after must be in 1..65535, got " + std::to_string(admit_after));
    expect_seconds("ttl_s", ttl_s);
    expect_seconds("sketch_window_s", sketch_window_s);
    expect_seconds("half_life_s", half_life_s);
    if (settings.dim() > kMostDim)
        refuse("dim must be at most " + std::to_string(kMostDim) + ", got " + std::to_string(settings.dim()));
    if (sketch_bytes > kMostSketchBytes)
        refuse("sketch_bytes must be at most 2^40, got " + std::to_string(sketch_bytes));
    settings.seed = seed;
    settings.admission = named<Admission>("admission", admission,
                                          {{"count", Admission::kCount},
                                           {"sketch", Admission::kSketch},
                                           {"proportional", Admission::kProportional},
                                           {"geometric", Admission::kGeometric}});
    settings.admit_after = static_cast<uint32_t>(admit_after);
    settings.sketch_bytes = sketch_bytes;
    settings.sketch_window_s = sketch_window_s;
    settings.ttl_s = ttl_s;
    settings.eviction = named<Eviction>(
        "eviction", eviction,
        {{"none", Eviction::kNone}, {"lru", Eviction::kLru}, {"lfu", Eviction::kLfu}, {"score", Eviction::kScore}});
    settings.budget_bytes = budget_bytes;
    settings.half_life_s = half_life_s;
    return settings;
}

}  // namespace
