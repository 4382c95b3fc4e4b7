#include "ranking/answer.hpp"

#include <algorithm>
#include <numeric>
#include <string_view>
#include <utility>

namespace monolith::ranking {

bool grants(const Call& call, const std::vector<std::string>& tasks, const std::vector<std::string>& names,
            const RequestLimits& limits, const Request& request, Wish& wish) {
    const Choice& choice = request.choice;
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
    for (std::string_view name : choice.returned) {
        const auto place = static_cast<size_t>(std::find(names.begin(), names.end(), name) - names.begin());
        wish.returned.resize(names.size());
        if (place == names.size() || wish.returned[place]) return false;
        wish.returned[place] = true;
    }
    const size_t n = request.num_candidates();
    wish.num_answered = wish.top_k == 0 ? n : std::min(wish.top_k, n);
    wish.explains = choice.explains;
    const size_t num_tasks = wish.tasks.empty() ? tasks.size() : wish.tasks.size();
    if (wish.explains && wish.num_answered * num_tasks * names.size() > limits.max_contributions) return false;
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

BagStarts::BagStarts(const Rows& rows) : rows_(rows) {
    if (std::all_of(rows.lengths.begin(), rows.lengths.end(), [](int32_t length) { return length == 1; })) return;
    starts_.resize(rows.lengths.size());
    int64_t at = 0;
    for (size_t i = 0; i < starts_.size(); ++i) {
        starts_[i] = at;
        at += rows.lengths[i];
    }
}

codec::PackedRows BagStarts::rows(size_t num_rows) const {
    const int64_t* const starts = starts_.empty() ? nullptr : starts_.data();
    return {rows_.fids.data(), starts, rows_.lengths.data(), rows_.dense.data(), num_rows};
}

ServedRanked::ServedRanked(const Ranked& ranked)
    : shared(ranked.shared),
      candidates(ranked.candidates),
      request{
          .request_id = ranked.request_id,
          .time_ms = ranked.time_ms,
          .user_id = ranked.user_id,
          .item_ids = ranked.item_ids.data(),
          .shared = shared.rows(1),
          .candidates = candidates.rows(ranked.item_ids.size()),
          .scores = ranked.scores.data(),
          .model_version = ranked.model_version,
      } {}

namespace {

// Fields of a message behind each other.
class Fields {
  public:
    explicit Fields(std::string& out) : out_(out) {}

    void number(uint64_t value) {
        for (; value >= 128; value >>= 7) out_.push_back(static_cast<char>(value | 128));
        out_.push_back(static_cast<char>(value));
    }
    void text(int field, std::string_view bytes) {
        out_.push_back(static_cast<char>(field << 3 | 2));
        number(bytes.size());
        out_.append(bytes);
    }
    void floats(int field, const std::vector<float>& values) {
        if (!values.empty()) text(field, {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float)});
    }
    void nonzero(int field, int64_t value) {
        if (value == 0) return;
        out_.push_back(static_cast<char>(field << 3));
        number(static_cast<uint64_t>(value));
    }
    void numbers(int field, const std::vector<uint32_t>& values) {
        if (values.empty()) return;
        size_t size = 0;
        for (uint32_t value : values)
            for (size = size + 1; value >= 128; value >>= 7) ++size;
        out_.push_back(static_cast<char>(field << 3 | 2));
        number(size);
        for (uint32_t value : values) number(value);
    }

  private:
    std::string& out_;
};

// Values (n, T, width) of the tasks of a wish alone.
std::vector<float> of_tasks(const Wish& wish, size_t num_tasks, size_t width, const std::vector<float>& values) {
    std::vector<float> chosen;
    for (auto row = values.begin(); row != values.end(); row += static_cast<ptrdiff_t>(num_tasks * width))
        for (uint32_t task : wish.tasks) {
            const auto begin = row + static_cast<ptrdiff_t>(task * width);
            chosen.insert(chosen.end(), begin, begin + static_cast<ptrdiff_t>(width));
        }
    return chosen;
}

}  // namespace

void respond(const Call& call, const std::vector<std::string>& tasks, const std::vector<std::string>& names,
             const Wish& wish, Ranked& ranked) {
    std::string& out = ranked.response;
    Fields fields(out);
    const bool has_all = wish.tasks.empty();
    out.reserve((ranked.scores.size() + ranked.contributions.size()) * sizeof(float) + 256);
    fields.text(1, ranked.request_id);
    fields.floats(2, has_all ? ranked.scores : of_tasks(wish, tasks.size(), 1, ranked.scores));
    if (has_all)
        for (const std::string& task : tasks) fields.text(3, task);
    for (uint32_t task : wish.tasks) fields.text(3, tasks[task]);
    fields.text(4, ranked.model_version);
    fields.nonzero(5, call.staleness_ms);
    fields.numbers(6, wish.positions);
    fields.nonzero(7, call.event_staleness_ms);
    if (!wish.explains) return;
    for (const std::string& name : names) fields.text(8, name);
    const std::vector<float>& all = ranked.contributions;
    fields.floats(9, has_all ? all : of_tasks(wish, tasks.size(), names.size(), all));
}

Returner::Group Returner::group_of(const GroupOrder& order, const std::vector<std::string>& names) {
    Group group;
    for (uint32_t place : order.features) {
        group.features.sparse.push_back(names[place]);
        group.places.push_back(place);
    }
    for (const auto& [place, width] : order.dense) {
        group.features.dense.emplace_back(names[place], width);
        group.places.push_back(place);
    }
    return group;
}

Returner::Returner(const RequestOrder& order)
    : shared_(group_of(order.shared, order.names)), own_(group_of(order.candidates, order.names)) {}

bool Returner::append(const std::vector<bool>& chosen, size_t most_values, const Ranked& ranked,
                      std::string& out) const {
    const auto choose = [&](const Group& group) {
        std::vector<bool> of_group;
        for (uint32_t place : group.places) of_group.push_back(chosen[place]);
        return of_group;
    };
    const auto num_values = [](const Group& group, const std::vector<bool>& of_group, const Rows& rows, size_t n) {
        const size_t num_sparse = group.features.sparse.size();
        size_t num = 0;
        for (size_t i = 0; i < rows.lengths.size(); ++i)
            if (of_group[i % num_sparse]) num += static_cast<size_t>(rows.lengths[i]);
        for (size_t i = 0; i < group.features.dense.size(); ++i)
            if (of_group[num_sparse + i]) num += n * group.features.dense[i].second;
        return num;
    };
    const std::vector<bool> shared = choose(shared_), own = choose(own_);
    const size_t n = ranked.item_ids.size();
    if (num_values(shared_, shared, ranked.shared, 1) + num_values(own_, own, ranked.candidates, n) > most_values)
        return false;
    codec::put_columns(10, shared_.features, BagStarts(ranked.shared).rows(1), shared, out);
    codec::put_columns(11, own_.features, BagStarts(ranked.candidates).rows(n), own, out);
    if (!ranked.is_complete) out += {static_cast<char>(12 << 3), 1};
    return true;
}

}  // namespace monolith::ranking
