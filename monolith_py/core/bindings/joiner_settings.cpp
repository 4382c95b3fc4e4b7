// Python binding of the settings of the joiner, of its examples, and of its place in the log.
#include "bindings/joined.hpp"
#include "bindings/joiner_types.hpp"
#include "bindings/module.hpp"
#include "joiner/lookback.hpp"

namespace {

using KindFields = std::tuple<std::string, uint64_t, bool, bool>;  // name, bits, is terminal, closes its request

using RateFields = std::tuple<std::string, int64_t, double>;  // feature, fid, rate

Settings settings_of(std::vector<std::string> tasks, const std::vector<KindFields>& kinds, Widths widths) {
    Settings settings;
    settings.rules.labels = LabelLayout(std::vector<uint8_t>(tasks.size(), 1));
    settings.rules.tasks = std::move(tasks);
    settings.widths = std::move(widths);
    for (const auto& [name, bits, is_terminal, closes] : kinds)
        settings.rules.kinds.push_back({name, bits, is_terminal, closes});
    return settings;
}

}  // namespace

void bind_joiner_settings(nb::module_& m) {
    using namespace nb::literals;
    nb::class_<Settings>(m, "JoinerSettings")
        .def(
            "__init__",
            [](Settings* place, std::vector<std::string> tasks, const std::vector<KindFields>& kinds, Widths widths) {
                new (place) Settings(settings_of(std::move(tasks), kinds, std::move(widths)));
            },
            "tasks"_a, "kinds"_a, "widths"_a)
        .def_prop_rw(
            "emits_requests", [](const Settings& s) { return s.rules.emits_requests; },
            [](Settings& s, bool value) { s.rules.emits_requests = value; })
        .def_prop_rw(
            "waits_for_window", [](const Settings& s) { return s.rules.waits_for_window; },
            [](Settings& s, bool value) { s.rules.waits_for_window = value; })
        .def_prop_rw(
            "retracts", [](const Settings& s) { return s.rules.retracts; },
            [](Settings& s, bool value) { s.rules.retracts = value; })
        .def_prop_rw(
            "window_ms", [](const Settings& s) { return s.rules.window_ms; },
            [](Settings& s, int64_t value) { s.rules.window_ms = value; })
        .def_prop_rw(
            "allowed_lateness_ms", [](const Settings& s) { return s.rules.allowed_lateness_ms; },
            [](Settings& s, int64_t value) { s.rules.allowed_lateness_ms = value; })
        .def_prop_rw(
            "max_out_of_orderness_ms", [](const Settings& s) { return s.rules.max_out_of_orderness_ms; },
            [](Settings& s, int64_t value) { s.rules.max_out_of_orderness_ms = value; })
        .def(
            "set_negative_rates",
            [](Settings& s, double rate, const std::vector<RateFields>& by_value) {
                s.rules.negative_rates = NegativeRates(rate);
                for (const auto& [feature, fid, share] : by_value) s.rules.negative_rates.add(feature, fid, share);
            },
            "default"_a, "by_value"_a)
        .def(
            "set_label_widths",
            [](Settings& s, const std::vector<uint8_t>& widths) {
                expect("widths", s.rules.tasks.size(), widths.size());
                size_t sum = 0;
                for (uint8_t width : widths) {
                    if (width != 1 && width != 16) refuse("a width must be 1 or 16, got " + std::to_string(width));
                    sum += width;
                }
                if (sum > 64) refuse("widths must be at most 64 together, got " + std::to_string(sum));
                s.rules.labels = LabelLayout(widths);
            },
            "widths"_a)
        .def_rw("num_ahead", &Settings::num_ahead)
        .def_rw("num_agreeing", &Settings::num_agreeing)
        .def_rw("idle_timeout_s", &Settings::idle_timeout_s)
        .def_rw("max_skew_ms", &Settings::max_skew_ms)
        .def_rw("not_from_ms", &Settings::not_from_ms)
        .def_rw("not_to_ms", &Settings::not_to_ms)
        .def(
            "set_range",
            [](Settings& s, std::pair<int64_t, int64_t> impressions, std::pair<int64_t, int64_t> actions) {
                s.range = Range{impressions.first, impressions.second, actions.first, actions.second};
            },
            "impressions"_a, "actions"_a);
    nb::class_<Lookback>(m, "JoinerLookback")
        .def(
            "__init__",
            [](Lookback* place, const PlaceFields& open, int64_t until_ms, int64_t remembered_ms) {
                new (place) Lookback(place_of(open), until_ms, remembered_ms);
            },
            "place"_a, "until_ms"_a, "remembered_ms"_a)
        .def("note", [](Lookback& lookback, int topic, int64_t offset,
                        int64_t until_ms) { lookback.note(topic_of(topic), offset, until_ms); })
        .def(
            "commit",
            [](Lookback& lookback, const PlaceFields& place, std::optional<int64_t> closed_ms) {
                return fields_of(lookback.commit(place_of(place), closed_ms));
            },
            "place"_a, "closed_ms"_a.none());
}

void bind_joined(nb::module_& m) {
    using namespace nb::literals;
    nb::class_<Examples>(m, "JoinedExamples")
        .def("__len__", [](const Examples& examples) { return examples.columns.features().num_rows(); })
        .def("names", &Examples::names)
        .def("record", &record_of, "prefix"_a);
    nb::class_<Written>(m, "JoinedStep")
        .def("__len__", &Written::size)
        .def("newest_ms", &Written::newest_ms)
        .def("examples", &Written::examples, "start"_a, "stop"_a);
}
