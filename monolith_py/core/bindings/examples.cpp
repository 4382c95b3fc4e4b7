// Python binding of records of examples and of rows stacked from them.
#include <nanobind/stl/pair.h>
#include <nanobind/stl/tuple.h>

#include <algorithm>
#include <limits>
#include <tuple>

#include "bindings/arrays.hpp"
#include "bindings/module.hpp"
#include "codec/example_rows.hpp"

namespace {

using namespace monolith::codec;

template <typename T>
nb::object array_of(Array<T> array) {
    T* data = array.values.release();
    nb::capsule owner(data, [](void* p) noexcept { delete[] static_cast<T*>(p); });
    return nb::cast(nb::ndarray<nb::numpy, T, nb::ndim<1>>(data, {array.size}, owner));
}

template <typename T>
nb::object matrix_of(Array<T> array, size_t num_rows) {
    const size_t width = num_rows == 0 ? 0 : array.size / num_rows;
    return matrix_array(std::move(array.values), num_rows, width);
}

nb::str text_of(std::string_view text) { return nb::str(text.data(), text.size()); }

// A record and the bytes that it is a view of.
struct Record {
    nb::bytes value;
    ExampleRecord record;

    nb::dict metadata() const {
        nb::dict entries;
        for (const auto& [key, text] : record.metadata) entries[text_of(key)] = text_of(text);
        return entries;
    }
    nb::list tasks() const {
        nb::list tasks;
        for (const TaskColumn& column : record.labels) tasks.append(text_of(column.task));
        return tasks;
    }
    nb::dict widths() const {
        nb::dict widths;
        for (const DenseColumn& column : record.dense) widths[text_of(column.name)] = column.width;
        return widths;
    }
    std::pair<int64_t, int64_t> time_range_ms() const {
        int64_t first = std::numeric_limits<int64_t>::max(), last = 0;
        for (size_t row = 0; row < record.num_rows; ++row) {
            const auto time_ms = monolith::joiner::load<int64_t>(record.times_ms + row * sizeof(int64_t));
            first = std::min(first, time_ms);
            last = std::max(last, time_ms);
        }
        return {first, last};
    }
    nb::object times_ms() const {
        return array_of(ExampleRows({{&record, 0, record.num_rows}}).column<int64_t>(&ExampleRecord::times_ms));
    }
};

nb::object read_record(const nb::bytes& value) {
    std::optional<ExampleRecord> record = ExampleRecord::read({value.c_str(), value.size()});
    return record ? nb::cast(Record{value, std::move(*record)}) : nb::none();
}

// Stacked rows, and the records that they are views of.
struct StackedRows {
    nb::tuple records;
    ExampleRows rows;
};

void make_rows(StackedRows* rows, const nb::sequence& parts) {
    nb::list records;
    std::vector<RecordRows> views;
    for (nb::handle part : parts) {
        const auto [record, start, stop] = nb::cast<std::tuple<nb::object, size_t, size_t>>(part);
        const ExampleRecord& view = nb::cast<const Record&>(record).record;
        if (start > stop || stop > view.num_rows)
            refuse("stop must be in [start, " + std::to_string(view.num_rows) + "], got " + std::to_string(stop));
        views.push_back({&view, start, stop});
        records.append(record);
    }
    if (views.empty()) refuse("parts must be at least one, got none");
    new (rows) StackedRows{nb::tuple(records), ExampleRows(std::move(views))};
}

template <typename T>
nb::object column_of(const StackedRows& self, const char* ExampleRecord::* values) {
    return array_of(self.rows.column<T>(values));
}

nb::tuple bags_of(const StackedRows& self, const std::vector<std::string>& names) {
    StackedBags bags = self.rows.bags(names);
    return nb::make_tuple(array_of(std::move(bags.fids)), array_of(std::move(bags.lengths)));
}

nb::object dense_of(const StackedRows& self, const std::vector<std::pair<std::string, size_t>>& features) {
    Array<float> values = self.rows.dense(features);
    return matrix_of(std::move(values), self.rows.size());
}

nb::list names_of(const std::vector<std::string_view>& names) {
    nb::list list;
    for (std::string_view name : names) list.append(text_of(name));
    return list;
}

nb::object dense_column(const StackedRows& self, const std::string& name) {
    for (const auto& [known, width] : self.rows.dense_names())
        if (known == name) return dense_of(self, {{name, width}});
    refuse("name must be a dense feature of the rows, got '" + name + "'");
}

nb::list dense_names_of(const StackedRows& self) {
    nb::list names;
    for (const auto& column : self.rows.dense_names()) names.append(text_of(column.first));
    return names;
}

// Return the models as (arm, version), the code of each row, and (task, scores) of each task; None without any.
nb::object served_of(const StackedRows& self) {
    if (!self.rows.is_served()) return nb::none();
    std::vector<Model> models;
    nb::object codes = array_of(self.rows.model_codes(models));
    nb::list named, scores;
    for (const auto& [arm, version] : models) named.append(nb::make_tuple(text_of(arm), text_of(version)));
    for (std::string_view task : self.rows.scored_tasks())
        scores.append(nb::make_tuple(text_of(task), array_of(self.rows.scores(task))));
    return nb::make_tuple(named, codes, scores);
}

nb::list request_ids_of(const StackedRows& self, size_t start, size_t stop) {
    nb::list ids;
    size_t first = 0;
    for (const RecordRows& part : self.rows.parts()) {
        for (size_t row = std::max(start, first); row < std::min(stop, first + part.size()); ++row)
            ids.append(text_of(part.record->request_ids.text(part.start + row - first)));
        first += part.size();
    }
    return ids;
}

}  // namespace

void bind_examples(nb::module_& m) {
    using namespace nb::literals;
    nb::class_<JobFeatures>(m, "JobFeatures")
        .def(
            "__init__",
            [](JobFeatures* self, std::vector<std::string> sparse, std::vector<std::pair<std::string, size_t>> dense) {
                new (self) JobFeatures{std::move(sparse), std::move(dense)};
            },
            "sparse"_a, "dense"_a);
    nb::class_<Record>(m, "ExampleRecord")
        .def_static("read", &read_record, "value"_a)
        .def("__len__", [](const Record& self) { return self.record.num_rows; })
        .def_ro("value", &Record::value)
        .def_prop_ro("metadata", &Record::metadata)
        .def_prop_ro("tasks", &Record::tasks)
        .def_prop_ro("widths", &Record::widths)
        .def_prop_ro("time_range_ms", &Record::time_range_ms)
        .def_prop_ro("times_ms", &Record::times_ms);
    nb::class_<StackedRows>(m, "ExampleRows")
        .def("__init__", &make_rows, "parts"_a)
        .def("__len__", [](const StackedRows& self) { return self.rows.size(); })
        .def("item_ids", [](const StackedRows& self) { return column_of<int64_t>(self, &ExampleRecord::item_ids); })
        .def("times_ms", [](const StackedRows& self) { return column_of<int64_t>(self, &ExampleRecord::times_ms); })
        .def("kinds", [](const StackedRows& self) { return column_of<uint8_t>(self, &ExampleRecord::kinds); })
        .def("sample_rates",
             [](const StackedRows& self) { return column_of<float>(self, &ExampleRecord::sample_rates); })
        .def("labels",
             [](const StackedRows& self) {
                 Array<float> labels = self.rows.labels();
                 const size_t num_tasks = self.rows.parts().front().record->labels.size();
                 return matrix_of(std::move(labels), num_tasks);
             })
        .def(
            "input",
            [](const StackedRows& self, const JobFeatures& features) {
                return nb::make_tuple(bags_of(self, features.sparse), dense_of(self, features.dense));
            },
            "features"_a)
        .def(
            "bags", [](const StackedRows& self, const std::string& name) { return bags_of(self, {name}); }, "name"_a)
        .def("dense", &dense_column, "name"_a)
        .def("sparse_names", [](const StackedRows& self) { return names_of(self.rows.sparse_names()); })
        .def("dense_names", &dense_names_of)
        .def("served", &served_of)
        .def("request_ids", &request_ids_of, "start"_a, "stop"_a);
}
