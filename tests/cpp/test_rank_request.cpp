// Tests of the reading of Rank requests: sound, odd, cut and mutated ones.
#include <cmath>
#include <cstring>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "check.hpp"
#include "ranking/request.hpp"

namespace {

using namespace monolith;
using namespace monolith::ranking;

constexpr int64_t kNow = 1'700'000'000'000;
constexpr RequestLimits kLimits{50, 4, 100'000'000'000, 1000};

RequestOrder small_order() {
    RequestOrder order;
    order.user = {1, 1, 0};
    order.item = {1, 1, 1};
    order.context = {{"tab", "list"}, {{"hour", 2}}};
    order.candidate = {{"place", "marks"}, {{"price", 1}}};
    order.shared = {{0, 1, 2, 3}, {}, 2, {0, 0, 0, 0}, {{8, 2}}};
    order.candidates = {{4, 5, 6, 7}, {}, 2, {0, 0, 0, 0}, {{9, 1}, {10, 1}}};
    return order;
}

std::string field(int number, const std::string& bytes) {
    return std::string{static_cast<char>(number << 3 | 2), static_cast<char>(bytes.size())} + bytes;
}

template <typename T>
std::string packed(const std::vector<T>& values) {
    return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)};
}

std::string sound_request() {
    const std::string context = field(1, field(1, "list") + field(2, packed<int64_t>({7, -8})) + field(3, "\x02")) +
                                field(1, field(1, "tab") + field(2, packed<int64_t>({9}))) +
                                field(2, field(1, "hour") + field(2, packed<float>({0.5f, -2.0f})));
    const std::string candidates =
        field(1, field(1, "marks") + field(2, packed<int64_t>({4, 5, 6})) + field(3, std::string("\x02\0\x01", 3))) +
        field(1, field(1, "place") + field(2, packed<int64_t>({1, 2, 3}))) +
        field(2, field(1, "price") + field(2, packed<float>({1, 2, 3})));
    return field(1, "request-1") + "\x11" + packed<int64_t>({77}) + field(3, packed<int64_t>({1, 2, -3})) +
           field(4, context) + "\x38\x02" + field(8, "like") + field(8, "click") + field(9, "click") +
           field(10, candidates) + field(11, "4.2") + "\x60\x1e\x68\x01" + field(14, "tab") + field(14, "price");
}

bool reads(std::string_view bytes, Request& request) {
    return read_request(bytes, small_order(), kLimits, kNow, request);
}

TEST(a_sound_request_is_read) {
    Request request;
    const std::string bytes = sound_request();
    CHECK(reads(bytes, request));
    CHECK(request.request_id == "request-1" && request.user_id == 77 && request.num_candidates() == 3);
    CHECK((request.context.fids == std::vector<int64_t>{9, 7, -8}));
    CHECK((request.context.lengths == std::vector<int32_t>{1, 2}));
    CHECK((request.context.dense == std::vector<float>{0.5f, -2.0f}));
    CHECK(request.time_ms == 0 && !request.logs_impression);  // an explained one is logged if it says so
    CHECK((request.candidates.fids == std::vector<int64_t>{1, 4, 5, 2, 3, 6}));
    CHECK((request.candidates.lengths == std::vector<int32_t>{1, 2, 1, 0, 1, 1}));
    CHECK((request.candidates.dense == std::vector<float>{1, 2, 3}));
    const Choice& choice = request.choice;
    CHECK(choice.top_k == 2 && choice.rank_by == "click" && choice.model_version == "4.2");
    CHECK((choice.task_names == std::vector<std::string_view>{"like", "click"}) && choice.max_staleness_ms == 30);
    CHECK(choice.explains && (choice.returned == std::vector<std::string_view>{"tab", "price"}));
}

TEST(what_breaks_a_rule_is_left_to_others) {
    const std::string items = field(3, packed<int64_t>({1}));
    const std::string nan = field(4, field(2, field(1, "hour") + field(2, packed<float>({std::nanf(""), 0}))));
    const std::string tab = field(1, field(1, "tab") + field(2, packed<int64_t>({9})));
    const std::string tabs = tab + tab;
    for (const std::string& bytes :
         {std::string(), field(3, packed<int64_t>(std::vector<int64_t>(51))), field(1, std::string(129, 'x')) + items,
          field(1, "\n") + items, field(1, "\xc3\xa9") + items, items + field(4, field(1, field(1, "none"))),
          items + nan, items + field(4, tabs), items + std::string("\x28\x05", 2), items + std::string("\x68\x02", 2),
          items + std::string("\x30\x02", 2),
          items +
              field(4, field(1, field(1, "tab") + field(2, packed<int64_t>({1, 2, 3, 4, 5})) + field(3, "\x05")))}) {
        Request request;
        CHECK(!reads(bytes, request));
    }
}

TEST(mutated_requests_read_nothing_beyond_their_bytes) {
    std::mt19937 random(5);
    const std::string sound = sound_request();
    size_t num_read = 0;
    for (int i = 0; i < 20'000; ++i) {
        std::string bytes = sound;
        for (uint32_t m = random() % 4; m > 0; --m) bytes[random() % bytes.size()] = static_cast<char>(random());
        if (i % 3 == 0) bytes.resize(random() % bytes.size());
        const std::unique_ptr<char[]> exact(new char[bytes.size()]);
        std::memcpy(exact.get(), bytes.data(), bytes.size());
        Request request;
        if (!reads({exact.get(), bytes.size()}, request)) continue;
        ++num_read;
        CHECK(request.num_candidates() >= 1 && request.num_candidates() <= kLimits.max_candidates);
        CHECK(request.context.lengths.size() == 2 && request.context.dense.size() == 2);
        CHECK(request.candidates.lengths.size() == 2 * request.num_candidates());
        CHECK(request.candidates.dense.size() == request.num_candidates());
        CHECK(std::accumulate(request.candidates.lengths.begin(), request.candidates.lengths.end(), 0) ==
              static_cast<int>(request.candidates.fids.size()));
        CHECK(std::accumulate(request.context.lengths.begin(), request.context.lengths.end(), 0) ==
              static_cast<int>(request.context.fids.size()));
    }
    CHECK(num_read > 1000);
}

}  // namespace
