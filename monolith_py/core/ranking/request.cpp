#include "ranking/request.hpp"

#include <algorithm>

#include "joiner/wire.hpp"

namespace monolith::ranking {

namespace {

using joiner::Wire;

constexpr size_t kMostIdBytes = 128;

// Number of a field and its wire type.
constexpr uint8_t tag(int field, int wire_type) { return static_cast<uint8_t>(field << 3 | wire_type); }
constexpr int kVarint = 0, kFixed64 = 1, kBytes = 2;

bool is_plain_text(std::string_view text) {
    return std::all_of(text.begin(), text.end(), [](char one) { return one >= ' ' && one <= '~'; });
}

// Content of each context feature, by its place in the order.
struct Context {
    explicit Context(const RequestOrder& order) : fids(order.context.size()), dense(order.context_dense.size()) {}
    struct Bytes {
        std::string_view bytes;
        bool is_given = false;
    };
    std::vector<Bytes> fids, dense;
};

bool read_sparse(std::string_view message, const RequestOrder& order, size_t max_fids, Context& context) {
    Wire wire(message);
    std::string_view name, fids, lengths;
    if (!wire.tag(tag(1, kBytes)) || !wire.bytes(name)) return false;
    if (wire.tag(tag(2, kBytes)) && !wire.bytes(fids)) return false;
    if (wire.tag(tag(3, kBytes)) && !wire.bytes(lengths)) return false;
    if (!wire.done() || fids.size() % sizeof(int64_t) != 0) return false;
    uint64_t length = 1;
    if (!lengths.empty()) {
        Wire numbers(lengths);
        if (!numbers.varint(length) || !numbers.done()) return false;
    }
    const size_t num = fids.size() / sizeof(int64_t);
    const auto place = std::find(order.context.begin(), order.context.end(), name);
    if (num != length || num > max_fids || place == order.context.end()) return false;
    Context::Bytes& own = context.fids[static_cast<size_t>(place - order.context.begin())];
    if (own.is_given) return false;
    own = {fids, true};
    return true;
}

bool read_dense(std::string_view message, const RequestOrder& order, Context& context) {
    Wire wire(message);
    std::string_view name, values;
    if (!wire.tag(tag(1, kBytes)) || !wire.bytes(name)) return false;
    if (wire.tag(tag(2, kBytes)) && !wire.bytes(values)) return false;
    if (!wire.done() || values.size() % sizeof(float) != 0) return false;
    const auto place = std::find_if(order.context_dense.begin(), order.context_dense.end(),
                                    [&](const auto& feature) { return feature.first == name; });
    if (place == order.context_dense.end() || values.size() != place->second * sizeof(float)) return false;
    Context::Bytes& own = context.dense[static_cast<size_t>(place - order.context_dense.begin())];
    if (own.is_given || !joiner::are_finite(values)) return false;
    own = {values, true};
    return true;
}

template <typename T>
void append(std::string_view bytes, std::vector<T>& values) {
    const size_t before = values.size();
    values.resize(before + bytes.size() / sizeof(T));
    if (!bytes.empty()) std::memcpy(values.data() + before, bytes.data(), bytes.size());
}

bool read_context(std::string_view message, const RequestOrder& order, size_t max_fids, Rows& row) {
    Context context(order);
    Wire wire(message);
    std::string_view column;
    while (wire.tag(tag(1, kBytes)))
        if (!wire.bytes(column) || !read_sparse(column, order, max_fids, context)) return false;
    while (wire.tag(tag(2, kBytes)))
        if (!wire.bytes(column) || !read_dense(column, order, context)) return false;
    if (!wire.done()) return false;
    for (const Context::Bytes& one : context.fids) {
        append(one.bytes, row.fids);
        row.lengths.push_back(static_cast<int32_t>(one.bytes.size() / sizeof(int64_t)));
    }
    for (size_t i = 0; i < context.dense.size(); ++i) {
        const size_t before = row.dense.size();
        append(context.dense[i].bytes, row.dense);
        row.dense.resize(before + order.context_dense[i].second, 0.0f);
    }
    return true;
}

}  // namespace

bool read_request(std::string_view bytes, const RequestOrder& order, const RequestLimits& limits, int64_t now_ms,
                  Request& request) {
    Wire wire(bytes);
    std::string_view context;
    uint64_t time_ms = 0, logs = 1;
    if (wire.tag(tag(1, kBytes)) && !wire.bytes(request.request_id)) return false;
    if (wire.tag(tag(2, kFixed64)) && !wire.fixed(request.user_id)) return false;
    if (wire.tag(tag(3, kBytes)) && !wire.bytes(request.item_ids)) return false;
    if (wire.tag(tag(4, kBytes)) && !wire.bytes(context)) return false;
    if (wire.tag(tag(5, kVarint)) && !wire.varint(time_ms)) return false;
    if (wire.tag(tag(6, kVarint)) && !wire.varint(logs)) return false;
    if (!wire.done() || logs > 1) return false;
    if (request.request_id.size() > kMostIdBytes || !is_plain_text(request.request_id)) return false;
    const size_t num = request.num_candidates();
    if (request.item_ids.size() % sizeof(int64_t) != 0 || num < 1 || num > limits.max_candidates) return false;
    request.time_ms = static_cast<int64_t>(time_ms);
    request.logs_impression = logs != 0;
    const int64_t oldest_ms = limits.max_age_ms == 0 ? 0 : now_ms - limits.max_age_ms;
    const bool is_timely =
        request.time_ms >= std::max(limits.least_time_ms, oldest_ms) && request.time_ms <= now_ms + limits.max_skew_ms;
    if (time_ms != 0 && !is_timely) return false;
    return read_context(context, order, limits.max_fids, request.context);
}

}  // namespace monolith::ranking
