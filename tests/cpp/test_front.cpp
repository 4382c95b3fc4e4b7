// Tests of the C++ front without gRPC: predictions of late calls, and the queue for Python under threads.
#include <array>
#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "check.hpp"
#include "front/rank_handler.hpp"
#include "front/shedder.hpp"

namespace {

using namespace monolith::front;

constexpr std::array<double, Counts::kBounds> kBounds{0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2};

// A call that ends as soon as it is answered or refused, on the thread that does it.
class OwnCall final : public Call {
  public:
    OwnCall(std::string message, bool is_sent) : message_(std::move(message)), is_sent_(is_sent) {}
    std::string_view message() const override { return message_; }
    double left_s() const override { return 100; }
    bool is_gone() const override { return false; }
    void answer(std::string_view response) override {
        response_ = response;
        end();
    }
    void refuse(Code code, std::string_view /*details*/) override {
        code_ = code;
        end();
    }
    const std::string& response() const { return response_; }
    Code code() const { return code_; }
    int num_ends() const { return num_ends_; }

  private:
    void end() {
        ++num_ends_;
        if (const std::unique_ptr<Kept> own = std::move(kept)) own->ended(is_sent_);
    }

    const std::string message_;
    const bool is_sent_;
    std::string response_;
    Code code_ = kOk;
    std::atomic<int> num_ends_{0};
};

TEST(a_call_that_would_end_too_late_has_no_place) {
    Shedder shedder;
    for (int i = 0; i < 16; ++i) {
        CHECK(shedder.enter(0.001) == 1);  // alone: taken whatever its time
        shedder.leave(1, 0.1);
    }
    CHECK(shedder.enter(0.001) == 1);
    CHECK(shedder.enter(0.28) == 0);  // the second of two takes 0.2 s, more than 0.7 of its time
    CHECK(shedder.enter(0.3) == 2);
    CHECK(shedder.enter(0.3) == 0);
    shedder.leave(2, 0);  // tells nothing
    CHECK(shedder.num_inside() == 1);
    CHECK(shedder.enter(0.3) == 2);
}

TEST(a_call_that_waited_behind_others_tells_the_time_of_one) {
    Shedder shedder;
    for (int round = 0; round < 8; ++round) {
        const size_t first = shedder.enter(10), second = shedder.enter(10);
        shedder.leave(first, 0.1);
        shedder.leave(second, 0.2);
    }
    CHECK(shedder.enter(1) == 1);
    CHECK(shedder.enter(0.29) == 2);  // 0.1 s each
    CHECK(shedder.enter(0.29) == 0);
}

TEST(queued_calls_are_answered_once_and_their_ends_are_told) {
    constexpr size_t kCalls = 2000, kThreads = 3;
    RankHandler handler(nullptr, {kCalls, 1 << 20, true}, "id", kBounds);
    std::vector<std::unique_ptr<OwnCall>> calls;
    for (size_t i = 0; i < kCalls; ++i) calls.push_back(std::make_unique<OwnCall>(std::to_string(i), i % 3 == 0));
    std::vector<std::thread> threads;
    for (size_t t = 0; t < kThreads; ++t)
        threads.emplace_back([&] {
            while (const std::unique_ptr<QueuedCall> call = handler.next_call()) {
                const size_t number = std::stoul(std::string(call->call().message()));
                // Freed without an answer: INTERNAL.
                if (number % 5 == 1) continue;
                if (number % 5 == 2) {
                    call->refuse(kCancelled, "");
                } else {
                    handler.answer(*call, "answer " + std::to_string(number), number);
                }
            }
        });
    std::atomic<size_t> num_told{0};
    std::thread taker([&] {
        while (num_told < kCalls / 5 * 3) {
            std::vector<RankHandler::Ranked> ranked;
            std::vector<RankHandler::Answered> answered;
            handler.take_ended(0.01, 0.001, ranked, answered);
            for (const auto& [number, is_answered] : answered) CHECK(is_answered == (number % 3 == 0));
            num_told += answered.size();
        }
    });
    for (const auto& call : calls) CHECK(!handler.handle(*call));
    taker.join();
    handler.close();
    for (std::thread& thread : threads) thread.join();
    CHECK(num_told == kCalls / 5 * 3);
    for (size_t i = 0; i < kCalls; ++i) {
        CHECK(calls[i]->num_ends() == 1);
        const Code expected = i % 5 == 1 ? kInternal : i % 5 == 2 ? kCancelled : kOk;
        CHECK(calls[i]->code() == expected);
        if (expected == kOk) CHECK(calls[i]->response() == "answer " + std::to_string(i));
    }
}

TEST(a_full_queue_refuses_and_a_closed_one_ends_what_waits) {
    RankHandler handler(nullptr, {2, 1 << 20, true}, "id", kBounds);
    OwnCall first("", true), second("", true), third("", true);
    handler.handle(first);
    handler.handle(second);
    handler.handle(third);
    CHECK(third.code() == kResourceExhausted && third.num_ends() == 1 && first.num_ends() == 0);
    handler.close();
    CHECK(first.code() == kInternal && second.code() == kInternal);
    CHECK(handler.next_call() == nullptr);
    const Counts counts = handler.take_counts();
    CHECK(counts.codes[kResourceExhausted] == 1);
    CHECK(handler.take_counts().codes[kResourceExhausted] == 0);
}

}  // namespace
