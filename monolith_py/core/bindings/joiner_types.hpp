// Types of the joiner's interface in Python, and their conversion.
#pragma once

#include <nanobind/stl/array.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/unordered_map.h>

#include <tuple>
#include <utility>

#include "bindings/arrays.hpp"
#include "joiner/partition.hpp"

namespace {

using namespace monolith;
using namespace monolith::joiner;

using WatermarkFields = std::tuple<std::optional<int64_t>, std::array<std::optional<int64_t>, kNumInputs>, int64_t,
                                   std::array<std::vector<int64_t>, kNumInputs>>;

// Offsets of the inputs, the end of the examples, the last step.
using PlaceFields = std::tuple<int64_t, int64_t, int64_t, int64_t>;

inline WatermarkState state_of(const WatermarkFields& fields) {
    const auto& [watermark_ms, newest_ms, newest_at_ms, recent_ms] = fields;
    return {watermark_ms, newest_ms, newest_at_ms, recent_ms};
}

inline OpenPlace place_of(const PlaceFields& fields) {
    const auto& [impressions, actions, examples, step] = fields;
    return {{impressions, actions}, examples, step};
}

inline nb::bytes bytes_of(std::string_view value) { return nb::bytes(value.data(), value.size()); }
inline std::string_view view_of(const nb::bytes& value) { return {value.c_str(), value.size()}; }

inline InputTopic topic_of(int topic) {
    if (topic != kImpressions && topic != kActions) refuse("topic must be 0 or 1, got " + std::to_string(topic));
    return static_cast<InputTopic>(topic);
}

inline PlaceFields fields_of(const OpenPlace& place) {
    return {place.offsets[kImpressions], place.offsets[kActions], place.examples, place.step};
}

}  // namespace
