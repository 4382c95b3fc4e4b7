#include "joiner/waiting.hpp"

#include <algorithm>

namespace monolith::joiner {

namespace {

size_t content_bytes_of(const Request& request) {
    return request.impression.value().size() + request.num_candidates * sizeof(Request::Candidate);
}

}  // namespace

bool WaitingRequests::see_impression(const Impression& impression, const Arrival& arrival,
                                     std::vector<int64_t>& early) {
    if (closed_.has(id_hash(impression.request_id))) return false;
    Request& request = map_.insert(impression.request_id);
    if (request.has_arrived()) return false;
    if (request.actions)
        for (const SeenAction& seen : request.actions->early) early.push_back(seen.offset);
    const size_t first = outcome_.emissions.size();
    see_arrival(request, impression, arrival);
    take(request, first);
    return true;
}

void WaitingRequests::see_arrival(Request& request, const Impression& impression, const Arrival& arrival) {
    machine_.see_impression(request, impression, arrival);
    for (uint32_t row = 0; row < request.num_candidates; ++row)
        num_waiting_ += request.candidates[row].status != Status::kRepeated;
    content_bytes_ += content_bytes_of(request);
}

bool WaitingRequests::see_action(std::string_view request_id, SeenAction seen) {
    Request& request = find_or_insert(request_id);
    const size_t first = outcome_.emissions.size(), num_early = request.num_early();
    machine_.see_action(request, std::move(seen));
    const bool waits = request.num_early() > num_early;
    take(request, first);
    return waits;
}

bool WaitingRequests::advance(int64_t watermark_ms) {
    for (size_t closed = 0; closed < kMaxClosed && !is_full() && is_due(watermark_ms); ++closed) {
        if (closed_.first_ms() < (due_.empty() ? kForeverMs : due_.first_ms())) {
            forget_closed();
            continue;
        }
        Request& request = due_.first();
        const size_t first = outcome_.emissions.size();
        machine_.advance(request, watermark_ms);
        if (take(request, first) && due_.of(request) <= watermark_ms) forget(request);
    }
    reach(watermark_ms);
    return is_due(watermark_ms);
}

int64_t WaitingRequests::needed_until_ms() const {
    int64_t latest_ms = 0;
    map_.for_each([&](const Request& request) { latest_ms = std::max(latest_ms, due_.of(request)); });
    return closed_.last_ms(latest_ms) + rules_.allowed_lateness_ms;
}

void WaitingRequests::adopt(const Facts& facts) {
    for (const auto& [request_id, items] : facts) {
        Request* request = find(request_id);
        if (request == nullptr || !request->has_arrived()) continue;
        const size_t first = outcome_.emissions.size();
        joiner::adopt(*request, items, rules_.labels, outcome_);
        take(*request, first);
    }
}

void WaitingRequests::recover_impression(const Impression& impression, const Arrival& arrival) {
    if (closed_.has(id_hash(impression.request_id))) return;
    Request& request = map_.insert(impression.request_id);
    if (request.has_arrived()) return;
    std::unique_ptr<Request::Actions> actions = std::move(request.actions);
    const size_t first = outcome_.emissions.size();
    see_arrival(request, impression, arrival);
    request.actions = std::move(actions);
    take(request, first);
}

std::vector<std::string> WaitingRequests::unsettled(int64_t closed_ms) const {
    std::vector<std::string> ids;
    map_.for_each([&](const Request& request) {
        const bool has_early = request.actions && !request.actions->early.empty();
        if (request.has_arrived() && (due_.of(request) <= closed_ms || has_early)) ids.push_back(request.id);
    });
    return ids;
}

void WaitingRequests::settle(const std::string& request_id, int64_t closed_ms) {
    Request* request = map_.find(request_id);
    if (request == nullptr) return;
    const size_t first = outcome_.emissions.size();
    if (request->deadline_ms <= closed_ms) close_adopted(*request, outcome_);
    std::vector<SeenAction> early;
    if (request->actions) early.swap(request->actions->early);
    if (!take(*request, first)) return;
    for (SeenAction& action : early) recover_action(request_id, std::move(action));
}

void WaitingRequests::recover_action(std::string_view request_id, SeenAction seen) {
    Request& request = find_or_insert(request_id);
    const size_t first = outcome_.emissions.size(), num_refused = outcome_.refused.size();
    machine_.see_action(request, std::move(seen));
    withhold(request, first, outcome_);
    outcome_.refused.resize(num_refused);
    take(request, first);
}

size_t WaitingRequests::num_early() const {
    size_t num = 0;
    map_.for_each([&](const Request& request) { num += request.num_early(); });
    return num;
}

bool WaitingRequests::close_some(bool refuses_early) {
    if (!is_closing_) {
        is_closing_ = true;
        map_.for_each([&](Request& request) {
            if (request.has_arrived() ? request.is_waiting() : refuses_early) closing_.push_back(&request);
        });
        std::sort(closing_.begin(), closing_.end(), [&](const Request* one, const Request* other) {
            const int64_t due = due_.of(*one), other_due = due_.of(*other);
            return due != other_due ? due > other_due : one->id > other->id;
        });
    }
    while (!closing_.empty() && !is_full() && changed_.size() + forgotten_.size() < kMaxClosed) {
        Request& request = *closing_.back();
        closing_.pop_back();
        const size_t first = outcome_.emissions.size();
        machine_.advance(request, kForeverMs);
        take(request, first);
    }
    is_closing_ = !closing_.empty();
    return is_closing_;
}

bool WaitingRequests::take(Request& request, size_t first_emission) {
    const size_t num_emitted = outcome_.emissions.size() - first_emission;
    for (size_t i = first_emission; i < outcome_.emissions.size(); ++i) num_waiting_ -= outcome_.emissions[i].is_first;
    if (num_emitted > 0) emitted_bytes_ += request.impression_bytes + request.shared_bytes * num_emitted;
    const int64_t due_ms = machine_.due_ms(request);
    if (due_ms == kForeverMs) {
        forget(request);
        return false;
    }
    if (request.has_arrived() && !machine_.can_emit(request)) drop_impression(request);
    due_.set(request, due_ms);
    note_change(request);
    return true;
}

void WaitingRequests::drop_impression(Request& request) {
    content_bytes_ -= request.impression.value().size();
    request.impression = {};
}

void WaitingRequests::bound_memory(Request& request) {
    if (!request.impression.is_there()) return;
    if (num_bytes() > (request.is_waiting() ? max_bytes_ : max_bytes_ / 2)) drop_impression(request);
}

void WaitingRequests::note_change(Request& request) {
    if (request.change != UINT32_MAX) return;
    request.change = static_cast<uint32_t>(changed_.size());
    changed_.push_back(&request);
}

void WaitingRequests::forget(Request& request) {
    if (request.change != UINT32_MAX) changed_[request.change] = nullptr;
    if (request.state_block > 0) {
        forgotten_.push_back(request.id);
        released_.push_back(request.state_block);
    }
    content_bytes_ -= content_bytes_of(request);
    due_.remove(request);
    map_.erase(request);
}

void WaitingRequests::forget_closed() {
    const ClosedRequests::Forgotten forgotten = closed_.forget_first();
    if (forgotten.state_block == 0) return;
    forgotten_offsets_.push_back(forgotten.offset);
    released_.push_back(forgotten.state_block);
}

void WaitingRequests::keep_closed(Request& request) {
    if (!request.has_arrived() || request.is_waiting() || request.impression.is_there()) return;
    if (!closed_.keep(request, id_hash(request.id))) return;
    content_bytes_ -= content_bytes_of(request);
    due_.remove(request);
    map_.erase(request);
}

Request* WaitingRequests::find(std::string_view id) {
    if (Request* request = map_.find(id)) return request;
    const uint64_t hash = id_hash(id);
    return closed_.has(hash) ? &give_back(id, hash) : nullptr;
}

Request& WaitingRequests::find_or_insert(std::string_view id) {
    Request* request = find(id);
    return request != nullptr ? *request : map_.insert(id);
}

Request& WaitingRequests::give_back(std::string_view id, uint64_t hash) {
    Request& request = map_.insert(id);
    closed_.give_back(hash, request);
    content_bytes_ += content_bytes_of(request);
    due_.set(request, machine_.due_ms(request));
    return request;
}

void WaitingRequests::clear_step() {
    for (Request* request : changed_) {
        if (request == nullptr) continue;
        request->change = UINT32_MAX;
        bound_memory(*request);
        keep_closed(*request);
    }
    changed_.clear();
    forgotten_.clear();
    forgotten_offsets_.clear();
    released_.clear();
    outcome_ = {};
    emitted_bytes_ = 0;
}

void WaitingRequests::drop(std::string_view id) {
    Request& request = map_.insert(id);
    map_.erase(request);
}

void WaitingRequests::drop_forgotten(std::vector<std::pair<int64_t, uint32_t>> offsets) {
    if (offsets.empty()) return;
    std::sort(offsets.begin(), offsets.end());
    std::vector<const Request*> dropped;
    map_.for_each([&](const Request& request) {
        const auto found = std::lower_bound(offsets.begin(), offsets.end(), std::pair{request.offset, uint32_t{0}});
        if (!request.has_arrived() || found == offsets.end() || found->first != request.offset) return;
        if (std::prev(std::upper_bound(found, offsets.end(), std::pair{request.offset, UINT32_MAX}))->second >
            request.state_block)
            dropped.push_back(&request);
    });
    for (const Request* request : dropped) map_.erase(*request);
}

void WaitingRequests::restored() {
    std::vector<Request*> empty, closed;
    map_.for_each([&](Request& request) {
        request.num_waiting = request.num_known = 0;
        for (uint32_t row = 0; row < request.num_candidates; ++row) {
            request.num_waiting += request.candidates[row].status == Status::kWaiting;
            request.num_known += request.candidates[row].status == Status::kKnown;
        }
        num_waiting_ += request.num_waiting + request.num_known;
        content_bytes_ += content_bytes_of(request);
        const int64_t due_ms = machine_.due_ms(request);
        if (due_ms == kForeverMs)
            empty.push_back(&request);
        else
            due_.set(request, due_ms);
        if (request.has_arrived() && !request.is_waiting()) closed.push_back(&request);
    });
    for (Request* request : closed) keep_closed(*request);
    for (Request* request : empty) forget(*request);
}

}  // namespace monolith::joiner
