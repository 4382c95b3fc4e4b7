// Tests of the closed requests of a joiner against a plain model.
#include <algorithm>
#include <map>
#include <random>
#include <vector>

#include "check.hpp"
#include "joiner/closed.hpp"

namespace {

using namespace monolith;
using namespace monolith::joiner;

constexpr int64_t kNow = 1'700'000'000'000, kWindowMs = 600'000, kLatenessMs = 3'600'000;

Request closed_request(std::mt19937_64& random, uint32_t num, int64_t time_ms, int64_t offset) {
    Request request;
    request.time_ms = time_ms;
    request.deadline_ms = time_ms + kWindowMs;
    request.offset = offset;
    request.state_block = static_cast<uint32_t>(random() % 5);
    request.num_candidates = num;
    request.candidates = std::make_unique<Request::Candidate[]>(num);
    const bool has_labels = random() % 2, has_statuses = random() % 2, is_wide = random() % 8 == 0;
    if (random() % 3 == 0) request.rates = std::make_unique<double[]>(num);
    for (uint32_t row = 0; row < num; ++row) {
        Request::Candidate& candidate = request.candidates[row];
        candidate.item_id = static_cast<int64_t>(random());
        candidate.labels = has_labels ? random() & (is_wide ? ~uint64_t{0} : uint64_t{7}) : 0;
        candidate.status = has_statuses && random() % 2 ? Status::kSampledAway : Status::kEmitted;
        if (request.rates) request.rates[row] = 0.25 * static_cast<double>(random() % 4 + 1);
    }
    return request;
}

bool is_same(const Request& request, const Request& given) {
    bool same = request.time_ms == given.time_ms && request.deadline_ms == given.deadline_ms &&
                request.offset == given.offset && request.state_block == given.state_block &&
                request.num_candidates == given.num_candidates && given.has_marks && !given.is_waiting() &&
                (request.rates == nullptr) == (given.rates == nullptr);
    for (uint32_t row = 0; same && row < request.num_candidates; ++row) {
        const Request::Candidate &one = request.candidates[row], &other = given.candidates[row];
        same = (request.has_marks ? one.item_id : given.key_of(one.item_id)) == other.item_id &&
               one.labels == other.labels && one.status == other.status &&
               (!request.rates || request.rates[row] == given.rates[row]);
    }
    return same;
}

TEST(closed_requests_come_back_as_they_were_and_are_forgotten_in_order) {
    std::mt19937_64 random(5);
    ClosedRequests closed(kWindowMs, kLatenessMs);
    std::map<uint64_t, Request> model;
    std::multimap<int64_t, uint64_t> due;  // due time -> hash
    int64_t clock_ms = kNow, offset = 0;
    const auto forget_in_model = [&](uint64_t hash, int64_t deadline_ms) {
        const auto [first, last] = due.equal_range(deadline_ms + kLatenessMs);
        for (auto it = first; it != last; ++it) {
            if (it->second != hash) continue;
            due.erase(it);
            break;
        }
        model.erase(hash);
    };
    size_t most = 0;
    for (int i = 0; i < 60'000; ++i) {
        const uint64_t kind = random() % 10, hash = random() % 4'000 << 32 | random() % 2;
        clock_ms += static_cast<int64_t>(random() % 400);
        const auto found = model.find(hash);
        CHECK(closed.has(hash) == (found != model.end()));
        if (found == model.end() && kind < 7) {
            const int64_t time_ms =
                clock_ms - static_cast<int64_t>(random() % (random() % 50 ? kWindowMs : 20 * kWindowMs));
            Request request =
                closed_request(random, static_cast<uint32_t>(random() % 8 ? 1 : random() % 300 + 1), time_ms, offset++);
            CHECK(closed.keep(request, hash));
            due.emplace(request.deadline_ms + kLatenessMs, hash);
            model.emplace(hash, std::move(request));
        } else if (found != model.end() && kind < 4) {
            Request given;
            CHECK(closed.give_back(hash, given) && is_same(found->second, given) && !closed.has(hash));
            forget_in_model(hash, given.deadline_ms);
            if (kind < 3) {  // changed, and kept again
                given.candidates[0].labels |= 4;
                CHECK(closed.keep(given, hash));
                due.emplace(given.deadline_ms + kLatenessMs, hash);
                model.emplace(hash, std::move(given));
            }
        } else if (kind > 7) {
            while (closed.first_ms() <= clock_ms) {
                const auto [deadline_ms, expected] = *due.begin();
                CHECK(closed.first_ms() == deadline_ms);
                const ClosedRequests::Forgotten forgotten = closed.forget_first();
                const auto same = [&](const auto& entry) { return entry.second.offset == forgotten.offset; };
                const auto gone = std::find_if(model.begin(), model.end(), same);
                CHECK(gone != model.end() && gone->second.deadline_ms + kLatenessMs == deadline_ms);
                CHECK(gone->second.state_block == forgotten.state_block);
                forget_in_model(gone->first, gone->second.deadline_ms);
            }
        }
        most = std::max(most, model.size());
        CHECK(closed.size() == model.size());
        CHECK(closed.first_ms() == (due.empty() ? kForeverMs : due.begin()->first));
    }
    CHECK(most > 1'000 && offset > 5'000);
    CHECK(closed.last_ms(0) == (due.empty() ? 0 : due.rbegin()->first));
    while (closed.size() > 0) closed.forget_first();
    CHECK(closed.first_ms() == kForeverMs && closed.num_bytes() < 100'000);
}

TEST(a_request_that_does_not_fit_is_not_kept) {
    std::mt19937_64 random(6);
    ClosedRequests closed(kWindowMs, kLatenessMs);
    const auto refuses = [&](auto change) {
        Request request = closed_request(random, 2, kNow, 3);
        change(request);
        return !closed.keep(request, 1) && closed.size() == 0;
    };
    CHECK(refuses([](Request& request) { request.deadline_ms += 1; }));
    CHECK(refuses([](Request& request) { request.num_waiting = 1; }));
    CHECK(refuses([](Request& request) { request.waiting_actions().early.emplace_back(); }));
    CHECK(refuses([](Request& request) { request.waiting_actions().late.emplace_back(); }));
    CHECK(refuses([](Request& request) { request.candidates[1].item_id = request.candidates[0].item_id; }));
    CHECK(refuses([](Request& request) { request.offset = int64_t{1} << 50; }));
    CHECK(!closed.keep(closed_request(random, 30'000, kNow, 3), 1));
    CHECK(closed.keep(closed_request(random, 2, kNow, 3), 1) && !closed.keep(closed_request(random, 2, kNow, 4), 1));
    Request none;
    CHECK(!closed.give_back(2, none) && closed.size() == 1);
}

}  // namespace
