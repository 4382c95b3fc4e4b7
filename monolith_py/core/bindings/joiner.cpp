// Python binding of the joiner of one partition.
#include <memory>
#include <utility>

#include "bindings/joined.hpp"
#include "bindings/joiner_types.hpp"
#include "bindings/module.hpp"
#include "bytes/archive.hpp"

namespace {

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

std::vector<int64_t> supply(Partition& partition, const nb::list& offsets, const nb::list& values,
                            const nb::object& judge) {
    return partition.supply(views_of(offsets, values), judge_of(judge));
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

nb::list early_of(const Partition& partition) {
    nb::list list;
    for (const EarlyAction& action : partition.early_actions())
        list.append(nb::make_tuple(action.request_id, action.time_ms, bytes_of(action.value)));
    return list;
}

nb::list arrived_of(const Partition& partition) {
    nb::list list;
    for (const auto& [offset, bytes] : partition.arrived())
        list.append(nb::make_tuple(offset, bytes_of(bytes.value())));
    return list;
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

}  // namespace

void bind_joiner(nb::module_& m) {
    using namespace nb::literals;
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
                return fields_of(partition.end_step(examples_end, step));
            },
            "examples_end"_a, "step"_a)
        .def("begin_recovery", &Partition::begin_recovery, "reached_ms"_a, "newest_ms"_a)
        .def("adopt", &Partition::adopt, "facts"_a)
        .def("settle_some", &Partition::settle_some, "num"_a)
        .def("recover", &recover, "topic"_a, "offsets"_a, "values"_a, "wall_ms"_a, "judge"_a)
        .def("forget_wall_clock", &Partition::forget_wall_clock, "wall_ms"_a)
        .def("reach", [](Partition& partition) { partition.reach(); })
        .def_prop_ro("advanced_ms", [](const Partition& partition) { return partition.waiting().advanced_ms(); })
        .def_prop_ro("closed_ms", [](const Partition& partition) { return partition.waiting().closed_ms(); })
        .def("run", &Partition::run, "now_s"_a, "wall_ms"_a, nb::call_guard<nb::gil_scoped_release>())
        .def("close_some", &Partition::close_some, "refuses_early"_a = true, nb::call_guard<nb::gil_scoped_release>())
        .def("lacking", &Partition::lacking, "with_sampled_away"_a)
        .def("supply", &supply, "offsets"_a, "values"_a, "judge"_a)
        .def("set_max_bytes", &Partition::set_max_bytes, "max_bytes"_a)
        .def_prop_ro("offsets", &Partition::offsets)
        .def_prop_ro("watermark",
                     [](const Partition& partition) {
                         const WatermarkState& state = partition.watermark();
                         return WatermarkFields{state.watermark_ms, state.newest_ms, state.newest_at_ms,
                                                state.recent_ms};
                     })
        .def_prop_ro("has_changes", &Partition::has_changes)
        .def_prop_ro("num_requests", [](const Partition& partition) { return partition.waiting().num_requests(); })
        .def_prop_ro("num_bytes", [](const Partition& partition) { return partition.waiting().num_bytes(); })
        .def_prop_ro("num_waiting", [](const Partition& partition) { return partition.waiting().num_waiting(); })
        .def_prop_ro("num_early", [](const Partition& partition) { return partition.waiting().num_early(); })
        .def_prop_ro("num_emitted",
                     [](const Partition& partition) { return partition.waiting().outcome().emissions.size(); })
        .def("take_counts",
             [](Partition& partition) {
                 Counts counts = partition.take_counts();
                 return nb::make_tuple(counts.read, counts.unused_kinds, counts.unused_values, counts.repeated,
                                       counts.valid_impressions, counts.by_kind);
             })
        .def("take_range_counts",
             [](Partition& partition) {
                 const RangeCounts counts = partition.take_range_counts();
                 return std::array<uint64_t, 9>{counts.requests,           counts.impressions, counts.actions,
                                                counts.labelled,           counts.retracted,   counts.sampled_away,
                                                counts.without_impression, counts.refused,     counts.too_late};
             })
        .def("refused_records", [](const Partition& partition) { return records_of(partition.refused()); })
        .def("too_late", [](const Partition& partition) { return records_of(partition.too_late()); })
        .def("refused_actions", &actions_of)
        .def("report_early", &Partition::report_early, "waiting"_a)
        .def("early_actions", &early_of)
        .def("report_arrived", &Partition::report_arrived)
        .def("arrived", &arrived_of)
        .def("emissions", &emissions_of)
        .def("places_of_emissions", &places_of_emissions)
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
