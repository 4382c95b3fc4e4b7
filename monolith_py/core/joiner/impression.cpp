#include "joiner/impression.hpp"

#include <algorithm>
#include <set>

namespace monolith::joiner {

namespace {

// Tags of one byte: field number times 8 plus wire type.
constexpr uint8_t kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5;
constexpr uint8_t tag_of(int field, uint8_t type) { return static_cast<uint8_t>(field * 8 + type); }

bool is_text(std::string_view text) { return num_chars(text) <= kMaxTextChars; }

bool read_time(Wire& wire, uint8_t tag, int64_t& time_ms) {
    uint64_t value = 0;
    if (!wire.tag(tag) || !wire.varint(value)) return false;
    time_ms = static_cast<int64_t>(value);
    return time_ms > 0;
}

// Read field `tag` of bytes if it is there.
bool read_bytes(Wire& wire, uint8_t tag, std::string_view& bytes) { return !wire.tag(tag) || wire.bytes(bytes); }

bool read_tasks(Wire& wire, std::vector<std::string_view>& tasks) {
    tasks.clear();
    while (wire.tag(tag_of(8, kBytes))) {
        std::string_view name;
        if (!wire.bytes(name) || name.empty() || num_chars(name) == SIZE_MAX) return false;
        if (std::find(tasks.begin(), tasks.end(), name) != tasks.end()) return false;
        tasks.push_back(name);
    }
    return true;
}

// Return the sum of packed uint32 numbers, and their count; false if one has another form.
bool sum_lengths(std::string_view lengths, size_t& count, uint64_t& sum) {
    Wire wire(lengths);
    while (!wire.done()) {
        uint64_t length = 0;
        if (!wire.varint(length) || length > UINT32_MAX) return false;
        ++count;
        sum += length;
    }
    return true;
}

bool read_sparse(std::string_view bytes, size_t num_rows, Column& column) {
    Wire wire(bytes);
    if (!read_bytes(wire, tag_of(1, kBytes), column.name) || column.name.empty()) return false;
    if (!read_bytes(wire, tag_of(2, kBytes), column.values) || column.values.size() % sizeof(int64_t)) return false;
    if (!read_bytes(wire, tag_of(3, kBytes), column.lengths) || !wire.done()) return false;
    const size_t num_fids = column.values.size() / sizeof(int64_t);
    if (column.lengths.empty()) return num_fids == num_rows;
    size_t count = 0;
    uint64_t sum = 0;
    return sum_lengths(column.lengths, count, sum) && count == num_rows && sum == num_fids;
}

bool read_dense(std::string_view bytes, size_t num_rows, Column& column) {
    Wire wire(bytes);
    column.is_dense = true;
    if (!read_bytes(wire, tag_of(1, kBytes), column.name) || column.name.empty()) return false;
    if (!read_bytes(wire, tag_of(2, kBytes), column.values) || !wire.done()) return false;
    return column.values.size() % (sizeof(float) * num_rows) == 0 && are_finite(column.values);
}

}  // namespace

bool read_impression(std::string_view value, Impression& impression) {
    Wire wire(value);
    std::vector<std::string_view> tasks = std::move(impression.tasks);  // keeps its memory
    impression = Impression{};
    uint64_t user_id = 0;
    if (!read_bytes(wire, tag_of(1, kBytes), impression.request_id)) return false;
    if (impression.request_id.empty() || !is_text(impression.request_id)) return false;
    if (!read_time(wire, tag_of(2, kVarint), impression.time_ms)) return false;
    if (wire.tag(tag_of(3, kFixed64)) && !wire.fixed(user_id)) return false;
    if (!read_bytes(wire, tag_of(4, kBytes), impression.item_ids)) return false;
    if (impression.item_ids.empty() || impression.item_ids.size() % sizeof(int64_t)) return false;
    if (!read_bytes(wire, tag_of(5, kBytes), impression.shared)) return false;
    if (!read_bytes(wire, tag_of(6, kBytes), impression.candidates)) return false;
    if (!read_bytes(wire, tag_of(7, kBytes), impression.scores)) return false;
    if (!read_tasks(wire, tasks)) return false;
    impression.tasks = std::move(tasks);
    if (impression.scores.size() != impression.num_candidates() * impression.tasks.size() * sizeof(float)) return false;
    if (!are_finite(impression.scores)) return false;
    if (!read_bytes(wire, tag_of(9, kBytes), impression.model_version) || !is_text(impression.model_version))
        return false;
    if (!read_bytes(wire, tag_of(10, kBytes), impression.arm) || !is_text(impression.arm)) return false;
    return wire.done();
}

bool read_action(std::string_view value, Action& action) {
    Wire wire(value);
    action = Action{};
    if (!read_bytes(wire, tag_of(1, kBytes), action.request_id)) return false;
    if (action.request_id.empty() || !is_text(action.request_id)) return false;
    if (wire.tag(tag_of(2, kFixed64)) && !wire.fixed(action.item_id)) return false;
    if (!read_bytes(wire, tag_of(3, kBytes), action.kind) || action.kind.empty() || !is_text(action.kind)) return false;
    if (!read_time(wire, tag_of(4, kVarint), action.time_ms)) return false;
    if (wire.tag(tag_of(5, kFixed32)) && !wire.fixed(action.value)) return false;
    return wire.done() && std::isfinite(action.value);
}

bool read_columns(std::string_view part, size_t num_rows, std::vector<Column>& columns) {
    Wire wire(part);
    columns.clear();
    std::string_view bytes;
    while (wire.tag(tag_of(1, kBytes)))
        if (!wire.bytes(bytes) || !read_sparse(bytes, num_rows, columns.emplace_back())) return false;
    while (wire.tag(tag_of(2, kBytes)))
        if (!wire.bytes(bytes) || !read_dense(bytes, num_rows, columns.emplace_back())) return false;
    return wire.done();
}

bool FeatureRules::hold(const Impression& impression) {
    if (!read_columns(impression.shared, 1, shared_)) return false;
    if (!read_columns(impression.candidates, impression.num_candidates(), candidates_)) return false;
    const Names* names = find_names();
    if (names == nullptr) {
        if (!learn_names()) return false;
        names = &layouts_.front();
    }
    return have_widths(*names, impression.num_candidates());
}

const FeatureRules::Names* FeatureRules::find_names() {
    const auto same = [](const Column& column, const Name& name) {
        return column.is_dense == name.is_dense && column.name == name.name;
    };
    for (size_t i = 0; i < layouts_.size(); ++i) {
        const Names& names = layouts_[i];
        if (names.size() != shared_.size() + candidates_.size()) continue;
        const auto middle = names.begin() + static_cast<std::ptrdiff_t>(shared_.size());
        if (!std::equal(shared_.begin(), shared_.end(), names.begin(), same)) continue;
        if (!std::equal(candidates_.begin(), candidates_.end(), middle, same)) continue;
        const auto found = layouts_.begin() + static_cast<std::ptrdiff_t>(i);
        std::rotate(layouts_.begin(), found, found + 1);
        return &layouts_.front();
    }
    return nullptr;
}

bool FeatureRules::learn_names() {
    std::set<std::string_view> seen;
    Names names;
    for (const std::vector<Column>* columns : {&shared_, &candidates_})
        for (const Column& column : *columns) {
            if (num_chars(column.name) == SIZE_MAX || !seen.insert(column.name).second) return false;
            const auto width = column.is_dense ? widths_.find(std::string(column.name)) : widths_.end();
            names.push_back({std::string(column.name), column.is_dense, width == widths_.end() ? 0 : width->second});
        }
    layouts_.insert(layouts_.begin(), std::move(names));
    if (layouts_.size() > kMaxLayouts) layouts_.pop_back();
    return true;
}

bool FeatureRules::have_widths(const Names& names, size_t num_candidates) const {
    const auto fits = [](const Name& name, const Column& column, size_t num_rows) {
        return name.width == 0 || column.values.size() == name.width * num_rows * sizeof(float);
    };
    const size_t num_shared = shared_.size();
    for (size_t i = 0; i < num_shared; ++i)
        if (!fits(names[i], shared_[i], 1)) return false;
    for (size_t i = 0; i < candidates_.size(); ++i)
        if (!fits(names[num_shared + i], candidates_[i], num_candidates)) return false;
    return true;
}

}  // namespace monolith::joiner
