#include "ranking/scorer.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>

namespace monolith::ranking {

namespace {

// Candidates that go through the model together: their rows and hidden outputs stay in the L2 cache.
constexpr size_t kBlock = 128;

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point begin) { return std::chrono::duration<double>(Clock::now() - begin).count(); }

// Whether each bag has one fid.
bool are_single(const int32_t* lengths, size_t n) {
    int32_t others = 0;
    for (size_t i = 0; i < n; ++i) others |= lengths[i] ^ 1;
    return others == 0;
}

size_t sum_of(const int32_t* lengths, size_t n) {
    size_t sum = 0;
    for (size_t i = 0; i < n; ++i) sum += static_cast<size_t>(lengths[i]);
    return sum;
}

// A row of a narrower feature leaves the end of its place in the input as it is: zeros.
bool has_padding(const ReplicaRows& rows, const std::vector<uint32_t>& features, size_t dim) {
    return std::any_of(features.begin(), features.end(),
                       [&](uint32_t feature) { return rows.features()[feature].dim < dim; });
}

}  // namespace

// Pooled rows of one request and its dense values, before the model has changed them.
struct Scorer::Pooled {
    std::vector<float> shared, own;  // (rows * D,) and, at model.stride(), (n, rows * D)
    std::vector<float> shared_dense, own_dense;
    size_t num_candidates;
};

Scorer::Group::Group(const GroupOrder& of) : order(of), has_sequences(false) {
    for (size_t i = 0; i < of.features.size(); ++i) {
        has_sequences |= of.sequences[i] > 0;
        features.insert(features.end(), of.num_rows(i), of.features[i]);
    }
}

const int64_t* Scorer::Group::pool(const ReplicaRows& from, size_t num_rows, const int32_t* lengths,
                                   const int64_t* fids, size_t dim, float* out, size_t stride) const {
    static thread_local std::vector<size_t> columns;
    static thread_local std::vector<int32_t> bag_lengths;
    static thread_local std::vector<int64_t> bag_fids;
    const size_t num_bags = num_rows * order.features.size();
    columns.resize(features.size());
    for (size_t i = 0; i < features.size(); ++i) columns[i] = i * dim;
    const bool is_single = are_single(lengths, num_bags);
    const int64_t* const end = fids + (is_single ? num_bags : sum_of(lengths, num_bags));
    if (!has_sequences) {
        from.pool(features, num_rows, is_single ? nullptr : lengths, fids, out, stride, columns.data());
        return end;
    }
    bag_lengths.clear();
    bag_fids.clear();
    for (size_t bag = 0; bag < num_bags; fids += lengths[bag++]) {
        const uint32_t most = order.sequences[bag % order.features.size()];
        const auto length = static_cast<uint32_t>(lengths[bag]), taken = most == 0 ? length : std::min(length, most);
        bag_fids.insert(bag_fids.end(), fids, fids + taken);
        if (most == 0) bag_lengths.push_back(lengths[bag]);
        for (uint32_t place = 0; place < most; ++place) bag_lengths.push_back(place < length ? 1 : 0);
    }
    from.pool(features, num_rows, bag_lengths.data(), bag_fids.data(), out, stride, columns.data());
    return end;
}

Scorer::Scorer(const RequestOrder& order, size_t num_tasks)
    : order_(order), num_tasks_(num_tasks), shared_(order.shared), own_(order.candidates) {}

Outcome Scorer::score(const Model& model, const ReplicaRows& rows, double left_s, const Scored& to) const {
    static thread_local SharedPart part;
    static thread_local std::vector<float> inputs;
    const Clock::time_point begin = Clock::now();
    const size_t n = to.num_candidates, features = order_.candidates.features.size(), dim = model.shape().dim;
    const size_t stride = model.stride();
    part.inputs.assign(model.shared_floats(), 0.0f);
    shared_.pool(rows, 1, to.shared.lengths.data(), to.shared.fids.data(), dim, part.inputs.data(), 0);
    model.begin(to.shared.dense.data(), part);
    inputs.resize(std::min(n, kBlock) * stride);
    if (has_padding(rows, own_.features, dim)) std::fill(inputs.begin(), inputs.end(), 0.0f);
    to.scores.resize(n * num_tasks_);
    const int64_t* fids = to.candidates.fids.data();
    bool is_finite = true;
    for (size_t first = 0; first < n; first += kBlock) {
        if (seconds_since(begin) >= left_s) return Outcome::kLate;
        const size_t num = std::min(kBlock, n - first);
        const int32_t* const lengths = to.candidates.lengths.data() + first * features;
        fids = own_.pool(rows, num, lengths, fids, dim, inputs.data(), stride);
        float* const scores = to.scores.data() + first * num_tasks_;
        model.score(part, inputs.data(), to.candidates.dense.data() + first * order_.candidates.width, num, scores);
        is_finite &= model.to_scores(scores, num);
    }
    return is_finite ? Outcome::kScored : Outcome::kNotFinite;
}

Outcome Scorer::run(const Model& model, const Pooled& pooled, double left_s, std::vector<float>& scores) const {
    static thread_local SharedPart part;
    static thread_local std::vector<float> inputs;
    const Clock::time_point begin = Clock::now();
    const size_t n = pooled.num_candidates, stride = model.stride(), width = order_.candidates.width;
    part.inputs = pooled.shared;
    model.begin(pooled.shared_dense.data(), part);
    scores.resize(n * num_tasks_);
    bool is_finite = true;
    for (size_t first = 0; first < n; first += kBlock) {
        if (seconds_since(begin) >= left_s) return Outcome::kLate;
        const size_t num = std::min(kBlock, n - first);
        const float* const from = pooled.own.data() + first * stride;
        inputs.assign(from, from + num * stride);
        float* const to = scores.data() + first * num_tasks_;
        model.score(part, inputs.data(), pooled.own_dense.data() + first * width, num, to);
        is_finite &= model.to_scores(to, num);
    }
    return is_finite ? Outcome::kScored : Outcome::kNotFinite;
}

Outcome Scorer::explain(const Model& model, const ReplicaRows& rows, double left_s, const Scored& to) const {
    const Clock::time_point begin = Clock::now();
    const size_t n = to.num_candidates, dim = model.shape().dim, stride = model.stride();
    const size_t num_features = order_.names.size();
    Pooled pooled{std::vector<float>(model.shared_floats()), std::vector<float>(n * stride), to.shared.dense,
                  to.candidates.dense, n};
    shared_.pool(rows, 1, to.shared.lengths.data(), to.shared.fids.data(), dim, pooled.shared.data(), 0);
    own_.pool(rows, n, to.candidates.lengths.data(), to.candidates.fids.data(), dim, pooled.own.data(), stride);
    Outcome outcome = run(model, pooled, left_s, to.scores);
    to.contributions.assign(to.scores.size() * num_features, 0.0f);
    std::vector<float> scores;
    // Empty `width` values from `at` on of each of n rows, score, and put the values back.
    const auto leave_out = [&](std::vector<float>& values, size_t num, size_t step, size_t at, size_t width,
                               size_t feature) {
        if (outcome != Outcome::kScored) return;
        std::vector<float> kept;
        for (size_t i = 0; i < num; ++i) {
            float* const from = values.data() + i * step + at;
            kept.insert(kept.end(), from, from + width);
            std::fill_n(from, width, 0.0f);
        }
        outcome = run(model, pooled, left_s - seconds_since(begin), scores);
        for (size_t i = 0; i < num; ++i) std::copy_n(kept.data() + i * width, width, values.data() + i * step + at);
        for (size_t i = 0; i < scores.size(); ++i)
            to.contributions[i * num_features + feature] = to.scores[i] - scores[i];
    };
    const auto leave_out_each = [&](const GroupOrder& order, size_t num, size_t step, std::vector<float>& pooled_rows,
                                    std::vector<float>& dense) {
        size_t at = 0;
        for (size_t i = 0; i < order.features.size(); ++i) {
            leave_out(pooled_rows, num, step, at, order.num_rows(i) * dim, order.features[i]);
            at += order.num_rows(i) * dim;
        }
        at = 0;
        for (const auto& [place, width] : order.dense) {
            leave_out(dense, num, order.width, at, width, place);
            at += width;
        }
    };
    leave_out_each(order_.shared, 1, 0, pooled.shared, pooled.shared_dense);
    leave_out_each(order_.candidates, n, stride, pooled.own, pooled.own_dense);
    return outcome;
}

}  // namespace monolith::ranking
