// The settings of tables by the names that Python gives them. Included by bindings_table.cpp alone.
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
    for (const auto& [known, value] : names)
        if (name == known) return value;
    refuse(std::string(field) + " is unknown, got '" + name + "'");
}

Hyper hyper_of(const std::map<std::string, double>& values) {
    Hyper hyper;
    const std::map<std::string, float*> fields = {{"lr", &hyper.lr},
                                                  {"eps", &hyper.eps},
                                                  {"initial_accumulator", &hyper.initial_accumulator},
                                                  {"beta1", &hyper.beta1},
                                                  {"beta2", &hyper.beta2},
                                                  {"l1", &hyper.l1},
                                                  {"l2", &hyper.l2},
                                                  {"beta", &hyper.beta},
                                                  {"momentum", &hyper.momentum},
                                                  {"nesterov", &hyper.nesterov},
                                                  {"rho", &hyper.rho},
                                                  {"weight_decay", &hyper.weight_decay},
                                                  {"clip_norm", &hyper.clip_norm}};
    for (const auto& [name, value] : values) {
        const auto field = fields.find(name);
        if (field == fields.end()) refuse("hyper has no field '" + name + "'");
        *field->second = static_cast<float>(value);
    }
    return hyper;
}

const std::vector<std::pair<const char*, Encoding>> kEncodings = {
    {"fp32", Encoding::kFp32}, {"fp16", Encoding::kFp16}, {"int8", Encoding::kInt8}, {"int4", Encoding::kInt4}};

std::string name_of(Encoding encoding) {
    for (const auto& [name, value] : kEncodings)
        if (value == encoding) return name;
    return "";
}

Slice slice_of(const std::string& name, uint32_t dim, const std::string& optimizer,
               const std::map<std::string, double>& hyper, const std::string& initializer, float init_scale,
               const std::string& encoding) {
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
    slice.hyper = hyper_of(hyper);
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

TableSettings settings_of(const std::vector<Slice>& slices, uint64_t seed, const std::string& admission,
                          int64_t admit_after, uint64_t sketch_bytes, int64_t sketch_window_s, int64_t ttl_s,
                          const std::string& eviction, uint64_t budget_bytes, int64_t half_life_s) {
    if (slices.empty()) refuse("slices must be at least one, got none");
    TableSettings settings;
    settings.slices = slices;
    if (settings.dim() == 0 || settings.dim() % 4 != 0)
        refuse("dim must be a positive multiple of 4, got " + std::to_string(settings.dim()));
    if (admit_after < 1 || admit_after > 65535)
        refuse("admit_after must be in 1..65535, got " + std::to_string(admit_after));
    if (ttl_s < 0) refuse("ttl_s must be >= 0, got " + std::to_string(ttl_s));
    settings.seed = seed;
    settings.admission = named<Admission>("admission", admission,
                                          {{"count", Admission::kCount},
                                           {"sketch", Admission::kSketch},
                                           {"probability", Admission::kProbability},
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
