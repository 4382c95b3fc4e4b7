// Answers of Rank calls: in the core where it can, else by threads that take calls from a queue.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "front/shedder.hpp"
#include "front/transport.hpp"
#include "ranking/ranker.hpp"

namespace monolith::front {

// A model and its rows, which live as long as this.
struct ServedModel {
    const ranking::Model* model;
    const ReplicaRows* rows;
    std::string version;
};

// Times of the newest delta and of its watermark, in milliseconds.
struct ModelAges {
    int64_t born_ms = 0;       // monotonic clock
    int64_t watermark_ms = 0;  // wall clock; 0: unknown
};

struct HandlerLimits {
    size_t max_waiting;       // calls that wait for a thread of the queue
    size_t impression_bytes;  // of answered requests that were not taken yet
    bool keeps_impressions;
};

// Numbers of events since they were last read.
struct Counts {
    static constexpr size_t kBounds = 11;

    std::array<uint64_t, kNumCodes> codes{};
    std::array<uint64_t, kBounds + 1> durations{};  // of answered calls, in the buckets of `duration_bounds`
    double duration_s = 0;                          // sum
    uint64_t candidates = 0;
    uint64_t withheld_request = 0, withheld_features = 0, withheld_unanswered = 0, lost = 0;  // impressions
};

// A call that a thread of the queue must answer or refuse, once.
class QueuedCall {
  public:
    using Clock = std::chrono::steady_clock;

    QueuedCall(Call& call, Shedder& shedder, size_t place);
    // Refuses the call if nothing was done.
    ~QueuedCall();
    QueuedCall(const QueuedCall&) = delete;
    QueuedCall& operator=(const QueuedCall&) = delete;

    bool is_open() const { return call_ != nullptr; }
    const Call& call() const { return *call_; }
    // `kept` may be null.
    void answer(std::string_view response, std::unique_ptr<Kept> kept);
    void refuse(Code code, std::string_view details);

  private:
    Call& leave();

    Call* call_;
    Shedder& shedder_;
    size_t place_;
    Clock::time_point arrived_ = Clock::now();
};

class RankHandler final : public Handler {
  public:
    using Ranked = std::unique_ptr<ranking::Ranked>;
    using Answered = std::pair<uint64_t, bool>;  // number that a thread gave its answer, and whether it was sent

    // `ranker` may be null: the threads of the queue answer all calls. `id_prefix`: of ids for requests that have none.
    RankHandler(ranking::Ranker* ranker, const HandlerLimits& limits, std::string id_prefix,
                const std::array<double, Counts::kBounds>& duration_bounds);

    bool handle(Call& call) override;
    void refused(Code code) override;

    // Until the first one, the threads of the queue answer all calls.
    void set_model(std::shared_ptr<const ServedModel> model);
    void set_ages(ModelAges ages);

    // Wait for a call; null once the handler is closed.
    std::unique_ptr<QueuedCall> next_call();
    // Answer a queued call; `take_ended` tells its end by `number`.
    void answer(QueuedCall& call, std::string_view response, uint64_t number);
    // Wait up to `wait_s` for the end of a call, and `linger_s` for more; answered requests and the ends of numbered
    // answers are in the arguments.
    void take_ended(double wait_s, double linger_s, std::vector<Ranked>& ranked, std::vector<Answered>& answered);
    Counts take_counts();
    // End the waits; queued calls are refused.
    void close();

  private:
    struct KeptRanked;
    struct KeptNumber;

    void queue(Call& call);
    void refuse(Call& call, Code code, std::string_view details);
    void ended(Ranked ranked, bool is_answered);
    void ended(uint64_t number, bool is_answered);
    template <typename Change>
    void note_ended(Change change);
    void count_answer(const ranking::Ranked& ranked, double duration_s);

    ranking::Ranker* const ranker_;
    const HandlerLimits limits_;
    const std::string id_prefix_;
    const std::array<double, Counts::kBounds> duration_bounds_;
    std::atomic<uint64_t> next_id_{0};

    std::mutex model_mutex_;
    std::shared_ptr<const ServedModel> model_;
    ModelAges ages_;

    std::mutex queue_mutex_;
    std::condition_variable queued_;
    std::deque<std::unique_ptr<QueuedCall>> queue_;
    Shedder queue_shedder_;
    bool is_closed_ = false;

    std::mutex ended_mutex_;
    std::condition_variable some_ended_;
    std::vector<Ranked> ended_ranked_;
    std::vector<Answered> ended_answers_;
    size_t ended_bytes_ = 0;
    bool is_ending_closed_ = false;

    std::mutex counts_mutex_;
    Counts counts_;
};

}  // namespace monolith::front
