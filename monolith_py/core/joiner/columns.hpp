// Feature columns and served scores of emissions, column by column, as monolith_py/io/codec/picked_columns.py gives
// them. Letters: N rows.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "joiner/impression.hpp"
#include "joiner/labels.hpp"
#include "joiner/request.hpp"

namespace monolith::joiner {

// Rows of an impression to pick.
struct Rows {
    std::vector<uint32_t> rows;
    bool is_run = false;  // each is the one after the row before

    size_t size() const { return rows.size(); }
    void note_run() {
        is_run = true;
        for (size_t i = 1; i < rows.size(); ++i) is_run &= rows[i] == rows[i - 1] + 1;
    }
};

// A sparse column that grows.
class SparseColumn {
  public:
    SparseColumn(std::string_view name, size_t num_expected) : name_(name) { fids_.reserve(num_expected); }
    const std::string& name() const { return name_; }
    const std::vector<int64_t>& fids() const { return fids_; }
    // Return whether each row has one fid.
    bool is_single() const { return is_single_; }
    // Append `rows` of `column`, the first as row `start`; rows in between are empty.
    void add(size_t start, const Column& column, const Rows& rows);
    // Append empty rows up to `num_rows`.
    void pad(size_t num_rows);
    // Write the offsets int32 (N + 1,).
    void write_offsets(char* out) const;

  private:
    void add_bags(const Column& column, const Rows& rows);
    void leave_single();

    std::string name_;
    std::vector<int64_t> fids_;
    bool is_single_ = true;      // one fid for each row so far; then `ends_` stays empty
    std::vector<int32_t> ends_;  // (N,)
    size_t num_rows_ = 0;
};

// A dense column of `width` values a row that grows.
class DenseColumn {
  public:
    DenseColumn(std::string_view name, size_t width) : name_(name), width_(width) {}
    const std::string& name() const { return name_; }
    size_t width() const { return width_; }
    const std::vector<float>& values() const { return values_; }
    void add(size_t start, const Column& column, const Rows& rows);
    void pad(size_t num_rows) { values_.resize(num_rows * width_); }

  private:
    std::string name_;
    size_t width_;
    std::vector<float> values_;  // (N, width)
};

// The features of emissions. Shared features are repeated for each row; a sparse feature that an impression lacks is
// empty there, a dense one zero; dense features without a width are left out.
class FeatureColumns {
  public:
    // `only`: names of the features to keep; null for all. `num_expected`: rows to make room for.
    FeatureColumns(const Widths& widths, const std::vector<std::string>* only, size_t num_expected)
        : widths_(widths), only_(only), num_expected_(num_expected) {}
    // Append rows of one impression.
    void add(const Impression& impression, const Rows& rows);
    // Give every column all rows.
    void finish();
    size_t num_rows() const { return num_rows_; }
    const std::vector<SparseColumn>& sparse() const { return sparse_; }
    const std::vector<DenseColumn>& dense() const { return dense_; }

  private:
    static constexpr size_t kLeftOut = SIZE_MAX;
    struct Place {
        std::string name;
        bool is_dense;
        size_t index;  // in sparse_ or dense_, or kLeftOut
    };
    // Return the index of the output of `column`, the `number`th of its impression.
    size_t index_of(const Column& column, size_t number);
    size_t find_index(const Column& column);

    const Widths& widths_;
    const std::vector<std::string>* only_;
    size_t num_expected_;
    std::vector<SparseColumn> sparse_;
    std::vector<DenseColumn> dense_;
    std::vector<Place> places_;  // of the columns of the impression before, in its order
    std::vector<Column> columns_;
    Rows zeros_;
    size_t num_rows_ = 0;
};

// Scores at request time for the job's tasks, and the model that gave them.
class ServedColumns {
  public:
    ServedColumns(const std::vector<std::string>& tasks, const LabelLayout& layout)
        : tasks_(tasks), layout_(layout), scores_(tasks.size()) {}
    void add(const Impression& impression, const Rows& rows);
    // Tasks with a score, in order; without any the columns are absent.
    std::vector<size_t> tasks_with_scores() const;
    const std::vector<float>& scores(size_t task) const { return scores_[task]; }               // NaN without one
    const std::vector<int32_t>& codes() const { return codes_; }                                // of models
    const std::vector<std::pair<std::string, std::string>>& models() const { return models_; }  // arm and version

  private:
    int32_t code_of(const Impression& impression);

    const std::vector<std::string>& tasks_;
    const LabelLayout& layout_;
    std::vector<std::vector<float>> scores_;
    std::vector<int32_t> codes_;
    std::vector<std::pair<std::string, std::string>> models_;
    std::vector<size_t> served_tasks_;
};

}  // namespace monolith::joiner
