// Records of examples: emissions to the Arrow IPC message of one record batch, in the layout of
// monolith_py/io/codec/examples.py. The messages before it (schema, dictionaries) are the codec's.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "joiner/columns.hpp"
#include "joiner/labels.hpp"
#include "joiner/request.hpp"

namespace monolith::joiner {

// Examples collected column by column, ready to be written once the bytes before them are known. N examples.
class ExampleColumns {
  public:
    // Throws std::logic_error for a negative that was sampled away.
    ExampleColumns(const Emission* const* emissions, size_t num, const std::vector<std::string>& tasks,
                   const Widths& widths, const LabelLayout& layout);
    const FeatureColumns& features() const { return features_; }
    const ServedColumns& served() const { return served_; }
    // Write the record batch and the end of the stream, and return the number of bytes; null: only count them.
    size_t write(char* out) const;

  private:
    size_t num_;
    std::string ids_;
    std::vector<int32_t> id_ends_;
    std::vector<int64_t> items_, times_ms_;
    std::vector<uint8_t> kinds_;
    std::vector<float> rates_;
    std::vector<std::vector<float>> labels_;
    FeatureColumns features_;
    ServedColumns served_;
};

// Call `visit(impression, rows)` for each run of emissions of one impression, an empty one for those without.
template <typename Visit>
void for_each_impression(const Emission* const* emissions, size_t num, Visit visit) {
    Impression impression;
    Rows rows;
    for (size_t i = 0; i < num;) {
        const std::string_view value = emissions[i]->impression.value();
        rows.rows.clear();
        for (; i < num && emissions[i]->impression.value().data() == value.data(); ++i)
            rows.rows.push_back(emissions[i]->row);
        rows.note_run();
        if (value.empty())
            impression = {};
        else
            read_impression(value, impression);
        visit(impression, rows);
    }
}

}  // namespace monolith::joiner
