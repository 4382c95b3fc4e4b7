// A record of examples (monolith_py/io/codec/examples.py), read without a copy of its columns. B rows.
#pragma once

#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "codec/arrow.hpp"

namespace monolith::codec {

// Labels or scores of one task: float32 (B,).
struct TaskColumn {
    std::string_view task;
    const char* values;
};

struct SparseColumn {
    std::string_view name;
    Bags bags;

    size_t offset(size_t row) const {
        return static_cast<size_t>(joiner::load<int32_t>(bags.offsets + row * sizeof(int32_t)));
    }
};

struct DenseColumn {
    std::string_view name;
    size_t width;
    const char* values;  // float32 (B, width)
};

using Model = std::pair<std::string_view, std::string_view>;  // arm and version

// Views of the bytes of a record whose columns keep all rules of the format.
class ExampleRecord {
  public:
    // Return the record; none if `value` must go to the Python codec, because it breaks a rule or has another form.
    static std::optional<ExampleRecord> read(std::string_view value);

    size_t num_rows = 0;
    std::vector<std::pair<std::string_view, std::string_view>> metadata;  // the writer's own, UTF-8, keys unique
    Texts request_ids;
    const char* item_ids = nullptr;      // int64 (B,)
    const char* times_ms = nullptr;      // int64 (B,)
    const char* kinds = nullptr;         // uint8 (B,)
    const char* sample_rates = nullptr;  // float32 (B,)
    std::vector<TaskColumn> labels, scores;
    std::vector<SparseColumn> sparse;
    std::vector<DenseColumn> dense;
    std::vector<Model> models;          // empty without scores at request time
    const char* model_codes = nullptr;  // int32 (B,), indexes of `models`; null without scores at request time
};

}  // namespace monolith::codec
