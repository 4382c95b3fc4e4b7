#include "front/rank_handler.hpp"

#include <algorithm>
#include <cstdio>
#include <exception>
#include <thread>

namespace monolith::front {

namespace {

using std::chrono::duration;

int64_t milliseconds(duration<double> time) { return static_cast<int64_t>(1000 * time.count()); }
int64_t wall_ms() { return milliseconds(std::chrono::system_clock::now().time_since_epoch()); }
int64_t monotonic_ms() { return milliseconds(QueuedCall::Clock::now().time_since_epoch()); }

double seconds_since(QueuedCall::Clock::time_point begin) {
    return duration<double>(QueuedCall::Clock::now() - begin).count();
}

// As the Python path words it.
std::string overloaded(double expected_s, double left_s) {
    char text[160];
    std::snprintf(text, sizeof text, "request would take %.3f s with those before it, its deadline is in %.3f s",
                  expected_s, left_s);
    return text;
}

}  // namespace

QueuedCall::QueuedCall(Call& call, Shedder& shedder, size_t place) : call_(&call), shedder_(shedder), place_(place) {}

QueuedCall::~QueuedCall() {
    if (call_ != nullptr) refuse(kInternal, "internal error of the replica; its log has the cause");
}

Call& QueuedCall::leave() {
    shedder_.leave(place_, seconds_since(arrived_));
    return *std::exchange(call_, nullptr);
}

void QueuedCall::answer(std::string_view response, std::unique_ptr<Kept> kept) {
    Call& call = leave();
    call.kept = std::move(kept);
    call.answer(response);
}

void QueuedCall::refuse(Code code, std::string_view details) { leave().refuse(code, details); }

struct RankHandler::KeptRanked final : Kept {
    KeptRanked(RankHandler& owner, Ranked of) : handler(owner), ranked(std::move(of)) {}
    void ended(bool is_answered) override { handler.ended(std::move(ranked), is_answered); }
    RankHandler& handler;
    Ranked ranked;
};

struct RankHandler::KeptNumber final : Kept {
    KeptNumber(RankHandler& owner, uint64_t of) : handler(owner), number(of) {}
    void ended(bool is_answered) override { handler.ended(number, is_answered); }
    RankHandler& handler;
    uint64_t number;
};

RankHandler::RankHandler(ranking::Ranker* ranker, const HandlerLimits& limits, std::string id_prefix,
                         const std::array<double, Counts::kBounds>& duration_bounds)
    : ranker_(ranker), limits_(limits), id_prefix_(std::move(id_prefix)), duration_bounds_(duration_bounds) {}

void RankHandler::set_model(std::shared_ptr<const ServedModel> model) {
    std::lock_guard lock(model_mutex_);
    model_.swap(model);  // the one before is released after the lock
}

void RankHandler::set_ages(ModelAges ages) {
    std::lock_guard lock(model_mutex_);
    ages_ = ages;
}

bool RankHandler::handle(Call& call) {
    const QueuedCall::Clock::time_point begin = QueuedCall::Clock::now();
    std::shared_ptr<const ServedModel> served;
    ModelAges ages;
    {
        std::lock_guard lock(model_mutex_);
        served = model_;
        ages = ages_;
    }
    if (ranker_ == nullptr || served == nullptr) return queue(call), false;
    char id[17];
    std::snprintf(id, sizeof id, "%016llx", static_cast<unsigned long long>(next_id_.fetch_add(1)));
    const std::string own_id = id_prefix_ + id;
    auto ranked = std::make_unique<ranking::Ranked>();
    const double left_s = call.left_s();
    ranking::Call one;
    one.bytes = call.message();
    one.own_id = own_id;
    one.model_version = served->version;
    one.now_ms = wall_ms();
    one.monotonic_ms = monotonic_ms();
    one.left_s = left_s;
    one.staleness_ms = std::max<int64_t>(0, one.monotonic_ms - ages.born_ms);
    one.is_quick = true;
    one.event_staleness_ms = ages.watermark_ms > 0 ? std::max<int64_t>(0, one.now_ms - ages.watermark_ms) : 0;
    try {
        ranker_->rank(one, *served->model, *served->rows, *ranked);
    } catch (const std::exception&) {  // Python meets it again, and logs it
        return queue(call), false;
    }
    switch (ranked->status) {
        case ranking::Status::kDone:
            break;
        case ranking::Status::kOverloaded:
            return refuse(call, kResourceExhausted, overloaded(ranked->expected_s, call.left_s())), true;
        case ranking::Status::kLate:
            return refuse(call, kDeadlineExceeded, "the deadline passed before the request was scored"), true;
        default:
            return queue(call), false;
    }
    count_answer(*ranked, seconds_since(begin));
    const std::string response = std::move(ranked->response);
    if (ranked->logs_impression) call.kept = std::make_unique<KeptRanked>(*this, std::move(ranked));
    call.answer(response);
    return true;
}

void RankHandler::refuse(Call& call, Code code, std::string_view details) {
    refused(code);
    call.refuse(code, details);
}

void RankHandler::refused(Code code) {
    std::lock_guard lock(counts_mutex_);
    ++counts_.codes[code];
}

void RankHandler::count_answer(const ranking::Ranked& ranked, double duration_s) {
    const auto bucket = std::lower_bound(duration_bounds_.begin(), duration_bounds_.end(), duration_s);
    std::lock_guard lock(counts_mutex_);
    ++counts_.codes[kOk];
    ++counts_.durations[static_cast<size_t>(bucket - duration_bounds_.begin())];
    counts_.duration_s += duration_s;
    counts_.candidates += ranked.num_scored;
    if (!ranked.logs_impression) ++counts_.withheld_request;
}

Counts RankHandler::take_counts() {
    std::lock_guard lock(counts_mutex_);
    return std::exchange(counts_, Counts());
}

void RankHandler::queue(Call& call) {
    std::string refusal;
    {
        std::lock_guard lock(queue_mutex_);
        const size_t place = queue_.size() >= limits_.max_waiting ? 0 : queue_shedder_.enter(call.left_s());
        if (queue_.size() >= limits_.max_waiting) {
            refusal = "at most " + std::to_string(limits_.max_waiting) + " requests may wait";
        } else if (place == 0) {
            const std::string before = std::to_string(queue_shedder_.num_inside());
            refusal = "request would end after its deadline: " + before + " are before it";
        } else {
            queue_.push_back(std::make_unique<QueuedCall>(call, queue_shedder_, place));
        }
    }
    if (refusal.empty()) {
        queued_.notify_one();
    } else {
        refuse(call, kResourceExhausted, refusal);
    }
}

std::unique_ptr<QueuedCall> RankHandler::next_call() {
    std::unique_lock lock(queue_mutex_);
    queued_.wait(lock, [this] { return is_closed_ || !queue_.empty(); });
    if (queue_.empty()) return nullptr;
    std::unique_ptr<QueuedCall> call = std::move(queue_.front());
    queue_.pop_front();
    return call;
}

void RankHandler::answer(QueuedCall& call, std::string_view response, uint64_t number) {
    call.answer(response, std::make_unique<KeptNumber>(*this, number));
}

template <typename Change>
void RankHandler::note_ended(Change change) {
    bool was_empty = false;
    {
        std::lock_guard lock(ended_mutex_);
        was_empty = ended_ranked_.empty() && ended_answers_.empty();
        change();
    }
    if (was_empty) some_ended_.notify_one();
}

void RankHandler::ended(Ranked ranked, bool is_answered) {
    if (!is_answered || !ranked->is_complete) {
        std::lock_guard lock(counts_mutex_);
        ++(is_answered ? counts_.withheld_features : counts_.withheld_unanswered);
        return;
    }
    if (!limits_.keeps_impressions) return;
    bool fits = false;
    note_ended([&] {
        const size_t num_bytes = ranked->num_bytes() + sizeof(ranking::Ranked);
        fits = ended_bytes_ + num_bytes <= limits_.impression_bytes;
        if (!fits) return;
        ended_bytes_ += num_bytes;
        ended_ranked_.push_back(std::move(ranked));
    });
    if (fits) return;
    std::lock_guard lock(counts_mutex_);
    ++counts_.lost;
}

void RankHandler::ended(uint64_t number, bool is_answered) {
    note_ended([&] { ended_answers_.emplace_back(number, is_answered); });
}

void RankHandler::take_ended(double wait_s, double linger_s, std::vector<Ranked>& ranked,
                             std::vector<Answered>& answered) {
    std::unique_lock lock(ended_mutex_);
    const auto some = [this] { return is_ending_closed_ || !ended_ranked_.empty() || !ended_answers_.empty(); };
    if (!some_ended_.wait_for(lock, duration<double>(wait_s), some)) return;
    some_ended_.wait_for(lock, duration<double>(linger_s), [this] { return is_ending_closed_; });
    ranked.swap(ended_ranked_);
    answered.swap(ended_answers_);
    ended_bytes_ = 0;
}

void RankHandler::close() {
    std::deque<std::unique_ptr<QueuedCall>> left;
    {
        std::lock_guard lock(queue_mutex_);
        is_closed_ = true;
        left.swap(queue_);
    }
    queued_.notify_all();
    left.clear();
    {
        std::lock_guard lock(ended_mutex_);
        is_ending_closed_ = true;
    }
    some_ended_.notify_all();
}

}  // namespace monolith::front
