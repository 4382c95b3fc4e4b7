#include "ranking/request.hpp"

#include <algorithm>

#include "joiner/wire.hpp"
#include "ranking/columns.hpp"

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

// Read the fields from `top_k` on.
bool read_choice(Wire& wire, Choice& choice, std::string_view& candidates) {
    std::string_view name;
    if (wire.tag(tag(7, kVarint)) && !(wire.varint(choice.top_k) && choice.top_k <= UINT32_MAX)) return false;
    while (wire.tag(tag(8, kBytes))) {
        if (!wire.bytes(name)) return false;
        choice.task_names.push_back(name);
    }
    if (wire.tag(tag(9, kBytes)) && !wire.bytes(choice.rank_by)) return false;
    if (wire.tag(tag(10, kBytes)) && !wire.bytes(candidates)) return false;
    if (wire.tag(tag(11, kBytes)) && !wire.bytes(choice.model_version)) return false;
    if (wire.tag(tag(12, kVarint)) && !wire.varint(choice.max_staleness_ms)) return false;
    uint64_t explains = 0;
    if (wire.tag(tag(13, kVarint)) && !wire.varint(explains)) return false;
    choice.explains = explains == 1;
    while (wire.tag(tag(14, kBytes))) {
        if (!wire.bytes(name)) return false;
        choice.returned.push_back(name);
    }
    return wire.done() && explains <= 1;
}

}  // namespace

bool read_request(std::string_view bytes, const RequestOrder& order, const RequestLimits& limits, int64_t now_ms,
                  Request& request) {
    Wire wire(bytes);
    std::string_view context, candidates;
    uint64_t time_ms = 0, logs = 0;
    if (wire.tag(tag(1, kBytes)) && !wire.bytes(request.request_id)) return false;
    if (wire.tag(tag(2, kFixed64)) && !wire.fixed(request.user_id)) return false;
    if (wire.tag(tag(3, kBytes)) && !wire.bytes(request.item_ids)) return false;
    if (wire.tag(tag(4, kBytes)) && !wire.bytes(context)) return false;
    if (wire.tag(tag(5, kVarint)) && !wire.varint(time_ms)) return false;
    const bool says_logs = wire.tag(tag(6, kVarint));
    if (says_logs && !wire.varint(logs)) return false;
    if (!read_choice(wire, request.choice, candidates) || logs > 1) return false;
    if (request.request_id.size() > kMostIdBytes || !is_plain_text(request.request_id)) return false;
    const size_t num = request.num_candidates();
    if (request.item_ids.size() % sizeof(int64_t) != 0 || num < 1 || num > limits.max_candidates) return false;
    request.time_ms = static_cast<int64_t>(time_ms);
    request.logs_impression = says_logs ? logs != 0 : !request.choice.explains;
    const int64_t oldest_ms = limits.max_age_ms == 0 ? 0 : now_ms - limits.max_age_ms;
    const bool is_timely =
        request.time_ms >= std::max(limits.least_time_ms, oldest_ms) && request.time_ms <= now_ms + limits.max_skew_ms;
    if (time_ms != 0 && !is_timely) return false;
    return read_columns(context, order.context, 1, limits.max_fids, request.context) &&
           read_columns(candidates, order.candidate, num, limits.max_fids, request.candidates);
}

}  // namespace monolith::ranking
