#include "codec/example_rows.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>

namespace monolith::codec {

namespace {

// Finds columns by name; those of records of one writer have the same places.
template <typename Column>
class Finder {
  public:
    explicit Finder(std::vector<Column> ExampleRecord::* columns) : columns_(columns) {}
    const Column* find(const ExampleRecord& record, std::string_view name) {
        const std::vector<Column>& columns = record.*columns_;
        if (place_ < columns.size() && columns[place_].name == name) return &columns[place_];
        for (place_ = 0; place_ < columns.size(); ++place_)
            if (columns[place_].name == name) return &columns[place_];
        return nullptr;
    }
    void expect_next() { ++place_; }

  private:
    std::vector<Column> ExampleRecord::* columns_;
    size_t place_ = 0;
};

const TaskColumn* find_task(const std::vector<TaskColumn>& columns, size_t expected, std::string_view task) {
    if (expected < columns.size() && columns[expected].task == task) return &columns[expected];
    for (const TaskColumn& column : columns)
        if (column.task == task) return &column;
    return nullptr;
}

template <typename Name>
void add_name(std::vector<Name>& names, const Name& name) {
    if (std::find(names.begin(), names.end(), name) == names.end()) names.push_back(name);
}

// Write the lengths of the bags of rows, and return the end.
int32_t* write_lengths(const RecordRows& part, const SparseColumn* column, int32_t* out) {
    if (column == nullptr) return std::fill_n(out, part.size(), 0);
    const char* offsets = column->bags.offsets + part.start * sizeof(int32_t);
    for (size_t i = 0; i < part.size(); ++i)
        out[i] = joiner::load<int32_t>(offsets + (i + 1) * sizeof(int32_t)) -
                 joiner::load<int32_t>(offsets + i * sizeof(int32_t));
    return out + part.size();
}

void write_dense(const RecordRows& part, const DenseColumn* column, size_t width, float* out, size_t stride) {
    if (column != nullptr && column->width != width) throw std::invalid_argument("dense features must have one width");
    for (size_t row = part.start; row < part.stop; ++row, out += stride) {
        if (column == nullptr) {
            std::fill_n(out, width, 0.0F);
        } else if (width > 0) {
            std::memcpy(out, column->values + row * width * sizeof(float), width * sizeof(float));
        }
    }
}

}  // namespace

ExampleRows::ExampleRows(std::vector<RecordRows> parts) : parts_(std::move(parts)) {
    for (const RecordRows& part : parts_) num_rows_ += part.size();
}

Array<float> ExampleRows::labels() const {
    const std::vector<TaskColumn>& tasks = parts_.front().record->labels;
    Array<float> labels(tasks.size() * num_rows_);
    float* out = labels.values.get();
    for (size_t index = 0; index < tasks.size(); ++index)
        for (const RecordRows& part : parts_) {
            const TaskColumn* column = find_task(part.record->labels, index, tasks[index].task);
            if (column == nullptr) throw std::invalid_argument("records must have the same tasks");
            std::memcpy(out, column->values + part.start * sizeof(float), part.size() * sizeof(float));
            out += part.size();
        }
    return labels;
}

StackedBags ExampleRows::bags(const std::vector<std::string>& names) const {
    std::vector<const SparseColumn*> columns;  // of each feature and part
    columns.reserve(names.size() * parts_.size());
    size_t num_fids = 0;
    Finder<SparseColumn> finder(&ExampleRecord::sparse);
    for (const std::string& name : names) {
        for (const RecordRows& part : parts_) {
            columns.push_back(finder.find(*part.record, name));
            if (columns.back() != nullptr)
                num_fids += columns.back()->offset(part.stop) - columns.back()->offset(part.start);
        }
        finder.expect_next();
    }
    StackedBags stacked{Array<int64_t>(num_fids), Array<int32_t>(names.size() * num_rows_)};
    int64_t* fids = stacked.fids.values.get();
    int32_t* lengths = stacked.lengths.values.get();
    for (size_t i = 0; i < columns.size(); ++i) {
        const RecordRows& part = parts_[i % parts_.size()];
        lengths = write_lengths(part, columns[i], lengths);
        if (columns[i] == nullptr) continue;
        const size_t first = columns[i]->offset(part.start), num = columns[i]->offset(part.stop) - first;
        if (num > 0) std::memcpy(fids, columns[i]->bags.fids + first * sizeof(int64_t), num * sizeof(int64_t));
        fids += num;
    }
    return stacked;
}

Array<float> ExampleRows::dense(const std::vector<std::pair<std::string, size_t>>& features) const {
    size_t stride = 0, first = 0;
    for (const auto& feature : features) stride += feature.second;
    Array<float> values(num_rows_ * stride);
    Finder<DenseColumn> finder(&ExampleRecord::dense);
    for (const auto& [name, width] : features) {
        float* out = values.values.get() + first;
        for (const RecordRows& part : parts_) {
            write_dense(part, finder.find(*part.record, name), width, out, stride);
            out += part.size() * stride;
        }
        first += width;
        finder.expect_next();
    }
    return values;
}

std::vector<std::string_view> ExampleRows::sparse_names() const {
    std::vector<std::string_view> names;
    for (const RecordRows& part : parts_)
        for (const SparseColumn& column : part.record->sparse) add_name(names, column.name);
    return names;
}

std::vector<std::pair<std::string_view, size_t>> ExampleRows::dense_names() const {
    std::vector<std::pair<std::string_view, size_t>> names;
    for (const RecordRows& part : parts_)
        for (const DenseColumn& column : part.record->dense) add_name(names, {column.name, column.width});
    return names;
}

std::vector<std::string_view> ExampleRows::scored_tasks() const {
    std::vector<std::string_view> tasks;
    for (const RecordRows& part : parts_)
        for (const TaskColumn& column : part.record->scores) add_name(tasks, column.task);
    return tasks;
}

bool ExampleRows::is_served() const {
    return std::any_of(parts_.begin(), parts_.end(),
                       [](const RecordRows& part) { return part.record->model_codes != nullptr; });
}

Array<float> ExampleRows::scores(std::string_view task) const {
    Array<float> scores(num_rows_);
    float* out = scores.values.get();
    for (const RecordRows& part : parts_) {
        const TaskColumn* column = find_task(part.record->scores, 0, task);
        if (column == nullptr) {
            std::fill_n(out, part.size(), std::numeric_limits<float>::quiet_NaN());
        } else {
            std::memcpy(out, column->values + part.start * sizeof(float), part.size() * sizeof(float));
        }
        out += part.size();
    }
    return scores;
}

Array<int32_t> ExampleRows::model_codes(std::vector<Model>& models) const {
    Array<int32_t> codes(num_rows_);
    int32_t* out = codes.values.get();
    const auto common = [&](const Model& model) {
        add_name(models, model);
        return static_cast<int32_t>(std::find(models.begin(), models.end(), model) - models.begin());
    };
    std::vector<int32_t> own;
    for (const RecordRows& part : parts_) {
        own.clear();
        for (const Model& model : part.record->models) own.push_back(common(model));
        if (part.record->model_codes == nullptr) {
            out = std::fill_n(out, part.size(), common({}));
            continue;
        }
        for (size_t row = part.start; row < part.stop; ++row)
            *out++ = own[static_cast<size_t>(joiner::load<int32_t>(part.record->model_codes + row * sizeof(int32_t)))];
    }
    return codes;
}

}  // namespace monolith::codec
