#include "joiner/rules.hpp"

#include <algorithm>
#include <cmath>
#include <unordered_set>

#include "joiner/blake2b.hpp"

namespace monolith::joiner {

namespace {

constexpr uint32_t kNoRow = UINT32_MAX;

uint32_t row_of(const Request& request, int64_t item_id) {
    const int64_t key = request.key_of(item_id);
    for (uint32_t row = 0; row < request.num_candidates; ++row)
        if (request.candidates[row].item_id == key) return row;
    return kNoRow;
}

}  // namespace

uint32_t Rules::kind_of(std::string_view name) const {
    for (size_t index = 0; index < kinds.size(); ++index)
        if (kinds[index].name == name) return static_cast<uint32_t>(index);
    return kNoKind;
}

bool is_kept(std::string_view request_id, int64_t item_id, double rate) {
    if (rate >= 1.0) return true;
    std::string message(request_id);
    message.append(reinterpret_cast<const char*>(&item_id), sizeof item_id);
    // A whole number is below a bound exactly if it is below the next whole number up.
    return blake2b_64(message, "negative sample") < static_cast<uint64_t>(std::ceil(std::ldexp(rate, 64)));
}

void StateMachine::see_impression(Request& request, const Impression& impression, const Arrival& arrival) {
    const auto num = static_cast<uint32_t>(impression.num_candidates());
    request.time_ms = impression.time_ms;
    request.deadline_ms = rules_.deadline_ms(impression.time_ms);
    request.clock_ms = arrival.clock_ms;
    request.offset = arrival.offset;
    request.impression = arrival.impression;
    request.impression_bytes = static_cast<uint32_t>(arrival.impression.value().size());
    request.shared_bytes = static_cast<uint32_t>(impression.shared.size());
    request.candidates = std::make_unique<Request::Candidate[]>(num);
    request.num_candidates = num;
    request.num_waiting = num;
    keep_rates(request, impression);
    std::unordered_set<int64_t> seen;
    for (uint32_t row = 0; row < num; ++row) {
        request.candidates[row].item_id = impression.item_id(row);
        if (num > 1 && !seen.insert(request.candidates[row].item_id).second) request.set_status(row, Status::kRepeated);
    }
    if (!request.actions) return;
    std::vector<SeenAction> early = std::move(request.actions->early);
    request.actions->early.clear();
    for (SeenAction& action : early) see_action(request, std::move(action));
}

void StateMachine::keep_rates(Request& request, const Impression& impression) {
    if (rules_.negative_rates.is_one()) return;
    rules_.negative_rates.of(impression, rates_);
    const auto differs = [&](double rate) { return rate != rules_.negative_rates.default_rate(); };
    if (std::none_of(rates_.begin(), rates_.end(), differs)) return;
    request.rates = std::make_unique<double[]>(rates_.size());
    std::copy(rates_.begin(), rates_.end(), request.rates.get());
}

void StateMachine::see_action(Request& request, SeenAction seen) {
    if (!request.has_arrived()) {
        keep_early(request, std::move(seen));
        return;
    }
    const bool closes = closes_request(seen);
    const int64_t time_ms = seen.time_ms, forget_ms = request.deadline_ms + rules_.allowed_lateness_ms;
    const uint32_t row = row_of(request, seen.item_id);
    if (rules_.has_passed(request.clock_ms, rules_.expire_ms(seen))) {
        refuse(request, std::move(seen), Reason::kNoImpression);  // it came too early, whichever topic was read first
    } else if (row == kNoRow && !closes) {
        refuse(request, std::move(seen), Reason::kNoCandidate);
    } else if (time_ms >= forget_ms || rules_.has_passed(seen.clock_ms, forget_ms)) {
        refuse(request, std::move(seen), Reason::kExpired);
    } else {
        const bool ends = closes && !is_late(request, seen);
        if (row != kNoRow) see_on_candidate(request, row, std::move(seen));
        if (ends) emit_all(request, std::max(request.time_ms, time_ms));
    }
}

void StateMachine::advance(Request& request, int64_t watermark_ms) {
    if (request.has_arrived()) {
        if (watermark_ms >= request.deadline_ms) emit_all(request, request.deadline_ms);
        return;
    }
    if (!request.actions) return;
    std::vector<SeenAction> kept;
    for (SeenAction& seen : request.actions->early) {
        if (watermark_ms >= rules_.expire_ms(seen))
            refuse(request, std::move(seen), Reason::kNoImpression);
        else
            kept.push_back(std::move(seen));
    }
    request.actions->early = std::move(kept);
}

int64_t StateMachine::due_ms(const Request& request) const {
    if (request.has_arrived()) return request.deadline_ms + (request.is_waiting() ? 0 : rules_.allowed_lateness_ms);
    if (!request.actions || request.actions->early.empty()) return kForeverMs;
    int64_t first_ms = kForeverMs;
    for (const SeenAction& seen : request.actions->early) first_ms = std::min(first_ms, rules_.expire_ms(seen));
    return first_ms;
}

bool StateMachine::can_emit(const Request& request) const {
    if (request.is_waiting()) return true;
    if (!rules_.retracts) return false;
    for (uint32_t row = 0; row < request.num_candidates; ++row)
        if (request.candidates[row].labels != rules_.labels.all()) return true;
    return false;
}

void StateMachine::keep_early(Request& request, SeenAction seen) {
    std::vector<SeenAction>& early = request.waiting_actions().early;
    const bool is_full = early.size() >= kMaxEarly;
    for (const SeenAction& other : early) {
        const bool same = other.item_id == seen.item_id && other.kind == seen.kind &&
                          other.is_positive == seen.is_positive && bits_of(other) == bits_of(seen);
        // One that may wait longer is needed if the impression comes when the other has been refused.
        const bool is_needed = !is_full && rules_.expire_ms(seen) > rules_.expire_ms(other);
        if (same && other.time_ms <= seen.time_ms && !is_needed) return;
    }
    if (is_full)
        refuse(request, std::move(seen), Reason::kTooMany);
    else
        early.push_back(std::move(seen));
}

void StateMachine::see_on_candidate(Request& request, uint32_t row, SeenAction seen) {
    const Status status = request.candidates[row].status;
    if (status != Status::kWaiting && status != Status::kKnown) {
        see_late(request, row, std::move(seen));
        return;
    }
    if (is_late(request, seen)) {
        if (bits_of(seen)) keep_late(request, row, std::move(seen));
        return;
    }
    uint64_t& labels = request.candidates[row].labels;
    labels = rules_.labels.merged(labels, bits_of(seen));
    const bool is_known = is_terminal(seen) || labels == rules_.labels.all();
    if (status != Status::kWaiting || !is_known || rules_.waits_for_window) return;
    request.set_status(row, Status::kKnown);
    const int64_t known_ms = std::max(request.time_ms, seen.time_ms);
    if (!rules_.emits_requests)
        emit(request, row, known_ms);
    else if (request.num_waiting == 0)
        emit_all(request, known_ms);
}

// A second one changes nothing, so copies need no place.
void StateMachine::keep_late(Request& request, uint32_t row, SeenAction seen) {
    std::vector<LateAction>& late = request.waiting_actions().late;
    const bool is_there = std::any_of(late.begin(), late.end(), [&](const LateAction& entry) {
        return entry.row == row && entry.seen.kind == seen.kind && bits_of(entry.seen) == bits_of(seen);
    });
    if (!is_there) late.push_back({row, std::move(seen)});
}

void StateMachine::emit_all(Request& request, int64_t known_ms) {
    for (uint32_t row = 0; row < request.num_candidates && request.is_waiting(); ++row)
        if (request.candidates[row].status == Status::kWaiting || request.candidates[row].status == Status::kKnown)
            emit(request, row, known_ms);
}

void StateMachine::emit(Request& request, uint32_t row, int64_t known_ms) {
    const uint64_t labels = request.candidates[row].labels;
    const double rate = labels ? 1.0 : rate_of(request, row);
    const bool kept = is_kept(request.id, request.candidates[row].item_id, rate);
    request.set_status(row, kept ? Status::kEmitted : Status::kSampledAway);
    const uint8_t kind = kept ? Emission::kLabelled : Emission::kSampledAway;
    outcome_.emissions.push_back({request.impression, request.offset, row, kind, true, static_cast<float>(rate), labels,
                                  request.time_ms, known_ms});
    if (!request.actions || request.actions->late.empty()) return;
    std::vector<LateAction> own, others;
    for (LateAction& entry : request.actions->late) (entry.row == row ? own : others).push_back(std::move(entry));
    request.actions->late = std::move(others);
    for (LateAction& entry : own) see_late(request, row, std::move(entry.seen));
}

void StateMachine::see_late(Request& request, uint32_t row, SeenAction seen) {
    uint64_t& labels = request.candidates[row].labels;
    const uint64_t fresh = rules_.labels.fresh(bits_of(seen), labels);
    if (!fresh) return;
    if (!rules_.retracts) {
        refuse(request, std::move(seen), Reason::kLate);
        return;
    }
    const bool retracts = request.candidates[row].status == Status::kEmitted;
    // The first retraction of a sampled negative takes back its weight; the candidate then has the weight 1 of a
    // positive.
    const auto rate = retracts && labels == 0 ? static_cast<float>(rate_of(request, row)) : 1.0F;
    labels |= fresh;
    request.set_status(row, Status::kEmitted);
    const int64_t from_ms = seen.time_ms >= request.deadline_ms ? request.deadline_ms : request.time_ms;
    const uint8_t kind = retracts ? Emission::kRetraction : Emission::kLabelled;
    outcome_.emissions.push_back({request.impression, request.offset, row, kind, false, rate, fresh, request.time_ms,
                                  std::max(from_ms, seen.time_ms)});
}

void StateMachine::refuse(const Request& request, SeenAction seen, Reason reason) {
    outcome_.refused.push_back({request.id, std::move(seen), reason});
}

}  // namespace monolith::joiner
