#include "joiner/columns.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

namespace monolith::joiner {

void SparseColumn::add(size_t start, const Column& column, const Rows& rows) {
    pad(start);
    if (!column.lengths.empty()) {
        add_bags(column, rows);
        return;
    }
    const char* fids = column.values.data();
    if (rows.is_run) {
        const size_t before = fids_.size();
        fids_.resize(before + rows.size());
        std::memcpy(fids_.data() + before, fids + size_t{rows.rows.front()} * sizeof(int64_t),
                    rows.size() * sizeof(int64_t));
    } else if (column.values.size() == sizeof(int64_t)) {
        fids_.insert(fids_.end(), rows.size(), load<int64_t>(fids));
    } else {
        for (uint32_t row : rows.rows) fids_.push_back(load<int64_t>(fids + size_t{row} * sizeof(int64_t)));
    }
    num_rows_ += rows.size();
    if (is_single_) return;
    for (size_t i = rows.size(); i-- > 0;) ends_.push_back(static_cast<int32_t>(fids_.size() - i));
}

void SparseColumn::add_bags(const Column& column, const Rows& rows) {
    leave_single();
    std::vector<size_t> starts{0};
    for (Wire wire(column.lengths); !wire.done();) {
        uint64_t length = 0;
        wire.varint(length);
        starts.push_back(starts.back() + length);
    }
    for (uint32_t row : rows.rows) {
        for (size_t at = starts[row]; at < starts[row + 1]; ++at)
            fids_.push_back(load<int64_t>(column.values.data() + at * sizeof(int64_t)));
        ends_.push_back(static_cast<int32_t>(fids_.size()));
    }
    num_rows_ += rows.size();
}

void SparseColumn::pad(size_t num_rows) {
    if (num_rows_ == num_rows) return;
    leave_single();
    ends_.resize(num_rows, static_cast<int32_t>(fids_.size()));
    num_rows_ = num_rows;
}

void SparseColumn::leave_single() {
    if (!is_single_) return;
    is_single_ = false;
    for (size_t row = 0; row < num_rows_; ++row) ends_.push_back(static_cast<int32_t>(row + 1));
}

void SparseColumn::write_offsets(char* out) const {
    std::memset(out, 0, sizeof(int32_t));
    out += sizeof(int32_t);
    if (!is_single_) {
        std::memcpy(out, ends_.data(), ends_.size() * sizeof(int32_t));
        return;
    }
    std::array<int32_t, 256> ends{};
    for (size_t start = 0; start < num_rows_; start += ends.size()) {
        const size_t num = std::min(ends.size(), num_rows_ - start);
        for (size_t i = 0; i < num; ++i) ends[i] = static_cast<int32_t>(start + i + 1);
        std::memcpy(out + start * sizeof(int32_t), ends.data(), num * sizeof(int32_t));
    }
}

void DenseColumn::add(size_t start, const Column& column, const Rows& rows) {
    pad(start);
    for (uint32_t row : rows.rows) {
        const size_t before = values_.size();
        values_.resize(before + width_);
        std::memcpy(values_.data() + before, column.values.data() + row * width_ * sizeof(float),
                    width_ * sizeof(float));
    }
}

void FeatureColumns::add(const Impression& impression, const Rows& rows) {
    zeros_.rows.assign(rows.size(), 0);
    size_t number = 0;
    for (const bool is_shared : {true, false}) {
        const std::string_view part = is_shared ? impression.shared : impression.candidates;
        read_columns(part, is_shared ? 1 : impression.num_candidates(), columns_);
        for (const Column& column : columns_) {
            const size_t index = index_of(column, number++);
            if (index == kLeftOut) continue;
            if (column.is_dense)
                dense_[index].add(num_rows_, column, is_shared ? zeros_ : rows);
            else
                sparse_[index].add(num_rows_, column, is_shared ? zeros_ : rows);
        }
    }
    num_rows_ += rows.size();
}

void FeatureColumns::finish() {
    for (SparseColumn& column : sparse_) column.pad(num_rows_);
    for (DenseColumn& column : dense_) column.pad(num_rows_);
}

size_t FeatureColumns::index_of(const Column& column, size_t number) {
    if (number < places_.size() && places_[number].is_dense == column.is_dense && places_[number].name == column.name)
        return places_[number].index;
    const size_t index = find_index(column);
    places_.resize(std::max(places_.size(), number + 1));
    places_[number] = {std::string(column.name), column.is_dense, index};
    return index;
}

size_t FeatureColumns::find_index(const Column& column) {
    if (only_ != nullptr && std::find(only_->begin(), only_->end(), column.name) == only_->end()) return kLeftOut;
    const auto is_it = [&](const auto& output) { return output.name() == column.name; };
    if (!column.is_dense) {
        const auto found = std::find_if(sparse_.begin(), sparse_.end(), is_it);
        if (found != sparse_.end()) return static_cast<size_t>(found - sparse_.begin());
        sparse_.emplace_back(column.name, num_expected_);
        return sparse_.size() - 1;
    }
    const auto found = std::find_if(dense_.begin(), dense_.end(), is_it);
    if (found != dense_.end()) return static_cast<size_t>(found - dense_.begin());
    const auto width = widths_.find(std::string(column.name));
    if (width == widths_.end()) return kLeftOut;
    dense_.emplace_back(column.name, width->second);
    return dense_.size() - 1;
}

void ServedColumns::add(const Impression& impression, const Rows& rows) {
    codes_.insert(codes_.end(), rows.size(), code_of(impression));
    const size_t num_served = impression.tasks.size();
    for (size_t task = 0; task < tasks_.size(); ++task) {
        const auto found = std::find(impression.tasks.begin(), impression.tasks.end(), tasks_[task]);
        const auto column = static_cast<size_t>(found - impression.tasks.begin());
        for (uint32_t row : rows.rows) {
            float score = std::numeric_limits<float>::quiet_NaN();
            if (column < num_served) {
                const auto given = load<float>(impression.scores.data() + (row * num_served + column) * sizeof(float));
                if (given >= 0 && (given <= 1 || layout_.width(task) > 1)) score = given;
            }
            scores_[task].push_back(score);
        }
    }
}

std::vector<size_t> ServedColumns::tasks_with_scores() const {
    std::vector<size_t> tasks;
    for (size_t task = 0; task < scores_.size(); ++task) {
        const auto is_score = [](float score) { return !std::isnan(score); };
        if (std::any_of(scores_[task].begin(), scores_[task].end(), is_score)) tasks.push_back(task);
    }
    return tasks;
}

int32_t ServedColumns::code_of(const Impression& impression) {
    for (size_t code = models_.size(); code-- > 0;)
        if (models_[code].first == impression.arm && models_[code].second == impression.model_version)
            return static_cast<int32_t>(code);
    models_.emplace_back(impression.arm, impression.model_version);
    return static_cast<int32_t>(models_.size() - 1);
}

}  // namespace monolith::joiner
