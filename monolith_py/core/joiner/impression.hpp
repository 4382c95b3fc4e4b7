// Impressions and actions in their wire form: the rules of the Python codec (monolith_py/io/codec/impression_rules.py),
// and views of the fields. Letters: B candidates.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "joiner/wire.hpp"

namespace monolith::joiner {

// Longest text of an event, in characters: MAX_TEXT_CHARS of the codec.
constexpr size_t kMaxTextChars = 512;

// Views of the fields of an impression.
struct Impression {
    std::string_view request_id;
    int64_t time_ms = 0;
    std::string_view item_ids;    // int64 (B,)
    std::string_view shared;      // columns of one row
    std::string_view candidates;  // columns of B rows
    std::string_view scores;      // float32 (B, tasks)
    std::vector<std::string_view> tasks;
    std::string_view model_version;
    std::string_view arm;

    size_t num_candidates() const { return item_ids.size() / sizeof(int64_t); }
    int64_t item_id(size_t row) const { return load<int64_t>(item_ids.data() + row * sizeof(int64_t)); }
};

// Views of the fields of an action.
struct Action {
    std::string_view request_id;
    int64_t item_id = 0;
    std::string_view kind;
    int64_t time_ms = 0;
    float value = 1.0F;
};

// One column of features in an impression.
struct Column {
    std::string_view name;
    bool is_dense = false;
    std::string_view values;   // fids int64 (n,), or dense values float32 (rows, width)
    std::string_view lengths;  // varints (rows,); empty: one fid for each row
};

// Read the fields of an impression, but not its features. Returns false for what must go to the Python codec: an
// impression that breaks a rule, or another form of the wire format.
bool read_impression(std::string_view value, Impression& impression);

// Read the fields of an action; false as for `read_impression`.
bool read_action(std::string_view value, Action& action);

// Read the columns of one part of an impression into `columns`, which it empties first; false as for `read_impression`.
bool read_columns(std::string_view part, size_t num_rows, std::vector<Column>& columns);

using Widths = std::unordered_map<std::string, size_t>;

// Checks the features of impressions. Names seen before are compared, not checked again.
class FeatureRules {
  public:
    // `widths`: dim of each dense feature of the job.
    explicit FeatureRules(Widths widths) : widths_(std::move(widths)) {}
    // Return whether the features of the impression are valid; false as for `read_impression`.
    bool hold(const Impression& impression);
    const Widths& widths() const { return widths_; }

  private:
    struct Name {
        std::string name;
        bool is_dense;
        size_t width;  // 0 if the job has no such dense feature
    };
    using Names = std::vector<Name>;  // of the shared columns, then of the candidates'

    const Names* find_names();
    bool learn_names();
    bool have_widths(const Names& names, size_t num_candidates) const;

    // Replicas of two schemas serve during a roll-out; more at once are not worth remembering.
    static constexpr size_t kMaxLayouts = 8;
    Widths widths_;
    std::vector<Names> layouts_;  // the last used one first
    std::vector<Column> shared_, candidates_;
};

}  // namespace monolith::joiner
