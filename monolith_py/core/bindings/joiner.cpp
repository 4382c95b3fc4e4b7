// Python binding of the joiner of one partition.
#include <nanobind/stl/array.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/unordered_map.h>

#include <algorithm>
#include <memory>
#include <tuple>
#include <utility>

#include "bindings/arrays.hpp"
#include "bindings/module.hpp"
#include "bytes/archive.hpp"
#include "joiner/partition.hpp"
#include "joiner/records.hpp"

namespace {

using namespace monolith;
using namespace monolith::joiner;

using KindFields = std::tuple<std::string, uint64_t, bool, bool>;  // name, bits, is terminal, closes its request
using WatermarkFields = std::tuple<std::optional<int64_t>, std::array<std::optional<int64_t>, kNumInputs>, int64_t,
                                   std::array<int64_t, kNumInputs>, bool, std::optional<int64_t>>;

// Offsets of the inputs, the end of the examples, the last step.
using PlaceFields = std::tuple<int64_t, int64_t, int64_t, int64_t>;

WatermarkState state_of(const WatermarkFields& fields) {
    const auto& [watermark_ms, newest_ms, newest_at_ms, refusals, is_confirmed, furthest_seen_ms] = fields;
    return {watermark_ms, newest_ms, newest_at_ms, refusals, is_confirmed, furthest_seen_ms};
}

OpenPlace place_of(const PlaceFields& fields) {
    const auto& [impressions, actions, examples, step] = fields;
    return {{impressions, actions}, examples, step};
}

nb::bytes bytes_of(std::string_view value) { return nb::bytes(value.data(), value.size()); }
std::string_view view_of(const nb::bytes& value) { return {value.c_str(), value.size()}; }

InputTopic topic_of(int topic) {
    if (topic != kImpressions && topic != kActions) refuse("topic must be 0 or 1, got " + std::to_string(topic));
    return static_cast<InputTopic>(topic);
}

// Ask Python: `judge(value)` returns the record in another form, or the reason for refusing it as text.
Judge judge_of(const nb::object& judge) {
    return [judge](std::string_view value) -> Judgement {
        const nb::object answer = judge(bytes_of(value));
        if (nb::isinstance<nb::bytes>(answer)) return {true, std::string(view_of(nb::cast<nb::bytes>(answer)))};
        return {false, nb::cast<std::string>(answer)};
    };
}

using RecordViews = std::vector<std::pair<int64_t, std::string_view>>;

RecordViews views_of(const nb::list& offsets, const nb::list& values) {
    expect("values", offsets.size(), values.size());
    RecordViews records;
    records.reserve(offsets.size());
    for (size_t i = 0; i < offsets.size(); ++i)
        records.emplace_back(nb::cast<int64_t>(offsets[i]), view_of(nb::borrow<nb::bytes>(values[i])));
    return records;
}

void push(Partition& partition, int topic, const nb::list& offsets, const nb::list& values, size_t wanted,
          int64_t wall_ms, const nb::object& judge) {
    partition.push(topic_of(topic), views_of(offsets, values), wanted, wall_ms, judge_of(judge));
}

void recover(Partition& partition, int topic, const nb::list& offsets, const nb::list& values, int64_t wall_ms,
             const nb::object& judge) {
    partition.recover(topic_of(topic), views_of(offsets, values), wall_ms, judge_of(judge));
}

nb::list records_of(const std::vector<RefusedRecord>& refused) {
    nb::list list;
    for (const RefusedRecord& record : refused)
        list.append(
            nb::make_tuple(static_cast<int>(record.topic), record.offset, bytes_of(record.value), record.reason));
    return list;
}

nb::list actions_of(const Partition& partition) {
    nb::list list;
    for (const auto& [request_id, seen, reason] : partition.waiting().outcome().refused)
        list.append(nb::make_tuple(request_id, seen.offset, bytes_of(seen.value), static_cast<int>(reason)));
    return list;
}

std::vector<const Emission*> written_by(const Partition& partition) {
    std::vector<const Emission*> written;
    for (const Emission& emission : partition.waiting().outcome().emissions)
        if (emission.kind != Emission::kSampledAway) written.push_back(&emission);
    return written;
}

// Columns of examples, and what the codec needs to name them.
struct Examples {
    ExampleColumns columns;
    nb::tuple names() const {
        nb::list sparse, dense, models;
        for (const SparseColumn& column : columns.features().sparse()) sparse.append(column.name());
        for (const DenseColumn& column : columns.features().dense())
            dense.append(nb::make_tuple(column.name(), column.width()));
        for (const auto& [arm, version] : columns.served().models()) models.append(nb::make_tuple(arm, version));
        return nb::make_tuple(sparse, dense, columns.served().tasks_with_scores(), models);
    }
};

// Return `prefix`, followed by the record batch.
nb::bytes record_of(const Examples& examples, const nb::bytes& prefix) {
    const size_t size = prefix.size() + examples.columns.write(nullptr);
    PyObject* record = PyBytes_FromStringAndSize(nullptr, static_cast<Py_ssize_t>(size));
    if (record == nullptr) nb::raise_python_error();
    char* out = PyBytes_AS_STRING(record);
    std::memcpy(out, prefix.c_str(), prefix.size());
    examples.columns.write(out + prefix.size());
    return nb::steal<nb::bytes>(record);
}

// The examples of a step, in order; valid until the step is cleared.
class Written {
  public:
    explicit Written(const Partition& partition) : partition_(partition), emissions_(written_by(partition)) {}
    size_t size() const { return emissions_.size(); }
    // Return examples [start, stop).
    Examples examples(size_t start, size_t stop) const {
        if (start > stop || stop > emissions_.size()) refuse("stop must be in [start, " + std::to_string(size()) + "]");
        const Settings& settings = partition_.settings();
        return {{emissions_.data() + start, stop - start, settings.rules.tasks, settings.widths}};
    }
    int64_t newest_ms() const {
        int64_t newest_ms = 0;
        for (const Emission* emission : emissions_) newest_ms = std::max(newest_ms, emission->time_ms);
        return newest_ms;
    }

  private:
    const Partition& partition_;
    std::vector<const Emission*> emissions_;
};

// Return (fids, lengths) of each named feature that an emission has, for all emissions of the step.
nb::dict counted_columns(const Partition& partition, const std::vector<std::string>& names) {
    std::vector<const Emission*> emitted;
    for (const Emission& emission : partition.waiting().outcome().emissions) emitted.push_back(&emission);
    FeatureColumns columns(partition.settings().widths, &names, emitted.size());
    for_each_impression(emitted.data(), emitted.size(),
                        [&](const Impression& impression, const auto& rows) { columns.add(impression, rows); });
    columns.finish();
    nb::dict result;
    for (const SparseColumn& column : columns.sparse()) {
        std::vector<int32_t> offsets(emitted.size() + 1), lengths;
        column.write_offsets(reinterpret_cast<char*>(offsets.data()));
        for (size_t row = 0; row < emitted.size(); ++row) lengths.push_back(offsets[row + 1] - offsets[row]);
        result[nb::cast(column.name())] = nb::make_tuple(vector_array(column.fids()), vector_array(lengths));
    }
    return result;
}

// Return kinds uint8 (255: sampled away), whether each is the first of its candidate, and labels, of all emissions.
nb::tuple emissions_of(const Partition& partition) {
    std::vector<uint8_t> kinds, firsts;
    std::vector<uint64_t> labels;
    for (const Emission& emission : partition.waiting().outcome().emissions) {
        kinds.push_back(emission.kind);
        firsts.push_back(emission.is_first);
        labels.push_back(emission.labels);
    }
    return nb::make_tuple(vector_array(kinds), vector_array(firsts), vector_array(labels));
}

nb::tuple changes_of(Partition& partition) {
    const Blocks::Changes changes = partition.changes();
    nb::list puts;
    for (const auto& [number, value] : changes.puts) puts.append(nb::make_tuple(number, bytes_of(value)));
    return nb::make_tuple(puts, changes.deletes, changes.first, changes.stop);
}

// Call `read`, and refuse a damaged block as a value.
template <typename Read>
void read_blocks(Read read) {
    try {
        read();
    } catch (const SnapshotError& error) {
        refuse(error.what());
    } catch (const BlockError& error) {
        refuse(error.what());
    }
}

Settings settings_of(std::vector<std::string> tasks, const std::vector<KindFields>& kinds, Widths widths) {
    Settings settings;
    settings.rules.tasks = std::move(tasks);
    settings.widths = std::move(widths);
    for (const auto& [name, bits, is_terminal, closes] : kinds)
        settings.rules.kinds.push_back({name, bits, is_terminal, closes});
    return settings;
}

void bind_settings(nb::module_& m) {
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
        .def_prop_rw(
            "negative_rate", [](const Settings& s) { return s.rules.negative_rate; },
            [](Settings& s, double value) { s.rules.negative_rate = value; })
        .def_rw("num_ahead", &Settings::num_ahead)
        .def_rw("idle_timeout_s", &Settings::idle_timeout_s)
        .def_rw("max_skew_ms", &Settings::max_skew_ms)
        .def_rw("not_from_ms", &Settings::not_from_ms)
        .def_rw("not_to_ms", &Settings::not_to_ms);
}

}  // namespace

void bind_joiner(nb::module_& m) {
    using namespace nb::literals;
    bind_settings(m);
    nb::class_<Examples>(m, "JoinedExamples")
        .def("__len__", [](const Examples& examples) { return examples.columns.features().num_rows(); })
        .def("names", &Examples::names)
        .def("record", &record_of, "prefix"_a);
    nb::class_<Written>(m, "JoinedStep")
        .def("__len__", &Written::size)
        .def("newest_ms", &Written::newest_ms)
        .def("examples", &Written::examples, "start"_a, "stop"_a);
    nb::class_<Partition>(m, "JoinerPartition")
        .def(
            "__init__",
            [](Partition* place, const Settings& settings, const WatermarkFields& watermark,
               std::array<int64_t, kNumInputs> offsets,
               double now_s) { new (place) Partition(settings, state_of(watermark), offsets, now_s); },
            "settings"_a, "watermark"_a, "offsets"_a, "now_s"_a)
        .def("push", &push, "topic"_a, "offsets"_a, "values"_a, "wanted"_a, "wall_ms"_a, "judge"_a)
        .def(
            "push_damaged",
            [](Partition& partition, int topic, int64_t offset, std::string reason, size_t wanted) {
                partition.push_damaged(topic_of(topic), offset, std::move(reason), wanted);
            },
            "topic"_a, "offset"_a, "reason"_a, "wanted"_a)
        .def("note_read",
             [](Partition& partition, int topic, double now_s) { partition.note_read(topic_of(topic), now_s); })
        .def("skip_to",
             [](Partition& partition, int topic, int64_t offset) { partition.skip_to(topic_of(topic), offset); })
        .def("num_read_ahead",
             [](const Partition& partition, int topic) { return partition.num_read_ahead(topic_of(topic)); })
        .def(
            "resume",
            [](Partition& partition, const std::array<int64_t, kNumInputs>& offsets, const WatermarkFields& watermark,
               std::optional<int64_t> advanced_ms, const PlaceFields& open) {
                partition.resume(offsets, state_of(watermark), advanced_ms, place_of(open));
            },
            "offsets"_a, "watermark"_a, "advanced_ms"_a.none(), "open"_a)
        .def(
            "end_step",
            [](Partition& partition, int64_t examples_end, int64_t step) {
                const OpenPlace place = partition.end_step(examples_end, step);
                return PlaceFields{place.offsets[kImpressions], place.offsets[kActions], place.examples, place.step};
            },
            "examples_end"_a, "step"_a)
        .def(
            "begin_recovery",
            [](Partition& partition, std::unordered_map<std::string, ItemFacts> facts, int64_t closed_ms,
               int64_t forgotten_ms) { partition.begin_recovery({std::move(facts), closed_ms, forgotten_ms}); },
            "facts"_a, "closed_ms"_a, "forgotten_ms"_a)
        .def("adopt_some", &Partition::adopt_some, "num"_a)
        .def("recover", &recover, "topic"_a, "offsets"_a, "values"_a, "wall_ms"_a, "judge"_a)
        .def("forget_wall_clock", &Partition::forget_wall_clock, "wall_ms"_a)
        .def("reach", [](Partition& partition) { partition.reach(); })
        .def_prop_ro("advanced_ms", [](const Partition& partition) { return partition.waiting().advanced_ms(); })
        .def_prop_ro("closed_ms", [](const Partition& partition) { return partition.waiting().closed_ms(); })
        .def("run", &Partition::run, "now_s"_a, "wall_ms"_a, nb::call_guard<nb::gil_scoped_release>())
        .def("close_some", &Partition::close_some, nb::call_guard<nb::gil_scoped_release>())
        .def_prop_ro("offsets", &Partition::offsets)
        .def_prop_ro("watermark",
                     [](const Partition& partition) {
                         const WatermarkState& state = partition.watermark();
                         return WatermarkFields{state.watermark_ms, state.newest_ms,    state.newest_at_ms,
                                                state.refusals,     state.is_confirmed, state.furthest_seen_ms};
                     })
        .def_prop_ro("has_changes", &Partition::has_changes)
        .def_prop_ro("num_requests", [](const Partition& partition) { return partition.waiting().num_requests(); })
        .def_prop_ro("num_waiting", [](const Partition& partition) { return partition.waiting().num_waiting(); })
        .def_prop_ro("num_emitted",
                     [](const Partition& partition) { return partition.waiting().outcome().emissions.size(); })
        .def("take_counts",
             [](Partition& partition) {
                 Counts counts = partition.take_counts();
                 return nb::make_tuple(counts.read, counts.unused_kinds, counts.unused_values, counts.repeated,
                                       counts.valid_impressions, counts.by_kind);
             })
        .def("refused_records", [](const Partition& partition) { return records_of(partition.refused()); })
        .def("too_late", [](const Partition& partition) { return records_of(partition.too_late()); })
        .def("refused_actions", &actions_of)
        .def("emissions", &emissions_of)
        .def(
            "written", [](const Partition& partition) { return Written(partition); }, nb::keep_alive<0, 1>())
        .def("counted_columns", &counted_columns, "names"_a)
        .def("changes", &changes_of)
        .def("clear_step", &Partition::clear_step)
        .def(
            "restore_block",
            [](Partition& partition, uint32_t number, const nb::bytes& value) {
                read_blocks([&] { partition.restore_block(number, view_of(value)); });
            },
            "number"_a, "value"_a)
        .def("restored", [](Partition& partition) { read_blocks([&] { partition.restored(); }); });
}
