#include "ranking/ranker.hpp"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <thread>

#include "ranking/answer.hpp"

namespace monolith::ranking {

namespace {

// Work is counted in fids to look up. A request costs as much as 500 of them whatever its size, a candidate in the
// model as much as 64: measured at 36 features with towers 256-128-64.
constexpr size_t kWorkPerRequest = 500, kWorkPerCandidate = 64;

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point begin) { return std::chrono::duration<double>(Clock::now() - begin).count(); }

EntityOrder counter_order(const RequestOrder& order) { return {0, 0, static_cast<uint32_t>(order.no_counter.size())}; }

// Put the columns of each row behind its row of `items`; the dense values of those have their place already.
void merge(const Rows& items, size_t features, const Rows& columns, size_t num_rows, Rows& rows) {
    const size_t own = num_rows == 0 ? 0 : columns.lengths.size() / num_rows;
    rows.lengths.reserve(items.lengths.size() + columns.lengths.size());
    rows.fids.reserve(items.fids.size() + columns.fids.size());
    size_t item_at = 0, own_at = 0;
    const auto append = [&](const Rows& from, size_t row, size_t num, size_t& at) {
        const int32_t* const lengths = from.lengths.data() + row * num;
        rows.lengths.insert(rows.lengths.end(), lengths, lengths + num);
        const size_t size = sum_of(lengths, num);
        rows.fids.insert(rows.fids.end(), from.fids.data() + at, from.fids.data() + at + size);
        at += size;
    };
    for (size_t row = 0; row < num_rows; ++row) {
        append(items, row, features, item_at);
        append(columns, row, own, own_at);
    }
}

}  // namespace

Ranker::Ranker(RequestOrder order, const RequestLimits& limits, std::vector<std::string> tasks,
               StoreLimits store_limits)
    : order_(std::move(order)),
      limits_(limits),
      tasks_(std::move(tasks)),
      scorer_(order_, tasks_.size()),
      returner_(order_),
      users_(order_.user, std::vector<float>(order_.user.width), store_limits),
      items_(order_.item, std::vector<float>(order_.item.width), store_limits),
      work_(std::max(1u, std::thread::hardware_concurrency())) {
    const size_t num = order_.shared.counters.size() + order_.candidates.counters.size();
    for (size_t i = 0; i < num; ++i)
        counters_.push_back(std::make_unique<EntityStore>(counter_order(order_), order_.no_counter, store_limits));
}

void Ranker::rank(const Call& call, const Model& model, const ReplicaRows& rows, Ranked& ranked) {
    const Clock::time_point begin = Clock::now();
    Request request;
    Wish wish;
    if (!read_request(call.bytes, order_, limits_, call.now_ms, request)) return;
    if (!grants(call, tasks_, order_.names, limits_, request, wish) || (call.is_quick && wish.explains)) return;
    gather(call, request, ranked);
    const bool lacks_counters = !ranked.missing.counters.empty() && !call.takes_absent;
    if (lacks_counters || (ranked.missing.of_entities() && !call.takes_absent_entities)) {
        ranked.status = Status::kMissing;
        return;
    }
    ranked.is_complete = !ranked.missing.any();
    const size_t num_fids = ranked.shared.fids.size() + ranked.candidates.fids.size();
    size_t work = kWorkPerRequest + num_fids + kWorkPerCandidate * ranked.num_scored;
    if (wish.explains) work += kWorkPerCandidate * wish.num_answered * order_.names.size();
    const double left_s = call.left_s - seconds_since(begin);
    ranked.expected_s = work_.admit(static_cast<double>(work), left_s);
    if (ranked.expected_s > 0) {
        ranked.status = Status::kOverloaded;
        return;
    }
    const Clock::time_point scored = Clock::now();
    try {
        score(call, model, rows, left_s, wish, ranked);
    } catch (...) {
        work_.done(static_cast<double>(work), 0);
        throw;
    }
    work_.done(static_cast<double>(work), ranked.status == Status::kLate ? 0 : seconds_since(scored));
}

// Set scores, answer and status.
void Ranker::score(const Call& call, const Model& model, const ReplicaRows& rows, double left_s, Wish& wish,
                   Ranked& ranked) {
    const Clock::time_point begin = Clock::now();
    const auto scored = [&] {
        return Scored{ranked.shared, ranked.candidates, ranked.item_ids.size(), ranked.scores, ranked.contributions};
    };
    Outcome outcome = Outcome::kScored;
    if (wish.top_k > 0 || !wish.explains) outcome = scorer_.score(model, rows, left_s, scored());
    if (wish.top_k > 0 && outcome == Outcome::kScored) {
        wish.positions = best(ranked.scores.data() + wish.rank_by, tasks_.size(), ranked.num_scored, wish.top_k);
        keep(wish.positions, order_.candidates, tasks_.size(), ranked);
    }
    if (wish.explains && outcome == Outcome::kScored)
        outcome = scorer_.explain(model, rows, left_s - seconds_since(begin), scored());
    if (outcome != Outcome::kScored) {
        ranked.status = outcome == Outcome::kLate ? Status::kLate : Status::kNotFinite;
        return;
    }
    respond(call, tasks_, order_.names, wish, ranked);
    const bool fits =
        wish.returned.empty() || returner_.append(wish.returned, limits_.max_returned, ranked, ranked.response);
    if (fits) ranked.status = Status::kDone;
}

void Ranker::gather(const Call& call, const Request& request, Ranked& ranked) const {
    ranked.request_id = request.request_id.empty() ? call.own_id : request.request_id;
    ranked.model_version = call.model_version;
    ranked.time_ms = request.time_ms != 0 ? request.time_ms : call.now_ms;
    ranked.user_id = request.user_id;
    ranked.logs_impression = request.logs_impression;
    const size_t n = ranked.num_scored = request.num_candidates();
    ranked.item_ids.resize(n);
    std::memcpy(ranked.item_ids.data(), request.item_ids.data(), request.item_ids.size());

    Rows& shared = ranked.shared;
    shared.dense.resize(order_.shared.width);
    users_.read(&request.user_id, 1, call.monotonic_ms, call.age, shared, shared.dense.data(), shared.dense.size(),
                ranked.missing.users);
    shared.fids.insert(shared.fids.end(), request.context.fids.begin(), request.context.fids.end());
    shared.lengths.insert(shared.lengths.end(), request.context.lengths.begin(), request.context.lengths.end());
    std::copy(request.context.dense.begin(), request.context.dense.end(), shared.dense.begin() + order_.user.width);

    Rows& own = ranked.candidates;
    own.dense.resize(n * order_.candidates.width);
    const size_t stride = order_.candidates.width;
    Rows items;
    items_.read(ranked.item_ids.data(), n, call.monotonic_ms, call.age, order_.candidate.empty() ? own : items,
                own.dense.data(), stride, ranked.missing.items);
    if (!order_.candidate.empty()) {
        merge(items, order_.item.features(), request.candidates, n, own);
        const size_t width = order_.candidate.width();
        for (size_t i = 0; i < n; ++i)
            std::copy_n(request.candidates.dense.data() + i * width, width,
                        own.dense.data() + i * stride + order_.item.width);
    }
    if (counters_.empty() || (ranked.missing.of_entities() && !call.takes_absent_entities)) return;
    read_counters(call, order_.shared, 0, shared, ranked.missing);
    read_counters(call, order_.candidates, order_.shared.counters.size(), own, ranked.missing);
}

// The counters of each feature are the mean over a row's fids. Their order of summation is numpy's for up to 8 fids, so
// that both paths log the same values.
void Ranker::read_counters(const Call& call, const GroupOrder& group, size_t first, Rows& rows,
                           Missing& missing) const {
    const size_t features = group.features.size(), width = order_.no_counter.size();
    const size_t num_rows = features == 0 ? 0 : rows.lengths.size() / features;
    std::vector<int64_t> fids, absent;
    std::vector<float> values;
    Rows none;
    for (size_t c = 0; c < group.counters.size(); ++c) {
        const size_t place = group.counters[c], at = group.width - (group.counters.size() - c) * width;
        fids.clear();
        absent.clear();
        const int64_t* bag = rows.fids.data();
        for (size_t i = 0; i < num_rows * features; bag += rows.lengths[i++])
            if (i % features == place) fids.insert(fids.end(), bag, bag + rows.lengths[i]);
        values.resize(fids.size() * width);
        counters_[first + c]->read(fids.data(), fids.size(), call.monotonic_ms, call.age, none, values.data(), width,
                                   absent);
        for (int64_t fid : absent) missing.counters.emplace_back(static_cast<uint32_t>(first + c), fid);
        const float* next = values.data();
        for (size_t row = 0; row < num_rows; ++row) {
            const auto length = static_cast<size_t>(rows.lengths[row * features + place]);
            for (size_t v = 0; v < width; ++v) {
                float sum = length == 0 ? order_.no_counter[v] : next[v], others = 0;
                for (size_t i = 1; i < length; ++i) others += next[i * width + v];
                sum += others;
                rows.dense[row * group.width + at + v] =
                    length > 1 ? static_cast<float>(static_cast<double>(sum) / static_cast<double>(length)) : sum;
            }
            next += length * width;
        }
    }
}

}  // namespace monolith::ranking
