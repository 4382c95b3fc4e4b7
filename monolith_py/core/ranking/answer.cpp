#include "ranking/answer.hpp"

#include <algorithm>
#include <numeric>
#include <string_view>
#include <utility>

namespace monolith::ranking {

bool grants(const Call& call, const std::vector<std::string>& tasks, const Choice& choice, Wish& wish) {
    for (std::string_view name : choice.task_names) {
        const auto place = static_cast<uint32_t>(std::find(tasks.begin(), tasks.end(), name) - tasks.begin());
        const bool is_double = std::find(wish.tasks.begin(), wish.tasks.end(), place) != wish.tasks.end();
        if (place == tasks.size() || is_double) return false;
        wish.tasks.push_back(place);
    }
    wish.top_k = choice.top_k;
    wish.rank_by = wish.tasks.empty() ? 0 : wish.tasks[0];
    if (!choice.rank_by.empty()) {
        const auto place = std::find(tasks.begin(), tasks.end(), choice.rank_by);
        if (place == tasks.end() || choice.top_k == 0) return false;
        wish.rank_by = static_cast<size_t>(place - tasks.begin());
    }
    const std::string_view version = choice.model_version, own = call.model_version;
    if (!version.empty() && version != own && version != own.substr(0, own.find('.'))) return false;
    const auto age_ms = static_cast<uint64_t>(std::max<int64_t>(call.staleness_ms, 0));
    return choice.max_staleness_ms == 0 || age_ms <= choice.max_staleness_ms;
}

std::vector<uint32_t> best(const float* scores, size_t stride, size_t n, size_t num) {
    std::vector<uint32_t> places(n);
    std::iota(places.begin(), places.end(), 0u);
    num = std::min(num, n);
    std::partial_sort(places.begin(), places.begin() + static_cast<ptrdiff_t>(num), places.end(),
                      [&](uint32_t a, uint32_t b) {
                          const float left = scores[a * stride], right = scores[b * stride];
                          return left != right ? left > right : a < b;
                      });
    places.resize(num);
    return places;
}

void keep(const std::vector<uint32_t>& places, const GroupOrder& order, size_t num_tasks, Ranked& ranked) {
    const size_t features = order.features.size(), width = order.width;
    const Rows all = std::exchange(ranked.candidates, {});
    const std::vector<int64_t> items = std::exchange(ranked.item_ids, {});
    const std::vector<float> scores = std::exchange(ranked.scores, {});
    std::vector<size_t> starts(items.size() + 1);
    for (size_t row = 0; row < items.size(); ++row)
        starts[row + 1] = starts[row] + sum_of(all.lengths.data() + row * features, features);
    const auto append = [](auto& to, const auto& from, size_t begin, size_t end) {
        to.insert(to.end(), from.begin() + static_cast<ptrdiff_t>(begin), from.begin() + static_cast<ptrdiff_t>(end));
    };
    for (size_t row : places) {
        ranked.item_ids.push_back(items[row]);
        append(ranked.scores, scores, row * num_tasks, (row + 1) * num_tasks);
        append(ranked.candidates.lengths, all.lengths, row * features, (row + 1) * features);
        append(ranked.candidates.fids, all.fids, starts[row], starts[row + 1]);
        append(ranked.candidates.dense, all.dense, row * width, (row + 1) * width);
    }
}

void respond(const Call& call, const std::vector<std::string>& tasks, const Wish& wish, Ranked& ranked) {
    std::string& out = ranked.response;
    const auto size_of = [](uint64_t value) {
        size_t size = 1;
        for (; value >= 128; value >>= 7) ++size;
        return size;
    };
    const auto number = [&](uint64_t value) {
        for (; value >= 128; value >>= 7) out.push_back(static_cast<char>(value | 128));
        out.push_back(static_cast<char>(value));
    };
    const auto text = [&](int field, std::string_view bytes) {
        out.push_back(static_cast<char>(field << 3 | 2));
        number(bytes.size());
        out.append(bytes);
    };
    out.reserve(ranked.scores.size() * sizeof(float) + 256);
    text(1, ranked.request_id);
    std::vector<float> chosen;
    for (size_t i = 0; !wish.tasks.empty() && i < ranked.item_ids.size(); ++i)
        for (uint32_t task : wish.tasks) chosen.push_back(ranked.scores[i * tasks.size() + task]);
    const std::vector<float>& scores = wish.tasks.empty() ? ranked.scores : chosen;
    text(2, {reinterpret_cast<const char*>(scores.data()), scores.size() * sizeof(float)});
    if (wish.tasks.empty())
        for (const std::string& task : tasks) text(3, task);
    for (uint32_t task : wish.tasks) text(3, tasks[task]);
    text(4, ranked.model_version);
    const auto age = [&](int field, int64_t value) {
        if (value == 0) return;
        out.push_back(static_cast<char>(field << 3));
        number(static_cast<uint64_t>(value));
    };
    age(5, call.staleness_ms);
    if (!wish.positions.empty()) {
        size_t size = 0;
        for (uint32_t place : wish.positions) size += size_of(place);
        out.push_back(static_cast<char>(6 << 3 | 2));
        number(size);
        for (uint32_t place : wish.positions) number(place);
    }
    age(7, call.event_staleness_ms);
}

}  // namespace monolith::ranking
