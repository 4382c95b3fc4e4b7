// Rows of several records of examples, stacked. Letters: B rows, F sparse features of the job, W width of its dense
// ones.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "codec/example_record.hpp"

namespace monolith::codec {

// Rows [start, stop) of a record.
struct RecordRows {
    const ExampleRecord* record;
    size_t start, stop;

    size_t size() const { return stop - start; }
};

// Features of the job, in its order.
struct JobFeatures {
    std::vector<std::string> sparse;
    std::vector<std::pair<std::string, size_t>> dense;  // name and width
};

template <typename T>
struct Array {
    explicit Array(size_t num) : values(new T[num]), size(num) {}
    std::unique_ptr<T[]> values;
    size_t size;
};

// Fids of one or more features, feature by feature, and lengths of their bags: int64 (n,), int32 (F * B,).
struct StackedBags {
    Array<int64_t> fids;
    Array<int32_t> lengths;
};

// Rows, at least one, whose records have the same tasks and widths.
class ExampleRows {
  public:
    explicit ExampleRows(std::vector<RecordRows> parts);
    size_t size() const { return num_rows_; }
    const std::vector<RecordRows>& parts() const { return parts_; }

    // Return a column of every record.
    template <typename T>
    Array<T> column(const char* ExampleRecord::* values) const;
    // Return the labels of the tasks of the first record: float32 (tasks, B).
    Array<float> labels() const;
    // Return the bags of the named features; a feature that a record lacks is empty there.
    StackedBags bags(const std::vector<std::string>& names) const;
    // Return dense features side by side: float32 (B, W); zero where a record lacks one. A width must be the record's.
    Array<float> dense(const std::vector<std::pair<std::string, size_t>>& features) const;

    // Names in the order of their first appearance.
    std::vector<std::string_view> sparse_names() const;
    std::vector<std::pair<std::string_view, size_t>> dense_names() const;
    std::vector<std::string_view> scored_tasks() const;
    // Whether a record has scores at request time.
    bool is_served() const;
    // Return scores of a task at request time, NaN without one.
    Array<float> scores(std::string_view task) const;
    // Return the index of each row in `models`, which the models of all records are added to.
    Array<int32_t> model_codes(std::vector<Model>& models) const;

  private:
    std::vector<RecordRows> parts_;
    size_t num_rows_ = 0;
};

template <typename T>
Array<T> ExampleRows::column(const char* ExampleRecord::* values) const {
    Array<T> column(num_rows_);
    T* out = column.values.get();
    for (const RecordRows& part : parts_) {
        std::memcpy(out, part.record->*values + part.start * sizeof(T), part.size() * sizeof(T));
        out += part.size();
    }
    return column;
}

}  // namespace monolith::codec
